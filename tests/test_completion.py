"""What the shell completes, and that no press of the Tab key loads torch."""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from foreign import found, install
from study.conftest import studies  # noqa: F401
from study.driving import COMMAND, tiny_record

from raymeta import registry
from raymeta.cli import completion as complete


def context(**params: Any) -> Any:
    return SimpleNamespace(params=params, args=[])


def test_names() -> None:
    assert complete.specs("ma") == [name for name in registry.names("method") if name.startswith("ma")]
    assert complete.specs("maml+drop") == ["maml+dropgrad", "maml+dropout"]
    assert complete.specs("maml+dropgrad+ta") == ["maml+dropgrad+taml", "maml+dropgrad+taskaug"]
    assert complete.choices("dropgrad,no") == ["dropgrad,none"]
    assert complete.entries("m") == [n for n in complete.entries("") if n.startswith("m")]
    assert {"maml", "mr"} <= set(complete.entries("m"))
    assert complete.datasets("omn") == ["omniglot"]
    assert "smoke" in complete.presets("sm")


def test_studies_and_trials(studies: Path) -> None:  # noqa: F811
    assert complete.studies("") == []
    record = tiny_record("one")
    tiny_record("other")
    for number in (0, 7, 12):
        record.trial_folder(number).mkdir(parents=True)
    (studies / "finals" / "onwards-sinusoid-5s-0").mkdir(parents=True)
    assert complete.studies("o") == ["one", "other"]
    assert complete.studies("on") == ["one"]
    assert complete.runs("on") == ["one", "onwards-sinusoid-5s-0"]
    assert complete.trials(context(name="one"), "") == ["0", "7", "12"]
    assert complete.trials(context(name="one"), "1") == ["12"]
    assert complete.trials(context(name="nosuch"), "") == complete.trials(context(), "") == []


def test_a_broken_table_hides_no_other_presets(tmp_path: Path) -> None:
    files = {
        "theirs/presets/tables/a-half.yaml": "methods: {maml: {spec: maml}}",
        "theirs/presets/tables/a-none.yaml": "source: nowhere",
        "theirs/presets/tables/a-whole.yaml": "methods: {maml: {spec: maml, published: {5s: 1.0}}}",
    }
    with found(install(tmp_path, "theirs", {"presets": {"theirs": "theirs.presets"}}, files)):
        assert complete.presets("a-") == ["a-whole/5s-maml"]


def test_a_store_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAYMETA_STUDIES", "s3://nowhere/at/all")
    assert complete.studies("") == complete.runs("") == complete.trials(context(name="one"), "") == []


def test_keys_and_tasks_are_asked_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("best.yaml").touch()
    keys = complete.keys(context(spec="maml+dropgrad:rate=0.2"), "maml.inner")
    assert keys == ["maml.inner_steps=", "maml.inner_lr="]
    assert complete.tasks("glyphs") == ["glyphs", "glyphs-5w1s"]
    assert complete.tasks("sinusoid-") == ["sinusoid-10s"]

    def never(*arguments: Any, **options: Any) -> Any:
        pytest.fail("it was asked before")

    monkeypatch.setattr(subprocess, "run", never)
    assert complete.keys(context(spec="maml+dropgrad"), "regularizers.dropgrad.ra")[0] == "regularizers.dropgrad.rate="
    assert "model.hidden=" in complete.keys(context(spec="maml+dropgrad"), "model.")  # of every backbone
    assert "study.trials=" in complete.keys(context(spec="maml+dropgrad"), "study.")
    assert complete.configs(context(configs=["maml+dropgrad"]), "b") == ["boil", "best.yaml", *_keys("b")]
    assert complete.keys(context(), "maml") == complete.keys(context(spec="mamm"), "maml") == []


def _keys(part: str) -> list[str]:
    return complete.keys(context(spec="maml+dropgrad"), part)


def test_a_module_that_changed_is_asked_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def answer(*arguments: Any, **options: Any) -> Any:
        asked.append(arguments)
        return SimpleNamespace(stdout='["one"]')

    monkeypatch.setattr(subprocess, "run", answer)
    monkeypatch.setenv("RAYMETA_CACHE", str(tmp_path / "cache"))
    module = tmp_path / "changing.py"
    module.touch()
    for times in (1, 1, 2):
        if times == 2:
            os.utime(module, (0, 0))
        assert complete._known("what", [module]) == ["one"]
        assert len(asked) == times


def test_a_broken_answer_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAYMETA_CACHE", str(tmp_path / "cache"))
    assert complete._known("mamm", []) == []
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("raymeta search maml+dropg", "maml+dropgrad"),
        ("raymeta search maml --task omni", "omniglot"),
        ("raymeta search maml --preset smo", "smoke"),
        ("raymeta resume on", "one"),
        ("raymeta export one --trial 1", "12"),
        ("raymeta final pro", "protomaml protonet"),
        ("raymeta data check gly", "glyphs"),
        ("raymeta predict on", "one"),
    ],
)
def test_the_tab_key(typed: str, expected: str, studies: Path) -> None:  # noqa: F811
    tiny_record("one").trial_folder(12).mkdir(parents=True)
    asked = {"_RAYMETA_COMPLETE": "complete_bash", "COMP_WORDS": typed, "COMP_CWORD": str(len(typed.split()) - 1)}
    done = subprocess.run([str(COMMAND)], env=os.environ | asked, capture_output=True, text=True, check=False)
    assert done.stderr == ""
    assert [word for word in done.stdout.split() if word in expected.split()] == expected.split()


def test_no_torch() -> None:
    code = (
        "import sys\nfrom types import SimpleNamespace\nfrom raymeta.cli import completion as c\n"
        "ctx = SimpleNamespace(params={'spec': 'maml', 'name': 'one', 'configs': ['maml']}, args=[])\n"
        "[f('') for f in (c.specs, c.choices, c.entries, c.datasets, c.tasks, c.presets, c.studies, c.runs)]\n"
        "[f(ctx, '') for f in (c.trials, c.keys, c.configs)]\n"
        "print({'torch', 'numpy', 'ray', 'optuna', 'mlflow', 'pydantic'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
