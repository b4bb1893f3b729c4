"""What MLflow's page opens on: the prepared views and what stands in their columns; the page itself, in a browser."""

import json
import os
import re
import shutil
import socket
import subprocess
import time
from collections import defaultdict
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from study.driving import COMMAND, TINY, give_all, raymeta, runs_of, tiny_record

from raymeta.cli.studies import ui
from raymeta.errors import UserError
from raymeta.study.record.record import StudyRecord
from raymeta.study.run.for_mlflow import study_content, summary_content, trial_content
from raymeta.study.tracking.connection import connect
from raymeta.study.tracking.mlflow_copy import Copy
from raymeta.study.tracking.views import SHARED, STUDIES, TRIALS, addresses, of_finals

BASE = "http://127.0.0.1:5000"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """One folder of studies for all of them: a database takes seconds to make."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAYMETA_STUDIES", str(tmp_path_factory.mktemp("home") / "studies"))
        yield Path(os.environ["RAYMETA_STUDIES"])


def copied(record: StudyRecord, *, over: bool = True) -> None:
    """Copy a study to MLflow in this process, as a driver of it does; `over`: to its end."""
    copy = Copy(study_content(record))
    for trial in record.trials():
        copy.take(trial_content(record, trial, config=True))
    if over:
        copy.take(summary_content(record, None))
    while not copy.whole:
        copy.send_one()


def noted(record: StudyRecord, score: float, steps: int = 18) -> None:
    """A trial that reached so many outer steps."""
    entry = {"outer_steps": steps, "val_mse": score, "val_ci95": 0.1, "seconds": 0.1, "at": 1.0, "diverged": False}
    number = record.ask().number
    record.add_round(number, entry)
    record.finish(number)


def compared(name: str) -> StudyRecord:
    """A study whose second start, the un-regularized one, loses against the first, of which a third is better."""
    record = tiny_record(name, "study.trials=4", "study.finalists=3", "study.finalist_tasks=3")
    for score in (3.0, 4.0, 2.0):
        noted(record, score)
    noted(record, 1.0, steps=6)  # cut early: its score is one of another budget
    give_all(record, t0=[2.0, 3.0, 4.0], t1=[4.0, 5.0, 6.0], t2=[3.0, 4.0, 5.0])
    return record


def tags_of(name: str, key: str) -> dict[int, str]:
    return {int(run.data.tags["raymeta.trial"]): run.data.tags[f"raymeta.{key}"] for run in runs_of(name)[1]}


def experiment_tags(name: str) -> dict[str, str]:
    return dict(connect().get_experiment_by_name(name).tags)


def test_trials_say_their_place_score_and_state(home: Path) -> None:
    record = compared("places")
    copied(record)
    assert tags_of("places", "role") == {0: "best", 1: "baseline", 2: "finalist", 3: ""}
    assert tags_of("places", "score") == {n: f"{s}.0000 ± 0.1000" for n, s in enumerate((3, 4, 2, 1))}
    assert tags_of("places", "fresh_score")[0] == "3.0000 ± 1.1316"
    assert tags_of("places", "fresh_score")[3] == ""
    assert tags_of("places", "state") == {0: "completed", 1: "completed", 2: "completed", 3: "pruned"}
    runs = {int(run.data.tags["raymeta.trial"]): run.data for run in runs_of("places")[1]}
    assert {number: data.metrics["rank"] for number, data in runs.items()} == {0: 1, 2: 2, 1: 3, 3: 4}
    note = runs[2].tags["mlflow.note.content"]
    assert "`raymeta export places --trial 2 -o trial2.yaml`" in note
    assert "`raymeta.open_study('places').load(2)`" in note


def test_a_study_s_run_says_what_studies_are_compared_by(home: Path) -> None:
    copied(compared("compared"))
    (run,) = runs_of("compared")[0]
    tags, metrics = run.data.tags, run.data.metrics
    assert tags["raymeta.score"] == "3.0000 ± 1.1316"
    assert tags["raymeta.baseline"] == "5.0000 ± 1.1316"
    assert tags["raymeta.gain"] == "2.0000 ± 0.0000"  # an error that is lower is a gain
    assert (metrics["gain"], metrics["gain_ci95"], metrics["best_val_mse"]) == (2.0, 0.0, 3.0)
    assert (metrics["reevaluated_val_mse"], metrics["outer_steps"]) == (3.0, 60)
    assert tags["raymeta.trials"] == "3 completed, 1 pruned"
    assert (tags["raymeta.state"], tags["raymeta.task"], tags["raymeta.best_trial"]) == ("over", "sinusoid-5s", "0")
    assert {key: tags[key] for key in tags if key.startswith("best.")}["best.outer.lr"] == "0.001"
    note = tags["mlflow.note.content"]
    number = run.info.experiment_id
    for line in (
        "raymeta resume compared",
        "raymeta export compared -o best.yaml",
        "raymeta.load('compared')",
        "mlflow.pyfunc.load_model(uri).predict",
        f"(#/experiments/{number}/runs?workflowType=machine_learning&viewStateShareKey=trials)",
    ):
        assert line in note


def test_places_change_with_the_study(home: Path) -> None:
    record = tiny_record("changes", "study.trials=3", "study.finalists=0")
    noted(record, 3.0)
    noted(record, 4.0)
    copied(record)
    assert tags_of("changes", "role") == {0: "best", 1: "baseline"}
    noted(record, 2.0)
    for _ in range(2):
        copied(record)
        assert tags_of("changes", "role") == {0: "", 1: "baseline", 2: "best"}
        ranks = {run.data.tags["raymeta.trial"]: run.data.metrics["rank"] for run in runs_of("changes")[1]}
        assert ranks == {"0": 2, "1": 3, "2": 1}
        assert runs_of("changes")[0][0].data.tags["raymeta.best_trial"] == "2"


def test_columns_are_the_score_the_budget_the_state_and_what_is_searched(home: Path) -> None:
    record = compared("columns")
    copied(record, over=False)
    tags = experiment_tags("columns")
    assert tags["mlflow.experimentKind"] == "custom_model_development"
    view = json.loads(tags[SHARED + TRIALS])
    said = [f"tags.`raymeta.{key}`" for key in ("role", "score", "fresh_score")]
    searched = [f"params.`{key}`" for key in record.plan.space.params]
    assert view["selectedColumns"] == [*said, "metrics.`outer_steps_done`", "tags.`raymeta.state`", *searched]
    assert view["columnOrder"][-len(view["selectedColumns"]) :] == view["selectedColumns"]
    assert (view["orderByKey"], view["orderByAsc"]) == ("metrics.`best_val_mse`", True)  # while it runs
    assert {chart["type"] for chart in view["compareRunCharts"]} == {"PARALLEL", "LINE", "SCATTER"}
    copied(record)
    view = json.loads(experiment_tags("columns")[SHARED + TRIALS])
    assert (view["orderByKey"], view["orderByAsc"]) == ("metrics.`rank`", True)
    runs = {int(run.data.tags["raymeta.trial"]): run.data for run in runs_of("columns")[1]}
    for column in view["selectedColumns"]:
        where, key = column.split(".", 1)
        assert all(key.strip("`") in getattr(data, where) for data in runs.values() if key in data.params), column
    assert all(set(record.trial(number).point) <= set(data.params) for number, data in runs.items())


def test_addresses(home: Path) -> None:
    copied(compared("first"))
    number = connect().get_experiment_by_name("first").experiment_id
    table = f"{BASE}/#/experiments/{number}/runs?workflowType=machine_learning&viewStateShareKey=trials"
    assert addresses(BASE, "first") == {"first": table, "its charts": f"{table}&compareRunsMode=CHART"}
    copied(compared("second"))
    found = addresses(BASE)
    assert set(found) == {"studies"}
    numbers = {connect().get_experiment_by_name(name).experiment_id for name in ("first", "second")}
    assert found["studies"].startswith(f"{BASE}/#/compare-experiments/s?experiments=%5B%22")
    assert numbers <= set(re.findall(r"%22(\d+)%22", found["studies"]))
    assert found["studies"].endswith("&workflowType=machine_learning&viewStateShareKey=studies")
    shared = {experiment_tags(name)[SHARED + STUDIES] for name in ("first", "second")}
    assert len(shared) == 1  # the page takes any of them
    made = connect().create_experiment("final runs", tags=of_finals())
    assert addresses(BASE)["final runs"].startswith(f"{BASE}/#/experiments/{made}/runs?")


def test_a_store_of_ours_has_nothing_of_mlflow_s_own(studies: Path) -> None:
    assert [one.name for one in connect().search_experiments()] == []
    assert addresses(BASE) == {"nothing is in it yet": f"{BASE}/#/experiments?workflowType=machine_learning"}
    copied(compared("only"))
    (found,) = connect().search_experiments()
    assert addresses(BASE)["studies"] == (
        f"{BASE}/#/experiments/{found.experiment_id}/runs?workflowType=machine_learning&viewStateShareKey=studies"
    )


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("nowhere", "no study 'nowhere' in .*"),
        ("away", "the study 'away': MLflow has no copy of it: `raymeta sync away` sends it"),
        ("old", "the study 'old': MLflow has a copy of it that an older raymeta made: `raymeta sync old` sends it"),
    ],
)
def test_a_study_that_cannot_be_opened(home: Path, name: str, sentence: str) -> None:
    if name != "nowhere":
        tiny_record(name)
    if name == "old":
        connect().create_experiment(name)
    with pytest.raises(UserError, match=sentence):
        ui(name)


# In a browser


class Rows(HTMLParser):
    """The text of the rows of the page's table, by their places, and all text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.rows: dict[int, str] = defaultdict(str)
        self.text = ""
        self._open: list[int | None] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in ("br", "img", "input", "hr", "meta", "link", "path", "circle", "rect", "source", "col", "wbr"):
            place = dict(attrs).get("row-index")
            inherited = self._open[-1] if self._open else None
            self._open.append(int(place) if place is not None and place.isdecimal() else inherited)

    def handle_endtag(self, tag: str) -> None:
        if self._open:
            self._open.pop()

    def handle_data(self, data: str) -> None:
        self.text += data + " "
        if self._open and self._open[-1] is not None:
            self.rows[self._open[-1]] += data + " "


def browser() -> str:
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    assert found, "no chromium is installed: `apt-get install chromium`, or the package of that name elsewhere"
    return found


def opened(address: str, folder: Path, wanted: list[str], seconds: float = 240) -> Rows:
    """The page at an address once it shows what is wanted."""
    words = ["--headless=new", "--no-sandbox", "--disable-gpu", f"--user-data-dir={folder}", "--window-size=3000,1200"]
    page, end = Rows(""), time.monotonic() + seconds
    while not all(one in page.text for one in wanted):
        assert time.monotonic() < end, f"not on the page: {[one for one in wanted if one not in page.text]}"
        done = subprocess.run(
            [browser(), *words, "--virtual-time-budget=20000", "--dump-dom", address],
            capture_output=True, text=True, timeout=seconds, check=False,
        )  # fmt: skip
        page = Rows(done.stdout)
    return page


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.timeout(900)
def test_the_page_that_ui_names_shows_what_matters(studies: Path, tmp_path: Path) -> None:
    browser()
    for name in ("one", "two"):
        assert raymeta("search", *TINY, "--name", name, "--slots", "1").returncode == 0
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = subprocess.Popen([str(COMMAND), "ui", "one", "--port", str(port)], stderr=subprocess.PIPE, text=True)
    try:
        assert server.stderr is not None
        table = next(line for line in server.stderr if line.startswith("one: ")).split()[-1]
        record = StudyRecord.load(studies / "one")
        best: Any = record.best()
        run = next(run for run in runs_of("one")[1] if run.data.tags["raymeta.trial"] == str(best.number))
        score = run.data.tags["raymeta.score"]
        page = opened(
            table, tmp_path / "profile", ["raymeta.score", score, f"trial {best.number}", *record.plan.space.params]
        )
        assert score in page.rows[0]
        assert "best" in page.rows[0]
        assert str(run.data.params["maml.inner_lr"])[:6] in page.rows[0]
        assert "baseline" in " ".join(page.rows.values())
        charts = opened(f"{table}&compareRunsMode=CHART", tmp_path / "profile", ["Parallel Coordinates", "val_mse"])
        assert "outer.lr vs." in charts.text
        both = opened(
            addresses(f"http://127.0.0.1:{port}")["studies"], tmp_path / "profile", ["raymeta.gain", "one", "two"]
        )
        assert "maml+dropgrad" in both.rows[0]
        assert len(both.rows) == 2
    finally:
        server.terminate()
        server.wait(timeout=60)
