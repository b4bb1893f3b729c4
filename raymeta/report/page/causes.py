"""What made the scores differ: importance of the keys at one rung, the effect of each, and pairs that interact."""

from raymeta.report.page import drawings
from raymeta.report.page.content import Cell, Figure, Grid, Section, count, printed
from raymeta.report.page.effects import Effect, Group, Interaction, effect
from raymeta.report.page.findings import Budget, Findings
from raymeta.report.page.importance import FEWEST, unsaid
from raymeta.study.plan.param import Value

MOST_PAIRS = 4  # that are drawn


def importance(found: Findings) -> Section:
    """Shares of all keys, with the rung at which trials are compared."""
    title, budget = "Which keys matter", found.common
    if budget is None:
        return Section("importance", title, [_too_few(found)])
    shares = found.shares
    if not shares:
        return Section("importance", title, [f"{_where(found, budget)} Their scores or their settings don't differ."])
    rows: list[list[Cell]] = [
        [s.key, s.verdict, s.trials, s.alone, s.low, s.high, s.top, s.top_low, s.top_high] for s in shares
    ]
    columns = [
        "key", "verdict", "trials", "alone (fANOVA)", "from", "to", "for the best quarter (PED-ANOVA)", "from", "to",
    ]  # fmt: skip
    grid = Grid("importance", f"Importance at {budget.steps:,} outer steps, with 95 % intervals", columns, rows)
    matter = [share.key for share in shares if share.verdict == "matters"]
    said = f"What matters: {', '.join(matter)}." if matter else "Of no key can it be said that it matters."
    unknown = [share.key for share in shares if share.verdict.startswith("too few")]
    more = f" Too few trials to tell: {', '.join(unknown)}." if unknown else ""
    silent = unsaid(budget.table)
    text = [
        said + more,
        _where(found, budget),
        "Alone is the share of all squared differences between scores that goes with a key by itself, on average over "
        "the others; what keys do only together is in none of them. Intervals are a bootstrap's over trials; a key "
        "matters if its share is above what keys of shuffled values get by luck.",
        *([f"Not judged, as they had one value or were searched in fewer than {FEWEST} trials: {', '.join(silent)}."]
          if silent else []),
    ]  # fmt: skip
    listed = "; ".join(f"{share.key} {share.alone:.2f} ({share.low:.2f} to {share.high:.2f})" for share in shares)
    figure = Figure(f"Shares alone with 95 % intervals: {listed}.", lambda: drawings.importance(found), grid)
    return Section("importance", title, text, figures=[figure])


def slices(found: Findings) -> Section:
    """The effect of each key: means of trials with like values."""
    title, budget = "What each key does", found.common
    if budget is None:
        return Section("slices", title, [_too_few(found)])
    order = [share.key for share in found.shares]
    keys = order + [key for key in budget.table.varied if key not in order]
    effects = [effect(budget.table.fenced, key) for key in keys]
    text = [
        f"Scores at {budget.steps:,} outer steps: a dot a trial, and the mean of trials with like values with its 95 % "
        "interval. Trials are those that the search proposed, so other keys differ too, and what promised to be good "
        "was tried more often."
        + (f" Of many trials {drawings.MOST_DOTS} are drawn." if len(budget.trials) > drawings.MOST_DOTS else "")
    ]
    return Section("slices", title, text, figures=[_slice(found, number, one) for number, one in enumerate(effects)])


def together(found: Findings) -> Section:
    """Pairs of keys that do more together than each alone."""
    title = "Which keys act together"
    if found.common is None:
        return Section("interactions", title, [_too_few(found)])
    if not found.pairs:
        nothing = "No two keys were found to act together; it takes many trials to see it."
        return Section("interactions", title, [nothing])
    rows: list[list[Cell]] = [[*p.keys, p.share, p.p] for p in found.pairs]
    columns = ["key", "with", "share", "p (Holm)"]
    grid = Grid("interactions", "Pairs of keys that act together", columns, rows)
    figures = [_pair(found, number, pair) for number, pair in enumerate(found.pairs[:MOST_PAIRS])]
    text = [
        "Share of all squared differences beyond what both do alone: an estimate without an interval, and rather too "
        "large, as only pairs that stand out are shown. p is of an F test and screens pairs, no more: trials were not "
        "drawn at random. Lines that are not parallel are what is meant: the best value of one depends on the other."
    ]
    return Section("interactions", title, text, tables=[grid], figures=figures)


def span(low: Value, high: Value) -> str:
    """Values of a group in short."""
    return str(printed(low)) if low == high else f"{printed(low)} to {printed(high)}"


def _slice(found: Findings, number: int, one: Effect) -> Figure:
    scale = found.metric.scale
    rows: list[list[Cell]] = [[span(g.low, g.high), g.trials, *(scale * x for x in _of(g))] for g in one.groups]
    columns = ["values", "trials", f"mean: {found.label}", "± 95 %", "quartile from", "to", "best"]
    grid = Grid(f"slice{number}", one.key, columns, rows)
    said = "; ".join(f"{row[0]}: {printed(row[2])} ± {printed(row[3])}" for row in rows)
    return Figure(f"Mean {found.label} by {one.key}: {said}.", lambda: drawings.slice_(found, one), grid)


def _of(group: Group) -> list[float]:
    return [group.mean, float("nan") if group.ci95 is None else group.ci95, group.lower, group.upper, group.best]


def _pair(found: Findings, number: int, pair: Interaction) -> Figure:
    one, other = pair.keys
    names = ([span(*ends) for ends in pair.names[0]], [span(*ends) for ends in pair.names[1]])
    rows: list[list[Cell]] = [
        [mine, theirs, cell[1], found.metric.scale * cell[0]]
        for mine, line in zip(names[0], pair.cells, strict=True)
        for theirs, cell in zip(names[1], line, strict=True)
    ]
    grid = Grid(f"pair{number}", f"{one} and {other}", [one, other, "trials", f"mean: {found.label}"], rows)
    said = "; ".join(f"{row[0]} with {row[1]}: {printed(row[3])}" for row in rows)
    return Figure(f"Mean {found.label} by {one} and {other}: {said}.", lambda: drawings.pair(found, pair, names), grid)


def _too_few(found: Findings) -> str:
    most = max((len(budget.trials) for budget in found.budgets), default=0)
    return f"Too few trials to tell: {count(most, 'trial')} with a score at one budget, and {FEWEST} are needed."


def _where(found: Findings, budget: Budget) -> str:
    first = budget.steps == found.plan.rungs[0]
    rest = (
        ""
        if first
        else ", the highest rung that enough trials reached; ASHA chose them, so they differ less than all did"
    )
    if far := budget.table.far_out:
        edge = printed(found.metric.scale * budget.table.fence)
        rest += f"; {count(far, 'score')} far out on the worse side count as {edge}"
    return f"Compared are the {len(budget.trials):,} trials with a score up to {budget.steps:,} outer steps{rest}."
