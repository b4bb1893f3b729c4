"""Final runs: configs at their full budget with several seeds, tested once."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Group, RenderableType
from rich.text import Text

from raymeta import registry
from raymeta.api.analysing import Analyses
from raymeta.api.data import make_ready, pretrain, root_of, with_source
from raymeta.api.studies import Study
from raymeta.config import TrialConfig, parse_trial, split_settings
from raymeta.errors import UserError
from raymeta.finals.analyses import Named, Wanted, across_runs, analyse_runs, wanted_analyses, with_a_meaning
from raymeta.finals.results import Origin
from raymeta.problem import open_problem
from raymeta.report.export import read_export
from raymeta.report.frames import finals_frame
from raymeta.report.shown import Shown, View
from raymeta.schema import flatten, merge, nest, parse_overrides
from raymeta.storage.places import expanded
from raymeta.study.machines.packing import Pack
from raymeta.study.plan.plan import make_config
from raymeta.study.plan.tables import Row, row_of
from raymeta.study.plan.words import Given, Overrides

if TYPE_CHECKING:
    import pandas

    from raymeta.finals.results import FinalTable


@dataclass(frozen=True, repr=False)
class FinalRuns(Shown):
    """What final runs came to.

    Attributes:
        rows: a config each, of those of which all seeds were tested.
        problems: a sentence for every run that was not: it diverged, or its worker kept dying.
        untracked: why MLflow lacks them; "": it has them.
        stepwise: they were scored by inner step, too.
        exit_code: of a command, because it was asked to leave while the last runs ended; 0: it was not.
        analyses: what the looks at them came to that were asked for.
    """

    rows: "list[FinalTable]"
    problems: list[str] = field(default_factory=list)
    untracked: str = ""
    stepwise: bool = False
    exit_code: int = 0
    analyses: Analyses = field(default_factory=lambda: Analyses([]))

    def table(self) -> View:
        """Mean and 95 % interval over test tasks: a row a config, or a row a seed if there is only one config."""
        from raymeta.report.finals import final_table

        return View(final_table(self.rows)) if self.rows else View("nothing was tested")

    def by_step(self) -> View:
        """Scores before and after every inner step, of runs with `by_step=True`."""
        from raymeta.report.finals import by_step_table

        return View(by_step_table(self.rows))

    def by_part(self) -> View | None:
        """Scores on each part of a benchmark of several (Meta-Dataset's data sets); None: it has no parts."""
        from raymeta.report.finals import parts_table

        return View(parts_table(self.rows)) if any(row.parts() for row in self.rows) else None

    def frame(self) -> "pandas.DataFrame":
        """A row a seed of each config; index: config and seed."""
        return finals_frame(self.rows)

    def draw(self, path: str | Path) -> Path:
        """Draw the validation curves to a .png, .svg or .pdf file."""
        from raymeta.report.finals import draw_curves

        draw_curves(self.rows, Path(path))
        return Path(path)

    def draw_by_step(self, path: str | Path) -> Path:
        """Draw the scores by inner step to a .png, .svg or .pdf file."""
        from raymeta.report.finals import draw_by_step

        draw_by_step(self.rows, Path(path))
        return Path(path)

    def as_dict(self) -> dict[str, Any]:
        """Plain data."""
        rows = [row.as_dict() | ({"by_step": row.by_step()} if self.stepwise else {}) for row in self.rows]
        looks = (
            {key: value for key, value in self.analyses.as_dict().items() if key in ("analyses", "across")}
            if self.analyses.found
            else {}
        )
        return {"rows": rows, **looks, "problems": self.problems}

    def __rich__(self) -> RenderableType:
        looks: list[RenderableType] = [self.analyses] if self.analyses.found else []
        parts = self.by_part()
        return Group(self.table(), *([parts] if parts is not None else []), *looks, *map(Text, self.problems))


def final(
    configs: "str | Path | Study | Sequence[str | Path | Study]" = (),
    task: str | None = None,
    *,
    seeds: int | Sequence[int] = 3,
    overrides: Overrides = None,
    preset: str | Path | None = None,
    scale: float | None = None,
    test_data: str | None = None,
    by_step: bool = False,
    analyse: Named | None = None,
    data_root: str | Path | None = None,
    ship_data: bool = False,
    slots: int | None = None,
    pack: Pack = None,
    quiet: bool = False,
) -> FinalRuns:
    """Train configs at their full budget with several seeds, select by validation, and test once on the test split.

    The same call goes on from what is there; a seed that was tested is not trained again.

    Args:
        configs: files that `Study.export` wrote, studies (their best), or methods at the preset (`maml+dropgrad`);
            none: the preset is a row of a table, which knows its method.
        task: of the methods, `omniglot-5w1s`; None: that of the files and studies beside them, else the preset's.
        seeds: how many, 0, 1, …, or which.
        overrides: keys to values, of all configs; what stands in a method's own section is that method's only.
        preset: of the methods, or a row of a table; None: the data set's.
        scale: to which share of its outer steps the preset is shortened, with as many rounds and tasks as go with it;
            all that comes of it says so, and shows no published figure.
        test_data: another data set to test on, whose data are prepared: cross-domain.
        by_step: score each run before and after every inner step, too.
        analyse: which looks to take at each run once it is tested; see `raymeta.analyse`.
        data_root: see `raymeta.search`; so `ship_data`, `slots`, `pack`.
        ship_data: see there.
        slots: see there.
        pack: see there.
        quiet: show no progress.

    Raises:
        Interrupted: Ctrl-C, before all was done; the same call goes on.
        UserError: a config can't be had, or can't be tested; nothing was started.
        RunFailed: the disk is full, or the store is away; what is trained is safe.
    """
    wanted, numbers = None if analyse is None else wanted_analyses(analyse), seed_numbers(seeds)
    sources = [configs] if isinstance(configs, str | Path | Study) else list(configs)
    given = Given.of(overrides)
    if test_data is not None:
        given = Given(given.words, {**given.values, "task.test_dataset": test_data})
    if scale is not None and preset is None:
        raise UserError("--scale: it shortens a preset; name one with --preset (raymeta presets lists them)")
    if scale is not None and not 0 < scale <= 1:
        raise UserError(f"--scale {scale:g}: expected a share above 0 and at most 1, as in 0.05")
    return run_finals(
        _configs(sources, given, task, preset, scale or 1.0), numbers, by_step=by_step, wanted=wanted,
        data_root=data_root, ship_data=ship_data, slots=slots, pack=pack, quiet=quiet,
    )  # fmt: skip


def seed_numbers(seeds: int | Sequence[int]) -> list[int]:
    """The seeds that are meant by a number of them, or by a list.

    Raises:
        UserError: none, one twice, or what no generator takes.
    """
    numbers = list(range(seeds)) if isinstance(seeds, int) else list(seeds)
    whole = all(isinstance(seed, int) and not isinstance(seed, bool) and 0 <= seed < 2**32 for seed in numbers)
    if not numbers or not whole or len(set(numbers)) < len(numbers):
        raise UserError(f"seeds: found {seeds}: at least one, and each once, from 0 to 2^32 - 1")
    return numbers


def run_finals(
    sources: "Sequence[Source]",
    seeds: Sequence[int],
    *,
    by_step: bool = False,
    wanted: Wanted | None = None,
    data_root: str | Path | None = None,
    ship_data: bool = False,
    slots: int | None = None,
    pack: Pack = None,
    quiet: bool = False,
) -> FinalRuns:
    """What `final` does with the configs that it was given; see there."""
    from raymeta.finals.runs import final as run
    from raymeta.study.tracking.connection import problem_of

    root, found = root_of(data_root), {one.name: one for one in sources}
    trials = {name: with_source(one.config, root) for name, one in found.items()}
    for name, trial in trials.items():
        problem, provenance = open_problem(trial.task), found[name].provenance
        make_ready(problem, root, quiet=quiet)
        expected = provenance.get("data") or {}
        if expected.get("name") == problem.name and expected["fingerprint"] != problem.fingerprint:
            raise UserError(
                f"{provenance['file']}: was found on {problem.name} with fingerprint "
                f"{expected['fingerprint'][:12]}, but {problem.name} on this machine has {problem.fingerprint[:12]}"
            )
        problem.bank("test", trial.task.bank_seed, final=True)  # what cannot be tested is refused before any training
    looks = {name: with_a_meaning(wanted, trial) for name, trial in trials.items()} if wanted is not None else {}
    for trial in trials.values():
        pretrain(trial, open_problem(trial.task), quiet=quiet)
    options: dict[str, Any] = {"slots": slots, "pack": pack, "data_root": root, "ship_data": ship_data}
    options["origins"] = {name: one.origin for name, one in found.items() if one.origin is not None}
    rows, problems, exit_code = run(trials, seeds, by_step=by_step, quiet=quiet, **options)
    wait = exit_code or not looks  # who asked to leave does not wait for them: the same command goes on with them
    chosen = [] if wait else [(row, looks[row.name][0]) for row in rows]
    analysed, failed = analyse_runs(chosen, quiet=quiet)
    untracked, left = "", [f"{name}: {why}" for name, (_, whys) in looks.items() for why in whys]
    try:
        from raymeta.finals.tracking import log_final

        for row in rows:
            log_final(row, found[row.name].provenance)
    except Exception as error:  # MLflow is a copy: whatever is wrong with it, the runs are whole
        untracked = problem_of(error)
    return FinalRuns(
        rows,
        [*problems, *failed],
        untracked,
        by_step,
        exit_code,
        Analyses(analysed, left, across=across_runs(chosen, analysed)),
    )


@dataclass(frozen=True)
class Source:
    """A config that was asked for by its file, by its study or by its method, and what the tables call it.

    Attributes:
        provenance: where it comes from; {}: a method's name says it all.
        origin: the row of a paper's table that it is.
    """

    name: str
    config: TrialConfig
    provenance: Mapping[str, Any] = field(default_factory=dict)
    origin: Origin | None = None


def _configs(
    sources: "Sequence[str | Path | Study]", given: Given, task: str | None, preset: str | Path | None, scale: float
) -> list[Source]:
    """The configs in their order; overrides change them all.

    What stands in a method's own section changes that method only. Methods beside files have the files' task, if that
    is one and no other was asked for.
    """
    row = row_of(preset) if preset is not None and not sources else None
    if row is not None:
        return [_row(row, preset, given, task, scale)]  # type: ignore[arg-type]
    if not sources and preset is not None:
        raise UserError(
            f"final: {preset} is a preset for any method; name one, as in raymeta final maml --preset {preset}"
        )
    if not sources:
        but = f" but {given}" if str(given) else ""
        raise UserError(f"final: found no config{but}; name methods, .yaml files or, as --preset, a row of a table")
    methods = [source for source in sources if _is_method(source)]
    named = {_method(str(source)) for source in methods} & set(registry.names("method"))

    def file(source: "str | Path | Study") -> Source:
        if task or preset:
            raise UserError(f"{source}: --task and --preset are for a method's name; a file has its own task")
        return source_of(source, given.without(named))

    def method(name: str) -> Source:
        if _method(name) not in registry.names("method") and Path(f"{name}.yaml").is_file():
            raise UserError(f"unknown method '{name}': did you mean the file '{name}.yaml'?")
        own = given.without(named - {_method(name)})
        config = make_config(name, task or shared, preset, own.words, overrides=own.values, scale=scale)
        return Source(_named(name, scale), config)

    written = [None if source in methods else file(source) for source in sources]
    tasks = {one.config.task.name for one in written if one is not None}
    shared = tasks.pop() if len(tasks) == 1 else None
    found = [one or method(str(source)) for source, one in zip(sources, written, strict=True)]
    names = [one.name for one in found]
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"{name}: a config of the name '{name}' is given twice")
    return found


def _row(row: Row, preset: str | Path, given: Given, task: str | None, scale: float) -> Source:
    """A row of a table as it is, or with what the user changes of it."""
    config = make_config(row.spec, task, preset, given.words, overrides=given.values, scale=scale)
    theirs = flatten(make_config(row.spec, None, preset, scale=scale).as_dict())
    same = ("seed", "engine.", "task.bank_seed", "task.source")  # how a row is run, not what it is
    changed = [key for key, value in config.flat().items() if theirs.get(key) != value and not key.startswith(same)]
    return Source(_named(row.name, scale), config, {"preset": row.name}, Origin(row, tuple(changed)))


def _named(name: str, scale: float) -> str:
    """What tables, pictures and folders call a config: a shortened one so that it is seen everywhere."""
    return name if scale == 1 else f"{name}@{scale:g}"


def source_of(source: "str | Path | Study", given: Given | None = None) -> Source:
    """The config of a file, or of a study's best trial."""
    if isinstance(source, Study):
        content = dict(source.exported())
        name, where, provenance = source.name, source.name, content.pop("provenance")
    else:
        base, provenance = read_export(expanded(source))
        name, where, content = Path(source).stem, str(source), base.as_dict()
    given = given or Given()
    config = parse_trial(merge(content, nest(given.values), parse_overrides(given.words)), where)
    return Source(name, config, {**provenance, "file": where})


def _is_method(source: "str | Path | Study") -> bool:
    """A name, which is neither that of a file nor a path."""
    if not isinstance(source, str) or source.endswith((".yaml", ".yml")):
        return False
    return Path(source).name == source and not Path(source).is_file()


def _method(source: str) -> str:
    return split_settings(source)[0].split("+")[0]
