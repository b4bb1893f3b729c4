"""`benchmarks/gpu.py` without a GPU: all parts run in small, and one that goes wrong costs the others nothing."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from importlib.metadata import distribution, distributions
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import pytest
from study.fake_mps import calls, fake_mps

from raymeta import registry

ROOT = Path(__file__).parent.parent
SCRIPT = ROOT / "benchmarks/gpu.py"
PARTS = ["machine", "checks", "speed", "lanes", "graphs", "block", "packing"]
Rows = list[dict[str, Any]]


def command(
    *options: object, python: object = sys.executable, **environment: str
) -> "subprocess.CompletedProcess[str]":
    """Run the script."""
    return subprocess.run(
        [str(python), str(SCRIPT), *map(str, options)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **environment},
    )


class Done(NamedTuple):
    """A whole run in small: what it printed, the rows of its tables, how its parts ended, what an MPS was asked."""

    said: str
    tables: Mapping[str, Rows]
    ended: Mapping[str, str]
    asked: list[str]


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory, glyphs: object) -> Done:
    """The small form, once, beside a program that stands for NVIDIA's MPS."""
    folder = tmp_path_factory.mktemp("gpu")
    log = fake_mps(folder)
    start = time.monotonic()
    result = command("--cpu", "--out", folder / "out", PATH=f"{folder}:{os.environ['PATH']}", RAYMETA_MPS="on")
    assert result.returncode == 0, result.stdout + result.stderr + (folder / "out/log.txt").read_text()
    assert time.monotonic() - start < 360
    lines = [json.loads(line) for line in (folder / "out/results.jsonl").read_text().splitlines()]
    tables: dict[str, Rows] = {}
    for line in lines:
        tables.setdefault(line.get("table", ""), []).append(line)
    ended = {line["part"]: line["ended"] for line in lines if "ended" in line}
    return Done(result.stdout, tables, ended, calls(log))


@pytest.mark.slow
def test_every_part_runs_without_a_gpu(done: Done) -> None:
    assert done.ended == dict.fromkeys(PARTS, "ok")
    for name, rows in done.tables.items():
        assert not name or f"\n{name}\n| " in done.said
        assert not [row for row in rows if row.get("note")]
    assert {row["what"] for row in done.tables["machine"]} >= {"Python, torch, NumPy", "copy, read and written"}


@pytest.mark.slow
def test_every_learner_and_regularizer_is_checked(done: Done) -> None:
    rows = {row["composition"]: row for row in done.tables["checks"]}
    wanted = [*registry.names("method"), *(f"maml+{name}" for name in registry.names("regularizer"))]
    assert set(wanted) < set(rows)
    assert {row["verdict"] for row in rows.values()} == {"ok"}
    assert {row["same_bits"] for row in rows.values()} == {"yes"}
    batched = {name: off for name in wanted if (off := rows[name]["off_batched"]) is not None}
    assert set(wanted) - set(batched) == {"maml+mgaug", "maml+advquery"}  # whose tasks are computed one by one
    assert 0 < max(batched.values()) < 1e-9


@pytest.mark.slow
def test_the_peer_is_timed_beside_equal_gradients(done: Done) -> None:
    rows = done.tables["outer steps"]
    who = ["learn2learn's way", "raymeta, looped", "raymeta, batched", "the same, whole outer step"]
    assert [row["who"] for row in rows] == 2 * who
    for peer, looped, batched, whole in (rows[:4], rows[4:]):
        assert peer["off"] is whole["off"] is None
        assert max(looped["off"], batched["off"]) < 1e-9
        for row in (peer, looped, batched, whole):
            assert row["ratio"] == pytest.approx(row["steps_per_s"] / peer["steps_per_s"])
    launches = {(row["work"], row["who"]): row["launches"] for row in done.tables["launches of a step"]}
    assert set(launches) == {(row["work"], row["who"]) for row in rows}
    assert launches["W1", who[2]] < launches["W1", who[1]]  # four tasks at once
    assert [row["tasks"] for row in done.tables["evaluation"]] == 4 * [4]


@pytest.mark.slow
def test_lanes_and_their_blocks_are_measured(done: Done) -> None:
    rows = done.tables["lanes"]
    assert [row["lanes"] for row in rows] == ["none", 1, 4]
    assert all(row["against_one"] == pytest.approx(row["trials_per_hour"] / rows[0]["trials_per_hour"]) for row in rows)
    launches = {row["lanes"]: row["launches"] for row in done.tables["launches of a step of all lanes"]}
    assert launches[4] < 2 * launches[1]  # a program's, whatever its width
    blocks = done.tables["block"]
    ways = ["one after the other", "grouped convolution", "unfolded, bmm", "Triton"]
    assert [row["way"] for row in blocks] == ways
    assert max(row["off"] for row in blocks) < 1e-6


@pytest.mark.slow
def test_captured_outer_steps_are_timed_once_they_are_equal(done: Done) -> None:
    rows = done.tables["graphs"]
    assert [(row["lanes"], row["way"]) for row in rows] == [
        (lanes, way) for lanes in ("none", 2) for way in ("uncaptured", "captured")
    ]
    assert {row["weights_off"] for row in rows} == {0.0}
    assert len(done.tables["launches by the host"]) == len(rows)


@pytest.mark.slow
def test_processes_share_the_device_without_and_with_mps(done: Done) -> None:
    rows = done.tables["packing"]
    assert [(row["MPS"], row["processes"]) for row in rows] == [("off", 1), ("off", 2), ("on", 1), ("on", 2)]
    for alone, both in (rows[:2], rows[2:]):
        assert alone["against_one"] == 1
        assert both["against_one"] == pytest.approx(both["steps_per_s"] / alone["steps_per_s"])
    assert [line.split()[0] for line in done.asked] == ["get_server_list", "start", "quit"]
    found = {row["what"]: row["MiB"] for row in done.tables["memory"]}
    assert found["context of CUDA, where it is not measured"] == 600
    assert found["the probe: of its machine"] > 100


def test_without_a_gpu_every_part_says_so(tmp_path: Path) -> None:
    result = command("--parts", "machine", "packing", "--out", tmp_path, CUDA_VISIBLE_DEVICES="")
    assert result.returncode == 1
    assert "== machine: RuntimeError: " in result.stdout
    assert "== packing: 2 of 4 rows have a note" in result.stdout  # the probe's, and one of processes without MPS


def test_the_parts_are_listed_and_their_seconds_add_up() -> None:
    listed = command("--list").stdout.splitlines()
    assert [line.split()[0] for line in listed] == PARTS
    assert sum(float(line.split()[1]) for line in listed) < 480


PLANTED = """
import os, resource, signal, subprocess, sys, time
from functools import partial

def well(here):
    here.report("t", what="well")

def raises(here):
    here.report("t", what="before")
    raise ValueError("planted\\nand more")

def hangs(here):
    mine = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    here.report("t", what="before", pid=mine.pid)
    time.sleep(600)

def fills(here):
    import torch
    resource.setrlimit(resource.RLIMIT_AS, (2**35, 2**35))
    here.report("t", what="before")
    torch.empty(2**35)

def killed(here):
    here.report("t", what="before")
    os.kill(os.getpid(), signal.SIGKILL)

def stops(here):
    os._exit(7)

def shaky(here):
    import torch
    from gpu_parts import checks
    real = checks.Trainer

    class Shaky(real):
        def outer_update(self):
            loss = super().outer_update()
            noise = torch.zeros(1).put_(torch.tensor([0]), torch.rand(1))
            next(self.learner.parameters()).data += noise
            return loss

    checks.Trainer = Shaky
    here.report("t", what=checks.repeated(checks.small(here, "protonet"), 1))

def off(here):
    from gpu_parts import checks
    real = checks.Trainer.accumulate
    checks.Trainer.accumulate = lambda self, *given: _off(self, real(self, *given))
    here.report("t", what=checks.checked(partial(checks.small, here, "protonet"))["note"])

def _off(trainer, loss):
    for parameter in trainer.learner.parameters():
        parameter.grad *= 1 + trainer.vectorized * 1e-6
    return loss
"""


@pytest.fixture
def runner(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The module that runs parts."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import gpu_parts.runner

    yield gpu_parts.runner
    for name in [name for name in sys.modules if name.split(".")[0] == "gpu_parts"]:
        del sys.modules[name]


def planted(runner: ModuleType, folder: Path, **seconds: float) -> dict[str, Any]:
    """Run planted parts; how they ended by name."""
    (folder / "planted.py").write_text(PLANTED)
    paths = [str(folder), str(ROOT / "benchmarks"), str(ROOT)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "RAYMETA_GPU_SCRATCH": str(folder)}
    parts = {name: runner.Part(f"planted:{name}", limit, "") for name, limit in seconds.items()}
    return {ended.name: ended for ended in runner.run(parts, folder, environment, cpu=True)}


def test_a_part_that_goes_wrong_costs_the_others_nothing(runner: ModuleType, tmp_path: Path) -> None:
    found = planted(runner, tmp_path, raises=60, fills=60, killed=60, stops=60, missing=60, well=60)
    assert {name: ended.how for name, ended in found.items() if name != "fills"} == {
        "raises": "ValueError: planted",
        "killed": "killed by SIGKILL, as the system does when memory runs out",
        "stops": "exit code 7",
        "missing": "AttributeError: module 'planted' has no attribute 'missing'",
        "well": "ok",
    }
    assert found["fills"].how.startswith("out of memory: ")
    for name, ended in found.items():
        what = {"stops": [], "missing": [], "well": ["well"]}.get(name, ["before"])
        assert [row["what"] for row in ended.rows] == what
    assert "and more" in (tmp_path / "log.txt").read_text()


def test_a_part_that_hangs_ends_with_its_processes(runner: ModuleType, tmp_path: Path) -> None:
    start = time.monotonic()
    found = planted(runner, tmp_path, hangs=5, well=30)
    assert time.monotonic() - start < 30
    assert (found["hangs"].how, found["well"].how) == ("hung: ended after 5 s", "ok")
    (row,) = found["hangs"].rows
    stat = Path(f"/proc/{row['pid']}/stat")
    end = time.monotonic() + 10
    while stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z":
        assert time.monotonic() < end, "what the part had started lives on"
        time.sleep(0.05)


def test_seconds_that_a_part_leaves_are_the_next_ones(runner: ModuleType, tmp_path: Path) -> None:
    found = planted(runner, tmp_path, well=4, hangs=1)
    assert 4 < found["well"].seconds + found["hangs"].seconds < 7


@pytest.mark.slow
def test_what_is_not_right_is_named(runner: ModuleType, tmp_path: Path, glyphs: object) -> None:
    found = planted(runner, tmp_path, shaky=100, off=100)
    assert [ended.how for ended in found.values()] == ["ok", "ok"]
    assert found["shaky"].rows[0]["what"] == "no: put_"
    assert found["off"].rows[0]["what"] == "the gradient is off by 1e-06"


TRITON = """
import torch
from gpu_parts.block import gradients, off, one_by_one
from gpu_parts.triton_block import convolve

generator = torch.Generator().manual_seed(0)
for groups, images, ins, outs, height, width in ((2, 3, 4, 4, 6, 6), (1, 2, 3, 5, 7, 4), (1, 1, 33, 66, 3, 5)):
    x = torch.randn(groups, images, ins, height, width, generator=generator)
    weight = torch.randn(groups, outs, ins, 3, 3, generator=generator)
    expected = [way(x.double(), weight.double()) for way in (one_by_one, lambda *given: gradients(one_by_one, *given))]
    found = (convolve(x, weight), *gradients(convolve, x, weight))
    assert found[0].shape == (groups, images, outs, height, width)
    print(off(found, (expected[0], *expected[1])))
"""


def test_the_triton_kernel_is_the_convolution_on_the_interpreter() -> None:
    """Shapes that fill no block, and channels that take two of them; output and both gradients against float64."""
    environment = {**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": str(ROOT / "benchmarks")}
    done = subprocess.run([sys.executable, "-c", TRITON], capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    errors = [float(line) for line in done.stdout.splitlines()]
    assert len(errors) == 3
    assert 0 < max(errors) < 1e-6


def test_metadata_of_a_pack_are_those_of_an_installation(runner: ModuleType, tmp_path: Path) -> None:
    from gpu_parts.pack import describe

    describe(tmp_path / "meta")
    (found,) = distributions(path=[str(tmp_path / "meta")])
    ours = distribution("raymeta")
    assert (found.name, found.version) == (ours.name, ours.version)
    wanted = [point for point in ours.entry_points if point.group.startswith("raymeta.")]
    assert sorted(found.entry_points) == sorted(wanted)


def test_what_is_no_pack_is_refused(tmp_path: Path) -> None:
    result = command("--from", tmp_path)
    assert (result.returncode, result.stderr.count("\n")) == (1, 1)
    assert "not a pack" in result.stderr
    (tmp_path / "pack.json").write_text('{"python": "2.7"}')
    assert "made for Python 2.7, this is 3." in command("--from", tmp_path).stderr
    (tmp_path / "pack.json").unlink()
    (tmp_path / "mine").touch()
    assert "not touched" in command("--pack", tmp_path).stderr
    assert (tmp_path / "mine").exists()


@pytest.mark.slow
def test_it_runs_from_a_pack_where_only_torch_and_numpy_are(tmp_path: Path, glyphs: object) -> None:
    """Needs a package registry."""
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    packed = command("--pack", tmp_path / "pack", "--python", version)
    assert packed.returncode == 0, packed.stderr
    assert sum(path.stat().st_size for path in (tmp_path / "pack").rglob("*") if path.is_file()) < 60 * 2**20
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "bare")], check=True)
    bare = next((tmp_path / "bare/lib").glob("python*/site-packages"))
    import torch

    for path in Path(torch.__file__).parents[1].iterdir():
        if path.name.split(".")[0].split("-")[0] in BARE:
            (bare / path.name).symlink_to(path)
    result = command(
        "--from", tmp_path / "pack", "--cpu", "--out", tmp_path / "out", python=tmp_path / "bare/bin/python",
        RAYMETA_CACHE="/nowhere", PYTHONPATH="",
    )  # fmt: skip
    assert result.returncode == 0, result.stdout + result.stderr
    assert "| maml+aug            | skipped: no torchvision here |" in result.stdout
    assert result.stdout.count("  ok\n") == len(PARTS)


# torch with what it needs, and NumPy
BARE = {
    "torch", "torchgen", "functorch", "nvidia", "triton", "cuda", "numpy", "typing_extensions", "sympy", "mpmath",
    "networkx", "jinja2", "markupsafe", "fsspec", "filelock",
}  # fmt: skip
