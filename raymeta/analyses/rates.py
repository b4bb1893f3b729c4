"""What learners learn or make for an inner step beside the weights, tensor by tensor and step by step.

    ALFA (Baik et al., NeurIPS 2020, figure 3)   rate A a, and decay factor 1 - W b
    L2F (Baik et al., CVPR 2020)                 attenuation Gamma of the initialisation, before the first step
    CxGrad (Lee et al., WACV 2022)               gamma, the norm of each convolution, which divides its gradient
    Meta-SGD, MAML++                             rates, the same for all tasks

A learner says them itself (`GradientLearner.generated`). Of tensors with a number for each element the mean is drawn;
`spread` is the deviation over elements, `negative` the share below 0.
"""

from typing import TYPE_CHECKING, Any, ClassVar

import torch

from raymeta.analysis import Analysis, Row, Subject
from raymeta.errors import UserError
from raymeta.registry import analysis
from raymeta.report.style import GUIDE, panels

if TYPE_CHECKING:
    import pandas

WIDE = 4  # panels in a row


@analysis("rates")
class Rates(Analysis):
    """See the module's docstring."""

    meaning: ClassVar[str] = (
        "What the learner made for each tensor and inner step. Boxes: quartiles over tasks and seeds; ±: over tasks."
    )
    of_policies: ClassVar[bool] = True
    needs: ClassVar[frozenset[str]] = frozenset({"inner loop"})

    def measure(self, subject: Subject) -> list[Row]:
        rows = []
        for case in subject.cases(self.settings.tasks):
            learner: Any = case.learner
            support = learner.prepared(case.task.support, case.context())
            for step in case.inner_steps(regularized=True):
                with torch.no_grad():
                    made = learner.generated(support, step)
                for kind, tensors in made.items():
                    for name, found in tensors.items():
                        numbers = found.detach()
                        rows.append(
                            {
                                "task": case.number,
                                "step": step.number + 1,
                                "kind": kind,
                                "tensor": name,
                                "value": float(numbers.mean()),
                                "spread": float(numbers.std(correction=0)),
                                "negative": float((numbers < 0).float().mean()),
                            }
                        )
        if not rows:
            raise UserError(f"rates: {subject.learner.name} learns or makes nothing for its inner steps here")
        return rows

    def draw(self, found: "pandas.DataFrame", subject: Subject) -> Any:
        own = [(kind, name) for kind, name in found[["kind", "tensor"]].drop_duplicates().itertuples(index=False)]
        kinds = list(dict.fromkeys(kind for kind, _ in own))
        names = {kind: [name for other, name in own if other == kind] for kind in kinds}
        rows = [(kind, names[kind][at : at + WIDE]) for kind in kinds for at in range(0, len(names[kind]), WIDE)]
        figure, axes = panels(len(rows), min(WIDE, max(map(len, names.values()))), 1.65, 1.7)
        for line, (kind, tensors) in zip(axes, rows, strict=True):
            for axis in line[len(tensors) :]:
                axis.set_axis_off()
            line[0].set_ylabel(kind)
            for axis, name in zip(line, tensors, strict=False):
                chosen = found[(found["kind"] == kind) & (found["tensor"] == name)]
                steps = sorted(chosen["step"].unique())
                values = [chosen.loc[chosen["step"] == step, "value"].to_numpy() for step in steps]
                axis.boxplot(values, positions=steps, widths=0.6, showfliers=False, medianprops={"color": "C3"})
                lowest, highest = chosen["value"].min(), chosen["value"].max()
                if lowest < highest / 2:  # else what differs would not be seen
                    axis.axhline(0, **GUIDE)
                apart = chosen.groupby(["seed", "step"])["value"].std().mean()
                axis.set_title(f"{name}  ±{apart:.1g}", fontsize=7)
                axis.tick_params(labelsize=7)
                axis.yaxis.get_offset_text().set_fontsize(7)
                axis.set_xlabel("inner step", fontsize=7)
        return figure
