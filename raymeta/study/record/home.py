"""The studies of `$RAYMETA_STUDIES`, or of `studies` in this folder, by name."""

import os

from raymeta.errors import StorageError, UserError
from raymeta.storage.files import studies_folder
from raymeta.storage.places import AnyPath
from raymeta.study.record.folder import check_name, names_in, refuse_taken
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


def all_studies() -> list[StudyRecord | UserError]:
    """The studies of this folder, by name; of one that cannot be read what is wrong with it, in a sentence."""
    folder = studies_folder()
    return [read_study(folder / name) for name in names_in(folder)]


def read_study(folder: AnyPath) -> StudyRecord | UserError:
    """A study, or what is wrong with it; all that a table says of it has been read once."""
    try:
        record = StudyRecord.load(folder)
        record.best()  # of all its trials and finalists, which may be damaged where the rest is not
    except UserError as error:
        return error
    except StorageError:  # that of all of them
        raise
    except OSError as error:
        return UserError(f"{folder}: cannot be read: {error.strerror or error}")
    except Exception as error:  # whatever strangers put there
        what = " ".join(f"{type(error).__name__}: {error}".split())
        return UserError(f"{folder}: not a study's folder, or a damaged one ({what}): restore it, or move it away")
    return record
