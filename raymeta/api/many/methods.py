"""A study of methods: each searched alike on each task, trained as its search and as its authors have it, one report.

Every search is an ordinary study and every final run an ordinary one; what is there is not done again. So the same
call goes on after a kill, and a call with more methods or tasks does only what those add.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from raymeta.api.data import make_ready, root_of
from raymeta.api.finals import Source, run_finals, source_of
from raymeta.api.many.planned import Cell, methods_plan
from raymeta.api.searching import search
from raymeta.api.studies import Study
from raymeta.comparison.entries import of_table
from raymeta.comparison.methods import Methods, Result, Searched
from raymeta.comparison.methods_report import report_of
from raymeta.config import TrialConfig
from raymeta.errors import Interrupted
from raymeta.problem import open_problem
from raymeta.report.page.content import Report
from raymeta.report.page.findings import seconds_of
from raymeta.report.page.forms import FORMS, form_of
from raymeta.report.remarks import say
from raymeta.report.shown import Shown
from raymeta.storage.outputs import output, write_output
from raymeta.study.machines.packing import Pack
from raymeta.study.machines.resources import beyond
from raymeta.study.plan.space import neutral_point
from raymeta.study.plan.words import Overrides
from raymeta.study.record.finalists import all_weights

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True, repr=False)
class MethodsStudy(Shown):
    """What a study of methods came to.

    Attributes:
        found: all that was tested, with its comparisons.
    """

    found: Methods

    @property
    def problems(self) -> Sequence[str]:
        """A sentence for whatever came to nothing: a search without a score, a final run that diverged."""
        return self.found.problems

    @cached_property
    def content(self) -> Report:
        """The report, section by section."""
        return report_of(self.found)

    def report(self, path: str | Path, form: str | None = None) -> Path:
        """Write the report.

        Args:
            path: the file.
            form: `html`, `md`, `tex`, `csv` or `json`; None: what the file's name ends in.

        Raises:
            UserError: there is no such form, or the file can't be written.
        """
        form, file = form_of(path, form), output(path)
        write_output(file, FORMS[form](self.content))
        return file

    def written(self, form: str) -> str:
        """What `report` writes."""
        return FORMS[form_of(None, form)](self.content)

    def frame(self) -> "pandas.DataFrame":
        """A row a task and method, in the metric's own units: both scores, differences, what the search took."""
        return self.found.frame()

    def as_dict(self) -> dict[str, Any]:
        """Plain data."""
        return self.found.as_dict()

    def __rich__(self) -> RenderableType:
        return Group(*_printed(self.content))


def study_of_methods(
    methods: str | Sequence[str],
    tasks: str | Sequence[str],
    *,
    regularizers: str | Sequence[str] | None = None,
    name: str = "methods",
    trials: int | None = None,
    seeds: int | Sequence[int] = 3,
    overrides: Overrides = None,
    preset: str | Path | None = None,
    data_root: str | Path | None = None,
    ship_data: bool = False,
    slots: int | None = None,
    pack: Pack = None,
    quiet: bool = False,
    command: str | None = None,
) -> MethodsStudy:
    """Search every method with the same budget on every task, train what was found and the authors' setting, compare.

    The same call goes on from what is there: studies are `NAME-METHOD-TASK`, and final runs are those of any command.

    Args:
        methods: with their regularizers, as in `maml+dropgrad`, or `maml+dropgrad:noise=binary`.
        tasks: `glyphs-5w1s`, `omniglot-20w1s`, …
        regularizers: each method is taken with each of these; `none` is the method alone.
        name: of the whole; its studies' names begin with it.
        trials: of each search; None: the preset's.
        seeds: of the final runs: how many, 0, 1, …, or which.
        overrides: see `raymeta.search`; what stands in the section of one method or regularizer is for that only.
        preset: see `raymeta.search`; so the others.
        data_root: see there.
        ship_data: see there.
        slots: see there.
        pack: see there.
        quiet: show no progress.
        command: what readers of the studies are to see as their origin; None: the call of each search.

    Raises:
        UserError: a name, a key or a value is wrong, a study is there that was planned otherwise, or methods can't be
            compared; nothing was started.
        Interrupted: Ctrl-C, or SIGTERM; the same call goes on.
        RunFailed: the disk is full, or the store is away; what is there is good.
    """
    plan = methods_plan(
        methods, tasks, regularizers=regularizers, name=name, trials=trials, seeds=seeds, overrides=overrides,
        preset=preset,
    )  # fmt: skip
    beyond(slots)
    root = root_of(data_root)
    for cell in plan.cells:
        problem = open_problem(cell.plan.base.task)
        make_ready(problem, root, quiet=quiet)
        problem.bank("test", cell.plan.base.task.bank_seed, final=True)  # what can't be tested need not be searched
    how: dict[str, Any] = {
        "slots": slots, "pack": pack, "data_root": data_root, "ship_data": ship_data, "quiet": quiet
    }  # fmt: skip
    studies: list[Study] = []
    for number, cell in enumerate(plan.cells, 1):
        if not quiet:
            say(f"search {number} of {len(plan.cells)}: {cell.method} on {cell.task}")
        studies.append(_searched(cell, preset, command, how))
    results: list[Result] = []
    problems: list[str] = []
    for task in dict.fromkeys(cell.task for cell in plan.cells):
        own = [(cell, study) for cell, study in zip(plan.cells, studies, strict=True) if cell.task == task]
        rows, failed = _tested(own, plan.seeds, how)
        results, problems = [*results, *rows], [*problems, *failed]
    return MethodsStudy(Methods(name, len(plan.seeds), results, problems))


def _searched(cell: Cell, preset: str | Path | None, command: str | None, how: dict[str, Any]) -> Study:
    """The study of a method on a task, over.

    Raises:
        Interrupted: it was left.
    """
    record = cell.record
    if record is not None and Study(record).settled:
        return Study(record)
    if record is None:
        study = search(
            cell.method, cell.task, preset=preset, overrides=cell.given, name=cell.study, command=command, **how
        )
    else:
        study = Study(record).resume(**how)
    if study.session is not None and study.session.exit_code:
        raise Interrupted(f"left while {cell.study} was searched; what is done is kept", study.session.exit_code)
    return study


def _tested(
    own: Sequence[tuple[Cell, Study]], seeds: Sequence[int], how: dict[str, Any]
) -> tuple[list[Result], list[str]]:
    """Final runs of all methods of a task, and what they came to.

    Raises:
        Interrupted: they were left.
    """
    sources, problems = list[Source](), list[str]()
    for cell, study in own:
        sources.append(Source(f"{cell.method}-authors", _authors(study)))
        if study.best is None:
            problems.append(f"{cell.study}: no trial has a score, so nothing tuned is tested")
        elif not _same(study):
            sources.append(replace(source_of(study), name=f"{cell.method}-tuned"))
    runs = run_finals(sources, seeds, **how)
    if runs.exit_code:
        raise Interrupted("left during final runs; what is trained is saved", runs.exit_code)
    if runs.untracked:
        problems.append(f"MLflow lacks the final runs ({runs.untracked})")
    rows = {row.name: of_table(row) for row in runs.rows}
    results = []
    for cell, study in own:
        untuned, metric = rows.get(f"{cell.method}-authors"), study.record.metric
        tuned = untuned if study.best is not None and _same(study) else rows.get(f"{cell.method}-tuned")
        about = _about(study)
        results.append(Result(cell.method, cell.plan.base.task.title, metric, untuned, tuned, about))
    return results, [*problems, *runs.problems]


def _authors(study: Study) -> TrialConfig:
    plan = study.record.plan
    return plan.config(plan.space.start_from[0])


def _same(study: Study) -> bool:
    """The search chose its authors' setting."""
    return study.config() == _authors(study)


def _about(study: Study) -> Searched:
    record, best, trials = study.record, study.best, study.trials()
    finalists = [found for one in all_weights(record) if (found := one.read())]
    neutral, flat = neutral_point(record.plan.base.spec), study.config().flat() if best is not None else {}
    return Searched(
        study=study.name,
        trials=record.plan.study.trials,
        keys=len(record.plan.space.params),
        outer_steps=sum(trial.outer_steps for trial in trials),
        seconds=sum(map(seconds_of, trials)) + sum(float(one.get("seconds", 0.0)) for one in finalists),
        chosen=best.point if best is not None else None,
        off=bool(neutral and flat) and all(flat[key] == value for key, value in neutral.items()),
    )


def _printed(report: Report) -> Iterator[RenderableType]:
    """A report on a terminal: its sentences and tables, without the long ones."""
    yield Text(report.subtitle)
    for section in report.sections:
        grids = [grid for grid in section.grids if not grid.long]
        if not (section.text or grids):
            continue
        yield Text(f"\n{section.title}", style="bold")
        yield from (Text(sentence) for sentence in section.text)
        for grid in grids:
            table = Table(*grid.columns, title=grid.title, title_justify="left", box=None, pad_edge=False)
            for cells in grid.texts():
                table.add_row(*map(Text, cells))
            yield table
