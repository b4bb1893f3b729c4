"""Building the kernels, and machines that can't."""

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from kernels import need_kernels

import raymeta.ops.library as library
from raymeta.config import parse_trial
from raymeta.errors import UserError
from raymeta.models.kernels import begin_building, kernels_of, settled, slower
from raymeta.ops.library import PORTABLE, VECTORS, NoKernels, build

TESTS = Path(__file__).parent
NATIVE, AUTO = (parse_trial({"method": "maml", "engine": {"kernels": name}}) for name in ("native", "auto"))
HERE = VECTORS.get(torch.backends.cpu.get_cpu_capability(), PORTABLE)


@pytest.fixture
def built(session_cache: Path) -> Path:
    """The kernels for float32, as built by this machine's compiler."""
    need_kernels()
    return build(torch.float32, HERE, folder=session_cache / "kernels")


@pytest.fixture
def nothing_known(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """No library was looked for yet, and the cache and the PATH are empty folders; returns that of the PATH."""
    for function in (library.library, library.unusable):
        monkeypatch.setattr(library, function.__name__, function.__wrapped__)
    monkeypatch.setattr("raymeta.models.kernels.unusable", lambda: library.unusable())
    monkeypatch.setenv("RAYMETA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", str(tmp_path / "path"))
    monkeypatch.delenv("CXX", raising=False)
    (tmp_path / "path").mkdir()
    return tmp_path / "path"


def compiler(folder: Path, script: str) -> None:
    path = folder / "c++"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


def test_without_a_compiler_trials_run_on_torch(nothing_known: Path) -> None:
    assert settled(AUTO).engine.kernels == "torch"
    assert slower(AUTO) == (
        "found no C++ compiler (c++, g++, clang++) on the PATH: install one, such as the package g++ (Xcode's command "
        "line tools on a Mac)"
    )
    with pytest.raises(UserError) as caught:
        kernels_of(NATIVE)
    assert str(caught.value) == (
        f"engine.kernels: found 'native', but this machine can't have them: {library.unusable()}"
    )
    assert begin_building(AUTO) == ""
    assert not (nothing_known.parent / "cache").exists()


def test_building_goes_on_beside_what_else_a_search_does(built: Path, nothing_known: Path) -> None:
    """The compiler that starts here copies what another one built."""
    compiler(nothing_known, f'/bin/sleep 0.3; for word; do last=$word; done; /bin/cp {built} "$last"')
    assert begin_building(AUTO) == (
        f"building raymeta's kernels for this machine with {nothing_known}/c++, once, in some seconds"
    )
    place = nothing_known.parent / "cache" / "kernels"
    assert not list(place.glob("*.so"))
    assert kernels_of(AUTO) == "native"  # waits
    assert len(list(place.glob("*.so"))) == 1
    assert begin_building(AUTO) == ""
    assert begin_building(AUTO.model_copy(update={"engine": NATIVE.engine})) == ""


def test_a_compiler_that_fails_is_quoted(nothing_known: Path) -> None:
    compiler(nothing_known, "echo kernels.cpp:3: error: what is this >&2; exit 1")
    assert settled(AUTO).engine.kernels == "torch"
    assert slower(AUTO).startswith(
        f"{nothing_known}/c++ can't build the kernels (kernels.cpp:3: error: what is this): "
    )
    assert sorted(path.suffix for path in (nothing_known.parent / "cache" / "kernels").iterdir()) in ([], [".lock"])


def test_what_a_compiler_makes_must_be_the_kernels(nothing_known: Path) -> None:
    compiler(nothing_known, 'for word; do last=$word; done; echo nothing > "$last"')
    assert "can't be loaded" in slower(AUTO)
    assert list((nothing_known.parent / "cache" / "kernels").glob("*.so")) == []


def test_a_cache_that_cannot_be_written_is_named(nothing_known: Path) -> None:
    compiler(nothing_known, "exit 1")
    (nothing_known.parent / "cache").touch()
    assert "set RAYMETA_CACHE to a folder of yours" in slower(AUTO)


def test_torch_is_not_slower_where_nothing_is_faster() -> None:
    assert slower(parse_trial({"method": "maml", "model": {"name": "mlp"}, "task": {"problem": "sinusoid"}})) == ""
    assert kernels_of(parse_trial({"method": "maml", "model": {"name": "resnet10"}})) == "torch"


def test_a_library_is_built_once_and_used_without_a_compiler(
    built: Path, nothing_known: Path, monkeypatch: pytest.MonkeyPatch, session_cache: Path
) -> None:
    """Its name tells source, flags and compiler."""
    monkeypatch.setenv("RAYMETA_CACHE", str(session_cache))
    (found,) = {build(torch.float32, HERE) for _ in range(2)}
    assert found.parent == built.parent
    assert kernels_of(NATIVE) == "native"
    compiler(nothing_known, "exit 1")  # another one
    with pytest.raises(NoKernels):
        build(torch.float32, HERE)


def test_sources_are_short_and_formatted() -> None:
    files = [path for path in library.SOURCES.iterdir() if path.suffix in (".h", ".cpp")]
    lines = [line for path in files for line in path.read_text(encoding="utf-8").splitlines()]
    assert len(lines) <= 1000
    assert max(map(len, lines)) <= 120


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("vectors", [*VECTORS, "PORTABLE"])
def test_every_processors_kernels_are_right(vectors: str, tmp_path: Path) -> None:
    """All tests of this folder with the kernels for another processor, if this one can run them."""
    order = ["PORTABLE", "AVX2", "AVX512"]
    found = torch.backends.cpu.get_cpu_capability()
    if order.index(vectors) > order.index(found if found in order else "PORTABLE"):
        pytest.skip(f"this processor has no {vectors}")
    checked(tmp_path, VECTORS.get(vectors, PORTABLE))


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_sanitizers_find_nothing(tmp_path: Path) -> None:
    """Address and undefined behaviour, over all tests of this folder."""
    checks = ("-fsanitize=address,undefined", "-fno-sanitize-recover=undefined", "-g", "-O1")
    runtimes = [
        subprocess.run(
            ["c++", f"-print-file-name=lib{name}.so"], capture_output=True, text=True, check=True
        ).stdout.strip()
        for name in ("asan", "ubsan", "stdc++")
    ]
    checked(tmp_path, HERE, checks, LD_PRELOAD=":".join(runtimes), ASAN_OPTIONS="detect_leaks=0")


def checked(folder: Path, vectors: tuple[str, ...], more: tuple[str, ...] = (), **environment: str) -> None:
    """Run the tests of this folder, but for this file's, on libraries built in a folder with some flags."""
    built = {dtype: str(build(dtype, vectors, more, folder)) for dtype in library.TYPES}
    program = f"""
import sys
import pytest
import torch
import raymeta.ops.library as library
libraries = {{dtype: library.load(path) for dtype, path in {built!r}.items()}}
library.library = libraries.__getitem__
library.unusable = lambda dtype=None: ""
sys.exit(pytest.main(["-n", "0", "-q", "-p", "no:cacheprovider", "--ignore", {str(Path(__file__))!r}, {str(TESTS)!r}]))
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env={**os.environ, **environment}, check=False
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "skipped" not in done.stdout
