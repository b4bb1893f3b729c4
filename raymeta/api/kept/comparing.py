"""Studies, trials, final runs and exports compared."""

import re
from collections.abc import Sequence
from pathlib import Path

from raymeta.api.finals import FinalRuns
from raymeta.api.studies import Study
from raymeta.comparison.comparison import Comparison, compared
from raymeta.comparison.entries import Entry, of_final_run, of_finalists, of_table, of_trial
from raymeta.comparison.ranking import Ranking
from raymeta.comparison.ranking import rank as ranked
from raymeta.errors import UserError, suggest
from raymeta.finals.folders import folder_of
from raymeta.report.export import read_export
from raymeta.schema import flatten
from raymeta.storage.files import studies_folder
from raymeta.storage.places import any_path, expanded
from raymeta.study.record.folder import names_in
from raymeta.study.record.home import open_study

Run = str | Path | Study | FinalRuns
TRIAL = re.compile(r"(?P<study>[^/:]+):(?P<trial>\d+)")


def compare(runs: Run | Sequence[Run], *, rope: float | None = None, unpaired: bool = False) -> Comparison:
    """Compare task by task: mean differences with 95 % intervals, p values corrected by Holm, and a sentence.

    Args:
        runs: studies or their names (their best finalist; of one alone all finalists), `study:3` for a trial, final
            runs or their folders' names, and exported files that have been tested.
        rope: differences up to this are of no practical meaning, as the metric is printed (points of a percentage).
        unpaired: compare what was scored on other tasks, or had another budget, by its mean.

    Raises:
        UserError: there is no such run, it has no scores task by task, or they can't be compared.
    """
    return compared(_all_entries(runs), rope=rope, unpaired=unpaired)


def rank(runs: Sequence[Run], *, unpaired: bool = False) -> Ranking:
    """Rank methods over many tasks: mean ranks, Friedman's test and critical differences (Demšar 2006).

    Args:
        runs: as `compare` takes them; each method once in each task.
        unpaired: methods may have other budgets, or be scored on other episodes of a task.

    Raises:
        UserError: see `compare`; or there are fewer than three methods or two tasks, or a method lacks one.
    """
    return ranked(_all_entries(runs), unpaired=unpaired)


def _all_entries(runs: Run | Sequence[Run]) -> list[Entry]:
    given = [runs] if isinstance(runs, str | Path | Study | FinalRuns) else list(runs)
    return [entry for one in given for entry in _entries(one, alone=len(given) == 1)]


def _entries(run: Run, *, alone: bool) -> list[Entry]:
    if isinstance(run, FinalRuns):
        return [of_table(table) for table in run.rows]
    if isinstance(run, Study):
        return of_finalists(run.record) if alone else [of_trial(run.name, run.record, None)]
    text, home = str(run), studies_folder()
    if match := TRIAL.fullmatch(text):
        return [of_trial(text, open_study(match["study"]), int(match["trial"]))]
    if text.endswith((".yaml", ".yml")):
        return [_exported(text)]
    if "/" not in text and (home / text / "study.yaml").is_file():
        return _entries(Study(open_study(text)), alone=alone)
    for folder in (any_path(text), home / "finals" / any_path(text).name):
        if list(folder.glob("seed*/result.json")):
            return [of_final_run(folder.name, folder)]
    names = names_in(home)
    names += [path.parent.parent.name for path in home.glob("finals/*/seed*/result.json")]
    raise UserError(f"{text}: neither a study nor a tested final run; {suggest(any_path(text).name, set(names))}")


def _exported(text: str) -> Entry:
    """The final run of an exported config, or the trial that it was exported from if that still has this config."""
    config, provenance = read_export(expanded(text))
    folder = folder_of(Path(text).stem, config)
    if list(folder.glob("seed*/result.json")):
        return of_final_run(text, folder)
    study, number = provenance.get("study"), provenance.get("trial")
    if study and isinstance(number, int) and (studies_folder() / study / "study.yaml").is_file():
        record = open_study(study)
        mine, there = (flatten(one.as_dict()) for one in (config, record.config(record.trial(number))))
        for key in dict.fromkeys([*mine, *there]):
            if key != "seed" and mine.get(key) != there.get(key):
                raise UserError(
                    f"{text}: is not trial {number} of the study '{study}' that is here: {key} is {mine.get(key)} in "
                    f"the file and {there.get(key)} in the trial: raymeta final {text}"
                )
        return of_trial(text, record, number)
    raise UserError(f"{text}: was not tested yet, and its study is not here: raymeta final {text}")
