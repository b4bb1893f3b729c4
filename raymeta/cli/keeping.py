"""What keeps studies in order: `ls`, `note`, `tag`, `mv`, `archive`, `open`, `prune`, `rm`."""

import sys
from pathlib import Path
from typing import Annotated, Optional

import typer

from raymeta.cli import completion as complete
from raymeta.cli.common import Json, Name, show, show_json
from raymeta.errors import UserError, some
from raymeta.report.remarks import say

Names = Annotated[list[str], typer.Argument(help="Studies.", autocompletion=complete.studies)]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Don't ask.")]


def ls(
    names: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Argument(help="Patterns such as 'maml-*'; by default all.", autocompletion=complete.studies),
    ] = None,
    tags: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option("--tag", help="Only those with this tag; more than one: with all."),
    ] = None,
    state: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(metavar="running|left|over", help="Only those."),
    ] = None,
    method: Annotated[Optional[str], typer.Option(help="Part of its name, or a pattern.")] = None,  # noqa: UP045
    task: Annotated[Optional[str], typer.Option(help="Part of its name, or a pattern.")] = None,  # noqa: UP045
    sort: Annotated[str, typer.Option(metavar="name|created|last|score|trials|size|method|task")] = "name",
    reverse: Annotated[bool, typer.Option("--reverse", "-r", help="The other way round.")] = False,
    size: Annotated[bool, typer.Option("--size", help="What each takes on the disk, too.")] = False,
    as_json: Json = False,
) -> None:
    """List the studies of this folder: how far they are, and the best of each.

    Example: raymeta ls --tag paper --sort score

    Example: raymeta ls --state over --sort size
    """
    from raymeta.api.kept.keeping import listed
    from raymeta.keeping.listing import table_of

    rows = listed(
        names or (), tags=tags or (), state=state, method=method, task=task, sort=sort, reverse=reverse, sizes=size
    )
    if as_json:
        show_json([row.as_dict() for row in rows])
    else:
        show(table_of(rows))


def note(
    name: Name,
    text: Annotated[
        Optional[str],  # noqa: UP045
        typer.Argument(help="A new note; - reads it from standard input, '' deletes it. Without it the note is shown."),
    ] = None,
    yes: Yes = False,
) -> None:
    """Note something on a study, or show what is noted; `ls` shows its first line.

    Example: raymeta note maml-omniglot "lr too high above 0.3, see group meeting"
    """
    from raymeta.api.kept import keeping

    there = keeping.note(name)
    if text is None:
        show(there or f"nothing is noted on {name}")
        return
    new = (sys.stdin.read() if text == "-" else text).strip()
    if there and new != there:
        _ask(f"replace the note on {name}, '{there.splitlines()[0]}'?", yes=yes)
    keeping.note(name, new)


def tag(
    name: Name,
    tags: Annotated[Optional[list[str]], typer.Argument(help="Tags to add.")] = None,  # noqa: UP045
    remove: Annotated[Optional[list[str]], typer.Option(help="A tag to take off.")] = None,  # noqa: UP045
) -> None:
    """Tag a study, or show its tags; `ls --tag` finds it.

    Example: raymeta tag maml-omniglot paper table-2 --remove draft
    """
    from raymeta.api.kept import keeping

    show(", ".join(keeping.tag(name, *(tags or ()), remove=remove or ())) or f"{name} has no tags")


def mv(
    name: Name,
    to: Annotated[str, typer.Argument(help="A new name; or a path, of another folder of studies.")],
) -> None:
    """Rename a study, or move it to another folder of studies, on another disk, too.

    Example: raymeta mv maml-omniglot baseline

    Example: raymeta mv maml-omniglot /scratch/studies/
    """
    from raymeta.api.kept import keeping

    say(f"{name} is {keeping.move(name, to)} now; MLflow has it under the old name until it is sent again")


def archive(
    name: Name,
    out: Annotated[Optional[Path], typer.Option("--out", "-o", help="The file; by default NAME.zip here.")] = None,  # noqa: UP045
    yes: Yes = False,
) -> None:
    """Pack a study into one file, which another machine opens with `raymeta open`. The study stays.

    Example: raymeta archive maml-omniglot -o /backup/maml-omniglot.zip
    """
    from raymeta.api.kept import keeping
    from raymeta.keeping.listing import in_words
    from raymeta.storage.places import expanded

    file = expanded(out or f"{name}.zip")
    if file.is_file():
        keeping.folder_of(name)
        _ask(f"replace {file}?", yes=yes)
    file = keeping.archive(name, file)
    say(f"wrote {file} ({in_words(file.stat().st_size)}); on another machine: raymeta open {file.name}")


def open_(
    file: Annotated[Path, typer.Argument(help="An archive that `raymeta archive` wrote.")],
    name: Annotated[Optional[str], typer.Option(help="Of the study; by default the one that it had.")] = None,  # noqa: UP045
) -> None:
    """Make a study of an archive.

    Example: raymeta open maml-omniglot.zip --name from-the-cluster
    """
    from raymeta.api.kept import keeping

    study = keeping.open_archive(file, name)
    say(f"{study.name}: {study.status}")


def prune(names: Names, yes: Yes = False) -> None:
    """Delete the checkpoints of trials that can't win; the record, the finalists and the baseline stay whole.

    Example: raymeta prune maml-omniglot alfa-omniglot
    """
    from raymeta.api.kept import keeping
    from raymeta.keeping.listing import in_words

    found = [one for name in names if (one := keeping.prune(name)).files]
    if not found:
        say("there is nothing to prune")
        return
    size = sum(one.size or 0 for one in found)
    trials, files = sum(len(one.trials) for one in found), sum(len(one.files) for one in found)
    what = f"{files} checkpoints of {trials} trials of {some(one.record.name for one in found)}"
    _ask(f"delete {what}{f' ({in_words(size)})' if size else ''}?", yes=yes)
    for one in found:
        one.delete()
    say(f"deleted {what}")


def rm(names: Names, yes: Yes = False) -> None:
    """Delete studies with all of their weights. What links in them point to stays, and so does MLflow's copy.

    Example: raymeta rm first-try second-try
    """
    from raymeta.api.kept import keeping
    from raymeta.keeping.listing import in_words, size_of

    sizes = [size_of(keeping.folder_of(name)) for name in names]
    size = f", {in_words(sum(one or 0 for one in sizes))}" if all(one is not None for one in sizes) else ""
    _ask(f"delete {some(names)} ({len(names)} stud{'y' if len(names) == 1 else 'ies'}{size}) for good?", yes=yes)
    for name in names:
        keeping.remove(name)
        say(f"deleted {name}")


def _ask(question: str, *, yes: bool) -> None:
    """Ask before something is lost.

    Raises:
        UserError: there is no terminal to ask on.
        Exit: the user says no.
    """
    if yes:
        return
    if not sys.stdin.isatty():
        raise UserError(f"{question} There is no terminal to ask on: --yes says so")
    if not typer.confirm(question, err=True):
        say("nothing was changed")
        raise typer.Exit(1)
