"""The report of a study of methods: tables and pictures by task, ranks over tasks, and what all of it leaves open."""

from collections.abc import Iterator, Mapping, Sequence
from statistics import median
from typing import Any

from raymeta.comparison.methods import Gap, Methods, MethodsOfTask, Result
from raymeta.comparison.ranking import Ranking
from raymeta.comparison.written import number, p_value, unit
from raymeta.metric import Metric
from raymeta.report.page.content import Cell, Figure, Grid, Report, Section, count
from raymeta.report.style import BEST, GUIDE, REST, legend, panels
from raymeta.report.tables import short

TUNED, UNTUNED = "tuned", "authors' setting"
SIDES = {"tuned": TUNED, "untuned": UNTUNED}
ROWS = "rows"


def report_of(found: Methods) -> Report:
    """What a study of methods came to, for every form that `raymeta.report.page` writes."""
    titles = [task.title for task in found.tasks]
    trials = _range([one.searched.trials for one in found.results])
    subtitle = (
        f"{count(len(found.methods), 'method')} on {', '.join(titles)}: each searched with {trials} trials, "
        f"then trained with {count(found.seeds, 'seed')}"
    )
    sections = [
        Section("found", "What was found", [*_sentences(found)]),
        *_ranks(found),
        *(section for place, task in enumerate(found.tasks) for section in _of_task(task, place)),
        _searches(found),
        Section("limits", "What the differences do not show", [*limits(found)]),
        *([Section("failed", "What came to nothing", [*found.problems])] if found.problems else []),
        Section("all", "All figures", tables=[_all(found)]),
    ]
    return Report(found.name, subtitle, sections, found.as_dict, ROWS)


def limits(found: Methods) -> Iterator[str]:
    """Sentences on what can't be concluded, with the figures of this study."""
    yield (
        "Each method was searched once on each task. Intervals are over test tasks and the seeds of training; that "
        "another search would have chosen another config is in none of them."
    )
    if found.seeds < 3:
        yield (
            f"With {count(found.seeds, 'seed')} the spread between trainings is hardly known, and is taken to be alike "
            "for all configs: three seeds or more are needed to trust a small difference."
        )
    for task in found.tasks:
        pairs = task.between.pairs if task.between else []
        if pairs:
            half = median(pair.half for pair in pairs)
            yield (
                f"On {task.title} a difference of two methods has ± {number(half, task.metric)}{unit(task.metric)}: "
                "smaller ones can't be seen, and not to be significant is not to be equal."
            )
    searches = [one.searched for one in found.results]
    if (cost := [one.seconds for one in searches if one.seconds > 0]) and max(cost) > 1.2 * min(cost):
        yield (
            f"The searches had the same number of trials and rungs, not the same compute: the dearest took "
            f"{max(cost) / min(cost):.1f} times as long as the cheapest."
        )
    if (keys := sorted({one.keys for one in searches})) and keys[0] < keys[-1]:
        yield (
            f"Spaces have {keys[0]} to {keys[-1]} keys: as many trials cover the larger ones more thinly, so a method "
            "with more settings may be behind because it was searched less well."
        )
    if off := [f"{one.method} on {one.task}" for one in found.results if one.searched.off]:
        yield (
            f"The search switched the regularizer off for {', '.join(off)}: such a config differs from the method "
            "without it by what the search found of the other keys, and by luck."
        )
    steps = sorted({e.outer_steps for one in found.results for e in (one.tuned, one.untuned) if e is not None})
    if steps:
        yield (
            f"All were trained for {_range(steps, ',')} outer steps. Regularizers act against overfitting, of which a "
            "short training of a small network may have little: longer ones, other networks and other data may order "
            "the methods otherwise."
        )
    yield (
        "The authors' setting is that of their papers or code for their own networks and budgets, as far as this "
        "budget lets it: that column is not what they published."
    )
    if len(found.tasks) > 1:
        yield (
            f"Ranks are over {len(found.tasks)} tasks and take no account of how large a difference is; tasks of one "
            "data set are not independent of each other, as the critical difference takes them to be."
        )
    else:
        yield (
            "One task says nothing of others: ranks with critical differences take three methods or more on two tasks "
            "or more."
        )


def _sentences(found: Methods) -> Iterator[str]:
    for task in found.tasks:
        if task.between is not None:
            yield f"{task.title}, tuned: {task.between.sentence}."
        for side, word in SIDES.items():
            if effects := task.effects(side):
                yield f"Regularizers on {task.title}, {word}: {_effects(list(effects.values()), task.metric)}."
    for side, word in SIDES.items():
        if (ranks := found.ranking(side)) is not None:
            yield f"Over tasks, {word}: {ranks.sentence}."


def _effects(effects: Sequence[Gap], metric: Metric) -> str:
    """Which regularizers help, which harm, and of which it can't be told."""
    sign = 1 if metric.mode == "max" else -1
    groups: dict[str, list[str]] = {"better": [], "worse": [], "open": []}
    for gap in effects:
        kind = "open" if not gap.significant else "better" if sign * gap.mean > 0 else "worse"
        groups[kind].append(f"{gap.of} ({_signed(gap, metric)} on {gap.than})")
    parts = [
        f"significantly better than without the regularizer: {', '.join(groups['better'])}" if groups["better"] else "",
        f"significantly worse: {', '.join(groups['worse'])}" if groups["worse"] else "",
        f"not told apart from the method without it: {', '.join(groups['open'])}" if groups["open"] else "",
    ]
    return "; ".join(filter(None, parts))


def _ranks(found: Methods) -> Iterator[Section]:
    there = {word: ranks for side, word in SIDES.items() if (ranks := found.ranking(side)) is not None}
    if not there:
        return
    methods = list(dict.fromkeys(name for ranks in there.values() for name in ranks.methods))
    rows: list[list[Cell]] = [[name, *(ranks.mean_ranks.get(name) for ranks in there.values())] for name in methods]
    rows.append(["critical difference at 5 %", *(ranks.critical for ranks in there.values())])
    grid = Grid("ranks", "Mean ranks over tasks; 1 is the best there could be", ["method", *there], rows)
    said = "; ".join(
        f"{word}: {', '.join(f'{n} {r:.2f}' for n, r in one.mean_ranks.items())}" for word, one in there.items()
    )
    drawn = Grid("ranks-drawn", "Mean ranks, and the critical difference from the best", grid.columns, rows, long=True)
    figure = Figure(f"Mean ranks with the critical difference. {said}.", lambda: _draw_ranks(there), drawn)
    text = [
        "Methods are ranked in each task; two differ where their mean ranks are further apart than the critical "
        "difference, if Friedman's test finds any difference at all (Demšar 2006)."
    ]
    yield Section("ranks", "Ranks over tasks", text, tables=[grid], figures=[figure])


def _of_task(task: MethodsOfTask, place: int) -> Iterator[Section]:
    metric, gains = task.metric, task.gains
    rows: list[list[Cell]] = [
        [
            one.method,
            metric.text(one.untuned.mean, one.untuned.ci95) if one.untuned else None,
            metric.text(one.tuned.mean, one.tuned.ci95) if one.tuned else None,
            "the same config" if one.same else _signed(gains.get(one.method), metric),
            _p(gains.get(one.method)),
        ]
        for one in task.results
    ]
    columns = ["method", UNTUNED, TUNED, "tuned less untuned", "p (Holm)"]
    scores = Grid(f"scores{place}", f"Test {metric.name} with 95 % intervals over tasks", columns, rows)
    said = "; ".join(f"{row[0]}: {row[1]} and {row[2]}" for row in rows)
    drawn = Grid(f"drawn{place}", f"Test {metric.name} by method", columns[:3], [row[:3] for row in rows], long=True)
    figure = Figure(f"Test {metric.name} by method, {UNTUNED} and {TUNED}. {said}.", lambda: _draw_scores(task), drawn)
    tables = [scores, *_effect_grids(task, place), *_pairs(task, place)]
    yield Section(f"task{place}", task.title, tables=tables, figures=[figure])


def _effect_grids(task: MethodsOfTask, place: int) -> Iterator[Grid]:
    both = {word: task.effects(side) for side, word in SIDES.items()}
    methods = [one.method for one in task.results if any(one.method in effects for effects in both.values())]
    if not methods:
        return
    rows: list[list[Cell]] = []
    for method in methods:
        untuned, tuned = both[UNTUNED].get(method), both[TUNED].get(method)
        than = next(gap.than for gap in (tuned, untuned) if gap is not None)
        rows.append([method, than, _signed(untuned, task.metric), _p(untuned), _signed(tuned, task.metric), _p(tuned)])
    columns = ["method", "less", UNTUNED, "p (Holm)", TUNED, "p (Holm)"]
    yield Grid(f"effects{place}", "What the regularizer adds, on the same test tasks", columns, rows)


def _pairs(task: MethodsOfTask, place: int) -> Iterator[Grid]:
    if task.between is not None:
        rows = [[*line] for line in task.between.cells()]
        yield Grid(f"between{place}", "Tuned configs, the best first", task.between.head(), rows)


def _searches(found: Methods) -> Section:
    rows: list[list[Cell]] = [
        [
            one.task, one.method, one.searched.trials, one.searched.keys, one.searched.outer_steps,
            f"{one.searched.seconds / 60:.1f}", _chosen(one),
        ]
        for one in found.results
    ]  # fmt: skip
    columns = ["task", "method", "trials", "keys", "outer steps", "minutes computed", "what it chose"]
    text = [
        "The same number of trials, rungs and finalists for all. Minutes are those that trials and finalists computed, "
        "summed over slots; final runs are not among them."
    ]
    grid = Grid("searches", "What each search took, and what it chose", columns, rows)
    studies = [f"raymeta report {one.searched.study}" for one in found.results]
    return Section("searches", "The searches", text, code=studies, tables=[grid])


def _chosen(one: Result) -> str:
    if one.searched.chosen is None:
        return "nothing: no trial has a score"
    said = ", ".join(f"{key.rsplit('.', 1)[-1]} {short(value)}" for key, value in one.searched.chosen.items())
    remark = "the authors' setting: " if one.same else "regularizer switched off: " if one.searched.off else ""
    return f"{remark}{said}"


def _all(found: Methods) -> Grid:
    rows = [{key: value for key, value in row.items() if key != "chosen"} for row in found.rows()]
    return Grid(ROWS, "A row a task and method", list(rows[0]), [list(row.values()) for row in rows], long=True)


def _draw_scores(task: MethodsOfTask) -> Any:
    """A line a method: its authors' setting in grey, its tuned config in colour."""
    figure, ((axis,),) = panels(1, 1, 4.6, 1.2 + 0.36 * len(task.results))
    metric, results = task.metric, list(task.results)[::-1]
    for side, colour, shift in (("untuned", REST, -0.12), ("tuned", BEST, 0.12)):
        there = [(place + shift, entry) for place, one in enumerate(results) if (entry := getattr(one, side))]
        axis.errorbar(
            [metric.scale * entry.mean for _, entry in there],
            [place for place, _ in there],
            xerr=[metric.scale * entry.ci95 for _, entry in there],
            fmt="o", ms=4, color=colour, capsize=2, label=SIDES[side],
        )  # fmt: skip
    axis.set_yticks(range(len(results)), [one.method for one in results])
    axis.set(xlabel=f"test {metric.name}{f' ({metric.unit})' if metric.unit else ''}", ylim=(-0.6, len(results) - 0.4))
    legend(axis)
    return figure


def _draw_ranks(there: Mapping[str, Ranking]) -> Any:
    """A panel a side: mean ranks, and the span in which none differs from the best."""
    figure, axes = panels(1, len(there), 4.6, 1.2 + 0.3 * max(len(one.methods) for one in there.values()))
    for axis, (word, ranks) in zip(axes[0], there.items(), strict=True):
        names = ranks.methods[::-1]
        means = [ranks.mean_ranks[name] for name in names]
        axis.plot(means, range(len(names)), "o", color=BEST)
        axis.axvline(min(means) + ranks.critical, **GUIDE)
        axis.set_yticks(range(len(names)), names)
        axis.set(xlabel=f"mean rank, {word} (dashed: critical)", xlim=(0.8, len(names) + 0.2))
    return figure


def _signed(gap: Gap | None, metric: Metric) -> str:
    if gap is None:
        return "-"
    return f"{metric.scale * gap.mean:+.{metric.digits}f} ± {number(gap.half, metric)}{unit(metric)}"


def _p(gap: Gap | None) -> str:
    return p_value(gap.p) if gap else "-"


def _range(values: Sequence[int], form: str = "") -> str:
    low, high = min(values), max(values)
    return f"{low:{form}}" if low == high else f"{low:{form}} to {high:{form}}"
