"""Norms of the inner gradients, layer by layer.

Lee et al.: Contextual Gradient Scaling for Few-Shot Learning (WACV 2022), figure 2.

    g_l = mean over tasks and inner steps of ||dLs/dw_l||_2,  w_l a layer's weights, its biases left out

Gradients are taken before regularizers change them, and where the learner takes them: CxGrad's at the scaled weights.
The paper logs them during meta-training; here they are those of the final weights on test tasks.
"""

from typing import TYPE_CHECKING, Any, ClassVar

from raymeta.analysis import Analysis, Row, Subject, over_tasks
from raymeta.models import Weights
from raymeta.registry import analysis
from raymeta.report.style import legend, ordered, panels

if TYPE_CHECKING:
    import pandas


@analysis("gradients")
class Gradients(Analysis):
    """See the module's docstring."""

    meaning: ClassVar[str] = "How large the inner gradients of a layer's weights are: which layers a task changes most."
    of_policies: ClassVar[bool] = True
    needs: ClassVar[frozenset[str]] = frozenset({"inner loop"})

    def measure(self, subject: Subject) -> list[Row]:
        return [
            {"task": case.number, "step": step.number + 1, "layer": layer_of(name), "norm": float(gradient.norm())}
            for case in subject.cases(self.settings.tasks)
            for step in case.inner_steps()
            for name, gradient in kernels(step.gradients).items()
        ]

    def draw(self, found: "pandas.DataFrame", subject: Subject) -> Any:
        figure, ((axis,),) = panels(1, 1, 6.4, 3.8)
        steps = list(found["step"].unique())
        for step, shade in zip(steps, ordered(len(steps)), strict=True):
            own = over_tasks(found[found["step"] == step], ["layer"], "norm")
            label = f"step {step}" if step in (steps[0], steps[-1]) else None
            axis.plot(own["layer"], own["mean"], color=shade, lw=1, marker=".", label=label)
        mean = over_tasks(found, ["layer"], "norm")
        axis.errorbar(
            mean["layer"], mean["mean"], mean["ci95"], color="C3", lw=2, marker="o", ms=5, capsize=3, label="all steps"
        )
        axis.set(xlabel="layer, from the input on", ylabel="norm of the inner gradient", yscale="log")
        axis.tick_params(axis="x", rotation=0 if len(mean) <= 6 else 60)
        axis.grid(axis="y", alpha=0.25)
        low, high = axis.get_ylim()
        axis.yaxis.set_major_formatter("{x:g}")
        axis.yaxis.set_minor_formatter("{x:g}" if high < 10 * low else "")
        legend(axis)
        return figure


def kernels(tensors: Weights) -> Weights:
    """The weights among what moves, without biases and scales; all, where nothing else moves."""
    found = {name: tensor for name, tensor in tensors.items() if tensor.ndim > 1}
    return found or tensors


def layer_of(name: str) -> str:
    """`block1` of `block1.weight`."""
    return name.removesuffix(".weight")
