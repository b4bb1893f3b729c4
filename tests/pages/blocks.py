"""The code blocks of README.md and docs/*.md, and the commands that a shell makes of them.

A block that the tests can't run says what it needs on the line before it: `<!-- needs: cluster -->`. `NEEDS` says what
that may be; or it is a page, `<!-- needs: first.md -->`: then it runs in the folder that this page's blocks have left.
"""

import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
NEEDS = {
    "cluster": "machines, rented or lent",
    "data": "data of the reader's own",
    "download": "something from elsewhere",
    "gpu": "a GPU",
    "store": "a bucket of a cloud",
    "time": "more than some minutes",
}
SHELL = ("bash", "console")  # lines that are typed; in a console they begin with `$ `, and the rest is what is printed
LANGUAGES = (*SHELL, "python", "text", "toml", "yaml", "{eval-rst}")
MARK = re.compile(r"<!-- needs: (.*) -->")
CALLED = re.compile(r"^(\$ )?(uv|pip|python3?|bash|ray|raymeta) ")


@dataclass(frozen=True)
class Block:
    """A code block of a page."""

    page: Path
    line: int  # of its fence
    language: str
    needs: str | None
    text: str

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"

    @property
    def script(self) -> str:
        """What is typed."""
        if self.language != "console":
            return self.text
        return "".join(line.removeprefix("$ ") for line in self.text.splitlines(keepends=True) if line[:2] == "$ ")

    @property
    def wrong(self) -> str:
        """Why it can be neither run nor left out; "" if it can."""
        if not self.language and any(CALLED.match(line) for line in self.text.splitlines()):
            return "commands in a block of no language: write ```bash, or ```console if it shows what they print"
        if self.language and self.language not in LANGUAGES:
            return f"the language '{self.language}' is none of {', '.join(LANGUAGES)}"
        if self.language == "console" and not self.script:
            return "a console without a line that begins with '$ '"
        if self.needs is None or self.needs in NEEDS or self.needs in [page.name for page in PAGES]:
            return ""
        return f"needs '{self.needs}', which is neither a page nor one of {', '.join(NEEDS)}"


def blocks_of(page: Path, text: str) -> Iterator[Block]:
    """The blocks of a page of this text."""
    lines = text.splitlines(keepends=True)
    fence: tuple[int, str] | None = None
    for number, line in enumerate(lines, 1):
        if not line.lstrip().startswith("```"):
            continue
        if fence is None:
            fence = number, line.strip().lstrip("`")
            continue
        start, language = fence
        mark = MARK.fullmatch(lines[start - 2].strip()) if start > 1 else None
        yield Block(page, start, language, mark and mark[1], "".join(lines[start : number - 1]))
        fence = None


def blocks() -> list[Block]:
    """Those of all pages."""
    return [block for page in PAGES for block in blocks_of(page, page.read_text(encoding="utf-8"))]


CATCH = r"""
command_not_found_handle() { printf '%s\0' "$@" $'\1' >&3; }  # in one write: a pipe's two commands run at once
cd() { :; }; source() { :; }; exec 3>&1 >/dev/null 2>&1 </dev/null; PATH=/nowhere
"""


def commands(script: str, folder: Path) -> list[list[str]]:
    """The words of each command that bash would run, of which it runs none: loops, variables and quotes are its own."""
    done = subprocess.run(
        ["bash", "--norc", "-c", f"{CATCH}{script}"], cwd=folder, capture_output=True, text=True, check=False
    )
    return [line.split("\0")[:-1] for line in done.stdout.split("\1\0")[:-1]]


def raymetas(script: str, folder: Path) -> list[list[str]]:
    """The words after `raymeta` of each such command, on a cluster and by `uv run`, too."""
    found = []
    for words in commands(script, folder):
        if words[:2] == ["uv", "run"] or words[:3] == ["ray", "job", "submit"]:
            words = words[words.index("raymeta") :] if "raymeta" in words else []
        if words[:1] == ["raymeta"]:
            found.append(words[1:])
    return found
