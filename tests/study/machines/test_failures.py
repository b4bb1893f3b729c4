"""Failed workers as Ray reports them, with the errors that torch, NumPy and the system really raise."""

import errno
import os
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from ray import cloudpickle
from ray.exceptions import ActorDiedError, OutOfMemoryError, RayTaskError

from raymeta.errors import Repeatable, StorageError, UserError
from raymeta.study.machines.failures import MAX_FAILURES, Failure, Retries, Watch, failure_of


def failed(error: Exception) -> Failure:
    """As it arrives from a worker."""
    return failure_of(cloudpickle.loads(cloudpickle.dumps(error)))


def raised_by(code: Callable[[], object]) -> Failure:
    """As Ray wraps what a worker raised."""
    try:
        code()
    except Exception as error:
        return failed(RayTaskError("step", "Traceback (most recent call last):\n  ...", error))
    raise AssertionError("it raised nothing")


@pytest.mark.parametrize("allocate", [lambda: np.empty(1 << 55), lambda: torch.empty(1 << 55)], ids=["numpy", "torch"])
def test_an_allocation_that_fails_is_memory(allocate: Callable[[], object]) -> None:
    failure = raised_by(allocate)
    assert failure.kind == "memory"
    assert failure.reason.startswith("memory: ")
    assert "\n" not in failure.reason
    assert failure.text.endswith("\n  ...")


def test_a_full_gpu_and_a_worker_that_ray_ended_for_its_memory_are_memory() -> None:
    cuda = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
    assert failed(RayTaskError("step", "", cuda)).kind == "memory"
    assert failed(OutOfMemoryError("Task was killed due to the node running low on memory.")).kind == "memory"


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk(number: int) -> None:
    def write() -> None:
        raise OSError(number, os.strerror(number), "/studies/one/trials/0003/checkpoint.pt")

    failure = raised_by(write)
    assert (failure.kind, failure.reason) == ("disk", "the disk is full (/studies/one/trials/0003)")


def test_a_store_that_is_away_ends_the_session_and_not_the_trial() -> None:
    def write() -> None:
        raise StorageError(errno.EIO, "the store does not answer as it should: no route", "s3://b/one/checkpoint.pt")

    failure = raised_by(write)
    assert failure.kind == "disk"
    assert failure.reason == "s3://b/one/checkpoint.pt: the store does not answer as it should: no route"


def test_a_device_that_is_full_for_real() -> None:
    def write() -> None:
        with open("/dev/full", "w") as file:
            file.write("x")

    assert raised_by(write).kind == "disk"


def test_anything_else_is_its_last_line() -> None:
    assert raised_by(lambda: 1 / 0)[:2] == ("other", "division by zero")
    assert raised_by(lambda: [][1])[:2] == ("other", "list index out of range")
    assert failed(RayTaskError("step", "", OSError(errno.EACCES, "Permission denied"))).kind == "other"
    assert failed(ActorDiedError())[:2] == ("other", "its worker died")
    setting_up = RayTaskError(
        "MetaTrainable.__init__", "Traceback:\n  ...\nUserError: no data here", UserError("no data here")
    )
    assert failed(ActorDiedError(setting_up))[:2] == ("other", "UserError: no data here")


def test_what_would_come_again_is_not_tried_again() -> None:
    def play() -> None:
        raise Repeatable("one: its environment gave a reward that is not finite")

    def read() -> None:
        raise UserError("one: not readable")

    again = Retries()
    failure = raised_by(play)
    assert failure.reason == "one: its environment gave a reward that is not finite"
    assert again.again(1, failure) is None
    assert [again.again(2, raised_by(read)) is None for _ in range(MAX_FAILURES + 1)] == [False] * MAX_FAILURES + [True]


def test_who_saves_within_a_long_round_is_not_hung(tmp_path: Path) -> None:
    watch = Watch(limit_s=0.05)
    for key in ("saves", "silent", "lost"):
        watch.reported(key)
    for key in ("saves", "silent"):
        (tmp_path / key).mkdir()
        (tmp_path / key / "checkpoint.pt").touch()
    long_ago = time.time() - 60
    os.utime(tmp_path / "silent" / "checkpoint.pt", (long_ago, long_ago))
    time.sleep(0.06)
    (tmp_path / "saves" / "checkpoint.pt").touch()
    assert [key for key, _ in watch.hung(lambda key: tmp_path / key)] == ["silent", "lost"]
    assert watch.hung(lambda key: tmp_path / key) == []
