"""The report of a study: what it says in every state, that its page needs nothing else, and that its HTML is valid."""

import csv
import io
import json
import os
import re
import time
from pathlib import Path

import html5lib
import pytest
from report.made import LR, made
from study.driving import give_all, noted, raymeta, tiny_record
from study.record.test_record import entry
from typer.testing import CliRunner

from raymeta.api.studies import Study
from raymeta.cli import app
from raymeta.errors import UserError
from raymeta.report.ending import remarks
from raymeta.report.page.content import Grid, printed
from raymeta.report.page.forms import FORMS, form_of, html, latex, markdown
from raymeta.report.page.study import report_of, write_page
from raymeta.study.machines.session import Session
from raymeta.study.record.record import StudyRecord
from raymeta.study.run import search

SVG = "{http://www.w3.org/2000/svg}"


def parsed(page: str) -> "html5lib.treebuilders.etree.Element":
    """The page as the strict parser of html5lib reads it: an error in the markup raises."""
    return html5lib.HTMLParser(strict=True, namespaceHTMLElements=False).parse(page)


def checked(record: StudyRecord) -> str:
    """The page; it is valid, needs nothing from elsewhere, and everything in it has a name."""
    page = html(report_of(record))
    root = parsed(page)
    ids = [element.get("id") for element in root.iter() if element.get("id")]
    assert len(ids) == len(set(ids))
    outside = re.findall(
        r'(?:src|href|action)="(?!#)[^"]*"|url\((?!#)|@import|<script|<link|<iframe|data:',
        page.replace("img-src data:", ""),
    )
    assert outside == []
    assert "font-family:" not in page[page.index("</style>") :]  # pictures take the page's font
    for link in re.findall(r'(?:href="#|url\(#)([^")]+)', page):
        assert link in ids
    assert [element.tag for element in root.iter("h1")] == ["h1"]
    for picture in root.iter(f"{SVG}svg"):
        names = [picture.get("aria-labelledby"), picture.get("aria-describedby")]
        texts = {element.get("id"): element.text for element in picture.iter() if element.get("id") in names}
        assert all(texts[name] for name in names)
    for figure in root.iter("figure"):  # every picture has its numbers under it
        assert len(list(figure.iter(f"{SVG}svg"))) == len(list(figure.iter("table"))) == 1
    for table in root.iter("table"):
        width = len(list(table.iter("th")))
        assert all(len(list(row.iter("td"))) in (0, width) for row in table.iter("tr"))
    return page


def said(record: StudyRecord) -> str:
    """All sentences."""
    return "\n".join(line for section in report_of(record).sections for line in section.text)


def test_a_whole_study(studies: Path) -> None:
    record = made("whole", 60)
    before = (record.folder / "journal.log").read_bytes()
    page, report = checked(record), report_of(record)
    assert page == html(report)  # equal records, equal pages
    assert (record.folder / "journal.log").read_bytes() == before
    best = record.best()
    assert best is not None
    assert f"Trial {best.number} is the best: validation mse" in said(record)
    assert report.sections[0].code == ["raymeta export whole -o best.yaml", "raymeta final best.yaml --seeds 3"]
    # Failures with their reasons, and what strangers may have written in them does nothing.
    assert "its worker died &lt;twice&gt; &amp; said $nothing$" in page
    assert "<twice>" not in page
    gone = report.grid("failures").rows
    assert [row[0] for row in gone] == [t.number for t in record.trials() if t.state in ("failed", "diverged")]
    assert {row[3] for row in gone if row[1] == "diverged"} == {"a loss was not finite by 4 outer steps"}
    # Numbers under the pictures are the record's.
    rungs = {row[0]: row[1:] for row in report.grid("rungs").rows}
    reached = [trial for trial in record.trials() if trial.outer_steps >= 6 and trial.best(record.metric, until=6)]
    assert rungs[6][0] == len(reached)
    assert rungs[6][1] == pytest.approx(min((t.best(record.metric, until=6) or {})["val_mse"] for t in reached))
    assert report.grid("importance").rows[0][0] == LR
    assert report.facts()["importance"]["outer_steps"] == 2  # too few have reached the next rung
    assert sum(int(str(row[1])) for row in report.grid("slice0").rows) == rungs[2][0] == 60


def test_what_asha_saved(studies: Path) -> None:
    """Rungs at 2, 6 and 18: trials of 18, 6 and 2 outer steps, two of them cut, one that failed at its second step."""
    record = tiny_record("saved", "study.trials=4")
    for steps, state in ((18, None), (6, None), (2, None), (2, "failed")):
        number = record.ask().number
        for step in range(2, steps + 1, 2):
            record.add_round(number, entry(step, 1.0, seconds=3.0, at=100.0 + step, last=step == steps))
        record.finish(number, state, "gone" if state else "")  # type: ignore[arg-type]
    rows = report_of(record).grid("asha").rows
    assert [row[:4] for row in rows] == [[2, 4, 1, 8], [6, 2, 1, 8], [18, 1, 0, 12]]
    # 28 steps done; the two that were cut lack 12 and 16. Each round of two steps took 3 s.
    assert "28 outer steps and 42 s" in said(record).replace("0.7 min", "42 s")
    assert "would have taken 56 and about 1.4 min: 50% of the outer steps were saved" in said(record)


@pytest.mark.parametrize(
    ("words", "waits", "whole"),
    [((), True, True), (("study.halving=stopping",), False, False), (("regularizers.dropgrad.rate=0.2",), True, False)],
)
def test_what_becomes_of_trials_at_rungs(studies: Path, words: tuple[str, ...], waits: bool, whole: bool) -> None:
    """The last has no un-regularized start: DropGrad's rate is fixed."""
    record = tiny_record("a", *words)
    record.ask()
    record.ask()
    page = " ".join(checked(record).split())
    assert ("waits there until it is among the best" in page) == waits
    assert ("The un-regularized start is trained to the end" in page) == whole


def test_the_finalists_table_has_the_differences_episode_by_episode(studies: Path) -> None:
    record = tiny_record("two", "study.trials=2", "study.finalists=2")
    noted(record, 2.0, 1.0)
    noted(record, 1.5, 1.2)
    give_all(record, t0=[1.0, 2.0, 3.0], t1=[0.5, 1.0, 3.0])
    rows = report_of(record).grid("finalists").rows
    assert [row[0] for row in rows] == [1, 0]
    assert rows[1][6] == pytest.approx(0.5)
    assert rows[1][7] == pytest.approx(1.96 * 0.5 / 3**0.5)
    checked(record)


def test_studies_in_every_state(studies: Path) -> None:
    empty = tiny_record("empty", "study.trials=3")
    checked(empty)
    assert "No trial was started yet." in said(empty)
    empty.ask()
    checked(empty)
    assert report_of(empty).sections[0].code == ["raymeta resume empty"]
    for number in range(3):  # all diverge, two of them before their first validation
        if number:
            empty.ask()
        if not number:
            empty.add_round(number, entry(2, 1.0))
        empty.add_round(number, entry(4, None, last=True))
        empty.finish(number)
    page = checked(empty)
    assert "no trial has a score: all diverged" in said(empty).lower()
    assert "Too few trials to tell: 1 trial with a score at one budget, and 16 are needed." in page
    few = made("few", 8, finalists=False)
    checked(few)
    assert "No finalists are scored yet" in said(few)
    assert "finalists' scores are there. It goes on with:" in said(few)
    equal = tiny_record("equal", "study.trials=20")
    for _ in range(20):
        noted(equal, 1.0)
    checked(equal)
    assert "Their scores or their settings don't differ." in said(equal)


def test_a_score_that_is_far_out_does_not_hide_the_others(studies: Path) -> None:
    """Quartiles 5.25 and 15.75: the fence of errors is 15.75 + 3 · 10.5; a score of 1e22 counts as that."""
    record = tiny_record("far", "study.trials=22")
    for score in [*map(float, range(21)), 1e22]:
        noted(record, score)
    table = report_of(record).grid("slice0")
    assert max(float(str(row[2])) for row in table.rows) < 46.75
    assert "1 score far out on the worse side count as 47.25" in said(record)
    assert "1 trial far out" in said(record)
    checked(record)


def test_a_read_only_study(studies: Path, tmp_path: Path) -> None:
    record = made("fixed", 4)
    for folder, _, files in os.walk(record.folder):
        for name in files:
            os.chmod(Path(folder) / name, 0o444)
        os.chmod(folder, 0o555)
    before = {path: path.stat().st_mtime_ns for path in record.folder.rglob("*")}
    assert Study(record).report(tmp_path / "fixed.html").stat().st_size > 10_000
    assert {path: path.stat().st_mtime_ns for path in record.folder.rglob("*")} == before


def test_every_form(studies: Path) -> None:
    record = made("forms", 30)
    report, trials = report_of(record), record.trials()
    found = json.loads(FORMS["json"](report), parse_constant=lambda word: pytest.fail(word))
    assert (found["study"], found["best"]["trial"], len(found["trials"])) == ("forms", record.best().number, 30)  # type: ignore[union-attr]
    assert [section["name"] for section in found["sections"]] == [section.name for section in report.sections]
    rows = list(csv.DictReader(io.StringIO(FORMS["csv"](report))))
    assert [int(row["trial"]) for row in rows] == [trial.number for trial in trials]
    assert [float(row[LR]) for row in rows] == [trial.point[LR] for trial in trials]
    assert all(
        (row["best: mse"] == "") == (trial.best(record.metric) is None) for row, trial in zip(rows, trials, strict=True)
    )
    text = markdown(report)
    assert "| maml.inner\\_lr |" in text
    tables = [block.split("\n") for block in text.strip().split("\n\n") if block.startswith("|")]
    for lines in tables:  # every row has as many cells as its head
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in lines}) == 1
    tex = latex(report)
    assert r"maml.inner\_lr & " in tex
    assert tex.count(r"\begin{table}") == tex.count(r"\end{table}") == tex.count(r"\toprule")
    assert not re.search(
        r"(?<![\\])[_#]|[±×…]", re.sub(r"\\label\{[^}]*\}|^%.*$", "", tex, flags=re.M).replace("$\\pm$", "")
    )


def test_nasty_cells_are_escaped() -> None:
    from raymeta.report.page.content import Report, Section

    cell = "a|b & 50% $x_1$ #{~^\\ <b>`*\nend"
    report = Report("r", cell, [Section("s", "t", [cell], tables=[Grid("g", cell, [cell, "n"], [[cell, 1.0]])])])
    assert "&lt;b&gt;" in html(report)
    parsed(html(report))
    row = (
        r"a\textbar{}b \& 50\% \$x\_1\$ \#\{\textasciitilde{}\textasciicircum{}\textbackslash{} "
        r"\textless{}b\textgreater{}`* end & 1 \\"
    )
    assert row in latex(report)
    assert r"| a\|b & 50% $x\_1$ #{~^\\ \<b\>\`\* end | 1 |" in markdown(report)
    assert [*map(printed, (None, float("nan"), 0.123456, 12, True))] == ["-", "-", "0.1235", "12", "True"]


def test_the_format_is_said_or_the_ending() -> None:
    assert (form_of(None, None), form_of("-", None), form_of("a.TEX", None), form_of("a.txt", "md")) == (
        "html", "html", "tex", "md",
    )  # fmt: skip
    with pytest.raises(
        UserError, match=r"unknown format 'htm': did you mean 'html'\? \(allowed: csv, html, json, md, tex\)"
    ):
        form_of(None, "htm")
    with pytest.raises(UserError, match=r"a\.txt: its ending names no format: name one by --format"):
        form_of("a.txt", None)


def test_the_command(studies: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record, ask = made("one", 4), CliRunner().invoke
    monkeypatch.chdir(tmp_path)
    done = ask(app, ["report", "one"])
    assert (done.exit_code, done.stdout, done.stderr) == (0, "", "wrote one.html\n")
    parsed((tmp_path / "one.html").read_text())
    done = ask(app, ["report", "one", "--format", "json", "-o", "-"])
    assert done.stdout == Study(record).reported("json")
    done = ask(app, ["report", "onee"])
    assert isinstance(done.exception, UserError)
    assert "did you mean 'one'?" in str(done.exception)


def test_a_search_never_fails_by_its_report(studies: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record, session = made("kept", 4), Session(quiet=True)
    search._write_report(record, session)
    assert session.problems == []
    parsed((record.folder / "report.html").read_text())
    monkeypatch.setattr("raymeta.report.page.study.report_of", lambda record: 1 / 0)
    search._write_report(record, session)
    assert session.problems == [
        "no report was written (ZeroDivisionError: division by zero); `raymeta report kept` tries again"
    ]


def test_only_a_page_that_this_session_wrote_is_shown(studies: Path) -> None:
    record, session = made("shown", 4), Session(quiet=True)
    page = record.folder / "report.html"
    page.write_text("of an earlier session")
    assert not any(str(page) in line for line in remarks(record, session))
    search._write_report(record, session)
    assert f"report: {page}" in list(remarks(record, session))


@pytest.mark.slow
def test_a_report_of_2000_trials_takes_ten_seconds_and_five_megabytes(studies: Path) -> None:
    made("large", 2000)
    write_page(made("small", 20))  # what it imports is not measured: the command takes as long to start as others do
    start = time.perf_counter()
    record = StudyRecord.load(studies / "large")
    write_page(record)
    took, size = time.perf_counter() - start, (record.folder / "report.html").stat().st_size
    start = time.perf_counter()
    assert raymeta("report", "large", "-o", str(studies / "large.html")).returncode == 0
    print(f"{took:.1f} s, {size / 1e6:.2f} MB; the command {time.perf_counter() - start:.1f} s")
    assert took < 10
    assert size < 5e6
    parsed((studies / "large.html").read_text())
