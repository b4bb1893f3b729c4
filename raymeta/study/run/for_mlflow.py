"""What MLflow is told of a study: its runs' tags, notes, figures and files, as plain data (messages.py)."""

import json
import shlex
from importlib.metadata import version
from typing import TYPE_CHECKING

from raymeta.problem import open_problem
from raymeta.report.export import against_start
from raymeta.report.page.content import PAGE
from raymeta.report.tables import fresh, settings, short, validated, value
from raymeta.schema import flatten
from raymeta.storage.files import dump_yaml
from raymeta.study.plan.space import BASELINE
from raymeta.study.record.finalists import Difference, Standings, baseline, paired, settled, standings
from raymeta.study.record.record import StudyRecord, TrialRecord
from raymeta.study.tracking import views
from raymeta.study.tracking.messages import HERE, Place, Study, Summary, Trial
from raymeta.study.tracking.model import FewShotModel, described

if TYPE_CHECKING:
    from raymeta.study.machines.session import Session

STATES = ("completed", "pruned", "diverged", "failed")
START = "baseline"  # the role of the un-regularized start


def study_content(record: StudyRecord) -> Study:
    """What the study's run says from the start."""
    about, plan = record.about, record.plan
    tags = {
        "mlflow.runName": record.name,
        "mlflow.note.content": _note(record, ""),
        "raymeta.kind": views.STUDY,
        "raymeta.state": "running",
        "raymeta.study": record.name,
        "raymeta.study_id": about["id"],
        "raymeta.task": plan.base.task.name,
        "raymeta.command": about["command"],
        "raymeta.data": about["data"]["fingerprint"],
        "raymeta.version": version("raymeta"),
    }
    params = {"method": plan.spec, "space_hash": plan.space.hash, **flatten({"study": plan.study.model_dump()})}
    texts = {"space.yaml": dump_yaml(plan.space.as_dict()), "base.yaml": plan.base.to_yaml()}
    return Study(record.name, about["id"], tags, params, texts, views.of_study(record, ranked=False))


def trial_content(record: StudyRecord, trial: TrialRecord, *, config: bool) -> Trial:
    """A trial as it is now, with or without its whole config."""
    entry, name = trial.best(record.metric), f"val_{record.metric.name}"
    return Trial(
        trial.number,
        trial.label,
        START if trial.label == BASELINE else "",
        validated(trial, record.metric),
        trial.state,
        trial.reason,
        trial.hosts,
        trial.rounds,
        ({f"best_{name}": entry[name]}, entry["outer_steps"], entry["at"]) if entry else None,
        record.config(trial).as_dict() if config else None,
    )


def summary_content(record: StudyRecord, session: "Session | None") -> Summary:
    """What a session leaves: its figures, the places of the trials, pictures and pages, the best weights."""
    trials, standing, best = record.trials(), standings(record), record.best()
    counts = {state: sum(trial.state == state for trial in trials) for state in STATES}
    over = record.over and settled(record)
    metrics: dict[str, float] = {f"trials_{state}": count for state, count in counts.items()}
    metrics["outer_steps"] = sum(trial.outer_steps for trial in trials)
    if session is not None and session.efficiency is not None:
        metrics |= {"slot_efficiency": session.efficiency, "wall_s": session.wall_s}
    tags = {
        "raymeta.state": "over" if over else "left",
        "raymeta.trials": ", ".join(f"{count} {state}" for state, count in counts.items() if count),
    }
    texts, model = {}, None
    if best is not None:
        of_best, said, sentence = _of_best(record, best, standing)
        metrics, tags = metrics | of_best, tags | said | {"mlflow.note.content": _note(record, sentence)}
        texts["best_config.yaml"] = record.config(best).to_yaml()
        model = _model(record, best)
    if standing is not None:
        texts["finalists.json"] = json.dumps(standing.as_dict(), indent=2)
    name = f"reevaluated_val_{record.metric.name}"
    return Summary(
        "FINISHED" if over else "KILLED",
        views.of_study(record, ranked=True),
        metrics,
        tags,
        texts,
        [str(record.folder / "search.png"), str(record.folder / PAGE)],
        places_of(record, best, standing),
        {
            one.trial.number: ({name: one.mean, "reevaluated_val_ci95": one.ci95}, one.at)
            for one in (standing.finalists if standing else ())
            if one.values
        },
        model,
    )


def places_of(record: StudyRecord, best: TrialRecord | None, standing: Standings | None) -> dict[int, Place]:
    """Rank and role of every trial: finalists by their scores on fresh episodes, then as the search ranks them."""
    finalists = {one.trial.number: one for one in (standing.finalists if standing else ()) if one.values}
    first = [number for number, one in finalists.items() if one.equal]
    order = dict.fromkeys([*first, *(trial.number for trial in record.ranking())])
    ranks = {number: place + 1 for place, number in enumerate(order)}
    start, found = baseline(record), {}
    for trial in record.trials():
        number, scored = trial.number, finalists.get(trial.number)
        roles = {
            "best": best is not None and best.number == number,
            START: start is not None and start.number == number,
            "finalist": scored is not None,
        }
        role = next((role for role, has in roles.items() if has), "")
        score = validated(trial, record.metric) if trial.best(record.metric) else ""
        found[number] = Place(ranks.get(number, 0), role, score, fresh(scored, record.metric) if scored else "")
    return found


def _of_best(
    record: StudyRecord, best: TrialRecord, standing: Standings | None
) -> tuple[dict[str, float], dict[str, str], str]:
    """Metrics and tags of a study's run, by which studies are compared, and what its note says."""
    name, entry, start = f"val_{record.metric.name}", best.best(record.metric) or {}, baseline(record)
    mine, theirs = (standing.of(one.number) if standing and one else None for one in (best, start))
    metrics = {f"best_{name}": entry[name], "best_val_ci95": entry["val_ci95"]}
    score, found = validated(best, record.metric), settings(best)
    if mine is not None and mine.values:
        metrics |= {f"reevaluated_{name}": mine.mean, "reevaluated_val_ci95": mine.ci95}
        score = fresh(mine, record.metric)
    tags = {
        "raymeta.score": score,
        "raymeta.best_trial": str(best.number),
        "raymeta.best_settings": found,
        **{f"best.{key}": short(chosen) for key, chosen in best.point.items()},
    }
    if start is not None:
        scored = theirs if mine is not None and mine.values else None
        tags["raymeta.baseline"] = fresh(scored, record.metric) if scored else validated(start, record.metric)
    if mine is not None and theirs is not None and mine is not theirs and mine.values and theirs.values:
        gap = paired(mine.values, theirs.values)
        gain = Difference(-gap.mean if record.metric.mode == "min" else gap.mean, gap.ci95)
        metrics |= {"gain": gain.mean, "gain_ci95": gain.ci95}
        tags["raymeta.gain"] = value(gain.mean, record.metric, gain.ci95)
    sentence = f"best: trial {best.number}, {record.metric.name} {score}: {found}; {against_start(record, best)}"
    return metrics, tags, sentence


def _model(record: StudyRecord, best: TrialRecord) -> FewShotModel | None:
    """The best weights; None: the trial's file of them is gone."""
    file, entry = record.trial_folder(best.number) / "checkpoint.pt", best.best(record.metric) or {}
    if not file.exists():
        return None
    of = f"trial {best.number} at {entry['outer_steps']} outer steps"
    return described(open_problem(record.plan.base.task), str(file), of, best.point)


def _note(record: StudyRecord, sentence: str) -> str:
    """The text on the page of a study's run: what it is, what it has found, and the lines to go on with."""
    name, plan = shlex.quote(record.name), record.plan
    table = f"#/experiments/{HERE}/runs?{views.opened(views.TRIALS)}"
    task = "{'support_x': x, 'support_y': y, 'query_x': new}"
    lines = [
        f"- go on: `raymeta resume {name}`, or with more trials `raymeta extend {name} -n 24`",
        f"- the best config: `raymeta export {name} -o best.yaml`, then `raymeta final best.yaml --seeds 3`",
        f"- the best weights: `raymeta.load({record.name!r}).adapt(x, y).predict(new)`, or, of this run's model, "
        f"`mlflow.pyfunc.load_model(uri).predict({task})`",
    ]
    if sentence:
        lines = [f"{sentence}\n", *lines, f"- [the trials, the best first]({table})"]
    return "\n".join([*lines, f"\n{plan.spec} on {plan.base.task.title}: `{record.about['command']}`"])
