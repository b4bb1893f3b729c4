"""`raymeta doctor` on this machine and on a cluster of two nodes, and every way to be unfit that one can report."""

import json
import shutil
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from kernels import need_kernels
from study.driving import CLOSED, raymeta
from study.two_nodes import two_nodes

from raymeta.api.catalogue import explain
from raymeta.problems.images.dataset import ImageDataset
from raymeta.problems.images.task import ImagesTask
from raymeta.study.machines import doctor
from raymeta.study.machines.doctor import Finding

GLYPHS = ImagesTask(dataset="glyphs")


def checks(done: Any) -> dict[str, dict[str, Any]]:
    return {check["name"]: check for check in json.loads(done.stdout)}


def test_one_machine(studies: Path, glyphs: ImageDataset) -> None:
    done = raymeta("doctor", "--task", "glyphs-5w1s")
    assert done.returncode == 0, done.stderr
    lines = [line.split(maxsplit=2) for line in done.stdout.splitlines()]
    assert [line[:2] for line in lines] == [["OK", name] for name in ("versions", "studies", "data", "mlflow", "gpus")]
    assert f"torch {version('torch')}" in lines[0][2]
    assert lines[1][2] == str(studies)
    assert lines[2][2] == f"glyphs {glyphs.fingerprint[:12]}"
    assert not studies.exists()


def test_what_is_wrong_ends_in_exit_code_1(studies: Path, tmp_path: Path) -> None:
    done = raymeta(
        "doctor", "--task", "glyphs-5w1s", "--json", MLFLOW_TRACKING_URI=CLOSED, RAYMETA_CACHE=str(tmp_path / "none")
    )
    assert done.returncode == 1
    found = checks(done)
    assert [name for name, check in found.items() if not check["ok"]] == ["data", "mlflow"]
    assert "the data set 'glyphs' is not in" in found["data"]["text"]
    assert found["mlflow"]["text"].startswith(CLOSED)


def test_a_wrong_task_or_no_cluster_is_one_sentence(studies: Path) -> None:
    done = raymeta("doctor", "--task", "glyphs-5w")
    assert (done.returncode, done.stdout) == (2, "")
    assert "--task glyphs-5w: expected" in done.stderr
    done = raymeta("doctor", RAY_ADDRESS="127.0.0.1:9")
    assert (done.returncode, done.stdout) == (2, "")
    assert "raymeta: RAY_ADDRESS=127.0.0.1:9: cannot join" in done.stderr


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.timeout(240)
def test_a_cluster(studies: Path, tmp_path: Path, glyphs: ImageDataset) -> None:
    with two_nodes(tmp_path) as nodes:
        ask = ("doctor", "--task", "glyphs-5w1s", "--json")
        unfit = raymeta(*ask, RAY_ADDRESS=nodes.address)
        shutil.copytree(glyphs.folder, nodes.cache / glyphs.folder.name)
        fit = raymeta(*ask, RAY_ADDRESS=nodes.address)
    assert unfit.returncode == 1, unfit.stderr
    found = checks(unfit)
    assert [name for name, check in found.items() if not check["ok"]] == ["data"]
    assert f"the data set 'glyphs' is not in {nodes.cache}" in found["data"]["text"]
    assert fit.returncode == 0, fit.stdout
    names = ["cluster", "versions", "studies", "data", "mlflow", "clocks", "gpus"]
    assert list(checks(fit)) == names
    assert checks(fit)["cluster"]["text"] == "2 machines, 1 cores and 0 GPUs for trials"
    assert list(studies.iterdir()) if studies.exists() else True


# -- what machines report, told -------------------------------------------------------------------------------------


def finding(**changes: Any) -> Finding:
    return replace(Finding(doctor._versions(), "", "", "", "", 0), **changes)


def test_another_version_somewhere() -> None:
    other = finding(versions={**doctor._versions(), "torch": "1.0", "mlflow": "none"})
    check = doctor._agree({"a": finding(), "b": other, "c": other})
    assert not check.ok
    assert check.text.startswith(
        f"b, c: torch 1.0 and not {version('torch')}, mlflow none and not {version('mlflow')}. "
    )
    assert doctor._agree({"a": finding(), "b": finding()}).ok


def test_studies_that_are_not_shared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "SHARING_S", 0.3)
    shown = tmp_path / "studies" / "folder" / "shown"
    alone = doctor.examine(str(shown), None)  # nothing is there: as on a machine that has a folder of its own
    assert (alone.wrote, alone.studies) == ("", "does not see what this machine writes there")
    shown.parent.mkdir(parents=True)
    shown.touch()
    good = doctor.examine(str(shown), None)
    assert (shown.parent / good.wrote).exists()
    assert doctor._shared({"a": good}, shown).ok
    check = doctor._shared({"a": good, "b": alone, "c": finding(wrote="elsewhere")}, shown)
    assert not check.ok
    assert check.text == (
        "b: does not see what this machine writes there; c: writes there what this machine does not see. "
        f"Mount one shared folder at {tmp_path / 'studies'} on all machines"
    )


def test_data_that_differ() -> None:
    assert doctor._data({"a": finding(data="1" * 64), "b": finding(data="1" * 64)}, GLYPHS)[0].ok
    (check,) = doctor._data({"a": finding(data="1" * 64), "b": finding(data="2" * 64)}, GLYPHS)
    assert not check.ok
    assert check.text.startswith("a: fingerprint 111111111111; b: fingerprint 222222222222. ")


def test_gpus_that_torch_does_not_see() -> None:
    check = doctor._seen({"a": finding(gpus=0), "b": finding(gpus=2)}, {"a": 1, "b": 2})
    assert not check.ok
    assert check.text.startswith("a: Ray has 1 GPUs, torch sees 0. ")
    assert doctor._seen({"b": finding(gpus=2)}, {"b": 2}).text == "torch sees 2"


def test_it_says_whose_kernels_the_blocks_of_a_config_run_on(glyphs: ImageDataset) -> None:
    need_kernels()
    whole = dict.fromkeys(("block1", "block2", "block3", "block4"), "native, as one operation")
    assert explain("maml", "glyphs-5w1s") == {"kernels": "native (engine.kernels: auto, engine.tiles: 2)"} | whole
    changed = explain("maml+metadropout", "glyphs-5w1s")
    assert changed["block1"].startswith("convolution torch, norm native")
    assert changed["block2"].startswith("convolution native, norm native")
    assert explain("maml", "sinusoid-5s") == {
        "kernels": "torch (there are no others for this network or where it computes)"
    }
