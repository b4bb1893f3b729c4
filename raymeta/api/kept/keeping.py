"""Studies kept in order: listed, noted, moved, packed, thinned out and removed."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Union

from raymeta.errors import UserError, suggest
from raymeta.installed import remark
from raymeta.keeping import archives, labels, moving
from raymeta.keeping.listing import Filters, Row
from raymeta.keeping.listing import listed as rows_of
from raymeta.storage.files import missing, studies_folder
from raymeta.storage.outputs import output
from raymeta.storage.places import AnyPath, any_path, expanded
from raymeta.study.record.folder import check_name, names_in, refuse_taken

if TYPE_CHECKING:  # what is done here takes neither torch nor Optuna, but for `prune` and `open_archive`
    from raymeta.api.studies import Study
    from raymeta.keeping.pruning import Prunable

OneStudy = Union[str, "Study"]


def listed(
    names: Sequence[str] = (),
    *,
    tags: Sequence[str] = (),
    state: str | None = None,
    method: str | None = None,
    task: str | None = None,
    sort: str = "name",
    reverse: bool = False,
    sizes: bool = False,
) -> list[Row]:
    """The studies in rows, filtered and sorted; what is wrong with those that can't be read is said.

    Args:
        names: patterns such as `maml-*`, one of which fits; (): all.
        tags: that a study has all of.
        state: running, left or over.
        method: a pattern, or a part of its name.
        task: the same.
        sort: name, created, last, score, trials, size, method or task.
        reverse: the other way round.
        sizes: what each takes on the disk, too.

    Raises:
        UserError: there is no such state or order.
    """
    rows, wrong = rows_of(
        studies_folder(), Filters(names, tags, state, method, task), sort, reverse=reverse, sizes=sizes
    )
    for error in wrong:
        remark(str(error))
    return rows


def folder_of(study: OneStudy) -> AnyPath:
    """Where a study is, be it damaged or not.

    Raises:
        UserError: there is none of that name.
    """
    if not isinstance(study, str):
        return study.folder
    home = studies_folder()
    if study != os.path.basename(study) or study in ("", ".", "..") or not (home / study / "study.yaml").is_file():
        raise UserError(f"no study '{study}' in {home}: {suggest(study, names_in(home))}")
    return home / study


def note(study: OneStudy, text: str | None = None) -> str:
    """The note on a study.

    Args:
        study: or its name.
        text: of a new one; "": it is deleted; None: it stays.
    """
    folder = folder_of(study)
    if text is not None:
        labels.write_note(folder, text)
    return labels.note_of(folder)


def tag(study: OneStudy, *add: str, remove: Sequence[str] = ()) -> list[str]:
    """Tag a study.

    Args:
        study: or its name.
        add: tags to add.
        remove: tags to take off.

    Returns:
        All of its tags.

    Raises:
        UserError: a name that no tag can have, or one to be taken off that it has not.
    """
    folder = folder_of(study)
    labels.write_tags(folder, list(add), list(remove))
    return labels.tags_of(folder)


def remove(study: OneStudy) -> None:
    """Delete a study with all of its weights; its copy in MLflow stays. Nothing is asked.

    Raises:
        UserError: a process drives it, or it may not be deleted.
    """
    moving.remove(folder_of(study))


def move(study: OneStudy, to: str | Path) -> AnyPath:
    """Give a study another name, or move it to another folder of studies.

    Args:
        study: or its name.
        to: a name; or a path with a slash in it: an existing folder or one that ends in a slash takes the study
            under its name, else the path's last part is the new name.

    Returns:
        Where it is now.

    Raises:
        UserError: a process drives it, there is something already, or one of both is on a store.
    """
    folder, text = folder_of(study), str(to)
    if "/" not in text:
        check_name(text)
        target: AnyPath = folder.with_name(text)
    else:
        place = any_path(text)
        inside = text.endswith("/") or (isinstance(place, Path) and place.is_dir())
        target = place / folder.name if inside else place
    moving.move(folder, target)
    return target


def archive(study: OneStudy, path: str | Path | None = None) -> Path:
    """Write a study to one file, which `open_archive` makes a study of, on any machine.

    Args:
        study: or its name.
        path: the file, which is replaced; None: `<name>.zip` in this folder.

    Returns:
        The file.

    Raises:
        UserError: a process drives the study, or it has links in it.
        RunFailed: the file can't be written.
    """
    folder = folder_of(study)
    file = output(path if path is not None else f"{folder.name}.zip", (".zip",))
    archives.pack(folder, file.resolve())
    return file


def open_archive(path: str | Path, name: str | None = None) -> "Study":
    """Make a study of an archive.

    Args:
        path: the file.
        name: of the study; None: the one that it had.

    Raises:
        UserError: the file is no archive of a study, or damaged; or there is a study of that name.
    """
    from raymeta.api.studies import Study
    from raymeta.study.record.record import StudyRecord

    file = expanded(path)
    if not file.is_file():
        raise missing(file)
    wanted = name or archives.name_in(file)
    check_name(wanted)
    folder = studies_folder() / wanted
    refuse_taken(folder)
    archives.unpack(file, folder)
    try:
        return Study(StudyRecord.load(folder))
    except UserError:
        moving.remove(folder)  # what came is no study
        raise


def prune(study: OneStudy) -> "Prunable":
    """What can be pruned of a study: checkpoints of trials that can't win. `.delete()` deletes them.

    Raises:
        UserError: a process drives it, or not all of its trials have ended.
    """
    from raymeta.keeping.pruning import prunable
    from raymeta.study.record.record import StudyRecord

    return prunable(StudyRecord.load(folder_of(study)))
