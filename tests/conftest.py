"""What all tests share: an environment of their own, one computing thread, and the embedded data set, built once."""

import os
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest
import torch
from s3 import s3_server

from raymeta.problem import open_problem
from raymeta.problems.images.dataset import ImageDataset
from raymeta.problems.images.task import ImagesTask
from raymeta.storage.places import RemotePath, any_path
from raymeta.study.record import lease, stored_journal

torch.set_num_threads(1)
hypothesis.settings.register_profile("raymeta", deadline=None)
hypothesis.settings.load_profile("raymeta")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that start a Ray fill the machine: they go to one worker, one after the other."""
    for item in items:
        if item.get_closest_marker("ray"):
            item.add_marker(pytest.mark.xdist_group("ray"))
        elif "bucket" in getattr(item, "fixturenames", ()):  # one server for all
            item.add_marker(pytest.mark.xdist_group("s3"))


@pytest.fixture(scope="session", autouse=True)
def session_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A cache folder that stays for the session; don't damage what is in it. Nothing of the user's is touched.

    The workers of pytest-xdist share one, so that the embedded data set is drawn once: stores are built under a lock.
    """
    with pytest.MonkeyPatch.context() as patch:
        if "PYTEST_XDIST_WORKER" in os.environ:
            folder = tmp_path_factory.getbasetemp().parent / "cache"
            folder.mkdir(exist_ok=True)
        else:
            folder = tmp_path_factory.mktemp("cache")
        patch.setenv("RAYMETA_CACHE", str(folder))
        patch.setenv("RAYMETA_STUDIES", str(tmp_path_factory.mktemp("studies")))
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        yield folder


@pytest.fixture(scope="session")
def bucket() -> Iterator[RemotePath]:
    """An empty bucket of a real S3 server on loopback; tests write into folders of their own."""
    with s3_server() as uri:
        found = any_path(uri)
        assert isinstance(found, RemotePath)
        yield found


@pytest.fixture
def store(bucket: RemotePath, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> RemotePath:
    """An empty prefix for studies."""
    monkeypatch.setattr(lease, "SETTLE_S", 0.0)
    monkeypatch.setattr(stored_journal, "FRESH_S", 0.0)
    monkeypatch.setenv("RAYMETA_STUDIES", str(bucket / request.node.name))
    return bucket / request.node.name


@pytest.fixture(scope="session")
def glyphs(session_cache: Path) -> ImageDataset:
    """The embedded data set, prepared."""
    dataset = open_problem(ImagesTask(dataset="glyphs"))
    assert isinstance(dataset, ImageDataset)
    dataset.prepare()
    return dataset
