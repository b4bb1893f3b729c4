"""A folder with what a bare machine lacks beside torch and NumPy: packages and data. The standard library only."""

import json
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]
PLATFORM = "x86_64-manylinux_2_28"
NEEDED = ("pydantic", "pyyaml", "filelock", "pillow")  # what the core imports, of the dependencies in pyproject.toml
MOST = 60 * 2**20  # bytes
ABOUT = "pack.json"


def make(folder: Path, python: str) -> str:
    """Put everything into a folder, which is made again if there is one. Needs a package registry.

    Args:
        folder: the pack.
        python: version of the machine's, as in `3.12`.

    Returns:
        What is in it, in a sentence.
    """
    if folder.exists() and not (folder / ABOUT).exists():
        sys.exit(f"{folder}: there, and no pack: not touched")
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "data").mkdir(parents=True)
    wanted = [line for line in _project()["dependencies"] if line.split(">")[0] in NEEDED]
    assert len(wanted) == len(NEEDED), wanted
    command = ["uv", "pip", "install", "--quiet", "--target", str(folder / "site"), "--python-version", python]
    subprocess.run([*command, "--python-platform", PLATFORM, "--only-binary", ":all:", *wanted], check=True)

    from raymeta.problem import open_problem
    from raymeta.problems.images.dataset import ImageDataset
    from raymeta.problems.images.task import ImagesTask

    dataset = open_problem(ImagesTask(dataset="glyphs"))
    assert isinstance(dataset, ImageDataset)
    dataset.prepare()
    shutil.make_archive(str(folder / "data" / dataset.folder.name), "zip", dataset.folder)
    packages = sorted(path.name.removesuffix(".dist-info") for path in folder.glob("site/*.dist-info"))
    about = {"python": python, "platform": PLATFORM, "packages": packages, "glyphs": dataset.fingerprint}
    (folder / ABOUT).write_text(json.dumps(about, indent=1), encoding="utf-8")
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    if size > MOST:
        shutil.rmtree(folder)
        sys.exit(f"{folder}: {size / 2**20:.0f} MiB, and it may have {MOST / 2**20:.0f}")
    return f"{folder}: {size / 2**20:.1f} MiB for Python {python}, {PLATFORM}: {', '.join(packages)}; glyphs"


def open_pack(folder: Path, scratch: Path) -> tuple[list[str], dict[str, str]]:
    """Make a pack ready to be run from.

    Args:
        folder: the pack.
        scratch: a folder that lives as long as the run.

    Returns:
        Folders to import from, and environment variables.
    """
    try:
        about = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
    except OSError as error:
        sys.exit(f"{folder}: not a pack ({error.strerror}): make one with --pack {folder}")
    if about["python"] != f"{sys.version_info.major}.{sys.version_info.minor}":
        sys.exit(f"{folder}: made for Python {about['python']}, this is {sys.version.split()[0]}")
    for archive in (folder / "data").glob("*.zip"):
        shutil.unpack_archive(archive, scratch / "cache" / archive.stem)
    describe(scratch / "meta")
    return [str(folder / "site"), str(scratch / "meta")], {"RAYMETA_CACHE": str(scratch / "cache")}


def describe(folder: Path) -> None:
    """Write raymeta's metadata, by which its registry finds methods: what installing it would write."""
    project = _project()
    info = folder / f"raymeta-{project['version']}.dist-info"
    info.mkdir(parents=True)
    head = f"Metadata-Version: 2.1\nName: raymeta\nVersion: {project['version']}\n"
    (info / "METADATA").write_text(head, encoding="utf-8")
    groups = project["entry-points"].items()
    lines = [line for group, points in groups for line in (f"[{group}]", *(f"{n} = {v}" for n, v in points.items()))]
    (info / "entry_points.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _project() -> dict[str, object]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
