"""`raymeta predict`."""

from pathlib import Path
from typing import Annotated, Optional

import typer

from raymeta.cli import completion as complete
from raymeta.cli.common import Json, show, show_json
from raymeta.errors import UserError
from raymeta.report.remarks import say


def predict(
    run: Annotated[
        str,
        typer.Argument(
            help="A study (its best trial), or the folder of a trial or of a final run.", autocompletion=complete.runs
        ),
    ],
    images: Annotated[Optional[list[Path]], typer.Argument(help="Pictures, or folders of them.")] = None,  # noqa: UP045
    support: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="Folder with a folder for each class, which has a few pictures of it."),
    ] = None,
    frames: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="Of a run on a task of tracking: folder of the frames in which a target is followed."),
    ] = None,
    box: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(metavar="X,Y,W,H", help="The target in the first frame, in pixels from 0."),
    ] = None,
    out: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("--out", "-o", help="The boxes of all frames, with a picture beside them; by default boxes.txt."),
    ] = None,
    ensemble: Annotated[
        bool, typer.Option("--ensemble", help="The mean of the best validated weights' outputs, not the best alone.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Learn classes from a few labelled pictures and say what other pictures show; or follow a target through frames.

    Example: raymeta predict maml+dropgrad-glyphs --support letters new/*.png
    """
    if frames is not None or box is not None:
        if frames is None or box is None:
            raise UserError(f"predict: found --{'box' if frames is None else 'frames'} alone: a target needs both")
        if images or support is not None or ensemble:
            raise UserError(
                "predict: --frames and --box follow a target; pictures, --support and --ensemble don't go with it"
            )
        _follow(run, frames, box, out or Path("boxes.txt"), as_json)
        return
    if support is None or not images:
        raise UserError(
            "predict: name pictures and, by --support, a folder of classes, or --frames and --box of a target"
        )
    if out is not None:
        raise UserError("predict: --out is of the boxes of a target, with --frames and --box")
    from raymeta.api import using

    said = using.predict(run, support, images, ensemble=ensemble)
    if as_json:
        show_json(said.as_dict())
        return
    show(said)
    if said.together:
        say("the pictures were normalised together (model.norm): what is said of one depends on the others")


def _follow(run: str, frames: Path, box: str, out: Path, as_json: bool) -> None:
    from raymeta.api.following import track
    from raymeta.storage.outputs import output

    try:
        numbers = [float(word) for word in box.split(",")]
    except ValueError:
        numbers = []
    if len(numbers) != 4:
        raise UserError(f"--box: found '{box}': expected four numbers, x,y,w,h")
    picture = output(out.with_suffix(".png"))
    output(out)
    found = track(run, frames, numbers)
    if as_json:
        show_json(found.as_dict())
    lost = sum(found.lost)
    say(f"{len(found.frames)} frames, the target {'always found' if not lost else f'not found in {lost}'}")
    say(f"wrote {found.write(out)}, drew {found.picture(picture)}")
