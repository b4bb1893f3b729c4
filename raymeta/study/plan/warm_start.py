"""A study that begins where another one ended."""

from typing import TYPE_CHECKING

from raymeta.errors import UserError
from raymeta.study.plan.param import Point
from raymeta.study.plan.plan import Plan
from raymeta.study.plan.space import CHOICE

if TYPE_CHECKING:
    from raymeta.study.record.record import StudyRecord

MOST = 5


def warm_started(plan: Plan, other: "StudyRecord") -> Plan:
    """The plan with the best trials of another study, of whatever method, task or budget, as starting points.

    They are run again, since scores of another task or budget say nothing here. Of each trial those values are taken
    that both spaces have and this one allows. Where this one chooses a regularizer, a trial is of the choice that it
    had; one that had none of them says nothing here.

    Raises:
        UserError: nothing of the other study fits.
    """
    points: list[Point] = []
    labels = []
    for trial in other.ranking():
        given = dict(trial.point)
        if CHOICE in plan.space.params:
            had = other.config(trial).regularizers
            if (choice := plan.choice_of(type(had).model_fields)) is None:
                continue
            given[CHOICE] = choice
        point = {
            key: value
            for key, value in given.items()
            if key in plan.space.params and plan.space.params[key].contains(value)
        }
        if point and point not in points:
            points.append(point)
            labels.append(f"{other.name}: trial {trial.number}")
    if not points:
        raise UserError(
            f"--warm-start {other.name}: no scored trial of it has a value that this search space allows; "
            f"its keys: {', '.join(other.plan.space.params)}; the keys here: {', '.join(plan.space.params)}"
        )
    return plan.starting_from(points[:MOST], labels[:MOST])
