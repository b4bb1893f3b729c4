"""Pictures of a search."""

from collections import Counter
from typing import Any

from raymeta.report.style import BEST, COLOURS, EQUAL, GUIDE, REST, drawn, panels
from raymeta.report.tables import fresh, short, validated
from raymeta.study.record.finalists import Standings, standings
from raymeta.study.record.record import StudyRecord


def search_picture(record: StudyRecord, suffix: str = ".png") -> bytes:
    """Validation curves of all trials with ASHA's rungs, the best score over time, and score against each key.

    Returns:
        The content of a file with that suffix.
    """
    from matplotlib.collections import LineCollection

    trials = [trial for trial in record.trials() if trial.best(record.metric)]
    key, sign = f"val_{record.metric.name}", 1 if record.metric.mode == "max" else -1
    searched = [name for name, param in record.plan.space.params.items() if param.choice is None] or list(
        record.plan.space.params
    )
    standing = standings(record)
    columns = max(3 if standing else 2, min(len(searched), 3))
    figure, axes = panels(2, columns, 4.2, 3.6)
    best = record.best()
    title = f"{record.name}: {record.plan.spec}, {len(record.trials())} trials"
    again = f", {fresh(standing.best, record.metric)} on fresh episodes" if standing and standing.best else ""
    figure.suptitle(title + (f", best {validated(best, record.metric)}{again} (trial {best.number})" if best else ""))

    curves, pace = axes[0, 0], axes[0, 1]
    lines = [[(entry["outer_steps"], entry[key]) for entry in trial.rounds if key in entry] for trial in trials]
    top = [best is not None and trial.number == best.number for trial in trials]
    shades = [BEST if first else COLOURS[trial.state] for trial, first in zip(trials, top, strict=True)]
    # Two artists for all curves: one for each takes four times as long and as much memory, and trials are thousands.
    curves.add_collection(LineCollection(lines, colors=shades, linewidths=[2 if first else 1 for first in top]))
    dots = [(*point, shade) for line, shade in zip(lines, shades, strict=True) for point in line]
    if dots:
        steps, scores, dyes = zip(*dots, strict=True)
        curves.scatter(steps, scores, s=8, c=dyes)
    for rung in record.plan.rungs[:-1]:
        curves.axvline(rung, **GUIDE)
    curves.set(xlabel="outer steps (dashed: rungs)", ylabel=f"validation {record.metric.name}", title="trials")
    counts = Counter(trial.state for trial in record.trials() if trial.ended)
    for state, count in counts.items():
        curves.plot([], [], color=COLOURS[state], label=f"{state}: {count}")
    if counts:
        curves.legend(frameon=False, fontsize=8)

    rounds = sorted((entry["at"], entry[key]) for trial in trials for entry in trial.rounds if key in entry)
    so_far: list[float] = []
    for _, value in rounds:
        so_far.append(value if not so_far else sign * max(sign * value, sign * so_far[-1]))
    pace.step([(at - rounds[0][0]) / 60 for at, _ in rounds], so_far, where="post", color=BEST)
    pace.set(xlabel="minutes since the first result", title="best so far")
    if standing:
        _finalists_panel(axes[0, 2], standing)
    else:
        for empty in axes[0, 2:]:
            empty.set_axis_off()

    for panel, name in zip(axes[1], searched[:columns], strict=False):
        chosen = [trial for trial in trials if name in trial.point]
        panel.scatter(
            [
                trial.point[name] if not isinstance(trial.point[name], str) else short(trial.point[name])
                for trial in chosen
            ],
            [(trial.best(record.metric) or {})[key] for trial in chosen],
            c=[COLOURS[trial.state] for trial in chosen],
            s=[8 + 60 * trial.outer_steps / record.plan.rungs[-1] for trial in chosen],
        )
        panel.set(xlabel=f"{name} (size: outer steps)", ylabel=record.metric.name)
        if record.plan.space.params[name].log:
            panel.set_xscale("log")
    for empty in axes[1, len(searched) :]:
        empty.set_axis_off()
    return drawn(figure, suffix)


def _finalists_panel(panel: Any, standing: Standings) -> None:
    """Fresh score against the search's; what lies on the worse side of the diagonal was lucky in the search."""
    key = f"val_{standing.metric.name}"
    for one in standing.finalists:
        entry = one.trial.best(standing.metric) or {}
        if one.values:
            colour = BEST if one is standing.best else EQUAL if one.equal else REST
            panel.errorbar(entry[key], one.mean, one.ci95, entry["val_ci95"], "o", color=colour, lw=0.8, ms=4)
            at = (entry[key], one.mean)
            panel.annotate(str(one.trial.number), at, (4, 4), textcoords="offset points", fontsize=8)
            panel.axline((one.mean, one.mean), slope=1, **GUIDE)
    panel.set(xlabel="score in the search", ylabel=f"on {standing.tasks} fresh episodes", title="finalists")
