"""Which analyses are asked for, what is refused before any training, and the files that they leave.

What they compute: tests/analyses.
"""

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from PIL import Image
from study.driving import parse, raymeta

from raymeta import registry
from raymeta.analysis import Analysis, Row, Subject
from raymeta.api.analysing import analyse, known
from raymeta.config import TrialConfig
from raymeta.errors import Interrupted, Terminated, UserError
from raymeta.finals.analyses import SUFFIXES, analyse_runs, wanted_analyses, with_a_meaning
from raymeta.finals.folders import begin, folder_of
from raymeta.finals.plan import _tested
from raymeta.finals.results import FinalTable
from raymeta.report.style import panels
from raymeta.study.tracking.connection import connect
from raymeta.testing import small_trial
from raymeta.training.trainer import Trainer

SHIPPED = [
    "cka", "examples", "frames", "gradcam", "gradients", "landscape", "paths", "rates", "robustness", "similarity",
    "steps", "tracking", "tsne",
]  # fmt: skip


@pytest.fixture
def studies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RAYMETA_STUDIES", str(tmp_path / "studies"))
    monkeypatch.setenv("RAYMETA_CACHE", str(tmp_path / "cache"))
    return tmp_path / "studies"


@pytest.fixture
def run(studies: Path) -> FinalTable:
    """Final runs of two seeds on sinusoids, made without Ray."""
    return finished("mine", small_trial("metasgd", "sinusoid"), (0, 1))


def finished(name: str, config: TrialConfig, seeds: Sequence[int]) -> FinalTable:
    """A final run, made without Ray."""
    folder, results = folder_of(name, config), []
    begin(folder, config)
    for seed in seeds:
        trainer = Trainer(config.model_copy(update={"seed": seed}))
        while not trainer.done:
            trainer.round()
        trainer.save(folder / f"seed{seed}" / "checkpoint.pt")
        results.append(_tested(trainer))
        (folder / f"seed{seed}" / "result.json").write_text(json.dumps(asdict(results[-1])))
    return FinalTable(name, config, trainer.metric, folder, results)


def names(wanted: Any) -> dict[str, Any]:
    return {one.name: one.settings.model_dump(exclude_unset=True) for one in wanted_analyses(wanted).analyses}


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        ("cka", {"cka": {}}),
        ("gradients, cka:tasks=5", {"gradients": {}, "cka": {"tasks": 5}}),
        ("landscape:points=2,tasks=3,cka", {"landscape": {"points": 2, "tasks": 3}, "cka": {}}),
        (["steps:last=2", "tsne"], {"steps": {"last": 2}, "tsne": {}}),
        ("robustness:linf=[0.1,0.2],l1=[],cka", {"robustness": {"linf": [0.1, 0.2], "l1": []}, "cka": {}}),
        ({"gradcam": {"layer": "block1"}}, {"gradcam": {"layer": "block1"}}),
    ],
)
def test_they_are_named_with_their_settings(wanted: Any, found: dict[str, Any]) -> None:
    assert names(wanted) == found
    assert not wanted_analyses(wanted).optional


def test_all_of_them_are_those_that_are_found_by_name() -> None:
    assert registry.names("analysis") == SHIPPED
    assert list(names("all")) == SHIPPED
    assert wanted_analyses("all").optional
    assert names("all,cka:tasks=5")["cka"] == {"tasks": 5}
    about = known()
    assert about.as_dict()["landscape"]["settings"]["points"] == 8
    assert all(len(cls.meaning) < 110 and cls.meaning in str(about) for cls in about.analyses.values())


@pytest.mark.parametrize(
    ("wanted", "sentence"),
    [
        ("ckaa", "unknown analysis 'ckaa': did you mean 'cka'? (allowed: all, cka, examples, frames, "),
        ("cka:taks=3", "cka: unknown key 'taks', did you mean 'tasks'? (allowed: tasks)"),
        ("cka:tasks=0", "cka: tasks: found 0: input should be greater than or equal to 1"),
        ("tasks=3", "'tasks=3': a setting stands behind the name of an analysis, as in cka:tasks=3"),
        ("cka:tasks", "'tasks': expected key=value"),
        ("robustness:linf=[-1]", "robustness: linf: found -1: expected radii above 0"),
        ("robustness:linff=[0.1]", "robustness: unknown key 'linff', did you mean 'linf'?"),
        ("all:tasks=3", "analyses: all has no settings"),
        ("", "analyses: found none; allowed: all, cka"),
    ],
)
def test_what_is_not_one_is_refused(wanted: str, sentence: str) -> None:
    with pytest.raises(UserError) as refused:
        wanted_analyses(wanted)
    assert str(refused.value).startswith(sentence)


@pytest.mark.parametrize(
    ("method", "problem", "wanted", "sentence"),
    [
        ("protonet", "images", "rates", "rates needs an inner loop, and protonet has none"),
        ("protonet", "images", "cka", "cka needs an inner loop, and protonet has none"),
        ("maml", "sinusoid", "gradcam", "gradcam needs images, and sinusoid has none"),
        ("maml", "sinusoid", "tsne", "tsne needs labels, and sinusoid has none"),
        ("maml", "sinusoid", "robustness", "robustness needs images, and sinusoid has none"),
        ("maml", "images", "robustness:against=away", "away: no final run that has been tested"),
        ("maml", "sinusoid", "rates", "rates: maml learns or makes nothing for its inner steps here"),
        ("cavia", "sinusoid", "landscape", "landscape.rate: cavia has no inner_lr above 0; say a rate, as in "),
    ],
)
def test_what_has_no_meaning_is_refused_before_training(
    method: str, problem: str, wanted: str, sentence: str, glyphs: Any
) -> None:
    config = small_trial(method, problem)
    with pytest.raises(UserError) as refused:
        with_a_meaning(wanted_analyses(wanted), config)
    assert str(refused.value).startswith(sentence)
    if ":" in wanted:  # without its settings it has a meaning
        return
    found, left = with_a_meaning(wanted_analyses("all"), config)
    assert wanted not in [one.name for one in found]
    assert [why for why in left if why.startswith(sentence)]


def test_the_test_split_stays_closed_until_the_runs_are_tested(glyphs: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    config, opened = small_trial("metasgd", "sinusoid"), []
    cls = type(Trainer(config).problem)
    whole = cls.bank

    def bank(self: Any, split: str, *rest: Any, **more: Any) -> Any:
        opened.append(split)
        return whole(self, split, *rest, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(cls, "bank", bank)
    with_a_meaning(wanted_analyses("all"), config)
    assert set(opened) == {"train", "validation"}


def test_numbers_and_pictures_are_in_the_runs_folder_and_the_same_every_time(run: FinalTable) -> None:
    wanted = wanted_analyses("gradients:tasks=3,steps:tasks=4,rates:tasks=2")
    found, problems = analyse_runs([(run, wanted.analyses)], quiet=True)
    assert problems == []
    assert [one.again for one in found] == [False] * 3
    before = {path.name: path.read_bytes() for path in (run.folder / "analyses").iterdir()}
    assert set(before) == {f"{one.name}{suffix}" for one in found for suffix in SUFFIXES}
    for one in found:
        frame = one.frame()
        assert set(frame["seed"]) == {0, 1}
        assert frame["task"].nunique() in (2, 3, 4)
        with Image.open(one.file(".png")) as picture:
            assert 600 < picture.width < 800
            assert np.asarray(picture.convert("L"))[0].min() > 250  # a light background
    assert [one.again for one in analyse_runs([(run, wanted.analyses)], quiet=True)[0]] == [True] * 3
    (run.folder / "analyses" / "rates.yaml").unlink()
    again, _ = analyse_runs([(run, wanted.analyses)], quiet=True)
    assert [one.again for one in again] == [True, True, False]
    for suffix in SUFFIXES:
        assert (run.folder / "analyses" / f"rates{suffix}").read_bytes() == before[f"rates{suffix}"]
    # Its test tasks are those of the test.
    steps = next(one for one in found if one.name == "steps").frame()
    own = steps[(steps["tasks"] == "test") & (steps["step"] == 2)]
    for result in run.seeds:
        assert own[own["seed"] == result.seed]["score"].tolist() == pytest.approx(result.values, rel=1e-4)


def test_other_settings_are_computed_and_recorded(run: FinalTable) -> None:
    for tasks in (2, 3):
        (one,), _ = analyse_runs([(run, wanted_analyses(f"gradients:tasks={tasks}").analyses)], quiet=True)
        assert not one.again
        assert f"settings:\n  tasks: {tasks}\n" in one.file(".yaml").read_text()
        assert one.frame()["task"].nunique() == tasks


@pytest.fixture
def own() -> Iterator[type[Analysis]]:
    """An analysis from outside, which nothing here names."""

    class Sizes(Analysis):
        meaning: ClassVar[str] = "How large the weights are."
        one_seed: ClassVar[bool] = True
        name = "sizes"
        broken: ClassVar[BaseException | None] = None

        def measure(self, subject: Subject) -> list[Row]:
            if self.broken:
                raise self.broken
            return [{"name": name, "size": float(one.norm())} for name, one in subject.learner.named_parameters()]

        def draw(self, found: Any, subject: Subject) -> Any:
            figure, ((axis,),) = panels(1, 1, 4, 3)
            axis.bar(found["name"], found["size"])
            return figure

    with registry.planted("analysis", "sizes", Sizes):
        yield Sizes


def test_an_analysis_of_ones_own_is_like_any_other(run: FinalTable, own: Any) -> None:
    found = analyse(run.folder.name, "sizes", quiet=True)
    assert found.untracked == "the final run is not there: raymeta final sends it"
    frame = found.frame("sizes")
    best = min(run.seeds, key=lambda result: result.val)  # an error: the least
    assert set(frame["seed"]) == {best.seed}
    weights = Trainer(run.config).learner
    assert list(frame["name"]) == [name for name, _ in weights.named_parameters()]
    assert "How large the weights are." in str(found)
    with pytest.raises(UserError, match=r"^no analysis 'cka' is here: allowed: sizes$"):
        found.frame("cka")


def test_a_broken_one_is_found_before_training_and_spoils_no_other(run: FinalTable, own: Any) -> None:
    own.broken = ZeroDivisionError("no size")
    with pytest.raises(UserError, match=r"^sizes: ZeroDivisionError: no size$"):
        with_a_meaning(wanted_analyses("sizes"), run.config)
    _, left = with_a_meaning(wanted_analyses("all"), run.config)
    assert "sizes: ZeroDivisionError: no size" in left
    wanted = wanted_analyses("sizes,gradients:tasks=1").analyses
    done, problems = analyse_runs([(run, wanted)], quiet=True)
    assert [one.name for one in done] == ["gradients"]
    assert problems == ["mine: sizes: ZeroDivisionError: no size"]
    for own.broken, code in ((KeyboardInterrupt(), 130), (Terminated(), 143)):
        with pytest.raises(Interrupted, match=r"^the analyses are not finished; the final runs are tested") as left:
            analyse_runs([(run, wanted)], quiet=True)
        assert left.value.exit_code == code


@pytest.mark.parametrize("file", ["gradients.png", "gradients.csv", "gradients.yaml"])
def test_what_is_lost_or_damaged_is_made_again(file: str, run: FinalTable) -> None:
    wanted = [(run, wanted_analyses("gradients:tasks=1").analyses)]
    ((one,), _), path = analyse_runs(wanted, quiet=True), run.folder / "analyses" / file
    before = path.read_bytes()
    path.unlink()
    if path.suffix == ".yaml":
        path.write_text("settings: [")
    ((one,), problems) = analyse_runs(wanted, quiet=True)
    assert (one.again, problems) == (False, [])
    assert path.read_bytes() == before


def test_what_is_no_final_run_is_refused(run: FinalTable, studies: Path) -> None:
    with pytest.raises(UserError, match=r"^minee: no final run that has been tested; allowed: mine-sinusoid-5s-"):
        analyse("minee", "cka")
    (run.folder / "seed0" / "checkpoint.pt").write_bytes(b"")
    found = analyse(run.folder, "gradients:tasks=1", quiet=True)
    assert found.found == []
    assert len(found.problems) == 1


def test_a_module_that_an_entry_point_names_is_found(tmp_path: Path) -> None:
    """And only looked at when it is asked for."""
    (tmp_path / "looks").mkdir()
    (tmp_path / "looks" / "__init__.py").touch()
    (tmp_path / "looks" / "glance.py").write_text(
        "from raymeta.analysis import Analysis\nfrom raymeta.registry import analysis\n\n\n"
        "@analysis('glance')\nclass Glance(Analysis):\n    meaning = 'A glance.'\n    measure = draw = None\n"
    )
    about = tmp_path / "looks-1.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: looks\nVersion: 1\n")
    (about / "entry_points.txt").write_text("[raymeta.analyses]\nlooks = looks\n")
    code = (
        "from raymeta import registry; print(registry.find('analysis', 'glance').meaning, registry.names('analysis'))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env={"PYTHONPATH": str(tmp_path)}, capture_output=True, text=True, check=False
    )
    assert done.stdout == f"A glance. {sorted([*SHIPPED, 'glance'])}\n", done.stderr


def test_two_final_runs_are_attacked_on_the_same_images(
    tmp_path: Path, glyphs: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other run's own scores under attack are those of its own analysis; of other test tasks it is refused."""
    monkeypatch.setenv("RAYMETA_STUDIES", str(tmp_path / "studies"))
    task = {"task": {"queries": 2, "eval_queries": 2}}
    first, second = (finished(spec, small_trial(spec, config=task), [0]) for spec in ("maml", "protonet"))
    few = "robustness:tasks=2,linf=[0.1],l2=[],l1=[],steps=2,checks=1"
    found = analyse(first.folder.name, f"{few},against={second.folder.name}", quiet=True)
    assert found.problems == []
    both, alone = found.frame("robustness"), analyse(second.folder, few, quiet=True).frame("robustness")
    there = both[(both["tried_on"] == second.folder.name) & (both["made_on"] == second.folder.name)]
    own = alone[alone["attack"].isin(["none", "fgsm", "pgd"])]
    assert there["loss"].tolist() == own["loss"].tolist()
    assert "PGD of this on" in str(found)
    assert parse(json.dumps(found.as_dict()))["analyses"][0]["table"]["l-infinity 0.1"]["PGD"].endswith("0")
    assert f"others:\n  {second.folder.name}:\n    0: " in found.found[0].file(".yaml").read_text()
    other = finished("other", small_trial("maml", config={"task": {"queries": 2, "eval_queries": 3}}), [0])
    with pytest.raises(UserError, match=r"its test tasks are others: task.eval_queries is 3, and here 2$"):
        analyse(first.folder, f"{few},against={other.folder.name}", quiet=True)


def test_the_docs_example_works(run: FinalTable) -> None:
    page = (Path(__file__).parents[2] / "docs" / "analyses.md").read_text()
    exec(page.split("```python\n")[1].split("```")[0], {})
    try:
        found, _ = with_a_meaning(wanted_analyses("sparsity:tasks=2"), run.config)
        (one,), problems = analyse_runs([(run, found)], quiet=True)
    finally:
        del registry._classes["analysis", "sparsity"]
    assert problems == []
    assert one.frame()["zero"].between(0, 1).all()
    assert list(one.frame()["layer"].unique()) == ["layer1", "layer2", "outputs"]


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.parametrize("spec", ["maml", "alfa", "protonet"])
def test_from_the_command_line(spec: str, studies: Path) -> None:
    """Every analysis at the end of final runs, in MLflow too, and again of the run that is there."""
    words = [spec, "--task", "glyphs-5w1s", "--seeds", "1", "--slots", "1", "model.width=8"]
    words += ["budget.outer_steps=4", "budget.validate_every=2", "budget.validation_tasks=4", "budget.test_tasks=4"]
    few = "all,cka:tasks=2,gradients:tasks=2,landscape:tasks=2,rates:tasks=2,similarity:tasks=2,steps:tasks=2"
    few += ",robustness:tasks=1,checks=1,steps=2,l1=[]"
    done = raymeta("final", *words, "--analyse", few, "--json")
    assert done.returncode == 0, done.stderr
    without = {"maml": {"rates"}, "alfa": set(), "protonet": {"cka", "gradients", "landscape", "rates", "steps"}}[spec]
    without = {"examples", "frames", "paths", "tracking", *without}
    left = [name for name in SHIPPED if name not in without]
    row = parse(done.stdout)
    assert [one["name"] for one in row["analyses"]] == left
    for one in row["analyses"]:
        assert all(Path(one[kind]).stat().st_size > 100 for kind in ("csv", "png", "svg"))
    folder = Path(row["rows"][0]["folder"])
    assert (folder / "analyses").is_dir()

    client = connect()
    experiment = client.get_experiment_by_name("final runs")
    (parent,) = [
        one for one in client.search_runs([experiment.experiment_id]) if "mlflow.parentRunId" not in one.data.tags
    ]
    logged = {Path(one.path).name for one in client.list_artifacts(parent.info.run_id, "analyses")}
    assert logged == {f"{name}{suffix}" for name in left for suffix in SUFFIXES}

    again = raymeta("analyse", folder.name, f"{left[0]}:{'task=1' if left[0] == 'gradcam' else 'tasks=3'}")
    assert again.returncode == 0, again.stderr
    assert f"{left[0]}.png" in again.stdout.replace("\n", "")
    refused = raymeta("final", *words, "--analyse", "ckaa")
    assert (refused.returncode, refused.stdout) == (2, "")
