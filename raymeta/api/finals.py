"""Final runs: configs at their full budget with several seeds, tested once."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Group, RenderableType
from rich.text import Text

from raymeta import registry
from raymeta.api.data import make_ready, pretrain, root_of, with_source
from raymeta.api.studies import Study
from raymeta.api.words import Overrides, words_of
from raymeta.config import TrialConfig, parse_trial, split_settings
from raymeta.errors import UserError
from raymeta.problems.images.store import open_dataset
from raymeta.report.export import read_export
from raymeta.report.frames import finals_frame
from raymeta.report.shown import Shown, View
from raymeta.schema import merge, parse_overrides
from raymeta.study.machines.packing import Pack
from raymeta.study.plan.plan import make_config

if TYPE_CHECKING:
    import pandas

    from raymeta.finals.runs import FinalTable


@dataclass(frozen=True, repr=False)
class FinalRuns(Shown):
    """What final runs came to.

    Attributes:
        rows: a config each, of those of which all seeds were tested.
        problems: a sentence for every run that was not: it diverged, or its worker kept dying.
        untracked: why MLflow lacks them; "": it has them.
        stepwise: they were scored by inner step, too.
    """

    rows: "list[FinalTable]"
    problems: list[str] = field(default_factory=list)
    untracked: str = ""
    stepwise: bool = False

    def table(self) -> View:
        """Mean and 95 % interval over test tasks: a row a config, or a row a seed if there is only one config."""
        from raymeta.report.finals import final_table

        return View(final_table(self.rows)) if self.rows else View("nothing was tested")

    def by_step(self) -> View:
        """Scores before and after every inner step, of runs with `by_step=True`."""
        from raymeta.report.by_step import by_step_table

        return View(by_step_table(self.rows))

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
        from raymeta.report.by_step import draw_by_step

        draw_by_step(self.rows, Path(path))
        return Path(path)

    def as_dict(self) -> dict[str, Any]:
        """Plain data."""
        from raymeta.finals import by_step

        rows = [row.as_dict() | (by_step.as_dict(row) if self.stepwise else {}) for row in self.rows]
        return {"rows": rows, "problems": self.problems}

    def __rich__(self) -> RenderableType:
        return Group(self.table(), *map(Text, self.problems))


def final(
    configs: "str | Path | Study | Sequence[str | Path | Study]",
    task: str | None = None,
    *,
    seeds: int | Sequence[int] = 3,
    overrides: Overrides = None,
    preset: str | None = None,
    test_data: str | None = None,
    by_step: bool = False,
    data_root: str | Path | None = None,
    ship_data: bool = False,
    slots: int | None = None,
    pack: Pack = None,
) -> FinalRuns:
    """Train configs at their full budget with several seeds, select by validation, and test once on the test split.

    The same call goes on from what is there; a seed that was tested is not trained again.

    Args:
        configs: files that `Study.export` wrote, studies (their best), or methods at the preset (`maml+dropgrad`).
        task: of the methods, `omniglot-5w1s`; files and studies have their own.
        seeds: how many, 0, 1, …, or which.
        overrides: keys to values, of all configs; what stands in a method's own section is that method's only.
        preset: of the methods; None: the data set's.
        test_data: another data set to test on, whose data are prepared: cross-domain.
        by_step: score each run before and after every inner step, too.
        data_root: see `raymeta.search`; so `ship_data`, `slots`, `pack`.
        ship_data: see there.
        slots: see there.
        pack: see there.

    Raises:
        UserError: a config can't be had, or can't be tested; nothing was started.
        RunFailed: the disk is full, or the store is away; what is trained is safe.
    """
    from mlflow.exceptions import MlflowException

    from raymeta.finals.runs import final as run
    from raymeta.finals.tracking import log_final
    from raymeta.study.tracking.connection import problem_of

    root, numbers = root_of(data_root), list(range(seeds)) if isinstance(seeds, int) else list(seeds)
    if not numbers or len(set(numbers)) < len(numbers):
        raise UserError(f"seeds: found {seeds}: at least one, and each once")
    sources = [configs] if isinstance(configs, str | Path | Study) else list(configs)
    words = [*words_of(overrides), *([f"task.test_dataset={test_data}"] if test_data is not None else [])]
    found = _configs(sources, words, task, preset)
    trials = {name: with_source(config, root) for name, (config, _) in found.items()}
    for name, trial in trials.items():
        dataset, provenance = open_dataset(trial.task), found[name][1]
        make_ready(dataset, root)
        expected = provenance.get("data", {})
        if expected.get("name") == dataset.name and expected["fingerprint"] != dataset.fingerprint:
            raise UserError(
                f"{provenance['file']}: was found on {dataset.name} with fingerprint "
                f"{expected['fingerprint'][:12]}, but {dataset.name} on this machine has {dataset.fingerprint[:12]}"
            )
        dataset.bank("test", trial.task.bank_seed, final=True)  # what cannot be tested is refused before any training
    for trial in trials.values():
        pretrain(trial, open_dataset(trial.task))
    options: dict[str, Any] = {"slots": slots, "pack": pack, "data_root": root, "ship_data": ship_data}
    rows, problems = run(trials, numbers, by_step=by_step, **options)
    untracked = ""
    try:
        for row in rows:
            log_final(row, found[row.name][1])
    except MlflowException as error:
        untracked = problem_of(error)
    return FinalRuns(rows, problems, untracked, by_step)


Found = dict[str, tuple[TrialConfig, Mapping[str, Any]]]


def _configs(sources: "Sequence[str | Path | Study]", words: list[str], task: str | None, preset: str | None) -> Found:
    """Configs and their provenances by name; `key=value` words change them all.

    What stands in a method's own section changes that method only.
    """
    if not sources:
        raise UserError(f"final: found no config but {' '.join(words)}; name methods or .yaml files")
    known, found = set(registry.names("method")), Found()
    methods = {_method(source) for source in sources if isinstance(source, str)} & known
    for source in sources:
        others = methods - {_method(source)} if isinstance(source, str) else methods
        own = [word for word in words if word.split(".")[0] not in others]
        name, config, provenance = _config(source, own, task, preset)
        if name in found:
            raise UserError(f"{name}: a config of the name '{name}' is given twice")
        found[name] = config, provenance
    return found


def _config(
    source: "str | Path | Study", words: list[str], task: str | None, preset: str | None
) -> tuple[str, TrialConfig, Mapping[str, Any]]:
    """A config, what it is called, and where it comes from."""
    path = Path(source) if not isinstance(source, Study) else Path(source.name)
    if isinstance(source, str) and path.suffix not in (".yaml", ".yml") and not path.exists():
        return source, make_config(source, task, preset, words), {}
    if task or preset:
        raise UserError(f"{path}: --task and --preset are for a method's name; a file has its own task")
    if isinstance(source, Study):
        content = dict(source.exported())
        name, provenance, base = source.name, content.pop("provenance"), content
    else:
        config, provenance = read_export(path)
        name, base = path.stem, config.as_dict()
    config = parse_trial(merge(base, parse_overrides(words)), str(path))
    return name, config, {**provenance, "file": str(path)}


def _method(source: str) -> str:
    return split_settings(source)[0].split("+")[0]
