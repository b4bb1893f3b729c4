"""The studies of `$RAYMETA_STUDIES`, or of `studies` in this folder, by name."""

import os

from raymeta.errors import UserError
from raymeta.storage.files import studies_folder
from raymeta.storage.places import AnyPath
from raymeta.study.record.folder import check_name, refuse_taken
from raymeta.study.record.record import StudyRecord


def new_study(name: str) -> AnyPath:
    """The folder of a study that is to be made.

    Raises:
        UserError: it cannot have that name, or one has it.
    """
    check_name(name)
    folder = studies_folder() / name
    refuse_taken(folder)
    return folder


def open_study(name: str) -> StudyRecord:
    """A study by its name.

    Raises:
        UserError: there is none.
    """
    if name != os.path.basename(name) or name in ("", ".", ".."):
        raise UserError(f"'{name}' is not a study's name: a name, not a path")
    return StudyRecord.load(studies_folder() / name)


def all_studies() -> list[StudyRecord]:
    """The studies of this folder, by name.

    Raises:
        UserError: the files of one are not a study's.
    """
    folder = studies_folder()
    names = sorted(path.parent.name for path in folder.glob("*/study.yaml"))
    return [StudyRecord.load(folder / name) for name in names]
