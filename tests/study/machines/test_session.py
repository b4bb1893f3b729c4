"""How a session is asked to leave, by real signals to a process of its own."""

import os
import signal
import subprocess
import sys
import time
from contextlib import nullcontext

import pytest

from raymeta.study.machines.resources import Slots
from raymeta.study.machines.session import Session

PROGRAM = """
import signal, sys, time
if "nohup" not in sys.argv:  # as whoever started the tests may have it
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
from raymeta.study.machines import session as module
from raymeta.study.machines.resources import Slots
from raymeta.study.machines.session import Session
module.GRACE_S, module.RAY_GRACE_S = 0.5, 1.0
session = Session(go_on="raymeta resume it")
with session.interruptible("nothing new"):
    session.slots = Slots(1, 1.0, 0.0) if "up" in sys.argv else None
    print("ready", flush=True)
    while not session.leaving:
        if session.saving and not session.closing:
            print("saved", flush=True)
            session.saving = False
        time.sleep(0.01)
    while "stuck" in sys.argv:
        time.sleep(0.01)
print(session.stopping, session.closing, session.saving, session.exit_code, flush=True)
"""


def told(*words: str, signals: list[int], program: str = PROGRAM) -> tuple[int, list[str], str]:
    """Exit code, lines and standard error of the program after these signals, a moment apart."""
    process = subprocess.Popen(
        [sys.executable, "-c", program, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    for number in signals:
        process.send_signal(number)
        time.sleep(0.2)
    out, err = process.communicate(timeout=20)
    return process.returncode, out.splitlines(), err


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGHUP, 143)])
def test_a_scheduler_that_ends_it(number: int, code: int) -> None:
    assert told("up", signals=[number]) == (0, [f"True True True {code}"], "leaving; what runs is saved first\n")
    # While Ray starts, which is never broken off in its middle.
    starting = "leaving as soon as Ray has started\n"
    assert told(signals=[number]) == (0, [f"True True True {code}"], starting)


def test_who_leaves_while_ray_starts_leaves_once_it_has_started() -> None:
    session, slots = Session(quiet=True), Slots(1, 1.0, 0.0)

    def start() -> Slots:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.01)
        return slots

    with session.interruptible("nothing new"):
        session.take(start)
        pytest.fail("it goes on")
    assert (session.slots, session.exit_code) == (slots, 143)


def test_what_ends_ray_as_it_starts_asks_to_leave_as_well() -> None:
    def start() -> Slots:
        if asked:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.01)
        raise OSError("Ray is gone")

    for asked in (True, False):
        session = Session(quiet=True)
        with pytest.raises(OSError, match="gone") if not asked else nullcontext(), session.interruptible("nothing"):
            session.take(start)
        assert session.exit_code == (143 if asked else 0)


def test_ctrl_c() -> None:
    first = "nothing new (Ctrl-C again: leave now and go on later)\n"
    code, lines, err = told("up", signals=[signal.SIGINT] * 2)
    assert (code, lines, err) == (0, ["True True True 130"], f"{first}leaving; what runs is saved first\n")
    # A third one does not wait, even where nothing looks.
    assert told("up", "stuck", signals=[signal.SIGINT] * 3)[:2] == (0, ["True True True 130"])


def test_a_request_to_save() -> None:
    code, lines, err = told("up", signals=[signal.SIGUSR1, signal.SIGTERM])
    assert (code, lines) == (0, ["saved", "True True True 143"])
    assert err.splitlines()[0] == "what runs is asked to save now; every finished round is saved anyway"


def test_what_cannot_leave_is_ended() -> None:
    code, lines, err = told("up", "stuck", signals=[signal.SIGTERM])
    assert (code, lines) == (143, [])
    assert err.splitlines()[-1] == "go on with: raymeta resume it"


def test_nohup_is_respected() -> None:
    ignoring = "import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN)\n" + PROGRAM
    code, lines, _ = told("up", "nohup", signals=[signal.SIGHUP, signal.SIGINT, signal.SIGINT], program=ignoring)
    assert (code, lines) == (0, ["True True True 130"])


def test_handlers_are_as_they_were_afterwards() -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)]
    session = Session(slots=Slots(1, 1.0, 0.0), quiet=True)
    with session.interruptible("nothing new"):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.01)
        assert (session.closing, session.leaving, session.exit_code) == (True, False, 143)
    assert before == [
        signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)
    ]
