"""Pictures of a search."""

from pathlib import Path

from raymeta.study.progress import STYLES
from raymeta.study.record import StudyRecord
from raymeta.study.tables import score, short


def search_picture(record: StudyRecord, path: Path) -> None:
    """Draw validation curves of all trials with ASHA's rungs, the best score over time, and score against each key."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    trials = [trial for trial in record.trials() if trial.best(record.metric)]
    key, sign = f"val_{record.metric.name}", 1 if record.metric.mode == "max" else -1
    searched = [name for name, param in record.plan.space.params.items() if param.choice is None] or list(
        record.plan.space.params
    )
    colours = {state: "C0" if style == "cyan" else {"dim": "0.65"}.get(style, style) for state, style in STYLES.items()}
    columns = max(2, min(len(searched), 3))
    figure, axes = plt.subplots(2, columns, figsize=(4.2 * columns, 7.2), layout="constrained", squeeze=False)
    best = record.best()
    title = f"{record.name}: {record.plan.spec}, {len(record.trials())} trials"
    figure.suptitle(title + (f", best {score(best, record.metric)} (trial {best.number})" if best else ""))

    curves, pace = axes[0, 0], axes[0, 1]
    for trial in trials:
        points = [(entry["outer_steps"], entry[key]) for entry in trial.rounds if key in entry]
        top = best is not None and trial.number == best.number
        curves.plot(*zip(*points, strict=True), ".-", color="C3" if top else colours[trial.state], lw=2 if top else 1)
    for rung in record.plan.rungs[:-1]:
        curves.axvline(rung, color="0.8", lw=0.8, ls="--", zorder=0)
    curves.set(xlabel="outer steps (dashed: rungs)", ylabel=f"validation {record.metric.name}", title="trials")
    for state in ("completed", "pruned", "diverged", "failed"):
        count = sum(trial.state == state for trial in record.trials())
        if count:
            curves.plot([], [], color=colours[state], label=f"{state}: {count}")
    curves.legend(frameon=False, fontsize=8)

    rounds = sorted((entry["at"], entry[key]) for trial in trials for entry in trial.rounds if key in entry)
    so_far: list[float] = []
    for _, value in rounds:
        so_far.append(value if not so_far else sign * max(sign * value, sign * so_far[-1]))
    pace.step([(at - rounds[0][0]) / 60 for at, _ in rounds], so_far, where="post", color="C3")
    pace.set(xlabel="minutes since the first result", title="best so far")
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
            c=[colours[trial.state] for trial in chosen],
            s=[8 + 60 * trial.outer_steps / record.plan.rungs[-1] for trial in chosen],
        )
        panel.set(xlabel=f"{name} (size: outer steps)", ylabel=record.metric.name)
        if record.plan.space.params[name].log:
            panel.set_xscale("log")
    for empty in axes[1, len(searched) :]:
        empty.set_axis_off()
    figure.savefig(path, dpi=110)
    plt.close(figure)
