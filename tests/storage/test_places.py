"""Folders on a store behave as `Path` does; what cannot be opened is one sentence. The store is a real S3 server."""

import pickle
import time
from pathlib import Path

import pytest

from raymeta.errors import StorageError, UserError
from raymeta.storage.files import mlflow_folder, read_yaml, studies_folder, write_atomically
from raymeta.storage.places import RemotePath, any_path, local_copy, remove_tree, rename


@pytest.fixture
def folder(bucket: RemotePath, request: pytest.FixtureRequest) -> RemotePath:
    return bucket / request.node.name


def test_a_path_is_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert any_path("some/where") == any_path(f"file://{tmp_path}/some/where") == tmp_path / "some" / "where"
    assert any_path(f"file://{tmp_path}/a%20b") == tmp_path / "a b"


def test_parts_of_a_uri_and_back() -> None:
    one = any_path("s3://bucket/a%20b/study+1.yaml?region=eu&scheme=http")
    assert isinstance(one, RemotePath)
    assert (one.name, one.suffix, one.path) == ("study+1.yaml", ".yaml", "a b/study+1.yaml")
    assert one.parent / "study+1.yaml" == one == any_path(str(one)) == pickle.loads(pickle.dumps(one))
    assert str(one.with_name("x").parent.parent / "100%?#") == "s3://bucket/100%25%3F%23?region=eu&scheme=http"
    assert one.with_suffix(".damaged").name == "study+1.damaged"
    assert sorted([one, one.parent]) == [one.parent, one]


def test_what_is_written_is_there(folder: RemotePath) -> None:
    assert not folder.exists()
    assert list(folder.iterdir()) == list(folder.glob("*/x")) == folder.files() == []
    write_atomically(folder / "a+b" / "study.yaml", "k: ü\n")
    write_atomically(folder / "c d" / "deep" / "empty", b"")
    assert read_yaml(folder / "a+b" / "study.yaml") == {"k": "ü"}
    assert (folder / "c d" / "deep" / "empty").read_bytes() == b""
    assert folder.files() == ["a+b/study.yaml", "c d/deep/empty"]
    assert list(folder.iterdir()) == [folder / "a+b", folder / "c d"]
    assert list(folder.glob("*/study.yaml")) == [folder / "a+b" / "study.yaml"]
    assert list(folder.glob("c */deep")) == [folder / "c d" / "deep"]
    assert (folder / "a+b").exists()
    assert not (folder / "a+b").is_file()
    assert (folder / "a+b" / "study.yaml").is_file()
    with local_copy(folder / "a+b" / "study.yaml") as copy:
        assert (copy.name, copy.read_text(encoding="utf-8")) == ("study.yaml", "k: ü\n")
    assert not copy.exists()
    rename(folder / "a+b" / "study.yaml", "study.damaged")
    assert folder.files() == ["a+b/study.damaged", "c d/deep/empty"]
    remove_tree(folder)
    remove_tree(folder)
    assert not folder.exists()


def test_a_file_of_many_parts(folder: RemotePath) -> None:
    content = bytes(range(256)) * 50_000
    (folder / "large").write_bytes(content)
    assert (folder / "large").read_bytes() == content


def test_what_is_not_there(folder: RemotePath) -> None:
    for attempt in (folder.read_bytes, folder.read_text, folder.unlink):
        with pytest.raises(FileNotFoundError) as caught:
            attempt()
        assert (caught.value.strerror, caught.value.filename) == ("No such file or directory", str(folder))
    folder.unlink(missing_ok=True)
    with pytest.raises(UserError, match="no such file"):
        read_yaml(folder)


@pytest.mark.parametrize(
    ("uri", "sentence"),
    [
        ("s4://b/x", "s4://b/x: 's4' is no store that pyarrow opens; allowed: a path, file, s3, gs, abfs, hdfs"),
        ("s3:///x", "s3:///x: names no bucket; expected s3://bucket/prefix"),
        ("s3://me:topsecret@b/x", "s3://b/x: the URI holds a secret, "),
        ("abfs://b/x?sig=topsecret", "abfs://b/x: the URI holds a secret, "),
    ],
)
def test_a_uri_that_is_refused(uri: str, sentence: str) -> None:
    with pytest.raises(UserError) as caught:
        any_path(uri)
    assert str(caught.value).startswith(sentence)
    assert "topsecret" not in str(caught.value)


def test_a_store_that_is_not_there(bucket: RemotePath) -> None:
    wrong = {
        f"s3://other/x?{bucket.query}": "s3://other: there is no such bucket",
        "s3://b/x?endpoint_override=127.0.0.1%3A9&scheme=http": "s3://b: the store does not answer as it should: ",
        f"s3://studies/x?{bucket.query}&colour=red": "s3://studies: the store does not answer as it should: ",
    }
    for uri, sentence in wrong.items():
        began = time.monotonic()
        with pytest.raises(StorageError) as caught:
            any_path(uri).exists()
        assert str(caught.value).startswith(sentence)
        assert "\n" not in str(caught.value)
        assert time.monotonic() - began < 10
        assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


def test_the_embedded_mlflow_is_on_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert mlflow_folder() == studies_folder()
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    monkeypatch.setenv("RAYMETA_STUDIES", "s3://bucket/my/studies?region=eu")
    assert mlflow_folder() == tmp_path / "raymeta" / "mlflow" / "s3-bucket-my-studies"
