"""What a study is before it starts: the base config, the space and the settings, put together in layers.

From the bottom: the schema's defaults, the data set's, its preset, `--preset`, `--task`, `key=value`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from math import ceil
from typing import Any, Self

from pydantic import Field

from raymeta import registry
from raymeta.config import TrialConfig, parse_trial, split_settings, split_spec
from raymeta.errors import UserError, suggest
from raymeta.learner import build_learner
from raymeta.problem import find_problem, parse_task
from raymeta.schema import Section, check, flatten, merge, nest, parse_overrides
from raymeta.storage.files import read_yaml
from raymeta.study.plan.space import CHOICE, NONE, Point, Space, shipped_space, space_for, space_of_choice


class StudyConfig(Section):
    """The `study` section of a preset: how many trials, when the weak ones are cut, and how the best is told."""

    trials: int = Field(24, ge=1)
    first_rung: int = Field(500, ge=1, description="Outer steps before a trial can be cut.")
    reduction: int = Field(3, ge=2, description="One in this many passes a rung.")
    startup_trials: int = Field(8, ge=0, description="Random proposals before TPE's.")
    seed: int = Field(0, ge=0, description="Seed of the proposals.")
    hung_after_s: float | None = Field(
        None,
        gt=0,
        description="Seconds without a round after which a trial's worker is killed; it goes on from its checkpoint. "
        "null: twenty of the longest rounds so far, and ten minutes at least.",
    )
    finalists: int = Field(5, ge=0, description="Top trials scored on fresh episodes at the end; 0: none.")
    finalist_tasks: int | None = Field(
        None, ge=2, description="Fresh validation episodes; null: four times budget.validation_tasks."
    )
    finalist_seeds: int = Field(
        0, ge=0, description="Seeds with which each finalist is trained again, at its full budget."
    )


@dataclass(frozen=True)
class Plan:
    """Everything that decides what a study does.

    Attributes:
        choices: of a search over the choice of regularizer: the sections of those to choose from, by name.
    """

    spec: str
    base: TrialConfig
    space: Space
    study: StudyConfig
    choices: dict[str, dict[str, Any]] = field(default_factory=dict)

    def trial(self, point: Point) -> TrialConfig:
        """The config of a trial: the base with the point's values."""
        chosen = point.get(CHOICE)
        own = {name: section for name, section in self.choices.items() if name == chosen}
        base = merge(self.base.as_dict(), {"regularizers": own})
        others = tuple(f"regularizers.{name}." for name in self.choices if name != chosen)
        values = {key: value for key, value in point.items() if key != CHOICE and not key.startswith(others)}
        return parse_trial(merge(base, nest(values)), "the search space's proposal")

    @cached_property
    def rungs(self) -> list[int]:
        """Outer steps at which trials are compared, the full budget last."""
        steps, rungs = self.study.first_rung, []
        while steps < self.base.budget.outer_steps:
            rungs.append(steps)
            steps *= self.study.reduction
        return [*rungs, self.base.budget.outer_steps]

    def with_trials(self, trials: int) -> "Plan":
        """The same plan for so many trials."""
        return replace(self, study=self.study.model_copy(update={"trials": trials}))

    def starting_from(self, points: Sequence[Point], labels: Sequence[str]) -> "Plan":
        """The same plan with more starting points, after its own; keys that they leave out take the base's values."""
        more = Space(self.space.params, [*self.space.start_from, *points], [*self.space.labels, *labels])
        return replace(self, space=_fits(more, flatten(self.base.as_dict())))

    @property
    def finalist_tasks(self) -> int:
        """Fresh validation episodes of a finalist. By default so many that the interval is half of a validation's."""
        return self.study.finalist_tasks or 4 * self.base.budget.validation_tasks

    def usual_steps(self) -> int:
        """Outer steps of the study if one trial in `reduction` passes each rung.

        ASHA compares a trial with those that came before it, so a sequence of ever better trials passes more.
        """
        total, alive, before = 0, self.study.trials, 0
        for rung in self.rungs:
            total += alive * (rung - before)
            alive, before = max(1, ceil(alive / self.study.reduction)), rung
        return total

    def as_dict(self) -> dict[str, Any]:
        """Plain data that `from_dict` reads back."""
        return {
            "spec": self.spec,
            "base": self.base.as_dict(),
            "space": self.space.as_dict(),
            "study": self.study.model_dump(mode="json"),
            "choices": self.choices,
        }

    @classmethod
    def from_dict(cls, data: dict[str, Any], source: str) -> Self:
        """Read a plan that `as_dict` wrote."""
        return cls(
            data["spec"],
            parse_trial(data["base"], source),
            Space.from_dict(data["space"], source),
            check(StudyConfig, data["study"], source),
            data.get("choices", {}),
        )


def make_plan(
    spec: str,
    task: str | None = None,
    preset: str | None = None,
    words: Sequence[str] = (),
    choose: str | None = None,
) -> Plan:
    """Put a plan together from what a user types.

    Args:
        spec: `maml+dropgrad`, or `maml+dropgrad:rate=0.2,noise=binary`.
        task: `omniglot-5w1s`, `sinusoid-10s` or a data set's name; None: the preset's, or glyphs.
        preset: a file of `search_spaces/presets`; None: the one named like the data set.
        words: `key=value` overrides of the trial's config and of `study.*`; a searched key is then fixed.
        choose: `dropgrad,metadropout,none`: each trial has one of these on top of the spec's.

    Raises:
        UserError: a name, a key, a value or a budget is wrong.
    """
    spec, own = split_settings(spec)
    words, choices = [*words, *own], _choices(choose)

    def without(*names: str) -> list[str]:
        return [word for word in words if not word.startswith(tuple(f"regularizers.{name}." for name in names))]

    names = [name for name in choices if name != NONE]
    base, study, fixed = _layers(spec, task, preset, without(*names))
    values, sections = base.flat(), {}
    for name in names:
        others = [other for other in names if other != name]
        chosen, _, more = _layers(f"{spec}+{name}", task, preset, without(*others))
        _accept(chosen)
        fixed |= more
        values = chosen.flat() | values
        sections[name] = chosen.as_dict()["regularizers"][name]
    space = space_of_choice(spec, choices) if choices else space_for(spec)
    title = f"{spec}+{'|'.join(choices)}" if choices else spec
    plan = Plan(title, base, _fits(space.without(fixed), {CHOICE: NONE, **values}), study, sections)
    plan = replace(plan, space=_allowed(plan))
    _check(plan)
    return plan


def _choices(choose: str | None) -> list[str]:
    names = [name.strip() for name in choose.split(",")] if choose is not None else []
    for name in names:
        if name != NONE:
            registry.find("regularizer", name)
        if names.count(name) > 1:
            raise UserError(f"--choose {choose}: '{name}' is given twice")
    return names


def make_config(
    spec: str, task: str | None = None, preset: str | None = None, words: Sequence[str] = ()
) -> TrialConfig:
    """The config alone, as `make_plan` puts it together: for final runs, which have no rungs."""
    spec, own = split_settings(spec)
    config, _, _ = _layers(spec, task, preset, [*words, *own])
    _accept(config)
    return config


def _layers(
    spec: str, task: str | None, preset: str | None, words: Sequence[str]
) -> tuple[TrialConfig, StudyConfig, dict[str, Any]]:
    """The base config, the study's settings, and the keys of the config that the user gave."""
    method, regularizers = split_spec(spec)
    asked = parse_task(task) if task else {}
    chosen = _preset(preset) if preset else {}
    where = {**chosen.get("task", {}), **asked}
    named = where.get("dataset") or where.get("problem") or "glyphs"
    layers = [
        {"task": {**parse_task(named), **find_problem(named).task_defaults}},
        _preset(named) if named in _presets() else {},
        chosen,
        {"task": asked},
    ]
    overrides = parse_overrides(words)
    data = merge(*layers)
    sections = {name: data.get("regularizers", {}).get(name, {}) for name in regularizers}
    shared = {key: value for key, value in data.items() if key not in registry.names("method")}
    data = merge(shared, _own(method, data), {"method": method})
    data = merge({**data, "regularizers": sections}, overrides)
    study = check(StudyConfig, data.pop("study", {}), "study")
    base = parse_trial(data, "config")
    fixed = {key: value for key, value in flatten(overrides).items() if not key.startswith("study.")}
    base.task.refuse_ignored([f"task.{key}" for key in asked] + list(fixed))
    return base, study, fixed


def _own(method: str, preset: dict[str, Any]) -> dict[str, Any]:
    """The method's own section of a preset, on top of what its settings share with those of the methods it builds on.

    A preset serves many methods: what it says of MAML's inner loop holds for all that only change a part of it.
    """
    cls = registry.find("method", method)
    lineage = [vars(base)["name"] for base in reversed(cls.__mro__) if "name" in vars(base)]
    shared = merge(*(preset.get(name, {}) for name in lineage[:-1]))
    known = {key: v for key, v in shared.items() if key in cls.Config.model_fields and key not in cls.own_settings}
    return {method: merge(known, preset.get(method, {}))}


def _check(plan: Plan) -> None:
    budget, study = plan.base.budget, plan.study
    if study.first_rung % budget.validate_every:
        raise UserError(
            f"study.first_rung ({study.first_rung}) must be a multiple of budget.validate_every "
            f"({budget.validate_every}): trials are compared when they are validated"
        )
    if study.first_rung > budget.outer_steps:
        raise UserError(
            f"study.first_rung ({study.first_rung}) is above budget.outer_steps ({budget.outer_steps}): "
            "no trial would ever be cut"
        )
    for point in plan.space.start_from:
        plan.trial(point)
    _accept(plan.base)


def _allowed(plan: Plan) -> Space:
    """The space without the choices that the method refuses where a starting point is all right without them."""
    params = dict(plan.space.params)
    for key, param in params.items():
        point = next((point for point in plan.space.start_from if key in point), None)
        if param.choice is not None and point is not None:
            choice = tuple(one for one in param.choice if one == point[key] or _accepted(plan, {**point, key: one}))
            params[key] = param.model_copy(update={"choice": choice})
    return Space(params, plan.space.start_from, plan.space.labels)


def _accepted(plan: Plan, point: Point) -> bool:
    try:
        _accept(plan.trial(point))
    except UserError:
        return False
    return True


def _accept(config: TrialConfig) -> None:
    """Raise now what only the method itself can refuse."""
    from raymeta.problem import open_problem

    build_learner(config, open_problem(config.task))


def _fits(space: Space, values: Mapping[str, Any]) -> Space:
    """The space with its starting points made whole by the base config's values."""
    for key in space.params:
        if key not in values:
            raise UserError(f"the search space names '{key}', which no trial has: {suggest(key, values)}")
    points: list[Point] = []
    labels: list[str] = []
    for point, label in zip(space.start_from, space.labels, strict=True):
        whole: Point = {}
        for key, param in space.params.items():
            if not all(other in whole and c.holds(whole[other]) for other, c in param.when.items()):
                continue
            whole[key] = point.get(key, values[key])
            if not param.contains(whole[key]):
                raise UserError(
                    f"{key}: the starting point '{label}' takes {whole[key]!r} from the preset, "
                    f"which is outside the searched range {param}"
                )
        if whole not in points:
            points.append(whole)
            labels.append(label)
    return Space(space.params, points, labels)


def _presets() -> list[str]:
    return sorted(path.stem for path in shipped_space("presets").glob("*.yaml"))


def _preset(name: str) -> dict[str, Any]:
    if name not in _presets():
        raise UserError(f"unknown preset '{name}': {suggest(name, _presets())}")
    return read_yaml(shipped_space("presets", f"{name}.yaml"))
