"""Analyses of final runs that are there."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Group, RenderableType
from rich.text import Text

from raymeta import registry
from raymeta.analysis import Analysis
from raymeta.api.data import make_ready
from raymeta.errors import UserError, suggest
from raymeta.finals.analyses import Analysed, Named, analyse_runs, wanted_analyses, with_a_meaning
from raymeta.finals.folders import tested_run
from raymeta.problem import open_problem
from raymeta.report.finals import analyses_table, known_analyses_table, numbers_table
from raymeta.report.shown import Shown
from raymeta.storage.places import AnyPath

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True, repr=False)
class Analyses(Shown):
    """What analyses of final runs came to.

    Attributes:
        found: each of each run.
        left: why others, where all were asked for, have no meaning.
        problems: a sentence for every one that failed.
        untracked: why MLflow lacks them; "": it has them.
        across: of several runs, what is worth reading of them beside each other, by analysis.
    """

    found: list[Analysed]
    left: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    untracked: str = ""
    across: "Mapping[str, pandas.DataFrame]" = field(default_factory=dict)

    def __iter__(self) -> Iterator[Analysed]:
        return iter(self.found)

    def frame(self, name: str) -> "pandas.DataFrame":
        """The numbers of one of them, a row for each.

        Raises:
            UserError: it is not among them.
        """
        for one in self.found:
            if one.name == name:
                return one.frame()
        raise UserError(f"no analysis '{name}' is here: {suggest(name, [one.name for one in self.found])}")

    def as_dict(self) -> dict[str, Any]:
        """Plain data."""
        across = {name: table.to_dict(orient="index") for name, table in self.across.items()}
        found = {"analyses": [one.as_dict() for one in self.found], **({"across": across} if across else {})}
        return {**found, "left": self.left, "problems": self.problems}

    def __rich__(self) -> RenderableType:
        tables = [analyses_table(self.found)] if self.found else []
        tables += [numbers_table(one.table, f"{one.run}: {one.name}") for one in self.found if one.table is not None]
        tables += [numbers_table(table, f"{name}, task by task") for name, table in self.across.items()]
        return Group(*tables, *map(Text, [*self.left, *self.problems]))


@dataclass(frozen=True, repr=False)
class Known(Shown):
    """The analyses that there are."""

    analyses: Mapping[str, type[Analysis]]

    def as_dict(self) -> dict[str, Any]:
        """Plain data by name."""
        return {
            name: {"meaning": cls.meaning, "needs": sorted(cls.needs), "settings": cls.Config().model_dump()}
            for name, cls in self.analyses.items()
        }

    def __rich__(self) -> RenderableType:
        return known_analyses_table(self.analyses)


def known() -> Known:
    """All analyses, those of packages from outside too, with their settings."""
    return Known(registry.working("analysis"))


def analyse(run: "str | Path | AnyPath", analyses: Named = "all", *, quiet: bool = False) -> Analyses:
    """Look at a final run that is there; nothing is trained. `raymeta.final(…, analyse=…)` does the same at its end.

    Args:
        run: a final run's folder, or its name.
        analyses: names, with settings where they are not the defaults: `gradients,cka:tasks=50`, a list of such, or
            names to settings; `all` is every one that has a meaning here.
        quiet: show no progress.

    Raises:
        Interrupted: Ctrl-C; the same call goes on.
        UserError: there is no such run or analysis, or it has no meaning for the run.
    """
    wanted, table = wanted_analyses(analyses), tested_run(run)
    make_ready(open_problem(table.config.task), None, quiet=quiet)
    chosen, left = with_a_meaning(wanted, table.config)
    found, problems = analyse_runs([(table, chosen)], quiet=quiet)
    return Analyses(found, left, problems, tracked(table.folder) if found else "")


def tracked(folder: AnyPath) -> str:
    """Send the analyses of a final run to MLflow; says why it lacks them, or ""."""
    from raymeta.finals.tracking import log_analyses
    from raymeta.study.tracking.connection import problem_of

    try:
        return "" if log_analyses(folder) else "the final run is not there: raymeta final sends it"
    except Exception as error:  # MLflow is a copy: whatever is wrong with it, the files are whole
        return problem_of(error)
