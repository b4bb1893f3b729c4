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

from pydantic import Field
from torch import Tensor

from raymeta.hooks import Hooks, Regularizer
from raymeta.inner import Context
from raymeta.learner import Learner
from raymeta.models.passes import Pass
from raymeta.problem import Tasks
from raymeta.registry import regularizer
from raymeta.schema import Number, Section


class DropoutConfig(Section):
    """Defaults: DropGrad's paper."""

    rate: Number = Field(0.3, ge=0, lt=1, description="p.")
    unit: Literal["element", "channel"] = Field("element", description="What is dropped; channel: SpatialDropout.")


@regularizer("dropout")
class Dropout(Regularizer):
    """See the module's docstring."""

    Config: ClassVar[type[Section]] = DropoutConfig
    acts_on: ClassVar[str] = "blocks' outputs"
    neutral: ClassVar[dict[str, Any]] = {"rate": 0.0}
    of_windows: ClassVar[bool] = True

    def on_step(self, learner: Learner, tasks: Tasks, context: Context, drawn: Any) -> Hooks:
        return Hooks(block=self.on_block)

    def on_block(self, h: Tensor, layer: str, now: Pass) -> Tensor:
        like = h[..., :1, :1] if self.settings.unit == "channel" and h.ndim == 4 else h
        kept: Tensor = now.noise.uniform(like) >= self.numbers.rate
        return h * (kept / (1 - self.numbers.rate)).to(h.dtype)
