"""What raymeta changes or reads inside Ray is there, as it was written for; a test fails by the patch's name."""

import inspect
import os
import subprocess
import sys
from contextlib import suppress
from typing import Any

import pytest
from ray import tune
from ray.tune.experiment import Trial
from ray.tune.schedulers import ASHAScheduler

from raymeta.study.machines.fleet.fleets import Fleets
from raymeta.study.machines.fleet.seats import seated
from raymeta.study.machines.ray_patches import START, TUNE, Patch, patched
from raymeta.study.machines.resources import Slots

SEATED = seated(Fleets(Slots(1, 1.0, 0.0), 8))
BY_NAME = pytest.mark.parametrize("patch", [*TUNE, *START, *SEATED], ids=lambda patch: patch.where)


@BY_NAME
def test_what_is_replaced_is_there_as_it_was(patch: Patch) -> None:
    owner, name = patch.find()
    found = inspect.getattr_static(owner, name)
    if patch.signature == "...":
        assert callable(found)
    elif patch.signature:
        assert str(inspect.signature(found)) == patch.signature
    else:
        assert isinstance(found, bool)


@BY_NAME
def test_what_takes_its_place_is_called_alike(patch: Patch) -> None:
    owner, name = patch.find()
    before = getattr(owner, name)
    if patch.signature:
        expected = list(inspect.signature(before).parameters)
        assert list(inspect.signature(patch.replace(before)).parameters) == expected
    else:
        assert isinstance(patch.replace(before), bool)


def test_they_are_undone_even_after_an_error() -> None:
    def now() -> list[Any]:
        return [inspect.getattr_static(*patch.find()) for patch in TUNE]

    before = now()
    with suppress(KeyError), patched(TUNE):
        assert not any(one is other for one, other in zip(now(), before, strict=True))
        with patched(TUNE):  # and within one another
            pass
        raise KeyError
    assert all(one is other for one, other in zip(now(), before, strict=True))


@pytest.mark.parametrize("patch", [one for one in START if not one.signature], ids=lambda patch: patch.where)
def test_what_ray_read_at_its_import_is_what_the_environment_says_now(
    patch: Patch, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = {"ENABLE_RAY_CLUSTER": "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"}.get(patch.find()[1], patch.find()[1])
    for said, expected in (("0", False), ("1", True), ("true", True)):
        monkeypatch.setenv(name, said)
        with patched([patch]):
            assert getattr(*patch.find()) is expected
    monkeypatch.delenv(name)
    before = getattr(*patch.find())
    with patched([patch]):
        assert getattr(*patch.find()) is before
    assert name not in os.environ


def test_sigterm_is_heard_by_whoever_heard_it_before_ray_started() -> None:
    """Below Python, too, and at every moment of the start: Ray's own handler writes addresses and aborts."""
    program = """
import os, signal, subprocess, sys, time
from raymeta.study.machines.resources import start_ray, stop_ray
heard = []
signal.signal(signal.SIGTERM, lambda number, frame: heard.append(number))
again = f"import os, time\\nwhile True: os.kill({os.getpid()}, {signal.SIGTERM:d}); time.sleep(0.005)"
sender = subprocess.Popen([sys.executable, "-c", again])
start_ray(1)
sender.kill()
sender.wait()
assert len(heard) > 20
heard.clear()
os.kill(os.getpid(), signal.SIGTERM)
time.sleep(0.1)
stop_ray()
assert heard == [signal.SIGTERM]
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stderr) == (0, "")


# What is read


def test_ashas_rungs_are_where_they_are_looked_for() -> None:
    (bracket,) = ASHAScheduler(time_attr="outer_steps", max_t=18, grace_period=2, reduction_factor=3)._brackets
    assert bracket._rungs == [(18, {}), (6, {}), (2, {})]


def test_a_trial_of_tunes_has_its_actor_and_the_file_of_its_error() -> None:
    trial = Trial("raymeta/maml", stub=True)
    assert trial.temporary_state.ray_actor is None
    assert isinstance(inspect.getattr_static(Trial, "pickled_error_file"), property)


def test_callbacks_are_called_with_what_the_driver_takes() -> None:
    for name in ("on_trial_start", "on_trial_complete", "on_trial_error"):
        assert list(inspect.signature(getattr(tune.Callback, name)).parameters)[:4] == [
            "self", "iteration", "trials", "trial",
        ]  # fmt: skip
