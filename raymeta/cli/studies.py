"""What is done with studies that are there: `export`, `ui`."""

import json
import sys
from pathlib import Path
from typing import Annotated, Optional

import typer

from raymeta.cli.common import Json, say


def export(
    name: Annotated[str, typer.Argument(help="A study.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The file to write.")] = Path("best.yaml"),
    trial: Annotated[Optional[int], typer.Option(min=0, help="A trial's number; by default the best.")] = None,  # noqa: UP045
    as_json: Json = False,
) -> None:
    """Write a study's best config, with where it comes from, to a file that `raymeta final` reads.

    Example: raymeta export maml+dropgrad-glyphs -o best.yaml
    """
    from raymeta.study.export import export as write
    from raymeta.study.record import open_study
    from raymeta.study.tracking import find_run

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

    from raymeta.study.tracking import connect, tracking_uri

    connect()
    say(f"MLflow on http://127.0.0.1:{port} (Ctrl-C ends it)")
    command = [sys.executable, "-m", "mlflow", "ui", "--backend-store-uri", tracking_uri(), "--host", "127.0.0.1"]
    raise typer.Exit(subprocess.run([*command, "--port", str(port)], check=False).returncode)
