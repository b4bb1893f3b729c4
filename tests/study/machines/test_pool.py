"""The pool of slots, with real workers: nothing is lost or done twice, whatever befalls them."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from io import StringIO
from pathlib import Path

import pytest
from ray import cloudpickle
from rich.console import Console
from study.machines import counting
from study.machines.counting import Counting, lines

from raymeta.report.live.progress import Jobs
from raymeta.study.machines.pool import Entry, Pool
from raymeta.study.machines.resources import Slots, start_ray, stop_ray
from raymeta.study.machines.session import Session

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module")
def slots() -> Iterator[Slots]:
    cloudpickle.register_pickle_by_value(counting)  # workers don't see the tests' folder
    try:
        start_ray(2)
        yield Slots(2, 1.0, 0.0)
    finally:
        stop_ray()
        cloudpickle.unregister_pickle_by_value(counting)


@dataclass
class Heard:
    """What a pool tells of."""

    said: list[str] = field(default_factory=list)
    ends: list[str] = field(default_factory=list)
    then: Callable[[], object] = list

    def say(self, message: str) -> None:
        self.said.append(message)

    def ended(self, entry: Entry) -> None:
        self.ends.append(f"{entry.job} {entry.state}")
        self.then()


def pool(slots: Slots, *jobs: Counting, hung_after_s: float | None = None) -> tuple[Pool, Session, Heard]:
    session = Session(slots=slots)
    return Pool(jobs, session, hung_after_s), session, Heard()


def whole(job: Counting) -> bool:
    """Every round was done once, and then the test."""
    return (len(lines(job.folder / "rounds")), lines(job.folder / "tests")) == (job.steps, ["tested"])


def spans(job: Counting) -> list[tuple[float, float]]:
    """When its rounds began and ended."""
    rounds = [line.split() for line in lines(job.folder / "rounds")]
    return [(float(begun), float(ended)) for begun, ended in rounds]


def test_workers_take_one_job_after_the_other(slots: Slots, tmp_path: Path) -> None:
    jobs = [Counting(tmp_path / f"job {number}", round_s=0.05) for number in range(5)]
    lost = Counting(tmp_path / "lost", fault="diverges")
    session = Session(slots=slots)
    one = Pool([*jobs, lost], session)
    with Jobs(one, session, "jobs counted") as shown:
        shown.console = Console(file=StringIO(), width=200)
        assert shown.view(shown.beat()).summary(shown.left_s()) == "0/6 jobs counted, no estimate yet"
        one.run(shown)
    assert all(map(whole, jobs))
    assert [entry.state for entry in one.entries] == ["done"] * 5 + ["diverged"]
    assert [entry.report.steps for entry in one.entries] == [3] * 5 + [1]
    assert (session.problems, one.unfinished) == (["lost diverged at 1 outer steps"], [])  # and was not tried again

    pids = [lines(job.folder / "pids") for job in [*jobs, lost]]
    assert all(len(own) == 1 for own in pids)
    assert len({own[0] for own in pids}) == 2
    every = [span for job in [*jobs, lost] for span in spans(job)]
    assert session.busy_s == pytest.approx(sum(end - begin for begin, end in every), abs=0.05)
    running = 0
    for _, change in sorted(moment for begin, end in every for moment in ((begin, 1), (end, -1))):
        running += change
        assert 0 <= running <= 2

    said = shown.console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert len(said) == 6
    assert any("job 1 done at 3 steps: 0.5000 ± 0.1000 | " in line for line in said)
    assert said[-1].endswith(" | 6/6 jobs counted")
    screen = Console(file=StringIO(), width=200)
    screen.print(shown.view(shown.beat()).table())
    rows = screen.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert rows[0].split() == ["run", "state", "steps", "validation", "mse"]
    assert rows[1].split() == ["job", "0", "done", "3/3", "0.5000", "±", "0.1000"]


def test_a_killed_worker_costs_a_round_and_one_that_keeps_dying_is_given_up(slots: Slots, tmp_path: Path) -> None:
    killed, other = Counting(tmp_path / "killed", fault="killed"), Counting(tmp_path / "other")
    dying = Counting(tmp_path / "dying", fault="killed", times=99)
    one, session, heard = pool(slots, killed, dying, other)
    one.run(heard)
    assert whole(killed)
    assert whole(other)
    assert len(set(lines(killed.folder / "pids"))) == 2
    again = "its worker died; it goes on from its checkpoint"
    tries = [f"dying: {again} (try {number} of 4)" for number in (2, 3, 4)]
    assert sorted(heard.said) == [*tries, f"killed: {again} (try 2 of 4)"]
    assert session.problems == ["dying failed: its worker died"]
    assert [entry.state for entry in one.entries] == ["done", "failed", "done"]
    assert len(lines(dying.folder / "pids")) == 4
    assert one.unfinished == []


@pytest.mark.slow
def test_a_hung_worker_is_killed(slots: Slots, tmp_path: Path) -> None:
    job = Counting(tmp_path / "hung", fault="hangs")
    one, _, heard = pool(slots, job, hung_after_s=2.0)
    one.run(heard)
    assert whole(job)
    (line,) = heard.said
    assert line.startswith("hung: no round for ")
    assert line.endswith(" s; it goes on from its checkpoint (try 2 of 4)")


@pytest.mark.slow
def test_what_lacks_memory_is_tried_again_with_nothing_beside_it(slots: Slots, tmp_path: Path) -> None:
    hungry = Counting(tmp_path / "hungry", fault="memory", round_s=0.3)
    others = [Counting(tmp_path / f"other {number}", round_s=0.3) for number in range(2)]
    one, session, heard = pool(slots, hungry, *others)
    one.run(heard)
    assert all(map(whole, [hungry, *others]))
    assert heard.said == [
        "hungry: memory: not enough memory for the round; it goes on from its checkpoint, with nothing beside it "
        "(try 2 of 2)"
    ]
    alone = [span for span, number in zip(spans(hungry), range(3), strict=True) if number >= hungry.at]
    for begin, end in alone:
        assert all(ended <= begin or begun >= end for other in others for begun, ended in spans(other))
    again = replace(hungry, folder=tmp_path / "hungrier", times=99)
    one, session, heard = pool(slots, again)
    one.run(heard)
    assert session.problems == ["hungrier failed: memory: not enough memory for the round"]
    assert len(lines(again.folder / "pids")) == 2


def test_a_full_disk_ends_the_session(slots: Slots, tmp_path: Path) -> None:
    job = Counting(tmp_path / "full", fault="disk")
    one, session, heard = pool(slots, job, Counting(tmp_path / "other", steps=1000, round_s=0.1))
    one.run(heard)
    assert session.broken == "the disk is full (/studies/one)"
    assert session.leaving
    assert (heard.ends, session.problems) == ([], [])
    assert len(one.unfinished) == 2


def test_stopping_ends_the_rounds_that_run_and_starts_nothing(slots: Slots, tmp_path: Path) -> None:
    jobs = [
        Counting(tmp_path / "short", steps=2, round_s=3.0),  # long enough for the other worker to start
        *(Counting(tmp_path / f"long {i}", 100, round_s=0.2) for i in range(3)),
    ]
    one, session, heard = pool(slots, *jobs)
    heard.then = lambda: setattr(session, "stopping", True)
    one.run(heard)
    assert heard.ends == ["short done"]
    assert [entry.state for entry in one.entries] == ["done", "waiting", "waiting", "waiting"]
    assert not (tmp_path / "long 2").exists()
    done = [entry.report.steps for entry in one.entries[1:]]
    assert done == [len(spans(job)) for job in jobs[1:]]  # nothing was cut off
    assert 0 < sum(done) < 60

    left = [replace(job, steps=3, round_s=0.0) if job.steps == 100 else job for job in jobs[1:]]
    again, session, heard = pool(slots, *left)
    again.run(heard)
    assert len(heard.ends) == 3
    for job, before in zip(left, done, strict=True):
        assert len(spans(job)) == max(before, 3)


def test_leaving_waits_for_nothing(slots: Slots, tmp_path: Path) -> None:
    jobs = [Counting(tmp_path / "short", steps=1), Counting(tmp_path / "long", round_s=60.0)]
    one, session, heard = pool(slots, *jobs)
    heard.then = session.leave
    one.run(heard)
    assert session.wall_s < 30
    assert [str(entry.job) for entry in one.unfinished] == ["long"]
