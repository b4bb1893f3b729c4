"""Every code block of README.md and docs/*.md is run by a test or says what it needs, and its commands are some."""

import re
from pathlib import Path
from typing import Any

import pytest
import typer.main
from pages.blocks import MARK, PAGES, ROOT, SHELL, Block, blocks, blocks_of, raymetas

import raymeta
from raymeta import registry
from raymeta.api.finals import _configs, _is_method
from raymeta.cli import app
from raymeta.problem import find_problem
from raymeta.study.plan.words import Given

BLOCKS = blocks()
INLINE = re.compile(r"`raymeta ([a-z][^`]*)`")
PARSER: Any = typer.main.get_command(app)


def parsed(words: list[str]) -> tuple[str, dict[str, Any]]:
    """The verb and what the real parser makes of the rest.

    Raises:
        UsageError: typer's, or UserError: raymeta's, as `raymeta` would say it.
    """
    command, context = PARSER, PARSER.make_context("raymeta", list(words))
    while hasattr(command, "commands"):
        name, command, rest = command.resolve_command(context, [*context._protected_args, *context.args])
        context = command.make_context(name, rest, parent=context)
    return context.command_path.removeprefix("raymeta "), context.params


def check(words: list[str]) -> None:
    """Parse a command, and look up every method, key, task, preset and data set in it; nothing is run."""
    verb, given = parsed(words)
    if verb in ("search", "space"):
        own = None if Path(given["own_space"] or "").suffix else given["own_space"]  # a file is the reader's
        raymeta.space(
            given["spec"], given["task"], space=own, overrides=given["words"], preset=given["preset"],
            choose=given["choose"],
        )  # fmt: skip
    elif verb == "final":
        words = [word for word in given["configs"] or [] if "=" in word.split(":")[0]]
        names = [word for word in given["configs"] or [] if word not in words]
        methods = [name for name in names if _is_method(name)]
        if methods or given["preset"]:
            _configs(methods, Given.of(words), given["task"], given["preset"], given["scale"] or 1.0)
        if given["test_data"]:
            registry.find("dataset", given["test_data"])
    elif verb == "presets" and given["word"]:
        raymeta.presets(given["word"])
    elif verb == "methods" and given["name"]:
        raymeta.describe(given["name"])
    elif verb.startswith("data ") and given.get("name") and verb != "data convert":  # which takes any name
        find_problem(given["name"])


def test_each_block_is_run_or_says_what_it_needs() -> None:
    assert [f"{block}: {block.wrong}" for block in BLOCKS if block.wrong] == []
    unmarked = [block for block in BLOCKS if block.needs is None and block.language in (*SHELL, "python")]
    assert len(unmarked) > 20


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_each_mark_stands_right_before_a_block(page: Path) -> None:
    lines = page.read_text(encoding="utf-8").splitlines()
    fences = {block.line for block in BLOCKS if block.page == page}
    marks = [number for number, line in enumerate(lines, 1) if "<!-- needs" in line]
    loose = [number for number in marks if number + 1 not in fences or not MARK.fullmatch(lines[number - 1].strip())]
    assert [f"{page.relative_to(ROOT)}:{number}: a mark that is no block's" for number in loose] == []


@pytest.mark.parametrize("block", [block for block in BLOCKS if block.language in SHELL], ids=str)
def test_each_command_parses_and_names_what_there_is(block: Block, tmp_path: Path) -> None:
    for words in raymetas(block.script, tmp_path):
        try:
            check(words)
        except Exception as error:
            pytest.fail(f"{block}: raymeta {' '.join(words)}: {error}", pytrace=False)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_each_command_in_a_sentence_has_a_verb_and_options_that_there_are(page: Path) -> None:
    lines = page.read_text(encoding="utf-8").splitlines()
    wrong = []
    for number, line in enumerate(lines, 1):
        for said in INLINE.findall(line):
            command, words = PARSER, said.split()
            while hasattr(command, "commands") and words:
                command, words = command.commands.get(words[0]), words[1:]
            options = [name for one in getattr(command, "params", []) for name in (*one.opts, *one.secondary_opts)]
            if command is None or not {word for word in words if word[0] == "-"} <= {*options, "-h", "--help", "-"}:
                wrong.append(f"{page.relative_to(ROOT)}:{number}: raymeta {said}")
    assert wrong == []


WRONG = {
    "no language": ("```\nraymeta ls\n```\n", "x.md:1: commands in a block of no language"),
    "unknown need": ("<!-- needs: luck -->\n```bash\nraymeta ls\n```\n", "x.md:2: needs 'luck'"),
    "unknown language": ("\n\n```sh\nraymeta ls\n```\n", "x.md:3: the language 'sh'"),
    "nothing typed": ("```console\nraymeta ls\n```\n", "x.md:1: a console without"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_neither_is_named_by_file_and_line(case: str) -> None:
    text, said = WRONG[case]
    (block,) = blocks_of(ROOT / "x.md", text)
    assert f"{block}: {block.wrong}".startswith(said)


SAID = {
    "raymeta serch maml": "No such command 'serch'",
    "raymeta ls --sizes": "No such option: --sizes",
    "uv run raymeta search mamll": "unknown method 'mamll'",
    "for k in 5 10; do raymeta final maml --task sinusoid-${k}x; done": "sinusoid-5x",
    "raymeta search maml \\\n  maml.inner_lrr=0.1..1": "unknown key 'maml.inner_lrr'",
    "ray job submit -- raymeta final maml --preset smok": "unknown preset 'smok'",
    "raymeta data prepare omniglott   # drawings": "unknown data set 'omniglott'",
    "raymeta final alfa --test-data cup": "unknown data set 'cup'",
    "raymeta presets omniglottt": "omniglottt",
}


@pytest.mark.parametrize("line", SAID)
def test_what_is_wrong_in_a_command_is_said(line: str, tmp_path: Path) -> None:
    first, *_ = raymetas(line, tmp_path)
    with pytest.raises(Exception, match=re.escape(SAID[line])):
        check(first)
