"""What the sampler is shown of trials that wait at a rung."""

from pathlib import Path

from study.driving import tiny_record

from raymeta.study.record.record import StudyRecord

ROUND = {"val_ci95": 0.0, "diverged": False, "seconds": 0.1, "at": 0.0}
SCORES = (3.0, 1.0, 0.4, 1.5, 9.0, 2.6, 5.0, 3.5, 8.0, 9.5, 7.0, 3.2)


def made(name: str, *, wait: bool) -> StudyRecord:
    """A dozen trials at the first rung: all were cut there, or those with even numbers wait."""
    record = tiny_record(name, "study.trials=20", "study.startup_trials=4")
    for score in SCORES:
        trial = record.ask()
        waits = wait and trial.number % 2 == 0
        record.add_round(trial.number, {"outer_steps": 2, "val_mse": score, "waits": waits, **ROUND})
        if not waits:
            record.finish(trial.number, "pruned")
        assert record.trial(trial.number).state == ("waiting" if waits else "pruned")
    return record


def test_a_trial_that_waits_is_to_tpe_what_it_would_be_had_it_been_cut(studies: Path) -> None:
    cut, waiting = made("cut", wait=False), made("waiting", wait=True)
    assert [trial.point for trial in waiting.trials()] == [trial.point for trial in cut.trials()]
    waiting.promote(2)
    assert waiting.ask().point != cut.ask().point  # a running one is another thing to TPE


def test_the_journal_has_them_as_running(studies: Path) -> None:
    record = made("waiting", wait=True)
    states = {trial.number: trial.state for trial in StudyRecord.load(record.folder).trials()}
    assert states == {number: "pruned" if number % 2 else "waiting" for number in range(len(SCORES))}
