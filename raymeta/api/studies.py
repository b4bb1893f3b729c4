"""Studies that are there: what is known of one, and going on with it."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from rich.console import Group, RenderableType

from raymeta.api.data import root_of
from raymeta.config import TrialConfig
from raymeta.errors import RunFailed, UserError
from raymeta.installed import remark
from raymeta.report.export import exported, write_export
from raymeta.report.frames import rounds_frame, trials_frame
from raymeta.report.pictures import search_picture
from raymeta.report.remarks import say
from raymeta.report.shown import Shown
from raymeta.report.status import Status, status_of, status_table
from raymeta.report.style import PICTURES
from raymeta.storage.outputs import output, write_output
from raymeta.storage.places import AnyPath
from raymeta.study.copies.copier import Copies
from raymeta.study.copies.copy import found
from raymeta.study.machines.packing import Pack
from raymeta.study.machines.resources import beyond
from raymeta.study.machines.session import Session
from raymeta.study.record.finalists import Standings, settled, standings
from raymeta.study.record.folder import held_still, refuse_gone
from raymeta.study.record.home import all_studies
from raymeta.study.record.home import open_study as open_record
from raymeta.study.record.record import StudyRecord, TrialRecord
from raymeta.study.run.driving import LOOK_S, Background, How, drive, interrupt
from raymeta.study.run.tracker import Tracker
from raymeta.study.tracking.connection import find_run

if TYPE_CHECKING:
    import pandas

    from raymeta.api.learners import LoadedLearner


class Study(Shown):
    """A study on disk. What it says is read from there whenever it is asked, so it is up to date while trials run.

    Attributes:
        record: the record behind it.
        session: how the driver of this process used its slots; None: this process has not driven it to an end.
    """

    def __init__(self, record: StudyRecord, session: Session | None = None) -> None:
        self.record, self.session = record, session
        self._background: Background | None = None

    @property
    def name(self) -> str:
        """The study's name."""
        return self.record.name

    @property
    def folder(self) -> AnyPath:
        """Where it is."""
        return self.record.folder

    # -- what is known ---------------------------------------------------------------------------------------------

    def trials(self) -> list[TrialRecord]:
        """All trials so far, by number: state, proposed values, the metrics of every round."""
        return self.record.trials()

    def frame(self, *, rounds: bool = False) -> "pandas.DataFrame":
        """A row a trial: state, outer steps, best validation and what was searched; index: the trial's number.

        Args:
            rounds: a row a round instead, with all of its metrics; index: trial and outer steps.
        """
        return rounds_frame(self.record) if rounds else trials_frame(self.record)

    @property
    def best(self) -> TrialRecord | None:
        """The finalist that is best on fresh episodes; until they are scored, the best validation of the highest rung.

        None: no trial was validated yet.
        """
        return self.record.best()

    @property
    def finalists(self) -> Standings | None:
        """The top trials on fresh episodes; None while they are not all scored."""
        return standings(self.record)

    @property
    def settled(self) -> bool:
        """All trials have ended and all finalists are scored: there is nothing to resume."""
        return self.record.over and settled(self.record)

    def config(self, trial: int | None = None) -> TrialConfig:
        """The whole config of a trial, by default of the best.

        Raises:
            UserError: there is no such trial, or none was validated yet.
        """
        return self.record.config(self.record.trial(self._chosen(trial)))

    @property
    def status(self) -> Status:
        """How far it is."""
        return status_of(self.record)

    def __rich__(self) -> RenderableType:
        return Group(status_table(self.record), str(self.status))

    # -- what comes of it ------------------------------------------------------------------------------------------

    def export(self, path: str | Path = "best.yaml", trial: int | None = None) -> Path:
        """Write a trial's whole config, by default the best's, with where it comes from: what `raymeta.final` reads.

        Returns:
            The file.

        Raises:
            UserError: there is no such trial, or none was validated yet.
        """
        file = output(path)
        write_export(self.exported(trial), file)
        return file

    def exported(self, trial: int | None = None) -> Mapping[str, Any]:
        """What `export` writes."""
        number = self._chosen(trial)
        run, problem = find_run(self.record, number)
        if problem:
            say(f"the MLflow run of trial {number} can't be looked up, so `mlflow_run` is null: {problem}")
        return exported(self.record, number, run)

    def load(self, trial: int | None = None, *, ensemble: bool = False) -> "LoadedLearner":
        """The learner that a trial has trained, by default the best; see `raymeta.load`."""
        from raymeta.api.learners import load_folder

        return load_folder(self.trial_folder(trial), ensemble=ensemble)

    def draw(self, path: str | Path | None = None) -> AnyPath:
        """Draw the curves of all trials, the best score over time and score against each searched key.

        Args:
            path: a .png, .svg or .pdf file; None: search.png in the study's folder.

        Returns:
            The file.
        """
        where: AnyPath = output(path, PICTURES) if path is not None else self.folder / "search.png"
        write_output(where, search_picture(self.record, where.suffix))
        return where

    def report(self, path: str | Path | None = None, form: str | None = None) -> Path:
        """Write what the study has found: the best and how sure that is, what made it so, what it took, what failed.

        Args:
            path: the file; None: the study's name with the form's ending, in this folder.
            form: `html` (a page that needs nothing but itself), `md` or `tex` (its tables), `csv` (the trials) or
                `json`; None: what the file's name ends in, or a page.

        Returns:
            The file.

        Raises:
            UserError: there is no such form, or the file can't be written.
        """
        from raymeta.report.page.forms import form_of

        form = form_of(path, form)
        file = output(path if path is not None else f"{self.name}.{form}")
        write_output(file, self.reported(form))
        return file

    def reported(self, form: str = "html") -> str:
        """What `report` writes."""
        from raymeta.report.page.forms import FORMS, form_of
        from raymeta.report.page.study import report_of

        return FORMS[form_of(None, form)](report_of(self.record))

    def trial_folder(self, trial: int | None = None) -> AnyPath:
        """Where the checkpoint of a trial lies, by default the best's.

        Raises:
            UserError: none was validated yet.
        """
        return self.record.trial_folder(self._chosen(trial))

    def _chosen(self, trial: int | None) -> int:
        if trial is not None:
            return trial
        if (best := self.best) is None:
            raise UserError(f"the study '{self.name}' has no validation of any trial yet")
        return best.number

    # -- driving it ------------------------------------------------------------------------------------------------

    def resume(
        self,
        *,
        slots: int | None = None,
        pack: Pack = None,
        data_root: str | Path | None = None,
        ship_data: bool = False,
        also: Sequence[str] = (),
        background: bool = False,
        quiet: bool = False,
    ) -> Self:
        """Go on from where it was left or killed; finished trials are not run again. See `raymeta.search`.

        Raises:
            UserError: another process drives it, or its data have changed.
            RunFailed: the disk is full, or the store is away; what is there is good.
        """
        started, how = time.time(), How(slots, pack, root_of(data_root), ship_data, quiet)
        self._copied_to(also)
        return self.driven(how, started, background=background)

    def extend(
        self,
        trials: int,
        *,
        slots: int | None = None,
        pack: Pack = None,
        data_root: str | Path | None = None,
        ship_data: bool = False,
        also: Sequence[str] = (),
        background: bool = False,
        quiet: bool = False,
    ) -> Self:
        """Add trials and go on; see `resume`."""
        started, how = time.time(), How(slots, pack, root_of(data_root), ship_data, quiet)
        beyond(slots)  # refused before anything is planned
        self._copied_to(also)
        with self.record.locked():
            self.record.extend(trials)
        return self.driven(how, started, background=background)

    def _copied_to(self, names: Sequence[str]) -> None:
        for name in names:
            found(name)
        if set(names) - set(self.record.plan.study.also):
            with self.record.locked():
                self.record.copied_to(names)

    def driven(self, how: How, started: float, *, background: bool) -> Self:
        """Drive it here to its end, or start a process that does."""
        if background:
            self._background = Background(self.record, how)
        else:
            self.session = drive(self.record, how, started)
        return self

    def sync(self, *, also: Sequence[str] = ()) -> list[str]:
        """Copy to MLflow and the study's other trackers what they lack, as driving it does; the study is not changed.

        Args:
            also: more of them: "tensorboard", "wandb".

        Returns:
            Where the copies beside MLflow's are, a line each.

        Raises:
            UserError: a process drives it, which copies it; or it was moved or removed.
            RunFailed: one of them can't be used.
        """
        for name in also:
            found(name)
        with held_still(self.folder):  # one copier at a time, as one driver
            refuse_gone(self.folder)
            with Tracker(self.record) as tracker, Copies(self.record, lambda text: None, more=also) as copies:
                tracker.update_all()
                tracker.summarise()
        problems = [f"MLflow can't be used: {tracker.problem}"] if tracker.problem else []
        if problems := [*problems, *copies.problems]:
            raise RunFailed(f"{'; '.join(problems)}; the study itself is whole")
        return copies.whole

    @property
    def running(self) -> bool:
        """A process drives it, or has been started to."""
        return (self._background is not None and self._background.running) or self.record.driven

    def wait(self, timeout: float | None = None) -> Self:
        """Wait until nothing drives it.

        Args:
            timeout: seconds; None: as long as it takes.

        Raises:
            TimeoutError: it is still running.
            UserError, RunFailed: what the driver that was started here ended with.
        """
        end = time.monotonic() + timeout if timeout is not None else None
        while self.running:
            if end is not None and time.monotonic() > end:
                raise TimeoutError(f"the study '{self.name}' is still running after {timeout:g} s")
            time.sleep(LOOK_S)
        if self._background is not None:
            background, self._background = self._background, None
            background.result()
        return self

    def stop(self, *, now: bool = False) -> None:
        """Ask the driver to leave, as Ctrl-C in its terminal does; `resume` goes on later. Returns at once.

        Args:
            now: leave the running trials after their last finished round; else no new ones start and these finish.

        Raises:
            UserError: it is driven by another machine's process.
        """
        interrupt(self.record, self._background, now=now)


def open_study(name: str) -> Study:
    """A study by its name, from `$RAYMETA_STUDIES` or `studies` in this folder.

    Raises:
        UserError: there is none of that name.
    """
    return Study(open_record(name))


def studies() -> list[Study]:
    """The studies of `$RAYMETA_STUDIES` or of `studies` in this folder, by name.

    What is wrong with one that cannot be read is said on standard error; the others are there.
    """
    found = all_studies()
    for one in found:
        if isinstance(one, UserError):
            remark(str(one))
    return [Study(one) for one in found if not isinstance(one, UserError)]
