"""CUDA's Multi-Process Service (MPS): trials that share a GPU compute on it at once instead of in turn.

A driver without a cluster starts its daemon once more than one trial shares a GPU, and ends it; a daemon that runs
already is used and left alone. On a cluster the machines bring their own (docs/cluster.md). `RAYMETA_MPS=off`: no MPS.
"""

import os
import shutil
import subprocess
import tempfile

from raymeta.errors import UserError

CONTROL = "nvidia-cuda-mps-control"
SWITCH = "RAYMETA_MPS"
PIPES, LOGS = "CUDA_MPS_PIPE_DIRECTORY", "CUDA_MPS_LOG_DIRECTORY"
ANSWER_S = 10.0
# The daemon goes when the driver closes this shell's input, which it also does by dying. `quit` waits for the clients.
_KEEPER = f"""
{CONTROL} -d < /dev/null > "${LOGS}/start.log" 2>&1 || exit 1
echo on
read -r _
echo quit | {CONTROL} > /dev/null 2>&1
[ -z "$1" ] || rm -rf "$1"
"""

_folder = ""  # for the daemon's pipes and logs; "": not ours
_obstacle = ""  # why no daemon is to be started; "": nothing is in the way
_keeper: "subprocess.Popen[str] | None" = None


def prepare() -> None:
    """Call before Ray starts: its workers will look for the daemon where this driver would start one.

    Raises:
        UserError: `$RAYMETA_MPS` says neither on nor off.
    """
    global _folder, _obstacle
    _obstacle = _in_the_way()
    if not _obstacle and PIPES not in os.environ:  # of one's own, or other programs' processes would join in
        _folder = os.environ[PIPES] = os.environ[LOGS] = tempfile.mkdtemp(prefix="raymeta-mps-")


def _in_the_way() -> str:
    wanted = os.environ.get(SWITCH, "on")
    if wanted not in ("on", "off"):
        raise UserError(f"{SWITCH}: found '{wanted}'; allowed: on, off")
    if wanted == "off":
        return f"off: {SWITCH}=off"
    if shutil.which(CONTROL) is None:
        return f"off: no {CONTROL} on PATH"
    try:
        asked = subprocess.run([CONTROL], input="get_server_list\n", text=True, capture_output=True, timeout=ANSWER_S)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"off: {error}"
    return "on, by the daemon that was there" if asked.returncode == 0 else ""


def switch_on() -> str:
    """Start the daemon if that is possible and wanted. Returns what was decided, as in `on` or `off: why`."""
    global _keeper
    if _obstacle:
        return _obstacle
    os.environ.setdefault(LOGS, os.environ[PIPES])
    _keeper = subprocess.Popen(
        ["sh", "-c", _KEEPER, "sh", _folder],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,  # Ctrl-C is the driver's
    )
    assert _keeper.stdout is not None
    return "on" if _keeper.stdout.readline() else f"off: {CONTROL} -d failed"


def switch_off() -> None:
    """End the daemon if this process started one; its clients are gone."""
    global _folder, _keeper
    if _keeper is not None:
        _keeper.communicate()  # closes its input
        _keeper = None
    if _folder:
        shutil.rmtree(_folder, ignore_errors=True)
        del os.environ[PIPES], os.environ[LOGS]
        _folder = ""
