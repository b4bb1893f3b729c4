"""Analyses of final runs: which are asked for, whether they have a meaning, and the files that they leave.

    <studies>/finals/<name>-<task>-<hash>/analyses/cka.csv, cka.png, cka.svg    the numbers, and the picture of them
    <studies>/finals/<name>-<task>-<hash>/analyses/cka.yaml                     settings, seeds and weights

What is there under the same settings, of the same weights, is not computed again.
"""

import re
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from io import StringIO
from textwrap import wrap
from typing import TYPE_CHECKING, Any, NamedTuple

from raymeta import registry
from raymeta.analysis import Analysis, Subject
from raymeta.config import TrialConfig
from raymeta.config.migration import VERSION
from raymeta.errors import Interrupted, Terminated, UserError, suggest
from raymeta.finals.folders import data_of, tested_run
from raymeta.finals.results import FinalTable
from raymeta.learner import Learner, build_learner
from raymeta.problem import open_problem
from raymeta.report.finals import heading
from raymeta.report.remarks import say
from raymeta.report.style import drawn
from raymeta.schema import check, parse_overrides
from raymeta.storage.files import dump_yaml, read_yaml, write_atomically
from raymeta.storage.places import AnyPath
from raymeta.training.device import device_of
from raymeta.training.loading import learner_with, read_weights

if TYPE_CHECKING:
    import pandas

FOLDER, CHECKPOINT = "analyses", "checkpoint.pt"
SUFFIXES = (".csv", ".png", ".svg", ".yaml")
ALL = "all"
SEPARATOR = re.compile(r",(?![^\[]*\])")  # a comma, but for those of a list, as in linf=[0.1,0.2]
Named = str | Sequence[str] | Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Analysed:
    """An analysis of a final run.

    Attributes:
        run: what tables call it.
        name: of the analysis.
        meaning: what its picture shows, in a line.
        folder: where its files are.
        again: they were there already.
        table: what of its numbers is worth reading on a terminal; None: nothing.
    """

    run: str
    name: str
    meaning: str
    folder: AnyPath
    again: bool = False
    table: "pandas.DataFrame | None" = None

    def file(self, suffix: str) -> AnyPath:
        """`.csv`, `.png`, `.svg` or `.yaml`."""
        return self.folder / f"{self.name}{suffix}"

    def frame(self) -> "pandas.DataFrame":
        """The numbers, a row for each."""
        import pandas

        return pandas.read_csv(StringIO(self.file(".csv").read_text()))

    def as_dict(self) -> dict[str, Any]:
        """Plain data."""
        files = {suffix[1:]: str(self.file(suffix)) for suffix in (".csv", ".png", ".svg")}
        table = {} if self.table is None else {"table": self.table.to_dict(orient="index")}
        return {"run": self.run, "name": self.name, "meaning": self.meaning, **files, **table}


class Wanted(NamedTuple):
    """The analyses that are asked for.

    Attributes:
        analyses: once each.
        optional: all are, and those that have no meaning are left out.
    """

    analyses: list[Analysis]
    optional: bool


def wanted_analyses(wanted: Named) -> Wanted:
    """What a user asks for.

    Args:
        wanted: `gradients,cka:tasks=50`, a list of such, or names to settings; `all` is all that there are.

    Raises:
        UserError: there is none of a name, or it has no such setting.
    """
    given = dict(_parsed(wanted)) if not isinstance(wanted, Mapping) else dict(wanted)
    if not given:
        raise UserError(f"analyses: found none; allowed: {', '.join([ALL, *registry.names('analysis')])}")
    optional = ALL in given
    if optional:
        if given[ALL]:
            raise UserError("analyses: all has no settings; they are an analysis' own, as in all,cka:tasks=50")
        given = {name: given.get(name, {}) for name in registry.working("analysis")} | {
            name: settings for name, settings in given.items() if name != ALL
        }
    found = []
    for name, settings in given.items():
        if name not in (known := registry.names("analysis")):
            raise UserError(f"unknown analysis '{name}': {suggest(name, [ALL, *known])}")
        cls = registry.find("analysis", name)
        found.append(cls(check(cls.Config, dict(settings), name)))
    return Wanted(found, optional)


def _parsed(wanted: str | Sequence[str]) -> Iterable[tuple[str, dict[str, Any]]]:
    """`gradients,cka:tasks=50,seed=1` as names and settings: what has a `=` belongs to the name before it."""
    texts = [wanted] if isinstance(wanted, str) else wanted
    own: list[tuple[str, list[str]]] = []
    for part in filter(None, (piece.strip() for text in texts for piece in SEPARATOR.split(text))):
        name, colon, setting = part.partition(":")
        if "=" in name:
            if not own:
                raise UserError(f"'{part}': a setting stands behind the name of an analysis, as in cka:{part}")
            own[-1][1].append(part)
        else:
            own.append((name.strip(), [setting] if colon else []))
    for name, words in own:
        yield name, parse_overrides(words)


def with_a_meaning(wanted: Wanted, config: TrialConfig) -> tuple[list[Analysis], list[str]]:
    """Try analyses on the untrained learner of a config, before anything is trained.

    Returns:
        Those that have a meaning; why the others have none, if all were asked for.

    Raises:
        UserError: one has no meaning, or none has one.
    """
    problem = open_problem(config.task)
    learner = build_learner(config, problem).eval()
    subject = Subject(learner, config, problem.bank("validation", config.task.bank_seed), partial(_beside, config))
    found, left = [], []
    for one in wanted.analyses:
        try:
            one.refuse(subject)
            found.append(one)
        except UserError as error:
            left.append(str(error))
        except Exception as error:  # a bug of somebody's analysis, found before hours of training
            left.append(f"{one.name}: {type(error).__name__}: {error}")
    if left and (not wanted.optional or not found):
        raise UserError(left[0])
    return found, left


def analyse_runs(
    chosen: Sequence[tuple[FinalTable, Sequence[Analysis]]], *, quiet: bool
) -> tuple[list[Analysed], list[str]]:
    """Analyses of final runs, one after the other in this process.

    Args:
        chosen: a final run with its analyses, each.
        quiet: say nothing of how it goes.

    Returns:
        What came of them; a sentence for every one that failed.

    Raises:
        Interrupted: Ctrl-C, or SIGTERM.
    """
    found, problems = [], []
    for table, analyses in chosen:
        for one in analyses:
            start = time.monotonic()
            try:
                if not quiet:
                    say(f"{table.name}: {one.name} …")
                found.append(analyse(one, table))
            except (KeyboardInterrupt, Terminated) as left:
                code = 130 if isinstance(left, KeyboardInterrupt) else 143
                raise Interrupted("the analyses are not finished; the final runs are tested and kept", code) from None
            except Exception as error:  # of somebody's own analysis, perhaps: the others and the table are whole
                why = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
                problems.append(f"{table.name}: {one.name}: {why}")
            else:
                if not quiet:
                    how = "is there" if found[-1].again else f"in {time.monotonic() - start:.0f} s"
                    say(f"{table.name}: {one.name} {how}")
    return found, problems


def across_runs(
    chosen: Sequence[tuple[FinalTable, Sequence[Analysis]]], found: Sequence[Analysed]
) -> dict[str, "pandas.DataFrame"]:
    """What analyses of several final runs of one task have to say of them beside each other, by name.

    Args:
        chosen: as for `analyse_runs`.
        found: what came of them.
    """
    tables: dict[str, pandas.DataFrame] = {}
    if len({table.config.task.name for table, _ in chosen}) != 1:
        return tables
    for one in chosen[0][1]:
        frames = {own.run: own.frame() for own in found if own.name == one.name}
        if len(frames) > 1 and (table := one.across(frames, chosen[0][0].metric)) is not None:
            tables[one.name] = table
    return tables


def analyse(one: Analysis, table: FinalTable) -> Analysed:
    """Compute, draw and keep an analysis of a final run, unless it is there.

    Raises:
        UserError: the weights are not there, or it has no meaning for the run.
    """
    import pandas

    best = table.chosen.seed
    folder = table.folder / FOLDER
    done = Analysed(table.name, one.name, one.meaning, folder)
    seeds = [result for result in table.seeds if result.seed == best or not one.one_seed]
    record = {
        "analysis": one.name,
        "settings": one.settings.model_dump(mode="json"),
        "seeds": {result.seed: result.selected_at for result in seeds},
        "data": data_of(table.folder),
        "raymeta": VERSION,
    }
    if one.others:
        others = {run: tested_run(run) for run in one.others}
        record["others"] = {run: {seed.seed: seed.selected_at for seed in found.seeds} for run, found in others.items()}
    if _is_there(done, record):
        return replace(done, again=True, table=one.table(done.frame(), table.metric))
    subjects = {result.seed: _subject(table, result.seed) for result in seeds}
    rows = [{"seed": seed, **row} for seed, subject in subjects.items() for row in one.measure(subject)]
    content = pandas.DataFrame(rows).to_csv(index=False, float_format="%.6g")
    write_atomically(done.file(".csv"), content)
    figure = one.draw(done.frame(), subjects[best])  # of the file: the picture shows what is in it
    _explain(figure, one, table, record)
    for suffix in (".png", ".svg"):
        write_atomically(done.file(suffix), drawn(figure, suffix))
    write_atomically(done.file(".yaml"), dump_yaml(record))  # the last: the others are whole
    return replace(done, table=one.table(done.frame(), table.metric))


def _is_there(done: Analysed, record: Mapping[str, Any]) -> bool:
    """Whether all files are there, under this record; a damaged one is none."""
    if not all(done.file(suffix).exists() for suffix in SUFFIXES):
        return False
    try:
        return read_yaml(done.file(".yaml")) == record
    except UserError:
        return False


def _subject(table: FinalTable, seed: int) -> Subject:
    learner, config = _trained(table, seed)
    bank = learner.problem.bank("test", config.task.bank_seed, final=True)
    return Subject(learner, config, bank, partial(_beside, config))


def _trained(table: FinalTable, seed: int) -> tuple[Learner, TrialConfig]:
    """The learner of a final run's seed at the weights that are best on validation, and its config."""
    path = table.folder / f"seed{seed}" / CHECKPOINT
    device = device_of(table.config)
    config, top = read_weights(path, device)
    if not top:
        raise UserError(f"{path}: nothing was validated, so there are no weights to look at")
    return learner_with(top[0]["weights"], config, open_problem(config.task), device, path), config


def _beside(config: TrialConfig, run: str) -> Learner:
    """See `Subject.beside`."""
    table = tested_run(run)
    own, others = (one.task.of_evaluation(True) for one in (config, table.config))
    if differing := [key for key in own if others.get(key) != own[key]]:
        key = differing[0]
        raise UserError(f"{run}: its test tasks are others: task.{key} is {others.get(key)!r}, and here {own[key]!r}")
    seeds = [result.seed for result in table.seeds]
    return _trained(table, config.seed if config.seed in seeds else table.chosen.seed)[0].to(device_of(config))


def _explain(figure: Any, one: Analysis, table: FinalTable, record: Mapping[str, Any]) -> None:
    """Title, meaning, and of what the picture is."""
    seeds, settings = record["seeds"], record["settings"]
    of = f"{settings['tasks']} test tasks; " if "tasks" in settings else ""
    of += f"test task {settings['task']}; " if "task" in settings else ""
    weights = ", ".join(f"{seed} ({step} outer steps)" for seed, step in seeds.items())
    figure.suptitle(f"{one.name}: {heading([table])}", fontsize=10)
    width = int(17 * figure.get_size_inches()[0])
    text = "\n".join([*wrap(one.meaning, width), *wrap(f"{of}seed{'s'[: len(seeds) != 1]} {weights}", width)])
    figure.supxlabel(text, x=0.01, ha="left", fontsize=7.5)
