"""`raymeta watch`: what another process runs, seen from here; nothing is locked and nothing written."""

import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console
from study.driving import COMMAND, NAME, ONE, give_all, kill, load, noted, raymeta, start, tiny_record, until
from study.record.test_record import entry
from typer.testing import CliRunner

from raymeta.api.kept.watching import FinalsTarget, target_of
from raymeta.cli import app
from raymeta.errors import RunFailed, UserError
from raymeta.report.live import watch as watching
from raymeta.report.live.display import Display
from raymeta.report.live.progress import Progress
from raymeta.study.machines.session import Session
from raymeta.study.record import folder, pulse
from raymeta.study.record.pulse import Beat, Line, Pulse, last_beat
from raymeta.study.record.record import StudyRecord


@pytest.fixture
def record(studies: Path) -> StudyRecord:
    record = tiny_record("one", "study.trials=3", "study.finalists=1")
    for score in (3.0, 2.0):
        noted(record, score)
    return record


@pytest.fixture(autouse=True)
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "LOOK_S", 0.02)
    monkeypatch.setattr(pulse, "BEAT_S", 0.02)


class Watcher(threading.Thread):
    """Someone who watches, where there is no terminal."""

    def __init__(self, name: str, *, follow: bool = False) -> None:
        super().__init__(daemon=True)
        self.target, self.follow, self.said, self.error = target_of(name), follow, list[str](), None
        self.screen = StringIO()
        self.start()

    def run(self) -> None:
        try:
            watching.watch(self.target, Console(file=self.screen, width=80), self.said.append, follow=self.follow)
        except (UserError, RunFailed) as error:
            self.error: Exception | None = error

    @property
    def lines(self) -> list[str]:
        return self.screen.getvalue().splitlines()

    def sees(self, text: str) -> None:
        until(lambda: text in self.screen.getvalue() or not self.is_alive(), seconds=20)
        assert text in self.screen.getvalue(), self.screen.getvalue()

    def ended(self) -> None:
        self.join(20)
        assert not self.is_alive()


def test_a_search_is_seen_from_its_begin_to_its_end(record: StudyRecord) -> None:
    session = Session(quiet=True, go_on="raymeta resume one")
    with record.locked() as pulse:
        session.told_by(pulse)
        watcher = Watcher("one")
        watcher.sees("2/3 trials ended, best 2.0000 ± 0.1000 (trial 1), no estimate yet\n")
        with Progress(record, session) as progress:
            progress.say("trial 2: its worker died")
            watcher.sees("] trial 2: its worker died\n")
            number = record.ask().number
            record.add_round(number, entry(18, 1.0, at=2.0, last=True))
            record.finish(number)
            watcher.sees("] trial   2 completed at 18 steps: 1.0000 ± 0.1000 | 3/3 trials ended, best 1.0000 ± 0.1000")
        jobs = [Line("trial 2", "running"), Line("trial 0", "waiting")]
        pulse.shown = lambda: replace(
            session.beat, jobs=jobs, what="finalists scored", figure="validation mse", left_s=61
        )
        watcher.sees("0/2 finalists scored, about 01:01 left\n")
        jobs[0] = Line("trial 2", "done", score="1.1000 ± 0.2000")
        watcher.sees("trial 2 done: 1.1000 ± 0.2000 | 1/2 finalists scored, about 01:01 left\n")
        give_all(record, t1=[3.0, 4.0], t2=[1.0, 2.0])
    watcher.ended()
    assert watcher.error is None
    assert watcher.said == ["it is over: raymeta export one"]
    assert (
        "trial 2 is significantly better" in watcher.screen.getvalue() or "trial 2 is not" in watcher.screen.getvalue()
    )
    assert "\x1b" not in watcher.screen.getvalue()
    assert last_beat(record.folder) is None  # who ends in order leaves none


def test_one_view_for_both(record: StudyRecord) -> None:
    """The search's own screen and the watcher's have the same table and the same line below it."""
    record.ask()
    session = Session(quiet=True)
    with record.locked() as pulse, Progress(record, session) as progress:
        session.told_by(pulse)
        progress.message = "a word"
        pulse.shown = progress.beat
        pulse.beat()
        screens = []
        for display in (progress, watching._Watching(target_of("one"), Console())):
            assert isinstance(display, Display)
            if isinstance(display, watching._Watching):
                display.target.look()
            screen = Console(file=StringIO(), width=80)
            screen.print(display.render())
            screens.append(screen.file.getvalue())  # type: ignore[attr-defined]
    assert screens[0] == screens[1]
    assert "a word" in screens[0]


def test_where_nothing_runs_the_state_is_shown(record: StudyRecord) -> None:
    watcher = Watcher("one")
    watcher.ended()
    assert watcher.said == ["nothing runs it right now", "go on with: raymeta resume one"]
    assert [line.split()[1] for line in watcher.lines[1:3]] == ["completed", "*"]


def test_to_follow_is_to_wait(record: StudyRecord) -> None:
    watcher = Watcher("one", follow=True)
    until(lambda: watcher.said, seconds=20)
    with record.locked():
        watcher.sees("2/3 trials ended")
    with record.locked():
        noted(record, 1.0)
        give_all(record, t1=[3.0, 4.0], t2=[1.0, 2.0])
    watcher.ended()
    assert watcher.said[0] == "nothing runs it right now: waiting for a driver (go on with: raymeta resume one)"
    assert watcher.said[-1] == "it is over: raymeta export one"


@pytest.mark.slow
def test_a_driver_that_was_killed_is_known(record: StudyRecord) -> None:
    program = """
import sys
from raymeta.study.machines.session import Session
from raymeta.study.record.home import open_study
with open_study("one").locked() as pulse:
    Session(go_on="raymeta resume one").told_by(pulse)
    print("ready", flush=True)
    sys.stdin.read()
"""
    driver = subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert driver.stdout is not None
    assert driver.stdout.readline() == "ready\n"
    watcher = Watcher("one")
    watcher.sees("2/3 trials ended")
    kill(driver)
    watcher.ended()
    said = rf"its driver, process {driver.pid} on .*, was killed; go on with: raymeta resume one"
    assert re.fullmatch(said, str(watcher.error))
    assert re.fullmatch(f"{said}\n", CliRunner().invoke(app, ["status", "one"]).stderr)
    with record.locked():  # the next one knows nothing of it
        assert last_beat(record.folder).pid == os.getpid()  # type: ignore[union-attr]
    again = Watcher("one")
    again.ended()
    assert again.error is None


def test_a_study_that_goes_away_is_a_sentence(record: StudyRecord, studies: Path) -> None:
    with record.locked():
        watcher = Watcher("one")
        watcher.sees("2/3 trials ended")
        (studies / "one").rename(studies / "two")
        watcher.ended()
    assert str(watcher.error) == f"the study 'one' is not in {studies} any more: it was moved or removed"
    with pytest.raises(UserError, match=r"no study and no final run 'one' in .*: allowed: two"):
        target_of("one")


def test_another_machine_s_driver_is_known_by_its_pulse(record: StudyRecord) -> None:
    """Where a lock is not seen: a beat that is fresh is a driver, one that is not is a dead one."""

    def write(at: float) -> None:
        beat = Beat("elsewhere", "node7", 12, at, at, "raymeta resume one")
        (Path(str(record.folder)) / pulse.FILE).write_text(json.dumps(asdict(beat)))

    write(time.time())
    assert folder.is_driven(record.folder)
    assert folder.driver_of(record.folder) is None
    assert CliRunner().invoke(app, ["status", "one"]).stderr == "a process drives it\n"
    watcher = Watcher("one")
    watcher.sees("2/3 trials ended")
    write(time.time() - pulse.STALE_S - 1)
    watcher.ended()
    assert str(watcher.error) == "its driver, process 12 on node7, was killed; go on with: raymeta resume one"
    with record.locked():  # and is no lock
        pass


def test_a_pulse_makes_no_folder_and_takes_no_other_s_file(studies: Path) -> None:
    gone = studies / "gone"
    with Pulse([gone]):
        pass
    assert not gone.exists()
    here = studies / "here"
    here.mkdir(parents=True)
    with Pulse([here]):
        assert last_beat(here).alive  # type: ignore[union-attr]
    assert last_beat(here) is None
    with Pulse([here]) as mine:
        mine._stop.set()
        mine._thread.join()
        (here / pulse.FILE).write_text(json.dumps(asdict(Beat(machine="elsewhere", pid=1))))
    assert last_beat(here).machine == "elsewhere"  # type: ignore[union-attr]


def test_final_runs(studies: Path) -> None:
    home = studies / "finals" / "maml-sinusoid-5s-12345678"
    home.mkdir(parents=True)
    (home / "config.yaml").write_text("provenance: {versions: {raymeta: '1'}}\nmethod: maml\n")
    assert isinstance(target_of(home.name), FinalsTarget)
    with Pulse([home]) as beats:
        session = Session(quiet=True)
        session.told_by(beats)
        jobs = [Line("maml, seed 0", "running", 10, 20, "0.5 ± 0.1"), Line("maml, seed 1", "waiting", 0, 20)]
        beats.shown = lambda: replace(session.beat, jobs=jobs, what="final runs tested")
        watcher = Watcher(home.name)
        watcher.sees("0/2 final runs tested, no estimate yet\n")
        jobs[0] = Line("maml, seed 0", "done", 20, 20, "0.4 ± 0.1")
        watcher.sees("maml, seed 0 done at 20 steps: 0.4 ± 0.1 | 1/2 final runs tested, no estimate yet\n")
    watcher.ended()
    assert watcher.error is None
    assert "no seed has been tested yet" in watcher.lines


def on_a_terminal(*words: str, then: Callable[[int, bytes], bool]) -> Iterator[tuple[int, bytes]]:
    """Run a command on a terminal of 80 columns; `then` is told what it has written, and says whether to go on."""
    pid, terminal = pty.fork()
    if pid == 0:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # where the tests run in the background of a shell, it is ignored
        os.environ.update(COLUMNS="80", LINES="24", TERM="xterm-256color")
        os.execv(COMMAND, [str(COMMAND), *words])
    written, end = b"", time.monotonic() + 120
    while time.monotonic() < end:
        if select.select([terminal], [], [], 0.2)[0]:
            try:
                written += os.read(terminal, 65_536)
            except OSError:
                break
        if not then(pid, written):
            break
    else:
        os.kill(pid, signal.SIGKILL)  # it hangs: better a wrong exit code than a test that hangs with it
    _, status = os.waitpid(pid, 0)
    yield os.waitstatus_to_exitcode(status), written


@pytest.mark.slow
def test_ctrl_c_leaves_and_touches_nothing(record: StudyRecord, studies: Path) -> None:
    """On a terminal, from a folder that may not be written to."""
    with record.locked() as beats:
        beats._stop.set()  # what is written here is not the driver's
        beats._thread.join()
        before = {path: path.stat().st_mtime_ns for path in sorted(studies.rglob("*"))}
        asked = []

        def then(pid: int, written: bytes) -> bool:
            if b"trials ended" in written and not asked:
                asked.append(os.kill(pid, signal.SIGINT))
            return True

        ((code, written),) = on_a_terminal("watch", "one", then=then)
        assert code == 130
        assert b"not watched any longer; what runs goes on" in written
        assert b"Traceback" not in written
        assert written.rfind(b"\x1b[?25h") > written.rfind(b"\x1b[?25l")  # the cursor is there again
        rows = re.sub(rb"\x1b\[[0-9;?]*[A-Za-z]", b"", written).decode().split("\n")
        assert max(len(row.strip("\r")) for row in rows) <= 80
        assert {path: path.stat().st_mtime_ns for path in sorted(studies.rglob("*"))} == before
    assert not record.driven


@pytest.mark.slow
@pytest.mark.ray
def test_a_real_search_is_watched_to_its_end(studies: Path) -> None:
    driver = start("search", *ONE)
    until(lambda: (studies / NAME / "driver.json").exists(), driver)
    watcher = start("watch", NAME)
    out, err = watcher.communicate(timeout=240)
    assert watcher.returncode == 0, err
    assert driver.wait(60) == 0
    lines = out.splitlines()
    ended = [line for line in lines if " steps: " in line and line.startswith("[")]
    assert len(ended) == len(load(NAME).trials())
    assert "8/8 trials ended" in ended[-1]
    assert any("finalists scored on fresh episodes" in line for line in lines)
    assert err == f"it is over: raymeta export {NAME}\n"
    assert out.endswith(raymeta("status", NAME).stdout)
