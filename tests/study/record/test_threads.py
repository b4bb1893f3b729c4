"""No signal reaches a driver's threads: while Ray starts, its own handler would end the process."""

import signal
import threading
from pathlib import Path

import pytest
from study.driving import tiny_plan

from raymeta.problem import open_problem
from raymeta.study.copies.copier import Copies
from raymeta.study.record.record import StudyRecord
from raymeta.study.run.tracker import Tracker


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="only Linux shows the signals of a thread")
def test_none_of_those_that_run_when_ray_starts_takes_a_sigterm(tmp_path: Path) -> None:
    plan = tiny_plan().with_copies(("tensorboard",))
    problem = open_problem(plan.base.task)
    record = StudyRecord.create(tmp_path / "study", plan, problem.metric, problem.fingerprint)
    before = set(threading.enumerate())
    with record.locked(), Tracker(record), Copies(record, print, lambda: False):
        began = {thread for thread in threading.enumerate() if thread not in before}
        assert {thread.name for thread in began} >= {"pulse", "mlflow", "tensorboard"}
        assert [thread.name for thread in began if not _blocked(thread)] == []


def _blocked(thread: threading.Thread) -> bool:
    status = Path(f"/proc/self/task/{thread.native_id}/status").read_text()
    (mask,) = (line.split()[1] for line in status.splitlines() if line.startswith("SigBlk"))
    return bool(int(mask, 16) >> (signal.SIGTERM - 1) & 1)
