"""What raymeta changes inside Ray while it needs it: each change small, named, with its reason, and undone at the end.

None of it is Ray's public interface, so `tests/study/machines/test_ray_patches.py` fails by a patch's name when Ray
changes underneath.
"""

import os
import signal
import sys
import threading
from _thread import interrupt_main
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache, wraps
from importlib import import_module
from pathlib import Path
from typing import Any

from raymeta.installed import import_path

LISTENS_S = 0.05  # how long a signal's listener takes to end


@dataclass(frozen=True)
class Patch:
    """One thing of Ray's that is replaced for a while.

    Attributes:
        where: its module, a colon, and its name there, with the class if it is a method.
        why: what it costs or does that is not wanted.
        replace: makes what takes its place, of what is there.
        signature: of what is there, as `inspect.signature` writes it; "...": any, it gets what it is called with; "":
            it is a constant.
    """

    where: str
    why: str
    replace: Callable[[Any], Any]
    signature: str = ""

    def find(self) -> tuple[Any, str]:
        """The module or class that holds it, and its name there."""
        module, _, path = self.where.partition(":")
        *outer, name = path.split(".")
        owner = import_module(module)
        for part in outer:
            owner = getattr(owner, part)
        return owner, name


@contextmanager
def patched(patches: Iterable[Patch]) -> Iterator[None]:
    """Ray with these patches; what was there before is there again afterwards."""
    with ExitStack() as undo:
        for patch in patches:
            owner, name = patch.find()
            before = getattr(owner, name)
            undo.callback(setattr, owner, name, before)
            setattr(owner, name, patch.replace(before))
        yield


def _takes_warm_workers(get: Any) -> Callable[[Any, type], Any]:
    def without_environment(self: Any, trainable_cls: type) -> Any:
        import ray

        if trainable_cls not in self._cache:
            self._cache[trainable_cls] = ray.remote(trainable_cls)
        return self._cache[trainable_cls]

    return without_environment


def _said_now(name: str) -> Callable[[Any], bool]:
    """A constant of Ray's as the environment has it now; Ray has read it when it was imported."""
    return lambda value: os.environ[name].lower() in ("1", "true") if name in os.environ else bool(value)


def _started_apart(popen: Any) -> Callable[..., Any]:
    @wraps(popen, updated=())
    def started(*arguments: Any, **named: Any) -> Any:
        if not hasattr(signal, "pthread_sigmask"):
            return popen(*arguments, **named)
        # A blocked signal stays so in what is started, and in what that starts: SIGUSR1 is for the driver alone, and
        # SIGTERM is blocked here only while Ray starts.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
        try:
            # Where the kernel does not end Ray with its driver, a process of the driver's group does.
            return popen(*arguments, **named | {"start_new_session": sys.platform == "linux"})
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    return started


def _keeps_handlers(init: Any) -> Callable[..., Any]:
    @wraps(init)
    def started(*arguments: Any, **named: Any) -> Any:
        if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "sigtimedwait"):
            return init(*arguments, **named)
        handler, done = signal.getsignal(signal.SIGTERM), threading.Event()

        def listen() -> None:
            while not done.is_set():
                if signal.sigtimedwait({signal.SIGTERM}, LISTENS_S) is not None:
                    interrupt_main(signal.SIGTERM)  # as if it had arrived: Python's handler, never Ray's

        # In this thread and so in all that Ray starts: any of them may run Ray's handler until ours is set again.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        listener = threading.Thread(target=listen, daemon=True)
        try:
            listener.start()
            return init(*arguments, **named)
        finally:
            done.set()
            try:
                listener.join()  # a handler may raise here as well
            finally:
                signal.signal(signal.SIGTERM, handler)
                signal.pthread_sigmask(signal.SIG_SETMASK, before)

    return started


def _imports_as_here(serialize: Any) -> Callable[[Any], Any]:
    def serialized(self: Any) -> Any:
        if not os.environ.get("RAY_ADDRESS"):  # workers are on this machine; each entry is put before the others
            self._py_driver_sys_path = [str(Path(entry).absolute()) for entry in reversed(import_path())]
        return serialize(self)

    return serialized


# While Tune runs a study's trials.
TUNE = (
    Patch(
        "ray.tune.execution.tune_controller:TuneController._cleanup_trials",
        "waits ten seconds at the end for workers in the middle of a round, whose trials go on from their checkpoints",
        lambda cleanup: lambda self: self._actor_manager.cleanup(),
        "(self)",
    ),
    Patch(
        "ray.tune.tune:_setup_signal_catching",
        "takes SIGUSR1 for itself, at which a study is to save",
        lambda setup: lambda: threading.Event(),
        "() -> threading.Event",
    ),
    Patch(
        "ray.tune.execution.class_cache:_ActorClassCache.get",
        "asks for an environment of its own for every actor (a setting for PyTorch Lightning), so that none starts in "
        "a worker that Ray has started ahead and that has imported what a trial needs",
        _takes_warm_workers,
        "(self, trainable_cls)",
    ),
    Patch(
        "ray.air._internal.usage:tag_callbacks",
        "imports MLflow to count, for Ray's statistics, how many of its own callbacks are used",
        lambda tag: lambda callbacks: False,
        "(callbacks: Optional[List[ForwardRef('Callback')]]) -> bool",
    ),
    Patch(
        "ray.tune.experiment.trial:get_trainable_cls",
        "fetches the trainable's class from the cluster's store and unpickles it, several times for every trial",
        cache,
        "(trainable_name)",
    ),
    Patch(
        "ray.tune.trainable.metadata:_TrainingRunMetadata.update_metric",
        "keeps running means of every number of every result, of the config too: some 50 KB a trial",
        lambda update: lambda self, metric, value, step=1: None,
        "(self, metric: str, value: numbers.Number, step: Optional[int] = 1)",
    ),
)

# While this process uses Ray. Both constants are made when Ray is imported, which a notebook may long have done.
START = (
    Patch(
        "ray._private.utils:set_sigterm_handler",
        "ends the process at SIGTERM on the spot, with exit code 0, 1 or 15",
        lambda set_handler: lambda sigterm_handler: None,
        "(sigterm_handler)",
    ),
    Patch(
        "ray._private.services:ConsolePopen",
        "starts Ray's own processes where signals for the command's group end them, before it has left",
        _started_apart,
        "...",
    ),
    Patch(
        "ray:init",
        "has SIGTERM write addresses of machine code and abort, below Python",
        _keeps_handlers,
        "...",
    ),
    Patch(
        "ray.job_config:JobConfig._serialize",
        "puts the current folder first on the import path of workers, where a file may have the name of a library",
        _imports_as_here,
        "(self) -> str",
    ),
    Patch(
        "ray._private.ray_constants:RAY_ENABLE_UV_RUN_RUNTIME_ENV",
        "under `uv run` uploads the folder and builds it again for every worker",
        _said_now("RAY_ENABLE_UV_RUN_RUNTIME_ENV"),
    ),
    Patch(
        "ray._private.ray_constants:ENABLE_RAY_CLUSTER",
        "lets a Ray for one machine listen to others",
        _said_now("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"),
    ),
)
