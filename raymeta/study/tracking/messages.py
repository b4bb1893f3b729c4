"""What a driver tells of a study, as plain data for the process that copies it to MLflow (mlflow_copy.py)."""

from dataclasses import dataclass, field
from typing import Any

from raymeta.study.tracking.model import FewShotModel

RANK = "rank"  # metric of a trial's run: its place
HERE = "{experiment}"  # in tags of a study's run: the experiment's id


@dataclass(frozen=True)
class Study:
    """What the parent run says from the start, and the tags of its experiment (views.py)."""

    name: str
    id: str
    tags: dict[str, str]
    params: dict[str, Any]
    texts: dict[str, str]
    views: dict[str, str]


@dataclass(frozen=True)
class Trial:
    """A trial as it is by now.

    Attributes:
        role: `baseline`, or "".
        score: its best validation with its interval.
        config: the whole of it; None: told before.
        best: its best validation: a metric of the run, at which outer steps and when it was.
    """

    number: int
    label: str
    role: str
    score: str
    state: str
    reason: str
    hosts: list[str]
    rounds: list[dict[str, Any]]
    best: tuple[dict[str, float], int, float] | None
    config: dict[str, Any] | None


@dataclass(frozen=True)
class Place:
    """What a trial is among the others.

    Attributes:
        rank: 1 is the best; 0: it has no score.
        role: `best`, `baseline`, `finalist`, or "".
        score: its best validation with its interval.
        fresh: a finalist's score on the fresh episodes with its interval.
    """

    rank: int = 0
    role: str = ""
    score: str = ""
    fresh: str = ""


@dataclass(frozen=True)
class Summary:
    """The end of a session.

    Attributes:
        views: tags of the experiment.
        files: of the parent run; those that are not there are left out.
        places: of all trials.
        scores: of finalists: metrics, and when.
        model: the best weights; None: there are none yet.
    """

    status: str
    views: dict[str, str] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    texts: dict[str, str] = field(default_factory=dict)
    files: list[str] = field(default_factory=list)
    places: dict[int, Place] = field(default_factory=dict)
    scores: dict[int, tuple[dict[str, float], float]] = field(default_factory=dict)
    model: FewShotModel | None = None


Message = Study | Trial | Summary | None
