"""How a study went: curves by rung, what ASHA saved, what came to nothing, machines and time, and all trials."""

from importlib.metadata import version
from math import isfinite

import numpy as np

from raymeta.report.page import drawings
from raymeta.report.page.content import Cell, Figure, Grid, Section, count
from raymeta.report.page.findings import Findings, moment, seconds_of
from raymeta.report.tables import settings, varying
from raymeta.study.record.finalists import all_weights
from raymeta.study.record.record import TrialRecord


def curves(found: Findings) -> Section:
    """Scores of all trials at each rung, and the finalists' over all their rounds."""
    title, scale, better = "Learning curves by rung", found.metric.scale, found.metric.mode
    if not found.budgets:
        return Section("curves", title, ["No trial has a score at its first rung yet."])
    rows: list[list[Cell]] = []
    for budget in found.budgets:
        low, lower, middle, upper, high = scale * np.quantile(budget.table.y, [0, 0.25, 0.5, 0.75, 1])
        edge = [high, upper] if better == "max" else [low, lower]
        rows.append([budget.steps, len(budget.trials), *map(float, [edge[0], edge[1], middle])])
    columns = ["outer steps", "trials", f"best: {found.label}", "best quarter from", "median"]
    grid = Grid("rungs", "Best validation up to each rung", columns, rows)
    said = "; ".join(f"at {row[0]:,} outer steps {row[2]:.4g}, median {row[4]:.4g}, of {row[1]}" for row in rows)
    figure = Figure(
        f"Best validation {found.label} of each trial up to each rung. Best trial {said}.",
        lambda: drawings.curves(found),
        grid,
    )
    text = [
        "Grey: every trial at the rungs that it reached; coloured: the first trials at all their validations. Medians "
        "get better from rung to rung also because weak trials are gone: compare trials within a rung."
    ]
    if far := found.budgets[0].table.far_out:
        text.append(f"{count(far, 'trial')} far out on the worse side at the first rung may leave the picture.")
    return Section("curves", title, text, tables=_rounds(found), figures=[figure])


def adaptation(found: Findings) -> Section | None:
    """What adaptation does for the score; None: the problem does not note the score before it."""
    title, scale, before = "Before and after adaptation", found.metric.scale, f"{found.key}_before"
    trials = [trial for trial in found.coloured if any(before in entry for entry in trial.rounds)]
    if not trials:
        return None
    rows: list[list[Cell]] = [
        [trial.number, entry["outer_steps"]]
        + [scale * entry[key] for key in (before, f"{before}_ci95", found.key, "val_ci95")]
        for trial in trials
        for entry in trial.rounds
        if before in entry
    ]
    columns = ["trial", "outer steps", "before", "± 95 %", "after", "± 95 %"]
    grid = Grid("adaptation", "Validations before and after adaptation", columns, rows, long=True)
    last = [entry for entry in trials[0].rounds if before in entry][-1]
    figure = Figure(
        f"Validation {found.label} before and after adaptation over the outer steps. Trial {trials[0].number} ends at "
        f"{scale * last[before]:.4g} before and {scale * last[found.key]:.4g} after.",
        lambda: drawings.adaptation(found, trials),
        grid,
    )
    text = ["Dashed: before the first inner step; solid: after the last one, with its 95 % interval over tasks."]
    return Section("adaptation", title, text, figures=[figure])


def asha(found: Findings) -> Section:
    """Outer steps and hours, against the same trials trained to their full budgets."""
    full, rungs, trials = found.plan.rungs[-1], found.plan.rungs, found.trials
    title = "What ASHA saved"
    done, spent = sum(trial.outer_steps for trial in trials), sum(map(seconds_of, trials))
    if not done:
        return Section("asha", title, ["No outer step is noted yet."])
    pruned = [trial for trial in found.ended("pruned") if trial.outer_steps]
    steps = done + sum(full - trial.outer_steps for trial in pruned)
    hours = spent + sum(seconds_of(trial) * (full / trial.outer_steps - 1) for trial in pruned)
    rows: list[list[Cell]] = []
    for place, rung in enumerate(rungs):
        before = rungs[place - 1] if place else 0
        here = [trial for trial in trials if trial.outer_steps >= rung]
        cut = [trial for trial in pruned if before < trial.outer_steps <= rung and trial.outer_steps < full]
        own = sum(min(trial.outer_steps, rung) - min(trial.outer_steps, before) for trial in trials)
        rows.append([rung, len(here), len(cut), own, own / done * 100])
    columns = ["rung: outer steps", "trials that reached it", "cut there", "outer steps up to it", "of all, %"]
    text = [
        f"{done:,} outer steps and {_hours(spent)} of computing, where the same trials at full budgets would have "
        f"taken {steps:,} and about {_hours(hours)}: {1 - done / steps:.0%} of the outer steps were saved. "
        f"{count(len(pruned), 'trial')} of {len(trials):,} were cut; trials that diverged or failed count as they "
        "ended, and a cut trial is taken to go on at its own pace."
    ]
    return Section("asha", title, text, tables=[Grid("asha", "Trials and outer steps by rung", columns, rows)])


def failures(found: Findings) -> Section:
    """Trials without an end: why they failed, and where they diverged."""
    title, gone = "Failed and diverged trials", found.ended("failed", "diverged")
    if not gone:
        return Section("failures", title, ["None."])
    differing = varying(found.trials)
    rows: list[list[Cell]] = [
        [trial.number, trial.state, trial.outer_steps, _why(trial), settings(trial, differing)] for trial in gone
    ]
    columns = ["trial", "state", "outer steps", "reason", "settings"]
    failed, diverged = len(found.ended("failed")), len(found.ended("diverged"))
    text = [
        f"{count(failed, 'trial')} failed and {diverged} diverged, of {len(found.trials):,}. A trial that diverged has "
        "a bad config, of which the search learns; one that failed tells it nothing."
    ]
    grid = Grid("failures", "Trials that came to nothing", columns, rows, long=len(rows) > 20)
    return Section("failures", title, text, tables=[grid])


def machines(found: Findings) -> Section:
    """Who computed how long, and when."""
    title, times = "Machines and time", found.times()
    if not times:
        return Section("machines", title, ["No round is noted yet."])
    hosts: dict[str, list[float]] = {}
    for trial in found.trials:
        for entry in trial.rounds:
            hosts.setdefault(str(entry.get("hostname", "not noted")), []).append(float(entry.get("seconds", 0.0)))
    rows: list[list[Cell]] = [[host, len(own), sum(own) / 3600] for host, own in hosts.items()]
    spent, wall = sum(map(seconds_of, found.trials)), times[-1] - times[0]
    text = [
        f"First round {moment(times[0])}, last {moment(times[-1])}: {_hours(wall)}, interruptions included, in which "
        f"trials computed {_hours(spent)}" + (f", {spent / wall:.1f} at a time on average." if wall else ".")
    ]
    again = [one for weights in all_weights(found.record) if (one := weights.read())] if found.record.over else []
    if seconds := sum(float(one.get("seconds", 0.0)) for one in again):
        text.append(f"Finalists took {_hours(seconds)} more for {len(again)} evaluations on fresh episodes.")
    return Section(
        "machines", title, text, tables=[Grid("machines", "Rounds by machine", ["machine", "rounds", "hours"], rows)]
    )


def trials(found: Findings) -> Section:
    """Every trial with its score at each rung: the numbers behind all pictures."""
    rungs, scale = found.plan.rungs, found.metric.scale
    at = [{trial.number: score for trial, score in zip(b.trials, b.table.scores, strict=True)} for b in found.budgets]
    scores = dict(zip([budget.steps for budget in found.budgets], at, strict=True))
    rows: list[list[Cell]] = []
    for trial in found.trials:
        entry = trial.best(found.metric)
        by_rung = [scores.get(rung, {}).get(trial.number) for rung in rungs]
        rows.append(
            [
                trial.number,
                trial.state,
                trial.label or "proposed",
                trial.outer_steps,
                scale * entry[found.key] if entry else None,
                scale * entry["val_ci95"] if entry and isfinite(entry["val_ci95"]) else None,
                *(scale * score if score is not None else None for score in by_rung),
                *(trial.point.get(key) for key in found.plan.space.params),
            ]
        )
    columns = ["trial", "state", "from", "outer steps", f"best: {found.label}", "± 95 %"]
    columns += [*(f"up to {rung} steps" for rung in rungs), *found.plan.space.params]
    grid = Grid("trials", f"All {count(len(rows), 'trial')}", columns, rows, long=True)
    return Section("trials", "All trials", tables=[grid] if rows else [], text=[] if rows else ["None yet."])


def provenance(found: Findings) -> Section:
    """What is needed to come by it again."""
    about, plan = found.record.about, found.plan
    seeds: list[list[Cell]] = [
        ["seed of the search", plan.study.seed],
        ["seed of the trials", plan.base.seed],
        ["seed of the validation episodes", plan.base.task.bank_seed],
    ]
    if found.standing:
        seeds.append(["seed of the fresh episodes", found.standing.bank_seed])
    rows: list[list[Cell]] = [
        ["command", about["command"]],
        ["made", about["created"]],
        ["study id", about["id"]],
        ["data", about["data"]["name"]],
        ["fingerprint of the data", about["data"]["fingerprint"]],
        ["hash of the space", about["space_hash"]],
        *seeds,
        *([f"{name} that made it", number] for name, number in about["versions"].items()),
        ["raymeta that wrote this report", version("raymeta")],
    ]
    grid = Grid("provenance", "Where it comes from", ["what", "value"], rows)
    return Section("provenance", "Provenance", tables=[grid])


def _rounds(found: Findings) -> list[Grid]:
    """Every validation of the trials that are drawn in colour."""
    scale = found.metric.scale
    rows: list[list[Cell]] = [
        [trial.number, entry["outer_steps"], scale * entry[found.key], scale * entry["val_ci95"]]
        for trial in found.coloured
        for entry in trial.rounds
        if found.key in entry
    ]
    columns = ["trial", "outer steps", found.label, "± 95 %"]
    return [Grid("rounds", "Validations of the coloured trials", columns, rows, long=True)] if rows else []


def _why(trial: TrialRecord) -> str:
    if trial.reason:
        return trial.reason
    return f"a loss was not finite by {trial.outer_steps} outer steps" if trial.state == "diverged" else "not noted"


def _hours(seconds: float) -> str:
    return f"{seconds / 3600:.1f} h" if seconds >= 3600 else f"{seconds / 60:.1f} min"
