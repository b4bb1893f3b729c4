"""What is done with studies that are there: `ls`, `status`, `export`, `ui`."""

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Optional

import typer

from raymeta.cli.common import Json, console, say


def ls(as_json: Json = False) -> None:
    """List the studies of this folder: how far they are, and the best of each.

    Example: raymeta ls
    """
    from raymeta.report.status import ls_table, status_of
    from raymeta.study.record.record import all_studies

    rows = [status_of(record) for record in all_studies()]
    if as_json:
        print(json.dumps([row.as_dict() for row in rows]))  # noqa: T201
    else:
        console().print(ls_table(rows))


def status(name: Annotated[str, typer.Argument(help="A study.")], as_json: Json = False) -> None:
    """Show a study: whether a process drives it, its trials, the best of them.

    Example: raymeta status maml+dropgrad-glyphs
    """
    from raymeta.report.status import status_of, status_table
    from raymeta.study.record.record import open_study

    record = open_study(name)
    found = status_of(record)
    if as_json:
        print(json.dumps({"study": found.as_dict(), "trials": [asdict(trial) for trial in record.trials()]}))  # noqa: T201
        return
    console().print(status_table(record))
    say(str(found))


def export(
    name: Annotated[str, typer.Argument(help="A study.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The file to write.")] = Path("best.yaml"),
    trial: Annotated[Optional[int], typer.Option(min=0, help="A trial's number; by default the best.")] = None,  # noqa: UP045
    as_json: Json = False,
) -> None:
    """Write a study's best config, with where it comes from, to a file that `raymeta final` reads.

    Example: raymeta export maml+dropgrad-glyphs -o best.yaml
    """
    from raymeta.report.export import export as write
    from raymeta.study.record.record import open_study
    from raymeta.study.tracking.connection import find_run

    record = open_study(name)
    chosen = trial if trial is not None else (best.number if (best := record.best()) else None)
    run = find_run(record, chosen) if chosen is not None else None
    content = write(record, out, trial, run)
    if as_json:
        print(json.dumps(content))  # noqa: T201
        return
    about = content["provenance"]
    say(f"wrote trial {about['trial']} of {name} to {out}")
    say(about["against_start"])
    say(f"next: raymeta final {out} --seeds 3")


def ui(
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port on this machine.")] = 5000,
) -> None:
    """Open MLflow's web interface on the studies of this folder (on loopback only).

    Example: raymeta ui --port 5001
    """
    import subprocess

    from raymeta.study.tracking.connection import connect, tracking_uri

    connect()
    say(f"MLflow on http://127.0.0.1:{port} (Ctrl-C ends it)")
    command = [sys.executable, "-m", "mlflow", "ui", "--backend-store-uri", tracking_uri(), "--host", "127.0.0.1"]
    raise typer.Exit(subprocess.run([*command, "--port", str(port)], check=False).returncode)
