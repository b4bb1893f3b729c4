"""The blocks of README.md and docs/*.md that need nothing, run as they stand: `uv run pytest -n 0 -m slow tests/pages`.

Those of a page run in order, in a fresh folder. `-k first` runs those of first.md.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pages.blocks import NEEDS, ROOT, SHELL, Block, blocks

ELSEWHERE = {  # pages whose Python is run by a test of its own
    "notebook.md": "tests/test_notebook.py",
    "extending.md": "tests/test_extending.py",
    "analyses.md": "tests/finals/test_analyses.py",
}
RUN: dict[Path, list[Block]] = {}
for _block in blocks():
    if _block.needs not in NEEDS and _block.language in (*SHELL, "python") and _block.page.name not in ELSEWHERE:
        RUN.setdefault(_block.page, []).append(_block)
Folder = Callable[[Path], Path]


@pytest.fixture(scope="session")
def folder(glyphs: Any, tmp_path_factory: pytest.TempPathFactory) -> Folder:
    """A folder in which all blocks of a page have run, once."""
    done: dict[Path, Path] = {}

    def ran(page: Path) -> Path:
        if page not in done:
            here = tmp_path_factory.mktemp(page.stem) / "folder"
            before = {ROOT / "docs" / block.needs for block in RUN[page] if block.needs}
            assert len(before) <= 1, f"{page.name}: blocks that need several pages"
            if before:
                shutil.copytree(ran(before.pop()), here)
            else:
                here.mkdir()
            for block in RUN[page]:
                run(block, here)
            done[page] = here
        return done[page]

    return ran


def run(block: Block, here: Path) -> None:
    """Run a block; what it prints goes to the screen (`-s` shows it)."""
    print(f"\n--- {block}\n{block.text}---", flush=True)
    start = [sys.executable, "-c"] if block.language == "python" else ["bash", "-euo", "pipefail", "-c"]
    there = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}", "COLUMNS": "150"}
    there.pop("RAYMETA_STUDIES", None)  # ./studies, as readers have it
    done = subprocess.run([*start, block.script], cwd=here, env=there, stdin=subprocess.DEVNULL, check=False)
    assert done.returncode == 0, f"{block}: exit code {done.returncode}"


def test_pages_that_others_run_are_theirs() -> None:
    for page, test in ELSEWHERE.items():
        assert (ROOT / "docs" / page).is_file()
        assert page in (ROOT / test).read_text(encoding="utf-8")


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("page", RUN, ids=lambda page: page.stem)
def test_the_blocks_of_a_page_run(page: Path, folder: Folder) -> None:
    assert folder(page).is_dir()
