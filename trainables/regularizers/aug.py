"""Aug: every training image is cropped, recoloured and flipped at random.

Chen, Liu, Kira, Wang, Huang: A Closer Look at Few-shot Classification (ICLR 2019).

For each image of support and query by itself, with torchvision's transforms (v2): a random part of 0.08 to 1 of its
area and of ratio 3/4 to 4/3, resized to the whole (`crop`); brightness, contrast and saturation by factors between
1 - `jitter` and 1 + `jitter`; a horizontal flip of one image in two (`flip`). It is the usual "+Aug" of this field's
tables. The authors crop the files' images; here those of the packed size are cropped. Off in evaluation.
"""

from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from raymeta.errors import UserError
from raymeta.hooks import Regularizer
from raymeta.models import Backbone
from raymeta.problem import Examples, Problem, Tasks
from raymeta.registry import regularizer
from raymeta.schema import Section


class AugConfig(Section):
    """Defaults: the authors' code."""

    crop: bool = True
    jitter: float = Field(0.4, ge=0, le=1, description="Largest change of brightness, contrast and saturation.")
    flip: bool = True


@regularizer("aug")
class Aug(Regularizer):
    """See the module's docstring."""

    Config: ClassVar[type[Section]] = AugConfig
    acts_on: ClassVar[str] = "training tasks"
    neutral: ClassVar[dict[str, Any]] = {"crop": False, "jitter": 0.0, "flip": False}
    needs: ClassVar[frozenset[str]] = frozenset({"images"})
    changes_tasks: ClassVar[bool] = True

    def __init__(self, config: AugConfig, model: Backbone, problem: Problem) -> None:
        super().__init__(config, model, problem)
        moved = [key for key in ("crop", "flip") if getattr(config, key)]
        if not problem.labels and moved:
            raise UserError(
                f"regularizers.aug.{moved[0]}: found true, but what {problem.name} predicts of an image changes with "
                "it; allowed: crop false and flip false"
            )
        mean, std = getattr(problem, "mean", None), getattr(problem, "std", None)
        self.mean = torch.tensor(mean or (0.0,))[:, None, None]
        self.std = torch.tensor(std or (1.0,))[:, None, None]
        self.size = list(model.input_shape[-2:])

    def on_tasks(self, tasks: Tasks, progress: float, generator: torch.Generator) -> Tasks:
        from torchvision.transforms import v2  # imported here: torchvision costs every worker seconds

        settings = self.settings
        transforms: list[Any] = []
        if settings.crop:
            transforms.append(v2.RandomResizedCrop(self.size, antialias=True))
        if settings.jitter:
            transforms.append(v2.ColorJitter(*[settings.jitter] * 3))
        if settings.flip:
            transforms.append(v2.RandomHorizontalFlip())
        if not transforms:
            return tasks
        transform = v2.Compose(transforms)

        def changed(x: Tensor) -> Tensor:
            pixels = x.flatten(0, 1) * self.std + self.mean  # in 0..1, as the colours' transforms want them
            images = torch.stack([transform(image) for image in pixels])
            return ((images - self.mean) / self.std).view_as(x)

        with torch.random.fork_rng(devices=[]):  # torchvision draws from torch's own generator
            torch.manual_seed(int(torch.randint(2**62, (), generator=generator)))
            return Tasks(*(Examples(changed(x), y) for x, y in tasks))
