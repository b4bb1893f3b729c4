"""What is done with studies that are there: `status`, `watch`, `export`, `ui`."""

import os
import shlex
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Optional

import typer

from raymeta.cli import completion as complete
from raymeta.cli.common import Also, Json, Name, show, show_json
from raymeta.errors import Interrupted
from raymeta.report.remarks import say


def status(name: Name, as_json: Json = False) -> None:
    """Show a study: whether a process drives it, its trials, the best of them.

    Example: raymeta status maml+dropgrad-glyphs
    """
    from raymeta.api.studies import open_study
    from raymeta.report.status import status_table
    from raymeta.study.record.folder import fallen_driver

    study = open_study(name)
    if as_json:
        show_json({"study": study.status.as_dict(), "trials": [asdict(trial) for trial in study.trials()]})
        return
    show(status_table(study.record))
    fallen, found = fallen_driver(study.folder), study.status
    say(fallen.killed(f"raymeta resume {name}") if fallen and not found.settled else str(found))


def watch(
    name: Annotated[str, typer.Argument(help="A study, or a folder of final runs.", autocompletion=complete.runs)],
    follow: Annotated[
        bool,
        typer.Option(
            "--follow", "-f", help="Wait where nothing runs it, and end only when nothing is left to go on with."
        ),
    ] = False,
) -> None:
    """Show what another shell or machine runs, as its own table does, until it ends; Ctrl-C leaves and stops nothing.

    Exit code 1: its driver was killed.

    Example: raymeta watch maml+dropgrad-glyphs

    Example: raymeta watch maml+dropgrad-glyphs --follow | tee search.log
    """
    try:
        from raymeta.api.kept.watching import watch as watched
    except KeyboardInterrupt:
        raise Interrupted("not watched", 130) from None
    watched(name, follow=follow)


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


def sync(name: Name, also: Also = None) -> None:
    """Copy a study to MLflow once more, if that was away, damaged or deleted while it ran, and to its other trackers.

    Example: raymeta sync maml+dropgrad-glyphs --also tensorboard
    """
    from raymeta.api.studies import open_study

    study = open_study(name)
    copies = study.sync(also=also or ())
    say(f"MLflow has all {len(study.trials())} trials of {name}: raymeta ui")
    for line in copies:
        say(line)


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
