"""What the sections of learners with gradient steps have in common."""

from typing import Annotated, Literal

from pydantic import Field

from raymeta.schema import MIXED, Number, Section


class StepsConfig(Section):
    """What every learner with gradient steps has."""

    order: Literal["first", "second"] = Field("second", description="Of the outer gradient.")
    first_order_share: Annotated[float, MIXED] = Field(  # lanes go by each one's `phase`
        0.0, ge=0, le=1, description="Share of the full budget trained in first order before the second (MAML++'s DA)."
    )
    inner_steps: int = Field(5, ge=0, description="S; ALFA's code: 5.")
    eval_steps: int | None = Field(None, ge=0, description="Inner steps in evaluation; null: inner_steps. Finn: 10.")


class InnerLoopConfig(StepsConfig):
    """Defaults: the MAML of the MAML++, ALFA and L2F repositories on miniImageNet."""

    inner_lr: Number = Field(0.01, ge=0, description="alpha, of the mean support loss; ALFA's code: 0.01.")
    adapt_norm: bool = Field(False, description="Adapt the norm's scale and shift too (CloserLookFewShot does).")
