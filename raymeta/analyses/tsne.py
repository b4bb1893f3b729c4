"""t-SNE of a task's features before and after adaptation (CxGrad's figure 4).

The last block's outputs of support and query set, before the first inner step and after the last, in one embedding of
all of them: two embeddings could not be compared. Perplexity min(30, (n - 1) / 3) of n points, start from PCA, a fixed
seed. Beside it the score of the nearest class centroid in feature space, centroids being means over the support set.
"""

from typing import TYPE_CHECKING, Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from raymeta.analysis import OUTPUTS, Analysis, Case, Row, Subject, activations
from raymeta.errors import UserError
from raymeta.registry import analysis
from raymeta.report.style import panels
from raymeta.schema import Section

if TYPE_CHECKING:
    import pandas

LEAST = 10  # points


class TSNEConfig(Section):
    """The embedding."""

    task: int = Field(0, ge=0, description="Which task of the bank, from 0.")
    perplexity: float | None = Field(None, gt=0, description="null: min(30, (n - 1) / 3) of n points.")
    seed: int = Field(0, ge=0, lt=2**32, description="Of the embedding.")


@analysis("tsne")
class TSNE(Analysis):
    """See the module's docstring."""

    meaning: ClassVar[str] = "A task's features in the plane: near points have like features, far ones say little."
    needs: ClassVar[frozenset[str]] = frozenset({"labels"})
    Config = TSNEConfig
    smallest: ClassVar[dict[str, Any]] = {}
    one_seed: ClassVar[bool] = True

    def measure(self, subject: Subject) -> list[Row]:
        (case,) = subject.cases(1, self.settings.task)
        support, query = case.task
        states = {"before": 0, "after": None} if case.learner.inner_loop else {"after": None}
        features = {name: [features_of(case, steps, x) for x in (support.x, query.x)] for name, steps in states.items()}
        together = torch.cat([part for parts in features.values() for part in parts])
        if len(together) < LEAST:
            raise UserError(f"tsne: found {len(together)} points, but fewer than {LEAST} say nothing")
        places = iter(self._embedded(together).tolist())
        rows = []
        for name, (known, new) in features.items():
            score = nearest_centroid(case, known, new)
            for kind, y in (("support", support.y), ("query", query.y)):
                for label in y.tolist():
                    x, height = next(places)
                    rows.append({"state": name, "set": kind, "class": label, "x": x, "y": height, "centroids": score})
        return rows

    def _embedded(self, features: Tensor) -> Any:
        """[n, 2]."""
        from sklearn import manifold

        settings, count = self.settings, len(features)
        if settings.perplexity is not None and settings.perplexity >= count:
            raise UserError(f"tsne.perplexity: found {settings.perplexity:g}, but there are {count} points: less")
        perplexity = settings.perplexity or min(30.0, (count - 1) / 3)
        tsne = manifold.TSNE(perplexity=perplexity, init="pca", random_state=settings.seed, n_jobs=1)
        return tsne.fit_transform(features.double().cpu().numpy())

    def draw(self, found: "pandas.DataFrame", subject: Subject) -> Any:
        states, metric = list(found["state"].unique()), subject.learner.problem.metric
        figure, (axes,) = panels(1, len(states), 3.6, 3.6, share_y=True)
        for axis, state in zip(axes, states, strict=True):
            own = found[found["state"] == state]
            for kind, mark, size in (("query", "o", 16), ("support", "*", 130)):
                part = own[own["set"] == kind]
                axis.scatter(
                    part["x"], part["y"], s=size, c=part["class"], cmap="tab10" if own["class"].max() < 10 else "turbo",
                    vmin=0, vmax=max(9, own["class"].max()), marker=mark, alpha=0.65 if kind == "query" else 1,
                    edgecolors="none" if kind == "query" else "black", linewidths=0.8, label=f"{kind} set",
                )  # fmt: skip
            score = metric.text(own["centroids"].iloc[0])
            axis.set_title(f"{state} adaptation\nnearest centroid {score}", fontsize=9)
            axis.set(xticks=[], yticks=[], xlabel="t-SNE 1")
        axes[0].set_ylabel("t-SNE 2")
        figure.legend(
            *axes[0].get_legend_handles_labels(), loc="outside upper right", ncols=2, frameon=False, fontsize=8
        )
        return figure


def features_of(case: Case, steps: int | None, x: Tensor) -> Tensor:
    """The last block's outputs for a task's inputs after so many inner steps, [n, F]."""
    found = activations(case.learner, case.adapted(steps), x)
    return [h for layer, h in found.items() if layer != OUTPUTS][-1].flatten(1)


def nearest_centroid(case: Case, support: Tensor, query: Tensor) -> float:
    """The score of a classifier that takes the class whose mean support feature is nearest."""
    (_, known), (_, expected) = case.task
    classes = range(int(known.max()) + 1)
    centroids = torch.stack([support[known == label].mean(0) for label in classes])
    return float(case.learner.problem.score(-torch.cdist(query, centroids), expected))
