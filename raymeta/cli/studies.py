"""What is done with studies that are there: `status`, `export`, `ui`."""

import os
import shlex
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Optional

import typer

from raymeta.cli import completion as complete
from raymeta.cli.common import Json, Name, show, show_json
from raymeta.report.remarks import say


def status(name: Name, as_json: Json = False) -> None:
    """Show a study: whether a process drives it, its trials, the best of them.

    Example: raymeta status maml+dropgrad-glyphs
    """
    from raymeta.api.studies import open_study
    from raymeta.report.status import status_table

    study = open_study(name)
    if as_json:
        show_json({"study": study.status.as_dict(), "trials": [asdict(trial) for trial in study.trials()]})
        return
    show(status_table(study.record))
    say(str(study.status))


BEST = Path("best.yaml")


def export(
    name: Name,
    out: Annotated[Path, typer.Option("--out", "-o", help="The file to write; - is the standard output.")] = BEST,
    trial: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(min=0, help="A trial's number; by default the best.", autocompletion=complete.trials),
    ] = None,
    as_json: Json = False,
) -> None:
    """Write a study's best config, with where it comes from, to a file that `raymeta final` reads.

    Example: raymeta export maml+dropgrad-glyphs -o best.yaml
    """
    from raymeta.api.studies import open_study
    from raymeta.report.export import write_export
    from raymeta.storage.files import dump_yaml
    from raymeta.storage.outputs import output

    study = open_study(name)
    file = None if str(out) == "-" else output(out)
    content = study.exported(trial)
    if trial is None and (unscored := study.status.unscored):
        say(f"{unscored}: it is the best by the search's scores; raymeta resume {name} scores the others")
    if file is None:
        print(dump_yaml(content), end="")  # noqa: T201
        return
    write_export(content, file)
    if as_json:
        show_json(content)
        return
    about = content["provenance"]
    say(f"wrote trial {about['trial']} of {name} to {out}")
    say(about["against_start"])
    say(f"next: {shlex.join(['raymeta', 'final', str(out), '--seeds', '3'])}")


def sync(name: Name) -> None:
    """Copy a study to MLflow once more, if that was away, damaged or deleted while it ran.

    Example: raymeta sync maml+dropgrad-glyphs
    """
    from raymeta.api.studies import open_study

    study = open_study(name)
    study.sync()
    say(f"MLflow has all {len(study.trials())} trials of {name}: raymeta ui")


def ui(
    name: Annotated[
        Optional[str],  # noqa: UP045
        typer.Argument(help="A study; by default all of them.", autocompletion=complete.studies),
    ] = None,
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port on this machine.")] = 5000,
) -> None:
    """Open MLflow's web interface on the studies of this folder (on loopback only).

    Example: raymeta ui maml+dropgrad-glyphs
    """
    from raymeta.study.tracking.connection import to_be_served, without_password
    from raymeta.study.tracking.server import HOST, refuse_taken, serve
    from raymeta.study.tracking.views import addresses

    if name is not None:
        from raymeta.api.studies import open_study

        open_study(name)

    def show_addresses(base: str) -> None:
        for what, address in addresses(base, name).items():
            say(f"{what}: {address}")

    if (uri := to_be_served()) is None:
        server = without_password(os.environ["MLFLOW_TRACKING_URI"])
        say(f"MLflow is a server of its own: {server}")
        if server.startswith("http"):
            show_addresses(server.rstrip("/"))
        return
    refuse_taken(port)
    base = f"http://{HOST}:{port}"
    addresses(base, name)  # what is wrong is said before anything is started
    say(f"MLflow on {base} (Ctrl-C ends it)")
    raise typer.Exit(serve(uri, port, lambda: show_addresses(base)))
