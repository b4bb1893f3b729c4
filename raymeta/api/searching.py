"""Starting a search, or seeing what it would do."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from raymeta.api.studies import Study
    from raymeta.problem import Problem
    from raymeta.problems.images.reading.remote import Root
    from raymeta.study.machines.packing import Pack
    from raymeta.study.plan.plan import Plan
    from raymeta.study.plan.preview import Preview
    from raymeta.study.plan.words import Overrides


def search(
    spec: str,
    task: str | None = None,
    *,
    trials: int | None = None,
    space: "Mapping[str, Any] | str | Path | None" = None,
    overrides: "Overrides" = None,
    preset: str | Path | None = None,
    choose: str | Sequence[str] | None = None,
    name: str | None = None,
    warm_start: "str | Study | None" = None,
    data_root: str | Path | None = None,
    ship_data: bool = False,
    slots: int | None = None,
    pack: "Pack" = None,
    also: Sequence[str] = (),
    background: bool = False,
    quiet: bool = False,
    command: str | None = None,
) -> "Study":
    """Search the hyperparameters of a method: Optuna proposes trials, ASHA trains the best on, finalists are compared.

    Ctrl-C once lets the running trials finish, twice leaves at once; `Study.resume` goes on. Progress goes to standard
    error.

    Args:
        spec: a method and its regularizers, as in `maml+dropgrad` or `maml+dropgrad:noise=binary`.
        task: `omniglot-5w1s`, `sinusoid-10s` or a data set's name; None: the preset's, or glyphs.
        trials: how many; None: the preset's.
        space: a file or a mapping of ranges, values and starting points that add to, narrow or replace what is shipped:
            `{"maml.inner_lr": "0.01..0.5:log", "maml.order": ["first", "second"]}`; "none": only ranges in `overrides`.
        overrides: keys of the config or of `study` to values, dotted or nested; a searched key is then fixed. Or words
            as on the command line, which may be ranges.
        preset: budget, rungs and settings, a name or a file; None: the data set's.
        choose: search which of these regularizers to add, too; `none` is one to choose.
        name: of the study; None: made from the rest.
        warm_start: a study with whose best configs to begin, as far as they fit.
        data_root: folder that holds the data, or a URL of an archive of it; None: drawn or downloaded.
        ship_data: on a cluster, machines that lack the data get this one's packed store.
        slots: trials at a time; None: one per core or GPU share.
        pack: trials for each GPU; "auto": as many as their measured memory allows.
        also: trackers that get a copy of the trials, beside MLflow: "tensorboard", "wandb".
        background: return at once; a process of its own drives the study, even if this one ends.
        quiet: show no progress.
        command: what readers of the study are to see as its origin; None: this call.

    Returns:
        The study, over unless it was left, or unless it runs in the background.

    Raises:
        UserError: a name, a key, a value or a budget is wrong, or the data can't be had; nothing was started.
        RunFailed: the disk is full, or the store of studies is away; what is there is good.
        Interrupted: Ctrl-C, or SIGTERM, before the study had begun.
    """
    started = time.time()
    from raymeta.api.data import pretrain, root_of
    from raymeta.api.studies import Study
    from raymeta.report.remarks import say
    from raymeta.storage.files import studies_folder
    from raymeta.study.copies.copy import found
    from raymeta.study.machines.resources import beyond
    from raymeta.study.record.home import new_study
    from raymeta.study.record.record import StudyRecord
    from raymeta.study.run.driving import How, begin
    from raymeta.training.device import refuse_unfit

    beyond(slots)  # what can't be is refused before anything is made; the rest is said when the trials start
    if name is not None:
        new_study(name)
    root = root_of(data_root)
    for tracker in also:
        found(tracker)
    plan, problem = _planned(
        spec, task, trials, space, overrides, preset, choose, warm_start, root, quiet=quiet, runs=True
    )
    plan = _with_kernels(plan, quiet=quiet)
    plan = plan.with_copies(tuple(dict.fromkeys([*plan.study.also, *also])))
    for tracker in plan.study.also:  # a preset may name some
        found(tracker)
    pretrain(plan.base, problem, quiet=quiet)
    refuse_unfit(plan.config(plan.space.start_from[0]))
    what = f"{plan.base.spec}+choice" if choose else plan.base.spec
    words = [what, task or plan.base.task.data, *([Path(preset).stem] if preset is not None else [])]
    stem = "-".join(words)
    given = {"task": task, "trials": trials, "space": space, "overrides": overrides, "preset": preset, "choose": choose}
    origin = command or _call(spec, given | {"name": name, "warm_start": getattr(warm_start, "name", warm_start)})
    how = How(slots, pack, root, ship_data, quiet)

    def create() -> StudyRecord:
        folder = studies_folder() / (name or _free_name(stem))  # now: another search may have begun meanwhile
        record = StudyRecord.create(folder, plan, problem.metric, problem.fingerprint, origin)
        if not quiet:
            say(f"study {record.name}: {plan.study.trials} trials, rungs at {plan.rungs} outer steps, in {folder}")
        return record

    if background:
        return Study(create()).driven(how, started, background=True)
    return Study(*begin(plan, create, how, started))


def preview(
    spec: str,
    task: str | None = None,
    *,
    trials: int | None = None,
    space: "Mapping[str, Any] | str | Path | None" = None,
    overrides: "Overrides" = None,
    preset: str | Path | None = None,
    choose: str | Sequence[str] | None = None,
    name: str | None = None,
    warm_start: "str | Study | None" = None,
    data_root: str | Path | None = None,
    slots: int | None = None,
    also: Sequence[str] = (),
) -> "Preview":
    """What `search` with these arguments would do: its first trials, its rungs, time on this machine and disk.

    Raises:
        UserError: what `search` would refuse, a name that is taken, too.
    """
    from raymeta.api.data import root_of
    from raymeta.report.remarks import say
    from raymeta.study.copies.copy import found
    from raymeta.study.machines.resources import beyond, cores
    from raymeta.study.plan.preview import preview as previewed
    from raymeta.study.record.home import new_study

    if name is not None:
        new_study(name)
    for tracker in also:
        found(tracker)
    if remark := beyond(slots):
        say(remark)
    plan, _ = _planned(spec, task, trials, space, overrides, preset, choose, warm_start, root_of(data_root))
    return previewed(plan, min(slots or cores(), cores()))


def space(
    spec: str,
    task: str | None = None,
    *,
    space: "Mapping[str, Any] | str | Path | None" = None,
    overrides: "Overrides" = None,
    preset: str | Path | None = None,
    choose: str | Sequence[str] | None = None,
    write: str | Path | None = None,
) -> "Plan":
    """What `search` with these arguments would search: `.space` has ranges, conditions and starting points.

    Args:
        spec: see `search`; so the others.
        task: see there.
        space: see there.
        overrides: see there.
        preset: see there.
        choose: see there.
        write: a file to write it to, which can be edited and given as `space`.

    Raises:
        UserError: see there; or the file to write is there already.
    """
    plan = _plan(spec, task, None, space, overrides, preset, choose)
    if write is not None:
        from raymeta.study.plan.write import write_space

        write_space(plan, Path(write))
    return plan


def _plan(
    spec: str,
    task: str | None,
    trials: int | None,
    space: "Mapping[str, Any] | str | Path | None",
    overrides: "Overrides",
    preset: str | Path | None,
    choose: str | Sequence[str] | None,
) -> "Plan":
    from raymeta.study.plan.plan import make_plan
    from raymeta.study.plan.words import Given

    given = Given.of(overrides)
    words = [*given.words, *([f"study.trials={trials}"] if trials is not None else [])]
    chosen = choose if choose is None or isinstance(choose, str) else ",".join(choose)
    return make_plan(spec, task, preset, words, chosen, space=space, overrides=given.values)


def _planned(
    spec: str,
    task: str | None,
    trials: int | None,
    space: "Mapping[str, Any] | str | Path | None",
    overrides: "Overrides",
    preset: str | Path | None,
    choose: str | Sequence[str] | None,
    warm_start: "str | Study | None",
    root: "Root | None",
    *,
    quiet: bool = False,
    runs: bool = False,
) -> "tuple[Plan, Problem]":
    """The plan and its data, which are ready and sufficient. If it runs, its kernels are built meanwhile."""
    from raymeta.api.data import make_ready, with_source
    from raymeta.problem import open_problem

    plan = _plan(spec, task, trials, space, overrides, preset, choose)
    if warm_start is not None:
        from raymeta.study.plan.warm_start import warm_started
        from raymeta.study.record.home import open_study

        plan = warm_started(plan, open_study(warm_start) if isinstance(warm_start, str) else warm_start.record)
    plan = replace(plan, base=with_source(plan.base, root))
    problem = open_problem(plan.base.task)
    if runs:
        from raymeta.models.kernels import begin_building
        from raymeta.report.remarks import say

        if (remark := begin_building(plan.base)) and not quiet:
            say(remark)
    make_ready(problem, root, quiet=quiet)
    for split in ("train", "validation"):
        problem.bank(split, 0)  # too few classes or images are named now
    return plan, problem


def _with_kernels(plan: "Plan", *, quiet: bool) -> "Plan":
    """The plan with the kernels that all trials of the study are to run on."""
    from raymeta.models.kernels import settled, slower
    from raymeta.models.precision import SAID
    from raymeta.report.remarks import say

    base = settled(plan.base)
    if plan.base.engine.kernels == "auto" and base.engine.kernels == "torch" and (why := slower(base)) and not quiet:
        say(f"trials run on torch's kernels, which are slower than raymeta's own: {why}")
    if (remark := SAID.get(base.engine.precision)) and not quiet:
        say(f"engine.precision {base.engine.precision}: {remark}")
    return replace(plan, base=base)


def _free_name(stem: str) -> str:
    from raymeta.storage.files import studies_folder

    names = [stem, *(f"{stem}-{i}" for i in range(2, 10_000))]
    return next(name for name in names if not (studies_folder() / name).exists())


def _call(spec: str, given: Mapping[str, Any]) -> str:
    """The call that made a study, without what took its default."""
    arguments = [repr(spec), *(f"{key}={value!r}" for key, value in given.items() if value is not None)]
    return f"raymeta.search({', '.join(arguments)})"
