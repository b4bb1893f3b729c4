"""Every verb under every condition: it does what it can, or says in one sentence why not; nothing hangs."""

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from study.driving import CLOSED, COMMAND, TINY, raymeta

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(3600)]

VERBS = {
    "search": ["search", *TINY, "study.trials=2", "--name", "new", "--slots", "1"],
    "resume": ["resume", "left", "--slots", "1"],
    "extend": ["extend", "base", "-n", "1", "--slots", "1"],
    "ls": ["ls"],
    "status": ["status", "base"],
    "report": ["report", "base", "-o", "OUT/report.html"],
    "compare": ["compare", "base", "left"],
    "note": ["note", "base"],
    "tag": ["tag", "base", "paper"],
    "archive": ["archive", "base", "-o", "OUT/base.zip", "--yes"],
    "export": ["export", "base", "-o", "OUT/best.yaml"],
    "final": ["final", "OUT/given.yaml", "--seeds", "1", "--slots", "1"],
    "sync": ["sync", "base"],
    "ui": ["ui", "--port", "5079"],
    "space": ["space", "maml+dropgrad"],
    "methods": ["methods"],
    "data ls": ["data", "ls"],
    "doctor": ["doctor"],
}
LASTING = ("search", "resume", "extend", "final", "ui")
ANY = {"doctor": ("0", "1", "2"), "ui": ("0", "1", "2", "143"), "archive": ("0", "1", "2"), "compare": ("0", "1", "2")}
READING = ("ls", "status", "report", "note", "export", "space", "methods", "data ls")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home of studies with one that is over and one that was left, and an exported config in it."""
    home = tmp_path_factory.mktemp("home") / "studies"
    small = [*TINY, "study.trials=2", "--slots", "1"]
    for name in ("base", "left"):
        done = raymeta("search", *small, "--name", name, RAYMETA_STUDIES=str(home))
        assert done.returncode == 0, done.stderr
    for path in (home / "left").rglob("finalist.json"):
        path.unlink()  # as if it had been left before its finalists were scored
    exported = raymeta("export", "base", "-o", str(home / "given.yaml"), RAYMETA_STUDIES=str(home))
    assert exported.returncode == 0
    return home


def run(verb: str, home: Path, out: Path, *, then: int = 0, shell: str = 'exec "$@"', **environment: str) -> str:
    """What came of a verb, as a cell of the table.

    Args:
        verb: which.
        home: of the studies.
        out: a folder for what it writes.
        then: a signal to send once it is at work.
        shell: what runs it.
        environment: variables.
    """
    out.mkdir(exist_ok=True)
    if not (out / "given.yaml").exists():
        shutil.copy(home / "given.yaml", out)
    words = [str(COMMAND), *(word.replace("OUT", str(out)) for word in VERBS[verb])]
    process = subprocess.Popen(
        ["sh", "-c", shell, "sh", *words],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
        env=os.environ | {"RAYMETA_STUDIES": str(home)} | environment,
    )  # fmt: skip
    if verb == "ui" or (then and verb in LASTING):
        time.sleep(10)
        if process.poll() is None:
            process.send_signal(then or signal.SIGTERM)
    _, err = process.communicate(timeout=300)
    lines = err.splitlines()
    assert "Traceback" not in err, err
    assert process.returncode in (0, 1, 2, 143), err
    own = [line for line in lines if line.startswith("raymeta: ")]
    if process.returncode in (1, 2) and verb != "doctor":  # whose lines are a table
        assert len(own) == 1, err
    return f"{process.returncode}" + (f" {own[0].removeprefix('raymeta: ')}" if own else "")


def cells(condition: str, allowed: dict[str, tuple[str, ...]], do: Callable[[str], str]) -> None:
    """Run every verb under a condition and print its row; what is not in `allowed` must end with exit code 0."""
    for verb in VERBS:
        found = do(verb)
        print(f"{condition} | {verb} | {found}")
        expected = allowed.get(verb, ("143",) if verb == "ui" else ("0",))
        assert found.split(" ")[0] in expected, (condition, verb, found)


@pytest.fixture
def copied(home: Path, tmp_path: Path) -> Path:
    """A copy of the home at another place: moved, as users move it."""
    return Path(shutil.copytree(home, tmp_path / "moved #1?" / "studies"))


def test_moved(copied: Path, tmp_path: Path) -> None:
    cells("moved", {}, lambda verb: run(verb, copied, tmp_path / "out"))


def test_tracking_that_is_away(copied: Path, tmp_path: Path) -> None:
    allowed = {"sync": ("1", "2"), "ui": ("2",), "doctor": ("0", "1")}
    cells("server away", allowed, lambda verb: run(verb, copied, tmp_path / "out", MLFLOW_TRACKING_URI=CLOSED))


def test_a_corrupt_tracking_database(copied: Path, tmp_path: Path) -> None:
    (copied / "mlflow.db").write_text("this is no database")
    allowed = {"sync": ("1", "2"), "ui": ("2",), "doctor": ("0", "1")}
    cells("corrupt mlflow.db", allowed, lambda verb: run(verb, copied, tmp_path / "out"))


def test_sigterm(copied: Path, tmp_path: Path) -> None:
    allowed = dict.fromkeys(VERBS, ("0", "143")) | {"compare": ("0", "2", "143")}  # `left` was ended again
    cells("SIGTERM", allowed, lambda verb: run(verb, copied, tmp_path / "out", then=signal.SIGTERM))


def test_a_closed_standard_output(copied: Path, tmp_path: Path) -> None:
    allowed = dict.fromkeys(VERBS, ("0", "1")) | {"ui": ("0", "1", "143")}
    cells("closed stdout", allowed, lambda verb: run(verb, copied, tmp_path / "out", shell='exec "$@" >&-'))


@pytest.mark.skipif(os.name != "posix" or os.getuid() != 0, reason="only root mounts")
def test_a_read_only_home_and_a_full_disk(copied: Path, tmp_path: Path) -> None:
    """In a namespace of mounts of its own."""
    read_only = f'mount --bind "{copied}" "{copied}" && mount -o remount,ro,bind "{copied}" && exec "$@"'
    refused = {verb: ("1", "2") for verb in VERBS if verb not in READING} | ANY
    cells(
        "read-only home", refused,
        lambda verb: run(verb, copied, tmp_path / "out", shell=f"exec unshare -m sh -c '{read_only}' sh \"$@\""),
    )  # fmt: skip
    size = sum(path.stat().st_size for path in copied.rglob("*") if path.is_file()) // 1024 + 600
    full = (
        f'cp -r "{copied}" "{tmp_path}/kept" && mount -t tmpfs -o size={size}k,nr_inodes=4k tmpfs "{copied}" && '
        f'cp -r "{tmp_path}/kept/." "{copied}" && rm -r "{tmp_path}/kept" && '
        f'{{ dd if=/dev/zero of="{copied}/filler" bs=4k 2>/dev/null; exec "$@"; }}'
    )
    allowed = {verb: ("0", "1", "2") for verb in VERBS if verb not in READING} | ANY
    cells(
        "full disk", allowed,
        lambda verb: run(verb, copied, tmp_path / "out", shell=f"exec unshare -m sh -c '{full}' sh \"$@\""),
    )  # fmt: skip
