"""What a study is before it starts: the base config, the space and the settings, put together."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from math import ceil
from pathlib import Path
from typing import Any, Self

from raymeta import registry
from raymeta.config import TrialConfig, parse_trial, split_settings, split_spec
from raymeta.errors import UserError
from raymeta.learner import Learner, build_learner
from raymeta.schema import check, fields, flatten, merge, nest
from raymeta.study.plan.compose import composed, takes_list, whole
from raymeta.study.plan.layers import SCALE, Base, StudyConfig, base_of
from raymeta.study.plan.own import Own, own_space, own_values, own_words
from raymeta.study.plan.param import Param, Point
from raymeta.study.plan.space import (
    BASELINE,
    CHOICE,
    NONE,
    Space,
    neutral_point,
    space_for,
    space_of_choice,
    unsearched,
)


@dataclass(frozen=True)
class Plan:
    """Everything that decides what a study does.

    Attributes:
        choices: of a search over the choice of regularizer: the sections of those to choose from, by name.
        fixed: keys that the user gave one value, of the base and of `study`, and where.
        origins: where other keys are from, but for defaults: a preset, `--task`.
    """

    spec: str
    base: TrialConfig
    space: Space
    study: StudyConfig
    choices: dict[str, dict[str, Any]] = field(default_factory=dict)
    fixed: dict[str, str] = field(default_factory=dict)
    origins: dict[str, str] = field(default_factory=dict)

    def config(self, point: Point) -> TrialConfig:
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

    def with_copies(self, names: Sequence[str]) -> "Plan":
        """The same plan with copies for these trackers."""
        return replace(self, study=self.study.model_copy(update={"also": tuple(names)}))

    def starting_from(self, points: Sequence[Point], labels: Sequence[str]) -> "Plan":
        """The same plan with more starting points, after its own; keys that they leave out take the base's values."""
        more = self.space.starting([*self.space.starts, *zip(points, labels, strict=True)])
        chosen = flatten({"regularizers": self.choices})
        return replace(self, space=whole(more, {CHOICE: NONE, **chosen, **self.base.flat()}))

    def choice_of(self, regularizers: Collection[str]) -> str | None:
        """Of a search over the regularizer the choice that a trial with these had; None: it is none of them."""
        if (param := self.space.params.get(CHOICE)) is None:
            return None
        added = set(regularizers) - set(type(self.base.regularizers).model_fields)
        choice = NONE if not added else next(iter(added)) if len(added) == 1 else None
        return choice if param.contains(choice) else None

    @property
    def finalist_tasks(self) -> int:
        """Fresh validation episodes of a finalist. By default so many that the interval is half of a validation's."""
        return self.study.finalist_tasks or 4 * self.base.budget.validation_tasks

    def usual_steps(self) -> int:
        """Outer steps of the study if one trial in `reduction` passes each rung.

        With `stopping` a sequence of ever better trials passes more, as each is compared with those before it alone.
        With `promoting` the un-regularized start goes to the end, whether it is among the best or not.
        """
        total, alive, before = 0, self.study.trials, 0
        for rung in self.rungs:
            total += alive * (rung - before)
            alive, before = max(1, ceil(alive / self.study.reduction)), rung
        if self.study.halving == "promoting" and BASELINE in self.space.labels[: self.study.trials]:
            total += self.rungs[-1] - self.rungs[0]
        return total

    def expected_steps(self, done: int) -> float:
        """Outer steps still before a trial that has done some, if it passes each rung as one in `reduction` does."""
        total, share, at = 0.0, 1.0, done
        for rung in self.rungs:
            if rung > done:
                total += share * (rung - at)
                share, at = share / self.study.reduction, rung
        return total

    def as_dict(self) -> dict[str, Any]:
        """Plain data that `from_dict` reads back."""
        return {
            "spec": self.spec,
            "base": self.base.as_dict(),
            "space": self.space.as_dict(),
            "study": self.study.model_dump(mode="json"),
            "choices": self.choices,
            "fixed": self.fixed,
            "origins": self.origins,
        }

    @classmethod
    def from_dict(cls, data: dict[str, Any], source: str) -> Self:
        """Read a plan that `as_dict` wrote."""
        return cls(
            data["spec"],
            parse_trial(data["base"], source),
            Space.from_dict(data["space"], source),
            check(StudyConfig, {"halving": "stopping", **data["study"]}, source),  # as studies without the key have run
            data.get("choices", {}),
            data.get("fixed", {}),
            data.get("origins", {}),
        )


def make_plan(
    spec: str,
    task: str | None = None,
    preset: str | Path | None = None,
    words: Sequence[str] = (),
    choose: str | None = None,
    *,
    space: Mapping[str, Any] | Path | str | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> Plan:
    """Put a plan together from what a user says.

    Args:
        spec: `maml+dropgrad`, or `maml+dropgrad:rate=0.2,noise=binary`.
        task: `omniglot-5w1s`, `sinusoid-10s` or a data set's name; None: the preset's, or glyphs.
        preset: a preset's name or file; None: the one named like the data set.
        words: `key=value` overrides of the trial's config and of `study.*`, where a searched key is then fixed, and
            ranges: `maml.inner_lr=0.01..0.5:log`, `maml.inner_steps=1..5`, `maml.order=first,second`.
        choose: `dropgrad,metadropout,none`: each trial has one of these on top of the spec's.
        space: a file or a mapping of ranges, values and starting points, laid over the shipped space; `none`: nothing
            is searched but the words' ranges. See raymeta/study/plan/own.py.
        overrides: key to value, as words; words count if both say something of a key.

    Raises:
        UserError: a name, a key, a value, a range or a budget is wrong.
    """
    spec, settings = split_settings(spec)
    method, _ = split_spec(spec)
    choices = _choices(choose)
    names = [name for name in choices if name != NONE]
    own = own_space(space) if space is not None else Own()
    own = own.then(own_values(overrides or {})).then(own_words([*words, *settings], method))
    _refuse_scale(own, ["budget.scale"])

    def base_with(chosen: str | None) -> Base:
        others = [f"regularizers.{name}." for name in names if name != chosen]
        return base_of(spec if chosen is None else f"{spec}+{chosen}", task, preset, own.without(others).fixed)

    base = base_with(None)
    known = fields(type(base.config))
    lists = {key: said for key, said in own.ranges.items() if isinstance(said.value, list)}
    if values := {key: said for key, said in lists.items() if key in known and takes_list(known[key])}:
        own = own.then(Own(fixed=values))
        base = base_with(None)
    flat, origins, sections = base.config.flat(), base.origins, {}
    for name in names:
        one = base_with(name)
        _accept(one.config)
        known, flat, origins = fields(type(one.config)) | known, one.config.flat() | flat, one.origins | origins
        sections[name] = one.config.as_dict()["regularizers"][name]
    for each in [f"{spec}+{name}" for name in names] or [spec]:
        _refuse_unsearched(each, own)
    shipped = space_of_choice(spec, choices) if choices else space_for(spec)
    searched = composed(shipped, own, known, method, names).without(
        {key: flat[key] for key in own.fixed if key in flat}
    )
    plan = Plan(
        f"{spec}+{'|'.join(choices)}" if choices else spec,
        base.config,
        whole(searched, {CHOICE: NONE, **flat}, own.ranges),
        base.study,
        sections,
        {key: said.origin for key, said in own.fixed.items()},
        origins,
    )
    plan = replace(plan, space=_without_idle(plan, method, own))
    plan = replace(plan, space=_without_false_baseline(plan, spec, own))
    plan = replace(plan, space=_allowed(plan))
    if own.replace and not set(plan.space.params) - {CHOICE}:
        raise UserError(f"nothing is searched: name ranges, as in {method}.KEY=0.01..0.5:log")
    _check(plan)
    return plan


def make_config(
    spec: str,
    task: str | None = None,
    preset: str | Path | None = None,
    words: Sequence[str] = (),
    *,
    overrides: Mapping[str, Any] | None = None,
    scale: float = 1.0,
) -> TrialConfig:
    """The config alone, as `make_plan` puts it together: for final runs, which have no rungs and search nothing.

    With `scale` the preset's budget is shortened to that share, below what words and overrides say.
    """
    spec, settings = split_settings(spec)
    own = own_values(overrides or {}).then(own_words([*words, *settings], split_spec(spec)[0]))
    for said in own.ranges.values():
        raise UserError(f"{said.source}: a final run searches nothing; give the key one value")
    _refuse_scale(own, ["budget.scale", *(["budget.outer_steps", "budget.validate_every"] if scale < 1 else [])])
    if scale < 1:
        own = _shortened(base_of(spec, task, preset, {}).config, scale).then(own)
    config = base_of(spec, task, preset, own.fixed).config
    _refuse_idle(config, {})
    _accept(config)
    return config


def _refuse_scale(own: Own, keys: Sequence[str]) -> None:
    for key in keys:
        if key in own.fixed or key in own.ranges:
            raise UserError(f"{key}: {SCALE}")


def _shortened(config: TrialConfig, scale: float) -> Own:
    budget, epochs = config.budget.shortened(scale), config.pretraining.epochs
    values = {"budget": budget.model_dump(), "pretraining": {"epochs": max(min(epochs, 1), round(epochs * scale))}}
    return own_values(values)


def _choices(choose: str | None) -> list[str]:
    names = [name.strip() for name in choose.split(",")] if choose is not None else []
    for name in names:
        if name != NONE:
            registry.find("regularizer", name)
        if names.count(name) > 1:
            raise UserError(f"--choose {choose}: '{name}' is given twice")
    return names


def _refuse_unsearched(spec: str, own: Own) -> None:
    """A method or a regularizer without a space is searched if the user says what of it."""
    for name, section in unsearched(spec).items():
        if not own.file and not any(key.startswith(f"{section}.") for key in own.ranges):
            raise UserError(
                f"{name} has no search space, which would be {name}.yaml beside its module; "
                f"give one with --space FILE, or ranges, as in {section}.KEY=0.01..0.5:log"
            )


def _without_idle(plan: Plan, method: str, own: Own) -> Space:
    """The space without what does nothing on the trials' model, as long as that is the same in all of them."""
    if any(key.startswith("model.") for key in plan.space.params):
        return plan.space
    idle = {f"{method}.{key}": lacks for key, lacks in _built(plan.base).idle.items()}
    for key, said in own.ranges.items():
        if key in idle:
            raise UserError(
                f"{said.source}: {key} does nothing without {idle[key]}, and model.name {plan.base.model.name} has "
                "none; leave it out"
            )
    flat = plan.base.flat()
    return plan.space.without({key: flat[key] for key in idle if key in plan.space.params})


def _without_false_baseline(plan: Plan, spec: str, own: Own) -> Space:
    """The space without the un-regularized start if what the user fixed or narrowed has made it a regularized one."""
    neutral, params = neutral_point(spec), space_for(spec).params
    used = [  # of a regularizer that is off, other settings may be as they like
        key
        for key in neutral
        if key not in params or all(c.holds(neutral.get(other)) for other, c in params[key].when.items())
    ]

    left = []
    for point, label in plan.space.starts:
        flat = plan.config(point).flat()
        wrong = [key for key in used if flat[key] != neutral[key]]
        if label != BASELINE or plan.choices or not wrong:
            left.append((point, label))
            continue
        for start in own.start_from:
            if start.label == label:
                key = wrong[0]
                raise UserError(f"{start.source}: it is labelled {label}, but {key} is {flat[key]}, not {neutral[key]}")
    return plan.space.starting(left)


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
        plan.config(point)
    _refuse_idle(plan.base, plan.space.params)
    _accept(plan.base)


IDLE: tuple[tuple[str, tuple[str, ...], tuple[str, ...]], ...] = (  # a key, values of it, and what they need one of
    ("outer.clip_when", ("per_task",), ("outer.clip", "outer.clip_norm")),
    ("outer.clip_scope", ("head", "per_module"), ("outer.clip", "outer.clip_norm")),
    ("outer.decay_of", ("kernels",), ("outer.weight_decay",)),
    ("outer.restart_of", ("unadapted",), ("outer.restart_every",)),
    ("model.init.bn_gamma", ("uniform",), ("model.norm_scale",)),
)


def _refuse_idle(config: TrialConfig, searched: Mapping[str, Param]) -> None:
    """Values that do nothing or the reverse of what they say, beside others that are the same in all trials.

    That is no matter of the schema: a trial of a search may well be without what others have.
    """
    flat = config.flat()
    for key, values, needs in IDLE:
        said = searched[key].choice or () if key in searched else (flat.get(key),)
        idle = [value for value in said if value in values]
        if idle and not any(flat.get(other) or other in searched for other in needs):
            raise UserError(f"{key}: found '{idle[0]}', which does nothing without {' or '.join(needs)}; leave it out")
    if flat.get("outer.schedule") == "cosine" and not {"outer.lr", "outer.min_lr"} & set(searched):
        least, most = flat["outer.min_lr"], flat["outer.lr"]
        if least > most:
            raise UserError(
                f"outer.min_lr: found {least:g}, above outer.lr ({most:g}); a cosine ends below where it starts"
            )


def _allowed(plan: Plan) -> Space:
    """The space without the choices that the method refuses where a starting point is all right without them."""
    params = dict(plan.space.params)
    for key, param in params.items():
        point = next((point for point in plan.space.start_from if key in point), None)
        if param.choice is not None and point is not None:
            choice = tuple(one for one in param.choice if one == point[key] or _accepted(plan, {**point, key: one}))
            params[key] = param.model_copy(update={"choice": choice})
    return replace(plan.space, params=params)


def _accepted(plan: Plan, point: Point) -> bool:
    try:
        _accept(plan.config(point))
    except UserError:
        return False
    return True


def _accept(config: TrialConfig) -> None:
    """Raise now what only the method itself can refuse."""
    _built(config)


def _built(config: TrialConfig) -> Learner:
    from raymeta.problem import open_problem

    return build_learner(config, open_problem(config.task))
