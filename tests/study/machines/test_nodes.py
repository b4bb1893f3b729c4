"""What is done on every machine of a cluster before trials run there, on a real cluster of two nodes."""

import functools
import json
import os
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from study.driving import TINY, load, parse, runs_of, start, tiny_record, until
from study.two_nodes import TwoNodes, two_nodes

from raymeta.errors import UserError
from raymeta.problem import open_problem
from raymeta.problems.images.dataset import ImageDataset
from raymeta.problems.images.task import ImagesTask
from raymeta.storage.files import read_yaml

GLYPHS = ImagesTask(dataset="glyphs")


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory, glyphs: ImageDataset) -> Iterator[TwoNodes]:
    """This process has joined it, as a search's driver does."""
    import ray

    with two_nodes(tmp_path_factory.mktemp("worker")) as nodes:
        ray.init(address=nodes.address, logging_level="ERROR", log_to_driver=False)
        yield nodes
        ray.shutdown()


@pytest.fixture
def clustered(nodes: TwoNodes, monkeypatch: pytest.MonkeyPatch) -> TwoNodes:
    """As in a process with `$RAY_ADDRESS`; the worker has no data."""
    monkeypatch.setenv("RAY_ADDRESS", nodes.address)
    nodes.cache.unlink() if nodes.cache.is_file() else shutil.rmtree(nodes.cache, ignore_errors=True)
    return nodes


@pytest.mark.ray
def test_a_function_runs_once_on_each_machine(nodes: TwoNodes, session_cache: Path) -> None:
    from raymeta.study.machines.nodes import on_every_node

    answers = on_every_node(os.getenv, "RAYMETA_CACHE")
    assert sorted(answer.value or "" for answer in answers) == sorted([str(session_cache), str(nodes.cache)])
    assert len({answer.node for answer in answers}) == 2
    assert not any(answer.problem for answer in answers)


@pytest.mark.ray
def test_what_fails_there_is_told_in_a_line(nodes: TwoNodes, tmp_path: Path) -> None:
    from raymeta.study.machines.nodes import on_every_node

    missing = tmp_path / "missing.yaml"
    assert {answer.problem for answer in on_every_node(read_yaml, missing)} == {f"{missing}: no such file"}
    (problem,) = {answer.problem for answer in on_every_node(shutil.rmtree, str(missing))}
    assert problem.startswith("FileNotFoundError: ")
    assert problem.count("\n") == 0
    slow = on_every_node(subprocess.run, ["sleep", "20"], within_s=1)
    assert [(answer.value, answer.problem) for answer in slow] == [(None, "no answer within 1 s")] * 2


@pytest.mark.ray
def test_every_machine_gets_the_data(clustered: TwoNodes, glyphs: ImageDataset) -> None:
    from raymeta.study.machines.nodes import prepare_nodes

    prepare_nodes(GLYPHS)
    meta = json.loads((clustered.cache / glyphs.folder.name / "meta.json").read_text())
    assert meta["fingerprint"] == glyphs.fingerprint


@pytest.mark.ray
def test_a_machine_without_the_data_gets_this_ones_store_through_ray(
    clustered: TwoNodes, glyphs: ImageDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from raymeta.study.machines import nodes

    shutil.copytree(glyphs.folder, tmp_path / glyphs.folder.name)
    monkeypatch.setenv("RAYMETA_CACHE", str(tmp_path))
    meta = tmp_path / glyphs.folder.name / "meta.json"
    meta.write_text(json.dumps(json.loads(meta.read_text()) | {"packed": "by the driver"}))
    monkeypatch.setattr(nodes, "PART_BYTES", 10 * 2**20)  # several of them
    nodes.prepare_nodes(GLYPHS, ship=True)
    arrived = clustered.cache / glyphs.folder.name
    assert json.loads((arrived / "meta.json").read_text()) == json.loads(meta.read_text())
    assert (arrived / "images.npy").read_bytes() == (glyphs.folder / "images.npy").read_bytes()
    monkeypatch.setattr(nodes, "_shipped", lambda store: pytest.fail("all machines have it"))
    nodes.prepare_nodes(GLYPHS, ship=True)


@pytest.mark.ray
def test_a_machine_without_the_data_fetches_them_from_a_url(
    clustered: TwoNodes, glyphs: ImageDataset, tmp_path: Path
) -> None:
    from raymeta.study.machines.nodes import prepare_nodes

    (tmp_path / "served").mkdir()
    shutil.make_archive(str(tmp_path / "served" / "glyphs"), "tar", glyphs.folder)
    asked: list[str] = []

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, form: str, *about: object) -> None:
            asked.append(str(about[0]))

    serve = functools.partial(Handler, directory=str(tmp_path / "served"))
    with ThreadingHTTPServer(("127.0.0.1", 0), serve) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        prepare_nodes(GLYPHS, f"http://127.0.0.1:{server.server_port}/glyphs.tar")
        server.shutdown()
    assert asked == ["GET /glyphs.tar HTTP/1.1"]  # by the worker; this machine has them
    meta = json.loads((clustered.cache / glyphs.folder.name / "meta.json").read_text())
    assert meta["fingerprint"] == glyphs.fingerprint


@pytest.mark.ray
def test_a_machine_with_other_data_is_named(clustered: TwoNodes, glyphs: ImageDataset) -> None:
    from raymeta.study.machines.nodes import prepare_nodes

    shutil.copytree(glyphs.folder, clustered.cache / glyphs.folder.name)
    path = clustered.cache / glyphs.folder.name / "meta.json"
    path.write_text(path.read_text().replace(glyphs.fingerprint, "f" * 64))
    with pytest.raises(
        UserError, match=f"its glyphs has fingerprint ffffffffffff and this .* {glyphs.fingerprint[:12]}"
    ):
        prepare_nodes(GLYPHS)


@pytest.mark.ray
def test_a_machine_that_cannot_have_the_data_is_named(clustered: TwoNodes) -> None:
    from raymeta.study.machines.nodes import prepare_nodes

    clustered.cache.touch()  # where its folder should be
    with pytest.raises(
        UserError, match=rf"^not all machines are ready .*: {socket.gethostname()} .*: cannot be written"
    ):
        prepare_nodes(GLYPHS)


def test_a_machine_that_does_not_share_the_studies_says_so(tmp_path: Path) -> None:
    from raymeta.study.machines.nodes import _make_ready

    with pytest.raises(UserError, match=f"{tmp_path} is not the folder of that name on the driver's machine"):
        _make_ready(GLYPHS.model_dump(), None, str(tmp_path / ".seen-by-others"))


def test_without_a_cluster_nothing_is_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from raymeta.study.machines.nodes import prepare_nodes

    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("RAYMETA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("RAYMETA_STUDIES", str(tmp_path / "studies"))
    prepare_nodes(GLYPHS)
    assert list(tmp_path.iterdir()) == []
    assert not open_problem(GLYPHS).ready


def test_where_no_cluster_listens_it_is_said_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    from raymeta.study.machines.resources import join_cluster

    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:9")
    began = time.monotonic()
    with pytest.raises(UserError, match=r"RAY_ADDRESS=127\.0\.0\.1:9: cannot join that cluster: .*refused"):
        join_cluster()
    assert time.monotonic() - began < 30  # the import of ray is in it


def test_a_trial_that_moved_names_its_machines_once_each_in_order(studies: Path) -> None:
    record = tiny_record()
    number = record.ask().number
    assert record.trial(number).hosts == []
    for steps, host in ((2, "b"), (4, "b"), (6, "a"), (8, "b")):
        record.add_round(number, {"outer_steps": steps, "val_mse": 1.0, "val_ci95": 0.1, "at": 1.0, "hostname": host})
    assert record.trial(number).hosts == ["b", "a"]


def checkpoints_below(folder: Path) -> set[str]:
    return {path for path, _, _ in os.walk(folder) if Path(path).name.startswith("checkpoint_")}


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.timeout(240)
def test_a_search_on_a_cluster_waits_for_its_first_worker(studies: Path, tmp_path: Path) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    with two_nodes(tmp_path, worker=False) as nodes:
        words = [*TINY, "--slots", "2", "--name", "grown", "--json"]
        search = start("search", *words, RAY_ADDRESS=nodes.address, TMPDIR=str(scratch))
        assert search.stderr is not None
        until(lambda: "no worker yet" in search.stderr.readline(), search)  # type: ignore[union-attr]
        assert not load("grown").trials()
        nodes.add_worker()
        saved: set[str] = set()
        until(lambda: saved.update(checkpoints_below(scratch)) or search.poll() is not None, seconds=180)
        out, err = search.communicate(timeout=60)
    assert search.returncode == 0, err
    assert sum(parse(out)["trials"].values()) == 8
    assert saved == set()  # another machine could not write there: a trial's own checkpoint is all there is
    record, here = load("grown"), socket.gethostname()
    assert [trial.hosts for trial in record.trials()] == [[here]] * 8
    assert all((record.trial_folder(trial.number) / "checkpoint.pt").exists() for trial in record.trials())
    _, children = runs_of("grown")
    assert [run.data.tags["raymeta.hosts"] for run in children] == [here] * 8
