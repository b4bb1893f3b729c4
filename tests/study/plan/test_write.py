"""The file that `raymeta space --write` begins: it reads back as the same space, and says what it is made of."""

from pathlib import Path
from typing import Any

import pytest

from raymeta.errors import UserError
from raymeta.storage.files import read_yaml
from raymeta.study.plan.plan import make_plan
from raymeta.study.plan.write import write_space


@pytest.mark.parametrize(
    ("spec", "task", "words", "choose"),
    [
        ("maml", "sinusoid", [], None),
        ("maml+dropgrad", "sinusoid", ["maml.order=first", "maml.inner_lr=0.05..0.5", "maml.inner_steps=1..9:2"], None),
        ("alfa+mr", "glyphs", ["regularizers.mr.blocks=null,2", "outer.clip=0.1,null", "task.shots=2"], None),
        ("maml", "glyphs", ["regularizers.dropgrad.rate=0.1..0.3", "model.width=8"], "dropgrad,metadropout,none"),
        ("protonet", "glyphs", [], None),
    ],
)  # fmt: skip
def test_it_reads_back_equal(
    spec: str, task: str, words: list[str], choose: str | None, tmp_path: Path, glyphs: Any
) -> None:
    plan, file = make_plan(spec, task, None, words, choose), tmp_path / "my.yaml"
    write_space(plan, file)
    elsewhere = [word for word in words if word.startswith("task.")]
    again = make_plan(spec, task, None, elsewhere, choose, space=file)
    assert list(again.space.params.items()) == list(plan.space.params.items())
    assert again.space.starts == plan.space.starts
    assert (again.base, again.study, again.choices) == (plan.base, plan.study, plan.choices)
    assert set(again.space.origins.values()) <= {"my.yaml", "--choose"}


def test_each_key_has_a_comment_and_what_is_not_searched_can_be(tmp_path: Path) -> None:
    plan, file = make_plan("maml+dropgrad", "sinusoid", words=["maml.order=first"]), tmp_path / "my.yaml"
    write_space(plan, file)
    lines = file.read_text().splitlines()
    assert "  # alpha, of the mean support loss; ALFA's code: 0.01. (search_spaces/maml.yaml)" in lines
    assert "  # Of the outer gradient. (fixed: command line)" in lines
    assert "  # outer.tasks_per_step: 25    # presets/sinusoid.yaml" in lines
    below = next(number for number, line in enumerate(lines) if "Not searched" in line)
    for number in range(below + 1, len(lines)):
        if not lines[number].startswith("  # "):
            break
        said = [*lines[:number], "  " + lines[number].removeprefix("  # "), *lines[number + 1 :]]
        file.write_text("\n".join(said))
        key = lines[number].split()[1].rstrip(":")
        if key != "model.name":
            assert make_plan("maml+dropgrad", "sinusoid", space=file).base == plan.base, key
            assert key in read_yaml(file)["params"]


def test_a_file_that_is_there_is_left_alone(tmp_path: Path) -> None:
    file = tmp_path / "my.yaml"
    file.write_text("mine")
    with pytest.raises(UserError) as caught:
        write_space(make_plan("maml", "sinusoid"), file)
    assert str(caught.value) == f"{file} is there already; name another file"
    assert file.read_text() == "mine"
