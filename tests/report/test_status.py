"""`raymeta ls` and `raymeta status`: what they tell of studies in every state, and that they touch nothing."""

import io
import json
from pathlib import Path

from rich.console import Console
from study.driving import give_all, raymeta, tiny_record
from study.record.test_record import entry

from raymeta.keeping.listing import read_row, table_of
from raymeta.report.status import status_of, status_table


def test_a_study_in_every_state(studies: Path) -> None:
    record = tiny_record("one", "study.trials=3")
    assert (status_of(record).state, status_of(record).best, status_of(record).last_round) == ("left", None, None)
    for _ in range(3):
        record.ask()
    record.add_round(0, entry(18, 2.0, at=1.6e9, last=True))
    record.finish(0)
    record.add_round(1, entry(2, None, at=1.7e9, last=True))
    record.finish(1)
    found = status_of(record)
    assert (found.trials, found.best, found.state) == ({"completed": 1, "diverged": 1, "running": 1}, 0, "left")
    assert str(found) == "go on with: raymeta resume one"
    assert found.last_round is not None
    assert found.last_round.startswith("2023-11-1")  # 1.7e9 s, wherever this machine's clock is
    with record.locked():
        assert (status_of(record).state, str(status_of(record))) == ("running", "a process drives it")
    record.finish(2, "failed", "its worker died")
    # All trials have ended, and the finalist has no scores yet: it is not over.
    found = status_of(record)
    assert (found.state, found.over, found.settled, found.finalists) == ("left", True, False, (0, 1))
    assert str(found) == "0 of 1 finalists' scores are there; go on with: raymeta resume one"
    give_all(record, t0=[1.0, 1.5])
    found = status_of(record)
    assert (found.state, found.settled, found.finalists, found.score) == ("over", True, (1, 1), "1.2500 ± 0.4900")
    assert str(found) == "it is over: raymeta export one"
    journal = (record.folder / "journal.log").read_bytes()

    console = Console(width=200, record=True, file=io.StringIO())
    console.print(table_of([read_row(record.folder)[0]]))
    console.print(status_table(record))
    shown = console.export_text()
    assert "one" in shown
    assert "3/3" in shown
    assert "trial 2 failed: its worker died" in shown
    assert "[un-regularized]" in shown  # not taken for markup
    assert (record.folder / "journal.log").read_bytes() == journal


def test_the_commands(studies: Path) -> None:
    assert json.loads(raymeta("ls", "--json").stdout) == []
    tiny_record("one", "study.trials=3").ask()
    (row,) = json.loads(raymeta("ls", "--json").stdout)
    assert row.items() >= json.loads(raymeta("status", "one", "--json").stdout)["study"].items()
    assert row["trials"] == {"running": 1}
    wrong = raymeta("status", "onee")
    assert wrong.returncode == 2
    assert "did you mean 'one'?" in wrong.stderr
