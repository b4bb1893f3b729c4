"""`raymeta predict`."""

from pathlib import Path
from typing import Annotated

import typer

from raymeta.cli import completion as complete
from raymeta.cli.common import Json, show, show_json
from raymeta.report.remarks import say


def predict(
    run: Annotated[
        str,
        typer.Argument(
            help="A study (its best trial), or the folder of a trial or of a final run.", autocompletion=complete.runs
        ),
    ],
    images: Annotated[list[Path], typer.Argument(help="Pictures, or folders of them.")],
    support: Annotated[Path, typer.Option(help="Folder with a folder for each class, which has a few pictures of it.")],
    ensemble: Annotated[
        bool, typer.Option("--ensemble", help="The mean of the best validated weights' outputs, not the best alone.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Learn classes from a few labelled pictures, and say what other pictures show, with probabilities.

    Example: raymeta predict maml+dropgrad-glyphs --support letters new/*.png
    """
    from raymeta.api import using

    said = using.predict(run, support, images, ensemble=ensemble)
    if as_json:
        show_json(said.as_dict())
        return
    show(said)
    if said.together:
        say("the pictures were normalised together (model.norm): what is said of one depends on the others")
