"""commands.md goes on with every verb of the command line, as its parser has it."""

import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer.main
from sphinx.application import Sphinx

from raymeta import cli

CLI = Path(cli.__file__).parent


def cell(text: str) -> str:
    """Words in a cell of a table."""
    return text.replace("|", r"\|")


def described(command: Any, context: Any) -> Iterator[str]:
    """Lines of Markdown on a verb, or on each verb of a group."""
    if hasattr(command, "commands"):
        for name, verb in command.commands.items():
            yield from described(verb, verb.make_context(name, [], parent=context, resilient_parsing=True))
        return
    words = context.command_path.removeprefix("raymeta ")
    paragraphs = inspect.cleandoc(command.help or "").split("\n\n")
    examples = [part.removeprefix("Example: ") for part in paragraphs if part.startswith("Example: ")]
    yield f"## {words}\n"
    yield f"`raymeta {words} {' '.join(command.collect_usage_pieces(context))}`\n"
    yield from (f"{part}\n" for part in paragraphs if not part.startswith("Example: "))
    if examples:
        yield "\n".join(["```bash", *(re.sub(r"\s+", " ", line) for line in examples), "```\n"])
    records = [record for param in command.get_params(context) if (record := param.get_help_record(context))]
    yield "| | |\n| --- | --- |"
    yield from (f"| `{cell(name)}` | {cell(help_)} |" for name, help_ in records)
    yield ""


def commands() -> str:
    """All verbs, in the order of `raymeta --help`."""
    command = typer.main.get_command(cli.app)
    return "\n".join(described(command, command.make_context("raymeta", [], resilient_parsing=True)))


def read(app: Sphinx, page: str, source: list[str]) -> None:
    """Sphinx has read a page."""
    if page == "commands":
        source[0] += "\n" + commands()
        for file in CLI.glob("*.py"):  # the page is read again when the verbs change
            app.env.note_dependency(file)


def setup(app: Sphinx) -> dict[str, Any]:
    """Sphinx's entry."""
    app.connect("source-read", read)
    return {"parallel_read_safe": True}
