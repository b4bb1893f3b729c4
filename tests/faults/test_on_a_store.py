"""The real command with its studies on a real S3 server: killed, resumed, and the same study as in a folder."""

import json
import time
from pathlib import Path

import pytest
from study.driving import (
    NAME,
    ONE,
    assert_mlflow_equals_record,
    kill,
    load,
    numbers,
    parse,
    raymeta,
    start,
    undisturbed,
    until,
)

from raymeta.errors import UserError
from raymeta.storage.places import RemotePath

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(1200)]


def test_a_search_on_a_store(
    bucket: RemotePath, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = undisturbed(tmp_path_factory.getbasetemp()).numbers
    store = bucket / "a team" / "studies"
    monkeypatch.setenv("RAYMETA_STUDIES", str(store))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)

    driver = start("search", *ONE)

    def one_has_ended() -> bool:
        time.sleep(0.3)  # the server shares the machine with the search
        return (store / NAME / "study.yaml").exists() and bool(ended())

    until(one_has_ended, driver, seconds=600)
    second = load(NAME)
    assert second.driven
    with pytest.raises(UserError, match=f"is being driven by process {driver.pid} on "), second.locked():
        pytest.fail("two drivers")
    kill(driver)
    assert not second.driven
    before = ended()
    assert 1 <= len(before) < 8

    done = raymeta("resume", NAME, "--slots", "1", "--json")
    assert done.returncode == 0, done.stderr
    assert f"MLflow is on this machine only, in {tmp_path}/raymeta/mlflow/" in done.stderr
    assert parse(done.stdout)["trials"]["running"] == 0
    assert numbers(NAME) == expected
    assert {number: at for number, at in ended().items() if number in before} == before
    assert_mlflow_equals_record(NAME)

    listed = raymeta("ls", "--json")
    assert [row["study"] for row in json.loads(listed.stdout)] == [NAME]
    assert raymeta("export", NAME).returncode == 0
    final = raymeta("final", "best.yaml", "--seeds", "1", "--slots", "1", "--json")
    assert final.returncode == 0, final.stderr
    (row,) = parse(final.stdout)["rows"]
    assert row["folder"].startswith(f"{bucket.store}/a team/studies/finals/best-sinusoid")
    checked = raymeta("doctor")
    assert checked.returncode == 0, checked.stdout
    assert sorted(path.name for path in store.iterdir()) == ["finals", NAME]
    assert not (tmp_path / "studies").exists()


def ended() -> dict[int, list[float]]:
    """When the rounds of the trials that have ended were noted."""
    trials = load(NAME).trials()
    return {trial.number: [entry["at"] for entry in trial.rounds] for trial in trials if trial.state != "running"}
