"""What the verbs share: the options that they have in common, and how results are printed."""

import json
from typing import Annotated, Any, Optional

import typer

from raymeta.cli import completion as complete
from raymeta.errors import UserError


def parse_pack(pack: str | None) -> Any:
    """What `--pack` says.

    Raises:
        UserError: neither a number nor `auto`.
    """
    if pack is None or pack == "auto":
        return pack
    if not pack.isdecimal() or int(pack) < 1:
        raise UserError(f"--pack {pack}: expected auto, or how many trials share a GPU")
    return int(pack)


DataRoot = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option(
        metavar="PATH|URL",
        help="Folder that holds the data, or URL of an archive of it; by default they are downloaded.",
    ),
]
ShipData = Annotated[
    bool,
    typer.Option(
        "--ship-data", help="On a cluster: machines that lack the data get this one's packed store through Ray."
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON on standard output.")]
Spec = Annotated[
    str,
    typer.Argument(
        help="A method and its regularizers, as in maml+dropgrad, or maml+dropgrad:noise=binary.",
        autocompletion=complete.specs,
    ),
]
Words = Annotated[
    Optional[list[str]],  # noqa: UP045  (typer reads the annotation)
    typer.Argument(
        autocompletion=complete.keys,
        help="key=value of the config or of study.*, as in maml.inner_lr=0.1; a searched key is then fixed. Or what to "
        "search of a key: maml.inner_lr=0.01..0.5:log, maml.inner_steps=1..5, maml.order=first,second.",
    ),
]
Task = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option(help="omniglot-5w1s, glyphs-20w1s, sinusoid-10s, …", autocompletion=complete.tasks),
]
Preset = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option(
        metavar="NAME|FILE",
        help="Budget, rungs and settings; by default the data set's.",
        autocompletion=complete.presets,
    ),
]
OwnSpace = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option(
        "--space",
        metavar="FILE|none",
        help="Ranges and starting points, laid over the shipped ones (`raymeta space … --write FILE` makes one); "
        "none: only the ranges typed here.",
        autocompletion=complete.spaces,
    ),
]
Name = Annotated[str, typer.Argument(help="A study.", autocompletion=complete.studies)]
Choose = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option(
        help="Search which regularizer to add, too: dropgrad,metadropout,none.", autocompletion=complete.choices
    ),
]
Pack = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option(
        callback=parse_pack,
        metavar="auto|K",
        help="Trials per GPU; auto (the default): as many as their measured memory allows.",
    ),
]
Also = Annotated[
    Optional[list[str]],  # noqa: UP045
    typer.Option(
        metavar="tensorboard|wandb",
        help="A tracker beside MLflow that gets a copy of the trials, from now on; may be given more than once.",
        autocompletion=complete.trackers,
    ),
]
Slots = Annotated[Optional[int], typer.Option(min=1, help="Trials at a time; by default one per core or GPU share.")]  # noqa: UP045


def show(result: Any) -> None:
    """Print a result on standard output: text, or something of Rich's; where there is no terminal in its full width."""
    from rich.console import Console

    screen = Console()
    if not screen.is_terminal:
        from raymeta.report.shown import text

        result = result if isinstance(result, str) else text(result)
    screen.print(result, soft_wrap=isinstance(result, str), highlight=False, markup=False, emoji=False)


def show_json(result: Any) -> None:
    """Print a result as a line of JSON on standard output."""
    print(json.dumps(result))  # noqa: T201
