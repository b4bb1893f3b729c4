"""Dropout on activations, of single elements or of whole channels (SpatialDropout).

Srivastava, Hinton, Krizhevsky, Sutskever, Salakhutdinov: Dropout: A Simple Way to Prevent Neural Networks from
Overfitting (JMLR 2014).

Channels: Tompson et al., Efficient Object Localization Using Convolutional Networks (CVPR 2015). In meta-learning as
Tseng et al. (ACCV 2020) compare DropGrad with both: in the support and in the query passes of meta-training,

    h' = h * 1[u > p] / (1 - p)

after every block (a residual block, or a hidden layer of an MLP; never after the head), drawn anew for every pass; off
in evaluation. It comes after norm and activation, so that a batch's statistics don't see the zeros of its own block.
"""

from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from raymeta.learner import Regularizer
from raymeta.models import Backbone
from raymeta.models.norm import Pass
from raymeta.problems.images.store import Dataset
from raymeta.registry import regularizer
from raymeta.schema import Section


class DropoutConfig(Section):
    """Defaults: DropGrad's paper."""

    rate: float = Field(0.3, ge=0, lt=1, description="p.")
    unit: Literal["element", "channel"] = Field("element", description="What is dropped; channel: SpatialDropout.")


@regularizer("dropout")
class Dropout(Regularizer):
    """See the module's docstring."""

    Config: ClassVar[type[Section]] = DropoutConfig
    neutral: ClassVar[dict[str, Any]] = {"rate": 0.0}
    rate: Tensor

    def __init__(self, config: DropoutConfig, model: Backbone, dataset: Dataset) -> None:
        super().__init__(config, model, dataset)
        self.register_buffer("rate", torch.tensor(config.rate, dtype=torch.float64), persistent=False)

    def on_block(self, h: Tensor, layer: str, now: Pass) -> Tensor:
        like = h[..., :1, :1] if self.settings.unit == "channel" and h.ndim == 4 else h
        kept: Tensor = now.noise.uniform(like) >= self.rate
        return h * (kept / (1 - self.rate)).to(h.dtype)
