"""A tracker made of the learner, on whole held-out sequences: success and precision curves and their figures, as OTB's.

The first frame's box is given, and every later one found; see `tracker.py` of `sdnet` and `crest` below
`raymeta/problems/tracking`. AUC is the mean of the success curve over 21 thresholds, of which a perfect tracker has
20/21; precision is that at 20 pixels. Beside it, if asked for, the same tracker of an untrained learner of the same
config.
"""

from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from raymeta.analysis import Analysis, Row, Subject
from raymeta.errors import UserError
from raymeta.registry import analysis
from raymeta.report.style import GUIDE, legend, panels
from raymeta.schema import Section

if TYPE_CHECKING:
    import pandas

    from raymeta.problems.tracking.clips import Clip


class TrackingConfig(Section):
    """How many sequences are followed."""

    sequences: int | None = Field(20, ge=1, description="The first ones of the split; null: all.")
    frames: int | None = Field(None, ge=2, description="Of each, at most; null: all.")
    untrained: bool = Field(False, description="Follow them with the config's untrained learner, too.")


@analysis("tracking")
class TrackingAnalysis(Analysis):
    """See the module's docstring."""

    meaning: ClassVar[str] = (
        "Overlap and distance of a tracker's boxes on whole sequences, as OTB draws them; AUC at most 0.952."
    )
    Config = TrackingConfig
    smallest: ClassVar[dict[str, Any]] = {"sequences": 1, "frames": 2, "untrained": False}

    def measure(self, subject: Subject) -> list[Row]:
        from raymeta.learner import build_learner
        from raymeta.problems.tracking.following import track
        from raymeta.problems.tracking.moments import Moments
        from raymeta.problems.tracking.scores import ERRORS, THRESHOLDS, followed
        from raymeta.problems.tracking.sequenced import Sequenced

        problem = subject.learner.problem
        bank, settings = subject.bank, self.settings
        if not isinstance(problem, Sequenced) or not isinstance(bank, Moments):
            raise UserError(f"tracking: {problem.name} has no sequences to follow a target in")
        learners = {"trained": subject.learner}
        if settings.untrained:
            learners["untrained"] = build_learner(subject.config, problem).to(subject.device).eval()
        rows: list[Row] = []
        for number in range(min(bank.count, settings.sequences or bank.count)):
            clip = problem.clip(bank.split, number)
            start = int(clip.there[0])
            truth = clip.boxes[start:][: settings.frames]
            later = partial(_later, clip, start)
            for state, learner in learners.items():
                score = followed(track(learner, len(truth), later, truth[0]).boxes, truth)
                about = {"task": number, "sequence": clip.name, "state": state}
                about |= {"auc": score.auc, "precision20": score.precise, "overlap": score.overlap}
                for curve, places, values in (
                    ("success", THRESHOLDS, score.success),
                    ("precision", ERRORS, score.precision),
                ):
                    rows += [
                        {**about, "curve": curve, "at": float(at), "share": float(share)}
                        for at, share in zip(places, values, strict=True)
                    ]
        return rows

    def draw(self, found: "pandas.DataFrame", subject: Subject) -> Any:
        figure, ((success, precision),) = panels(1, 2, 4.6, 3.6)
        for place, (state, own) in enumerate(found.groupby("state", sort=False)):
            alone = own.drop_duplicates(["seed", "task"])
            for axis, curve, figure_of in ((success, "success", "auc"), (precision, "precision", "precision20")):
                line = own[own["curve"] == curve].groupby("at")["share"].mean()
                axis.plot(line.index, line, color=f"C{place}", label=f"{state}: {alone[figure_of].mean():.3f}")
        success.set(xlabel="overlap above", ylabel="share of frames", xlim=(0, 1), ylim=(0, 1.02))
        precision.set(xlabel="pixels between the centres, at most", xlim=(0, 50), ylim=(0, 1.02))
        precision.axvline(20, **GUIDE)
        for axis in (success, precision):
            axis.grid(alpha=0.25)
            legend(axis)
        return figure


def _later(clip: "Clip", start: int, number: int) -> Any:
    return clip.read(start + number)
