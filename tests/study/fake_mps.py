"""An `nvidia-cuda-mps-control` for machines without a GPU: it keeps a daemon's state in files and notes its calls."""

from pathlib import Path

SCRIPT = """#!/bin/sh
at=${CUDA_MPS_PIPE_DIRECTORY:-HERE}
if [ "$1" = -d ]; then
    [ ! -e HERE/broken ] || exit 1
    echo "start $at" >> HERE/log
    touch "$at/daemon"
else
    read -r word
    echo "$word $at" >> HERE/log
    [ -e "$at/daemon" ] || exit 1
    [ "$word" != quit ] || rm "$at/daemon"
fi
"""


def fake_mps(folder: Path) -> Path:
    """Put it into a folder, which also stands for the default one of its pipes. Returns the file of its calls."""
    path = folder / "nvidia-cuda-mps-control"
    path.write_text(SCRIPT.replace("HERE", str(folder)))
    path.chmod(0o755)
    return folder / "log"


def calls(log: Path) -> list[str]:
    """What it was asked, each with the folder of the pipes."""
    return log.read_text().splitlines() if log.exists() else []
