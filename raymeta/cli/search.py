"""`raymeta search`, `resume` and `extend`, and what they say at the end."""

import json
import os
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

from raymeta.cli.common import (
    Choose,
    DataRoot,
    Json,
    OwnSpace,
    Pack,
    Preset,
    ShipData,
    Slots,
    Spec,
    Task,
    Words,
    console,
    placed,
    prepare,
    pretrain,
    say,
)
from raymeta.errors import UserError

if TYPE_CHECKING:
    from raymeta.problems.images.reading.remote import Root
    from raymeta.study.machines.resources import Slots as Given
    from raymeta.study.machines.session import Session
    from raymeta.study.plan.plan import Plan
    from raymeta.study.record.record import StudyRecord


def search(
    spec: Spec,
    words: Words = None,
    task: Task = None,
    preset: Preset = None,
    own_space: OwnSpace = None,
    name: Annotated[Optional[str], typer.Option(help="The study's name; by default made from the rest.")] = None,  # noqa: UP045
    choose: Choose = None,
    trials: Annotated[Optional[int], typer.Option("--trials", "-n", min=1, help="As study.trials=N.")] = None,  # noqa: UP045
    warm_start: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(metavar="STUDY", help="Begin with the best configs of another study, as far as they fit."),
    ] = None,
    data_root: DataRoot = None,
    ship_data: ShipData = False,
    slots: Slots = None,
    pack: Pack = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be done, with times, and stop.")] = False,
    as_json: Json = False,
) -> None:
    """Search the hyperparameters of a method.

    Example: raymeta search maml+dropgrad --task omniglot-5w1s -n 24 maml.inner_steps=5

    Example: raymeta search maml maml.inner_lr=0.01..0.5:log maml.inner_steps=1..5

    Example: raymeta search maml --choose dropgrad,metadropout,mgaug,none
    """
    started = time.time()
    from raymeta.problem import open_problem
    from raymeta.study.plan.plan import make_plan
    from raymeta.study.record.record import StudyRecord, check_name

    if name is not None:
        check_name(name)
    overrides = [*(words or []), *([f"study.trials={trials}"] if trials else [])]
    plan = make_plan(spec, task, preset, overrides, choose, space=own_space)
    if warm_start is not None:
        from raymeta.study.plan.warm_start import warm_started
        from raymeta.study.record.record import open_study

        plan = warm_started(plan, open_study(warm_start))
    plan = replace(plan, base=placed(plan.base, data_root))
    dataset = open_problem(plan.base.task)
    prepare(dataset, data_root)
    for split in ("train", "validation"):
        dataset.bank(split, 0)  # too few classes or images are named now
    if dry_run:
        _dry_run(plan, as_json)
        return
    pretrain(plan.base, dataset)
    from raymeta.storage.files import studies_folder
    from raymeta.training.trainer import refuse_unfit

    refuse_unfit(plan.trial(plan.space.start_from[0]))
    what = f"{plan.base.spec}+choice" if choose else plan.base.spec
    folder = studies_folder() / (name or _free_name(f"{what}-{task or plan.base.task.data}"))
    record = StudyRecord.create(folder, plan, dataset.metric, dataset.fingerprint)
    say(f"study {record.name}: {plan.study.trials} trials, rungs at {plan.rungs} outer steps, in {folder}")
    _go(record, slots, pack, data_root, ship_data, started, as_json)


def resume(
    name: Annotated[str, typer.Argument(help="A study.")],
    data_root: DataRoot = None,
    ship_data: ShipData = False,
    slots: Slots = None,
    pack: Pack = None,
    as_json: Json = False,
) -> None:
    """Go on with a study from where it was left or killed; finished trials are not run again.

    Example: raymeta resume maml+dropgrad-glyphs
    """
    started = time.time()
    from raymeta.study.record.record import open_study

    _go(open_study(name), slots, pack, data_root, ship_data, started, as_json)


def extend(
    name: Annotated[str, typer.Argument(help="A study.")],
    trials: Annotated[int, typer.Option("--trials", "-n", min=1, help="How many more.")],
    data_root: DataRoot = None,
    ship_data: ShipData = False,
    slots: Slots = None,
    pack: Pack = None,
    as_json: Json = False,
) -> None:
    """Add trials to a study and go on with it.

    Example: raymeta extend maml+dropgrad-glyphs -n 20
    """
    started = time.time()
    from raymeta.study.record.record import open_study

    record = open_study(name)
    with record.locked():
        record.extend(trials)
    _go(record, slots, pack, data_root, ship_data, started, as_json)


def _go(
    record: "StudyRecord",
    slots: int | None,
    pack: Any,
    data_root: "Root | None",
    ship_data: bool,
    started: float,
    as_json: bool,
) -> None:
    from raymeta.study.machines.packing import largest, take_slots
    from raymeta.study.run.search import run

    def start() -> "Given":
        """Ray, and the machines of its cluster if it is one, made ready for the trials of the study."""
        given = take_slots(slots, pack, lambda: largest(record.plan))
        from raymeta.study.machines.nodes import prepare_nodes

        try:
            prepare_nodes(record.plan.base.task, data_root, ship=ship_data)
        except UserError as error:
            raise UserError(f"{error}; then go on with `raymeta resume {record.name}`") from error
        return given

    _report(record, run(record, start, started=started, quiet=as_json), as_json)


def _free_name(stem: str) -> str:
    from raymeta.storage.files import studies_folder

    names = [stem, *(f"{stem}-{i}" for i in range(2, 10_000))]
    return next(name for name in names if not (studies_folder() / name).exists())


def _dry_run(plan: "Plan", as_json: bool) -> None:
    from raymeta.study.plan.preview import preview

    shown = preview(plan)
    if as_json:
        print(json.dumps(shown.as_dict()))  # noqa: T201
    else:
        from raymeta.report.tables import preview_table

        console().print(preview_table(shown))


def _report(record: "StudyRecord", session: "Session", as_json: bool) -> None:
    from raymeta.report.status import STATES
    from raymeta.storage.files import mlflow_folder
    from raymeta.study.record.finalists import settled

    trials = record.trials()
    counts = {state: sum(t.state == state for t in trials) for state in STATES}
    if as_json:
        print(json.dumps({"study": record.name, "trials": counts, **_figures(record, session)}))  # noqa: T201
    else:
        say(
            ", ".join(f"{count} {state}" for state, count in counts.items() if count)
            + f" of {record.plan.study.trials}"
        )
        _say_best(record)
        if session.efficiency is not None:
            first = f", first result after {session.first_result_s:.1f} s" if session.first_result_s else ""
            say(f"slot efficiency {session.efficiency:.2f} ({session.slots}, {session.wall_s:.0f} s{first})")
    for problem in session.problems:
        say(problem)
    if session.untracked:
        say(f"MLflow was not reached: `raymeta resume {record.name}` sends what it lacks ({session.untracked})")
    if not isinstance(record.folder, Path) and not os.environ.get("MLFLOW_TRACKING_URI"):
        say(f"MLflow is on this machine only, in {mlflow_folder()}; MLFLOW_TRACKING_URI names a server")
    over = record.over and settled(record)
    say(f"next: raymeta export {record.name}   |   raymeta ui" if over else f"go on with: raymeta resume {record.name}")
    if session.stopping and not over:
        raise typer.Exit(130)
    if trials and not any(trial.best(record.metric) for trial in trials):
        raise typer.Exit(1)


def _figures(record: "StudyRecord", session: "Session") -> dict[str, Any]:
    from raymeta.study.record.finalists import standings

    best, final, found = record.best(), standings(record), None
    if best is not None:
        found = {"trial": best.number, **(best.best(record.metric) or {}), "config": record.config(best).as_dict()}
    return {
        "best": found,
        "finalists": final.as_dict() if final else None,
        "slot_efficiency": session.efficiency,
        "wall_s": session.wall_s,
        "first_result_s": session.first_result_s,
    }


def _say_best(record: "StudyRecord") -> None:
    from raymeta.report.export import against_start
    from raymeta.report.tables import finalists_table, fresh_score, score, settings
    from raymeta.study.record.finalists import standings

    best, final, metric = record.best(), standings(record), record.metric
    if best is None:
        return
    found = score(best, metric)
    if final is not None:
        console().print(finalists_table(final))
        say(final.verdict)
        if final.best is not None:
            seeds = len(final.best.retrained)
            again = f", trained again with {seeds} seed{'s'[: seeds > 1]}" if seeds else ""
            found = f"{fresh_score(final.best, metric)} on fresh episodes{again} ({found} in the search)"
    say(f"best: trial {best.number}, validation {metric.name} {found}: {settings(best)}")
    say(f"      {against_start(record, best)}")
