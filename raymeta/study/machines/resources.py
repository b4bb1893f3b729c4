"""What a trial gets of the machine, and the environment its worker runs in."""

import gc
import os
import re
import shutil
import socket
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raymeta.errors import RunFailed, UserError
from raymeta.installed import child_environment
from raymeta.study.machines import mps
from raymeta.study.machines.ray_patches import START, patched

# What a worker must find when it starts. Measured in docs/performance.md; none of it changes a number.
WORKER_ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",  # one computing thread per packed trial
    "MALLOC_MMAP_THRESHOLD_": "4294967296",  # keep freed buffers instead of returning them to the system at every step:
    "MALLOC_TRIM_THRESHOLD_": "8589934592",  # 1.05 to 1.3 times faster, bitwise the same
    "MALLOC_TOP_PAD_": "268435456",
}
_DRIVER_ENVIRONMENT = {
    "RAY_worker_niceness": "0",  # Ray's default of 15 starves workers on a busy machine
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",  # under `uv run` Ray would upload the folder and build it anew per worker
    "RAY_idle_worker_killing_time_threshold_ms": "600000",  # or the warm workers are ended before a trial takes them
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_AIR_NEW_OUTPUT": "0",  # or Tune prints a box of its own
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # they halve the driver's speed; the study's record has what they write
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",  # a dead worker is one line of ours; its traceback is kept with the trial
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # Ctrl-C is ours: once to finish, twice to leave
    "TUNE_GLOBAL_CHECKPOINT_S": "1000000",  # Tune's own snapshots are not used
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
}
_until_stopped = ExitStack()  # undoes what was changed in this process for Ray's sake
_QUIET: dict[str, Any] = {"logging_level": "ERROR", "log_to_driver": False}
TRIALS = "raymeta.trainable"  # what a worker that computes trials has imported
CONNECT_S = 10.0
STARTS = 3
SOCKET_BYTES = 103  # of a socket's path: the least of what systems allow
SESSION_BYTES = len("/session_2026-01-01_00-00-00_000000_1234567/sockets/plasma_store.1")
SLOTS_PER_CORE = 16  # at most: each slot is a process of some 300 MB
FIRST_WORKER_S = 1800.0  # how long a cluster without workers is waited for


@dataclass(frozen=True)
class Slots:
    """How many trials run at once, and what each of them holds.

    Attributes:
        gpu: the share of one; 0: trials compute on cores.
        memory: bytes that Ray keeps for a trial; 0: it does not count them.
        gpu_context: bytes that CUDA itself takes of a GPU for each process; 0: not measured.
        why: what decided, in a sentence; "": nothing was measured.
    """

    count: int
    cpu: float
    gpu: float
    memory: int = 0
    why: str = ""
    gpu_context: int = 0

    @property
    def per_trial(self) -> dict[str, float]:
        """As Ray takes it."""
        wanted = {"cpu": self.cpu, "gpu": self.gpu, "memory": self.memory}
        return {name: amount for name, amount in wanted.items() if amount}

    def __str__(self) -> str:
        each = f"1/{round(1 / self.gpu)} GPU" if self.gpu else "1 core"
        return f"{self.count} at a time, {each} each"


def _prepare(**more: str) -> None:
    """Set what Ray and its processes find as they start, and import it, until `stop_ray`. What the user has set stays.

    Args:
        more: variables for this start only.
    """
    for key, value in {**_DRIVER_ENVIRONMENT, **WORKER_ENVIRONMENT, **more}.items():
        if key not in os.environ:
            os.environ[key] = value
            _until_stopped.callback(os.environ.pop, key, None)
    if (path := os.environ.get("PYTHONPATH")) is not None:
        os.environ["PYTHONPATH"] = child_environment()["PYTHONPATH"]
        _until_stopped.callback(os.environ.__setitem__, "PYTHONPATH", path)
    _until_stopped.enter_context(patched(START))


def on_cluster() -> bool:
    """Trials run on the cluster of `$RAY_ADDRESS`; if there is none, on a Ray of this machine's own."""
    return bool(os.environ.get("RAY_ADDRESS"))


def start_ray(most: int | None, preload: str = TRIALS) -> None:
    """Start Ray on this machine with a core for each slot, or join the cluster of `$RAY_ADDRESS`.

    Args:
        most: slots wanted; None: one per core of this machine, and whatever a cluster has.
        preload: a module that every worker of this machine imports as it starts, while the driver still imports.

    Raises:
        UserError: the cluster can't be joined, or has no worker and gets none.
        RunFailed: Ray does not come up on this machine.
    """
    if on_cluster():
        join_cluster()
        _first_worker(most or 1)
        return
    apart = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_preload_python_modules": preload}
    _prepare(**apart)  # it listens on loopback only, as on those systems always
    mps.prepare()
    folder = _socket_folder()
    import ray

    for attempt in range(1, STARTS + 1):
        try:
            # "local": or Ray would join whatever cluster somebody has started on this machine.
            ray.init("local", num_cpus=most or cores(), include_dashboard=False, _temp_dir=folder, **_QUIET)
        except Exception as error:  # plain ones, too: it gives its own processes 30 s, which a busy machine may not
            ray.shutdown()
            if attempt == STARTS:
                first = str(error).strip().splitlines()[:1] or [type(error).__name__]
                raise RunFailed(f"Ray did not start on this machine in {STARTS} tries: {first[0]}") from error
        else:
            return


def _socket_folder() -> str | None:
    """Where Ray is to put its sockets; None: where it does by itself, which is `$RAY_TMPDIR`, `$TMPDIR` or `/tmp`.

    Raises:
        UserError: their paths would be too long there, and there is no short folder to put them in.
    """
    from ray._common.utils import get_default_ray_temp_dir

    usual = Path(get_default_ray_temp_dir())
    above = next(path for path in usual.parents if path.exists())
    if len(os.fsencode(usual)) + SESSION_BYTES <= SOCKET_BYTES and above.is_dir() and os.access(above, os.W_OK):
        return None
    try:
        folder = tempfile.mkdtemp(prefix="raymeta-", dir="/tmp")
    except OSError as error:
        raise UserError(
            f"{usual}: Ray can't have its sockets there (TMPDIR), whose paths may have {SOCKET_BYTES} bytes, "
            f"nor in /tmp ({error.strerror}): set RAY_TMPDIR to a short path where you may write"
        ) from error
    _until_stopped.callback(shutil.rmtree, folder, ignore_errors=True)
    return folder


def join_cluster() -> None:
    """Join the cluster of `$RAY_ADDRESS`.

    Raises:
        UserError: nobody is there, or it is of another version of Ray or Python, or this machine has no token for it
            and `RAY_AUTH_MODE=disabled` is not set.
    """
    _prepare(RAY_AUTH_MODE="token")  # an open cluster runs code for whoever reaches it: only if asked
    import ray

    address = os.environ["RAY_ADDRESS"]

    try:
        if match := re.fullmatch(r"([^/]+):(\d+)", address):  # where nobody listens Ray would try for ten minutes
            socket.create_connection((match[1], int(match[2])), timeout=CONNECT_S).close()
        ray.init(runtime_env={"env_vars": WORKER_ENVIRONMENT}, **_QUIET)
    except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        lines = str(error).strip().splitlines() or [""]
        raise UserError(f"RAY_ADDRESS={address}: cannot join that cluster: {lines[0]}") from error


def _first_worker(slots: int) -> None:
    """A cluster that grows from nothing starts its first machine when it is asked for one."""
    if _resources().get("CPU"):
        return
    from ray.autoscaler.sdk import request_resources

    print("the cluster has no worker yet: asked for one, waiting", file=sys.stderr)  # noqa: T201
    request_resources(num_cpus=slots)
    end = time.monotonic() + FIRST_WORKER_S
    while not _resources().get("CPU"):
        if time.monotonic() > end:
            raise UserError(f"the cluster has had no worker for {FIRST_WORKER_S / 60:.0f} min: see `ray status`")
        time.sleep(1)
    request_resources(num_cpus=0)  # from here on the trials themselves are what is asked for


def _resources() -> dict[str, float]:
    import ray

    return dict(ray.cluster_resources())


def stop_ray() -> None:
    """Leave Ray, without dying of it.

    While Ray shuts down, whoever drops a reference to something of Ray's ends the process on the spot. Another thread
    does, if the garbage collector happens to run in it (MLflow's, say): so it does not run meanwhile.
    """
    import ray

    gc.collect()
    gc.disable()
    try:
        ray.shutdown()
    finally:
        gc.enable()
        mps.switch_off()
        _until_stopped.close()


def beyond(slots: int | None) -> str:
    """What it means that more slots are asked for than this machine has cores; "": nothing, or a cluster has others.

    Raises:
        UserError: so many that starting their workers would bring the machine down.
    """
    if not slots or on_cluster() or slots <= cores():
        return ""
    if slots > SLOTS_PER_CORE * cores():
        raise UserError(f"--slots {slots}: this machine has {cores()} cores; allowed: 1 to {SLOTS_PER_CORE * cores()}")
    return f"--slots {slots}: this machine has {cores()} cores, which the trials share, so that each is slower"


def cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
