"""Grad-CAM: where in a picture the adapted learner sees its class.

Selvaraju et al.: Grad-CAM (ICCV 2017); drawn in DropGrad's figures 4 and 7 to 9 and MGAug's figure 7. For a query image
of class c, with F [K, h, w] what a block gives for it:

    M = ReLU(sum over k of mean over places of (d logit_c / dF_k) * F_k)

scaled to [0, 1] for each image, and enlarged bilinearly. The images are seen in the query batch, as in evaluation. With
a head on averaged places this is CAM up to a factor. Conv-4 on small images ends in a single place: then F is what the
last block with maps of 5x5 places or more gives.
"""

from typing import TYPE_CHECKING, Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from raymeta.analysis import OUTPUTS, Analysis, Case, Row, Subject, activations
from raymeta.errors import UserError, suggest
from raymeta.models import Pass
from raymeta.registry import analysis
from raymeta.report.style import panels
from raymeta.schema import Section

if TYPE_CHECKING:
    import pandas

SIDE = 5  # places on a side of a map that is worth looking at


class GradCAMConfig(Section):
    """Which images, and which maps of them."""

    task: int = Field(0, ge=0, description="Which task of the bank, from 0.")
    images: int = Field(5, ge=1, description="Query images, spread over the classes.")
    layer: str | None = Field(None, description="The block; null: the last one with maps of 5x5 places or more.")


@analysis("gradcam")
class GradCAM(Analysis):
    """See the module's docstring."""

    meaning: ClassVar[str] = (
        "Where the learner sees the image's class (Grad-CAM), from nothing (dark) to most (bright)."
    )
    needs: ClassVar[frozenset[str]] = frozenset({"images", "labels"})
    Config = GradCAMConfig
    smallest: ClassVar[dict[str, Any]] = {"images": 1}
    one_seed: ClassVar[bool] = True

    def measure(self, subject: Subject) -> list[Row]:
        (case,) = subject.cases(1, self.settings.task)
        layer, rows = self._layer(case), []
        images = chosen(len(case.task.query.y), self.settings.images)
        for state, steps in ({"before": 0, "after": None} if case.learner.inner_loop else {"after": None}).items():
            logits, maps = heat(case, layer, steps, images)
            for image, heights in zip(images, maps, strict=True):
                about = {
                    "task": case.number, "state": state, "image": image, "class": int(case.task.query.y[image]),
                    "predicted": int(logits[image].argmax()), "layer": layer,
                }  # fmt: skip
                for row, line in enumerate(heights.tolist()):
                    rows += [{**about, "row": row, "column": column, "heat": heat} for column, heat in enumerate(line)]
        return rows

    def _layer(self, case: Case) -> str:
        found = activations(case.learner, case.adapted(0 if case.learner.inner_loop else None), case.task.query.x)
        maps = {name: h.shape[2:] for name, h in found.items() if name != OUTPUTS and h.ndim == 4}
        wanted = self.settings.layer
        if wanted is not None and wanted not in maps:
            raise UserError(f"gradcam.layer: no block '{wanted}' has maps: {suggest(wanted, maps)}")
        large = [name for name, size in maps.items() if min(size) >= SIDE]
        if wanted is None and not large:
            raise UserError("gradcam: no block has maps of 5x5 places or more; say one, as in gradcam:layer=block2")
        return wanted or large[-1]

    def draw(self, found: "pandas.DataFrame", subject: Subject) -> Any:
        (case,) = subject.cases(1, self.settings.task)
        images, states = list(found["image"].unique()), list(found["state"].unique())
        figure, axes = panels(1 + len(states), len(images), 6.4 / max(len(images), 4), 6.4 / max(len(images), 4) + 0.2)
        pixels = subject.learner.problem.pixels(case.task.query.x).cpu()
        for column, image in enumerate(images):
            picture = pixels[image].mean(0) if pixels.shape[1] == 1 else pixels[image].permute(1, 2, 0)
            own = found[found["image"] == image]
            axes[0, column].imshow(picture, cmap="gray", vmin=0, vmax=1)
            axes[0, column].set_title(f"class {own['class'].iloc[0]}", fontsize=8)
            for axis, state in zip(axes[1:, column], states, strict=True):
                part = own[own["state"] == state]
                heights = part.pivot(index="row", columns="column", values="heat").to_numpy()
                size = pixels.shape[2:]
                large = torch.nn.functional.interpolate(
                    torch.from_numpy(heights)[None, None], size=size, mode="bilinear", align_corners=False
                )[0, 0]
                axis.imshow(picture, cmap="gray", vmin=0, vmax=1)
                axis.imshow(large / large.max().clamp(min=1e-12), cmap="inferno", alpha=0.6, vmin=0, vmax=1)
                axis.set_title(f"taken for {part['predicted'].iloc[0]}", fontsize=8)
        for line, name in zip(axes, ["image", *(f"{state} adaptation" for state in states)], strict=True):
            line[0].set_ylabel(name, fontsize=8)
            for axis in line:
                axis.set(xticks=[], yticks=[])
                axis.spines[:].set_visible(False)
        return figure


def chosen(count: int, images: int) -> list[int]:
    """Numbers of images, spread evenly over a query set, which is in the order of its classes."""
    images = min(images, count)
    return [(2 * place + 1) * count // (2 * images) for place in range(images)]


def heat(case: Case, layer: str, steps: int | None, images: list[int]) -> tuple[Tensor, list[Tensor]]:
    """Logits [n, N] of a task's query set, and M [h, w] of some of its images after so many inner steps."""
    kept: list[Tensor] = []
    first = 0

    def keep(h: Tensor, name: str, now: Pass) -> Tensor:
        nonlocal first
        if name == layer:
            first = now.support  # where the support set is in the same pass, it comes first
            kept.append(h.detach().requires_grad_())
            return kept[-1]
        return h

    adapted = case.learner.with_hook(case.adapted(steps), keep)
    with torch.enable_grad():
        logits = case.learner.predict(adapted, case.task.query.x)
    maps, h = [], kept[-1]
    for image in images:
        (gradient,) = torch.autograd.grad(logits[image, case.task.query.y[image]], h, retain_graph=True)
        place = first + image
        weights = gradient[place].mean((-2, -1))
        maps.append((weights[:, None, None] * h[place].detach()).sum(0).relu())
    return logits.detach(), maps
