"""The rows of papers' tables against what their sources say: papers.txt has that from the sources' side."""

from fnmatch import fnmatch
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from raymeta.api.presets import lacking, pages, presets
from raymeta.config import TrialConfig
from raymeta.errors import UserError
from raymeta.report.shown import text
from raymeta.storage.files import parse_yaml
from raymeta.study.plan.layers import base_of
from raymeta.study.plan.plan import make_config
from raymeta.study.plan.tables import FORMER, Row, every_table

LINES = Path(__file__).with_name("papers.txt")
ABSENT = object()
OF_ALL = (  # settings that the lines must give of every row
    "model.name", "task.shots", "task.queries", "outer.lr", "outer.tasks_per_step", "budget.outer_steps",
    "budget.test_tasks",
)  # fmt: skip

OF_FILES = {
    "dropgrad-crest": r"^.*model\.weights: found none, but crest of size vgg-16 starts from those of VGG-16: name ",
    "dropgrad-tracking": r"^.*model\.weights: found none, but sdnet of size vgg-m starts from those of VGG-M: name ",
}


@cache
def rows() -> dict[str, Row]:
    return {row.name: row for table in every_table() for row in table.rows.values()}


def said() -> list[tuple[str, list[str]]]:
    lines = [line.split() for line in LINES.read_text().splitlines() if line and not line.startswith("#")]
    return [(pattern, words) for pattern, *words in lines]


def wanted(row: Row) -> dict[str, Any]:
    """Settings of a row by dotted key, as the lines have them; `$-1` is the last part of its name."""
    found: dict[str, Any] = {}
    parts = row.name.split("-")
    for pattern, words in said():
        for word in words if fnmatch(row.name, pattern) else ():
            key, _, value = word.partition("=")
            value = parts[int(value[1:])] if value.startswith("$") else value
            found[key.replace("@", row.spec.partition("+")[0])] = parse_yaml(value, word)
    return found


def config_of(row: Row) -> TrialConfig:
    return base_of(row.spec, None, row.name, {}).config


def dotted(config: TrialConfig, key: str) -> Any:
    """A setting; of a network of another kind, that it has none."""
    at: Any = config.as_dict()
    for part in key.split("."):
        if part not in at and key.startswith("model.") and config.model.name != "conv4":
            return ABSENT
        at = at[part]
    return at


def equal(one: Any, other: Any) -> bool:
    if isinstance(one, float | list) and not isinstance(other, str) and other is not None:
        return one == pytest.approx(other, rel=1e-8)
    return bool(one == other) and type(one) is type(other)


@pytest.mark.parametrize("table", [table.name for table in every_table()])
def test_every_row_is_as_its_source_has_it(table: str) -> None:
    wrong = []
    for row in rows().values():
        if not row.name.startswith(f"{table}/"):
            continue
        config, settings = config_of(row), wanted(row)
        wrong += [
            f"{row.name}: the lines don't give {key}" for key in OF_ALL if key in config.flat().keys() - settings.keys()
        ]
        for key, value in settings.items():
            if (found := dotted(config, key)) is not ABSENT and not equal(found, value):
                wrong.append(f"{row.name}: {key} is {found}, the source has {value}")
    assert not wrong, "\n".join(wrong)


def test_every_line_is_of_some_row() -> None:
    assert not [pattern for pattern, _ in said() if not any(fnmatch(name, pattern) for name in rows())]


@pytest.mark.parametrize("table", [table.name for table in every_table()])
def test_a_row_of_every_table_can_be_built(table: str) -> None:
    row = next(row for row in rows().values() if row.name.startswith(f"{table}/"))
    if table in OF_FILES:
        with pytest.raises(UserError, match=OF_FILES[table]):
            make_config(row.spec, preset=row.name)
    else:
        assert make_config(row.spec, preset=row.name).spec == row.spec


@pytest.mark.slow
def test_all_rows_can_be_built() -> None:
    for row in rows().values():
        if row.name.partition("/")[0] not in OF_FILES:
            assert make_config(row.spec, preset=row.name).spec == row.spec


def test_a_former_name_says_what_it_is_now() -> None:
    for name, row in FORMER.items():
        assert row in rows()
        with pytest.raises(UserError, match=rf"^the preset {name} is a row of a table now: {row} \("):
            make_config("maml", preset=name)
    for name in ("dropgrad-table1", "mgaug-table2"):
        with pytest.raises(UserError, match=rf"^{name} is a table; name one of its rows: {name}/"):
            make_config("maml", preset=name)


def test_what_is_not_read_is_said() -> None:
    unread = [row.name for row in rows().values() if row.figure is not None and row.evidence is None]
    assert not unread


def test_the_page_of_presets_is_that_of_the_tables() -> None:
    page = Path(__file__).parents[3].joinpath("docs/presets.md").read_text()
    assert f"<!-- tables -->\n{pages()}\n<!-- end -->" in page


def test_what_is_not_covered_is_listed_with_what_is_missing() -> None:
    found = lacking("viewpoint").as_dict()
    assert found["dropgrad-table1/objectnet3d-metaview"]["published"] == "45.00 ± 0.45"
    assert "MetaView" in text(lacking())
    with pytest.raises(UserError, match=r"^no row that is not covered has 'zebra': raymeta presets --lacking"):
        lacking("zebra")


def test_the_list_says_how_far_to_trust_a_figure() -> None:
    shown = text(presets("mamlpp-table"))
    assert "99.47 % R" in shown
    assert "R: recalled, not checked" in shown
