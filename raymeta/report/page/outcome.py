"""What a study has found: the best and its finalists, and what was searched to find it."""

from statistics import fmean

from raymeta.metric import half_width
from raymeta.report.export import against_start
from raymeta.report.page import drawings
from raymeta.report.page.content import Cell, Figure, Grid, Section, count
from raymeta.report.page.findings import Findings
from raymeta.report.status import STATES, status_of
from raymeta.report.tables import fresh, validated
from raymeta.schema import flatten

WAITS = {"stopping": "", "promoting": "; one that does not waits there until it is among the best"}


def best(found: Findings) -> Section:
    """The answer: the best, how sure that is, what it gains, and the line to go on with."""
    status = status_of(found.record)
    text, code = [_progress(found)], [f"raymeta resume {found.record.name}"]
    if found.best is None:
        text.append("No trial has a score yet." if found.unended or not found.trials else str(status) + ".")
        tables = []
    else:
        text += [_score(found), _gain(found)]
        tables = [_settings(found)]
    if status.settled and found.best is not None:
        export = f"raymeta export {found.record.name} -o best.yaml"
        code = [export, "raymeta final best.yaml --seeds 3"]
        text.append("To train it again on fresh seeds and test it:")
    elif status.settled:
        code = []
    else:
        text.append(f"{status.unscored}. It goes on with:" if status.unscored else "It goes on with:")
    return Section("best", "The best", text, code, tables)


def finalists(found: Findings) -> Section:
    """The top trials on fresh episodes, and how far each is from the best, episode by episode."""
    standing, metric = found.standing, found.metric
    if standing is None:
        left = "the top trials are scored on fresh episodes when all trials have ended"
        return Section("finalists", "Finalists", [f"No finalists are scored yet: {left}."])
    rows: list[list[Cell]] = []
    for one in standing.finalists:
        gap, entry = standing.to_best(one), one.trial.best(metric) or {}
        rows.append(
            [
                one.trial.number,
                one.trial.label or "proposed",
                one.trial.outer_steps,
                metric.scale * entry[found.key],
                metric.scale * one.mean if one.values else None,
                metric.scale * one.ci95 if one.values else None,
                metric.scale * fmean(one.own) if one.own else None,
                metric.scale * half_width(one.own) if one.own else None,
                metric.scale * gap.mean if gap else None,
                metric.scale * gap.ci95 if gap else None,
                one.reason or ("" if one.equal else "less training: can't be called best"),
            ]
        )
    seeds = max(len(one.retrained) for one in standing.finalists)
    judged = f"its config trained again with {count(seeds, 'seed')}" if seeds else "its own weights"
    columns = [
        "trial", "from", "outer steps", f"in the search: {found.label}", f"on fresh episodes: {found.label}", "± 95 %",
        "own weights", "± 95 %", "to the best", "± 95 %", "remark",
    ]  # fmt: skip
    if not seeds:  # then the own weights are what is judged
        columns, rows = [columns[:6] + columns[8:], [row[:6] + row[8:] for row in rows]]
    grid = Grid("finalists", f"Finalists on {standing.tasks} fresh episodes", columns, rows)
    verdict = standing.verdict[0].upper() + standing.verdict[1:] + "."
    text = [
        f"{verdict} Each is judged by {judged} on the same {standing.tasks} episodes, which chose nothing; "
        "differences to the best are taken episode by episode."
    ]
    scored = [one for one in standing.finalists if one.values]
    if not scored:
        return Section("finalists", "Finalists", text, tables=[grid])
    shown = "; ".join(f"trial {one.trial.number}: {fresh(one, metric)}" for one in scored)
    figure = Figure(f"Scores on fresh episodes with 95 % intervals: {shown}.", lambda: drawings.finalists(found), grid)
    return Section("finalists", "Finalists", text, figures=[figure])


def searched(found: Findings) -> Section:
    """What was searched, from where to where, and what was not."""
    plan, space = found.plan, found.plan.space
    rows: list[list[Cell]] = []
    for key, param in space.params.items():
        when = ", ".join(f"{other} {condition}" for other, condition in param.when.items())
        starts: list[Cell] = [_plain(point.get(key)) for point in space.start_from]
        rows.append([key, str(param), when or "always", space.origins.get(key, ""), *starts])
    names = [f"start: {label}" for label in space.labels]
    grid = Grid("space", "Searched keys", ["key", "range", "searched when", "from", *names], rows)
    values = plan.base.flat() | flatten({"study": plan.study.model_dump(mode="json")})
    fixed = [[key, _plain(values[key]), origin] for key, origin in plan.fixed.items() if key in values]
    tables = [grid, *([Grid("fixed", "Fixed keys", ["key", "value", "from"], fixed)] if fixed else [])]
    budget = plan.base.budget
    rungs = ", ".join(f"{rung:,}" for rung in plan.rungs)
    whole = plan.study.halving == "promoting" and found.start is not None
    start = " The un-regularized start is trained to the end, to be compared with." if whole else ""
    text = [
        f"{plan.spec} on {plan.base.task.title}: {count(len(space.params), 'key')} searched over "
        f"{count(plan.study.trials, 'trial')} of up to {budget.outer_steps:,} outer steps. The first are "
        f"{count(len(space.start_from), 'starting point')} and random ones, up to {plan.study.startup_trials} in all; "
        f"then Optuna's TPE proposes. ASHA lets about one in {plan.study.reduction} pass each rung ({rungs} outer "
        f"steps){WAITS[plan.study.halving]}.{start} A validation is {budget.validation_tasks} episodes of the "
        "validation split, the same for all trials.",
        f"What is not listed is from: {', '.join([*dict.fromkeys(plan.origins.values()), 'defaults'])}.",
    ]
    return Section("searched", "What was searched", text, tables=tables)


def _progress(found: Findings) -> str:
    ended = len(found.trials) - len(found.unended)
    counts = [f"{number} {state}" for state in STATES if (number := len(found.ended(state)))]
    said = f"{ended:,} of {count(found.plan.study.trials, 'trial')} have ended"
    return f"{said}: {', '.join(counts)}." if counts else "No trial was started yet."


def _score(found: Findings) -> str:
    assert found.best is not None
    one = found.standing.of(found.best.number) if found.standing else None
    who = f"Trial {found.best.number} is the best: validation {found.metric.name}"
    searched = validated(found.best, found.metric)
    if one is None or not one.values:
        return (
            f"{who} {searched} after {found.best.outer_steps:,} outer steps. It is the best of many on the same "
            "episodes, so in part the luckiest: on fresh ones it would be worse as a rule."
        )
    assert found.standing is not None
    return f"{who} {fresh(one, found.metric)} on {found.standing.tasks} fresh episodes ({searched} in the search)."


def _gain(found: Findings) -> str:
    assert found.best is not None
    said = against_start(found.record, found.best)
    return said[0].upper() + said[1:] + "."


def _settings(found: Findings) -> Grid:
    """The best's values beside those of the starting points."""
    assert found.best is not None
    space, own = found.plan.space, found.best.point
    rows: list[list[Cell]] = [
        [key, _plain(own.get(key)), *(_plain(point.get(key)) for point in space.start_from)] for key in space.params
    ]
    columns = ["key", f"best: trial {found.best.number}", *(f"start: {label}" for label in space.labels)]
    return Grid("settings", "Settings of the best", columns, rows)


def _plain(value: object) -> Cell:
    return value if isinstance(value, str | int | float | None) else str(value)
