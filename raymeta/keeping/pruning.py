"""Checkpoints of trials that can't win: they are most of what a study takes on disk.

A study that is over calls one of its finalists best, or, where there are none, the first of its ranking. More trials
(`extend`) can only push others out of the finalists, and ASHA never goes on with a trial that it has cut. So of all
other trials nothing but the record is needed, which stays.
"""

from dataclasses import dataclass
from pathlib import Path

from raymeta.errors import UserError
from raymeta.keeping.moving import refuse_link
from raymeta.storage.places import AnyPath, RemotePath
from raymeta.study.record.finalists import baseline, chosen
from raymeta.study.record.folder import held_still
from raymeta.study.record.record import StudyRecord


@dataclass(frozen=True)
class Prunable:
    """What can go.

    Attributes:
        trials: numbers of the trials that can't win and have checkpoints.
        files: the checkpoints.
        size: bytes of them; on a store None.
    """

    record: StudyRecord
    trials: list[int]
    files: list[AnyPath]
    size: int | None

    def delete(self) -> None:
        """Delete the files, but for those that meanwhile are needed again.

        Raises:
            UserError: a process drives the study, or one may not be deleted.
        """
        with held_still(self.record.folder):
            still = set(_look(StudyRecord.load(self.record.folder)).files)
            for file in self.files:
                try:
                    if file in still:
                        file.unlink(missing_ok=True)
                except OSError as error:
                    raise UserError(f"{file}: cannot be deleted: {error.strerror or error}") from error


def prunable(record: StudyRecord) -> Prunable:
    """The checkpoints of trials that can't win.

    Raises:
        UserError: the study is not over, so that nothing can be said yet.
    """
    refuse_link(record.folder)
    if record.driven:
        raise UserError(f"the study '{record.name}' is in use by another process: let it end, or stop it")
    return _look(record)


def _look(record: StudyRecord) -> Prunable:
    if not record.over:
        raise UserError(
            f"the study '{record.name}' has trials that go on, so which can't win is not known yet: "
            f"`raymeta resume {record.name}` ends them"
        )
    winners = {trial.number for trial, _ in chosen(record)}
    winners |= {trial.number for trial in (record.best(), baseline(record)) if trial is not None}
    trials, files = [], []
    for trial in record.trials():
        found = [] if trial.number in winners else _checkpoints(record.trial_folder(trial.number))
        if found:
            trials.append(trial.number)
            files += found
    here = [file for file in files if isinstance(file, Path)]
    size = sum(file.stat().st_blocks * 512 for file in here) if len(here) == len(files) else None
    return Prunable(record, trials, files, size)


def _checkpoints(folder: AnyPath) -> list[AnyPath]:
    """Those of a trial, and of its config trained again for an earlier final; none that lie behind a link."""
    if isinstance(folder, RemotePath):
        return [folder / name for name in folder.files() if name.endswith(".pt")]
    folders = [folder, *folder.glob("seed*")]
    plain = [one for one in folders if one.is_dir() and not one.is_symlink() and not folder.is_symlink()]
    if folder.parent.is_symlink():
        return []
    return [file for one in plain for file in sorted(one.glob("*.pt")) if not file.is_symlink()]
