"""What MLflow's page opens on: prepared tables and charts, and their addresses.

The page starts on traces of language models. `workflowType=machine_learning` in an address is its classic view, and
`viewStateShareKey=KEY` opens that as the experiment's tag `mlflow.sharedViewState.KEY` says: which runs, which columns,
in which order. A page that does not know the tag shows its own columns.
"""

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode

from raymeta.errors import UserError
from raymeta.study.tracking.connection import connect
from raymeta.study.tracking.messages import RANK

if TYPE_CHECKING:
    from raymeta.study.record.record import StudyRecord

STUDY, TRIAL, FINAL, SEED = "study", "trial", "final", "seed"  # the tag `raymeta.kind`
SHARED = "mlflow.sharedViewState."
TRIALS, STUDIES = "trials", "studies"  # the keys of the views
CLASSIC = {"mlflow.experimentKind": "custom_model_development"}
FINALS = "final runs"  # the experiment
MOST = 100  # studies in one table, the newest


def tag(key: str) -> str:
    """A tag's column."""
    return f"tags.`{key}`"


def metric(key: str) -> str:
    """A metric's column."""
    return f"metrics.`{key}`"


def param(key: str) -> str:
    """A parameter's column."""
    return f"params.`{key}`"


OWN = {"attributes.`Run Name`": 160, "runDateAndNestInfo": 130}  # the page's own columns, in pixels
WIDER = {tag(f"raymeta.{key}"): 140 for key in ("score", "fresh_score", "baseline", "gain", "trials")} | {
    param("method"): 140,
    tag("raymeta.best_settings"): 400,
}
WIDTH = 100


def of_study(record: "StudyRecord", *, ranked: bool) -> dict[str, str]:
    """Tags of a study's experiment: a table of its trials, and one of the studies that any of them can open.

    Args:
        record: of the study.
        ranked: trials have their places; else the best validation stands first.
    """
    score, params = f"best_val_{record.metric.name}", record.plan.space.params
    columns = [tag("raymeta.role"), tag("raymeta.score"), tag("raymeta.fresh_score"), metric("outer_steps_done")]
    columns += [tag("raymeta.state"), *map(param, params)]
    always = [key for key, one in params.items() if not one.when]
    numbers = [key for key in always if params[key].choice is None][:6]
    # An error that explodes would press all others into one line.
    shown, curve = RANK if ranked and record.metric.mode == "min" else score, f"val_{record.metric.name}"
    charts: list[dict[str, Any]] = [
        {"type": "PARALLEL", "showAllRuns": True, "selectedParams": always, "selectedMetrics": [shown]},
        {
            "type": "LINE", "metricKey": curve, "selectedMetricKeys": [curve], "xAxisKey": "step", "range": {},
            "xAxisScaleType": "linear", "scaleType": "log" if record.metric.mode == "min" else "linear",
            "lineSmoothness": 0, "useGlobalLineChartConfig": True,
        },
        *(
            {"type": "SCATTER", "xaxis": {"key": key, "type": "PARAM"}, "yaxis": {"key": shown, "type": "METRIC"}}
            for key in numbers
        ),
    ]  # fmt: skip
    upwards = ranked or record.metric.mode == "min"
    return {
        **CLASSIC,
        "raymeta.kind": STUDY,
        "raymeta.study_id": record.about["id"],
        "mlflow.note.content": f"{record.plan.spec} on {record.plan.base.task.title}",
        SHARED + TRIALS: view(TRIAL, columns, metric(RANK if ranked else score), upwards=upwards, charts=charts),
        SHARED + STUDIES: _studies(),
    }


def _studies() -> str:
    """A row a study, the newest first. Equal for all: the page reads it from whichever experiment it has first."""
    said = ["score", "baseline", "gain", "state", "trials"]
    columns = [param("method"), tag("raymeta.task"), *(tag(f"raymeta.{key}") for key in said), metric("outer_steps")]
    return view(STUDY, [*columns, tag("raymeta.best_trial"), tag("raymeta.best_settings")], "attributes.start_time")


def of_finals() -> dict[str, str]:
    """Tags of the experiment of final runs: a row a config, the newest first."""
    columns = [tag("raymeta.score"), tag("raymeta.task"), tag("raymeta.study"), tag("raymeta.preset"), param("seeds")]
    shown = view(FINAL, [*columns, param("budget.outer_steps")], "attributes.start_time")
    return {**CLASSIC, "raymeta.kind": FINAL, SHARED + TRIALS: shown}


def view(
    kind: str, columns: Sequence[str], by: str, *, upwards: bool = False, charts: Sequence[Mapping[str, Any]] = ()
) -> str:
    """A prepared view as the page reads it.

    Args:
        kind: the runs that are shown.
        columns: in their order.
        by: the column, or attribute, that rows are sorted by.
        upwards: the smallest first.
        charts: of the chart view; none: the page's own.
    """
    section = {"uuid": "raymeta", "name": "Search", "display": True, "isReordered": False, "deleted": False}
    state: dict[str, Any] = {
        "searchFilter": f"tags.`raymeta.kind` = '{kind}'",
        "orderByKey": by,
        "orderByAsc": upwards,
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "modelVersionFilter": "All Runs",
        "datasetsFilter": [],
        "selectedColumns": list(columns),
        "columnOrder": [*OWN, *columns],
        "columnWidths": dict.fromkeys(columns, WIDTH) | OWN | WIDER,
        "runsHidden": [],
        "runsHiddenMode": "SHOW_ALL",
        "runsPinned": [],
        "runsExpanded": {},
        "viewMaximized": False,
    }
    if charts:
        about = {"metricSectionId": "raymeta", "runsCountToCompare": 100, "deleted": False, "isGenerated": False}
        state["compareRunCharts"] = [{"uuid": f"raymeta-{n}", **about, **chart} for n, chart in enumerate(charts)]
        state["compareRunSections"] = [section | {"isGenerated": False, "columns": 2}]
    return json.dumps(state)


def addresses(base: str, study: str | None = None) -> dict[str, str]:
    """Where a browser finds the prepared views: what is there, to its address.

    Args:
        base: the server's own address.
        study: name of the study that is to be opened; None: all studies, and the final runs if there are any.

    Raises:
        UserError: MLflow has no copy of the study, or one that an older version made.
    """
    client = connect()
    if study is not None:
        found = client.get_experiment_by_name(study)
        if found is None or SHARED + TRIALS not in found.tags:
            what = "no copy of it" if found is None else "a copy of it that an older raymeta made"
            raise UserError(f"the study '{study}': MLflow has {what}: `raymeta sync {study}` sends it")
        table = _runs(base, str(found.experiment_id))
        return {study: table, "its charts": f"{table}&compareRunsMode=CHART"}
    order = ["last_update_time DESC"]
    studies = client.search_experiments(
        filter_string=f"tags.`raymeta.kind` = '{STUDY}'", max_results=MOST, order_by=order
    )
    finals, there = client.get_experiment_by_name(FINALS), {}
    if len(studies) == 1:  # of a comparison of one the page makes that one's own
        there["studies"] = _runs(base, str(studies[0].experiment_id), STUDIES)
    elif studies:
        which = quote(json.dumps([str(one.experiment_id) for one in studies], separators=(",", ":")))
        there["studies"] = f"{base}/#/compare-experiments/s?experiments={which}&{opened(STUDIES)}"
    if finals is not None and SHARED + TRIALS in finals.tags:
        there[FINALS] = _runs(base, str(finals.experiment_id))
    return there or {"nothing is in it yet": f"{base}/#/experiments?workflowType=machine_learning"}


def _runs(base: str, experiment: str, key: str = TRIALS) -> str:
    return f"{base}/#/experiments/{experiment}/runs?{opened(key)}"


def opened(key: str) -> str:
    """What an address asks for to open a view."""
    return urlencode({"workflowType": "machine_learning", "viewStateShareKey": key})
