"""CREST's tracker: a learner's first inner step on the first frame, then what MetaCREST's code does frame by frame.

1. First frame: the filter is resized to the target, and the learner adapts to one window around it.
2. Every frame: a window around the last box gives a map. Its peak, once the map is multiplied with a bell around the
   middle, is the new place. There the target is looked at in three sizes; that of the highest map is taken over in
   part, unless the map is low everywhere.
3. Windows with their places are kept. Every fifth frame two steps of Adam on some of them move what the inner loop
   moves.

The code's windows keep the first frame's size in pixels; here they grow with the target. It follows the peak of a map
that is below 0 everywhere; here the target is not found then, and the box stays.
"""

from collections import deque
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from raymeta.errors import UserError
from raymeta.inner import in_evaluation
from raymeta.learner import Adapted, GradientLearner, Learner
from raymeta.models import Weights
from raymeta.problem import Examples, Tasks
from raymeta.problems.tracking.boxes import Array
from raymeta.problems.tracking.crest.maps import WINDOW, bell, cells, maps_of, peak
from raymeta.problems.tracking.crest.net import Crest
from raymeta.problems.tracking.frames import window

if TYPE_CHECKING:
    from raymeta.problems.tracking.crest.problem import CrestTask


class CrestTracker:
    """A tracker of one target, made in a first frame; see the module's docstring. It draws nothing."""

    def __init__(self, learner: Learner, first: Image.Image, box: Array) -> None:
        if not isinstance(learner, GradientLearner) or not isinstance(learner.model, Crest):
            raise UserError(f"{learner.name}: a tracker needs a learner that adapts the weights of crest")
        task: CrestTask = learner.problem.task
        self._learner, self._net, self._side, self._settings = learner, learner.model, task.side, task.tracker
        self._device = next(learner.parameters()).device
        self._middle, self._size, self._number = box[:2] + box[2:] / 2, box[2:].copy(), 0
        self._share = torch.from_numpy(box[2:] / (WINDOW * box[2:].max())).float()
        support = Examples(self._window(first)[None], self._truth(torch.zeros(2))[None])
        alone = Examples(*(tensor[None] for tensor in support))
        with torch.no_grad():
            adapted: Adapted = learner.adapt(support, in_evaluation(learner, Tasks(alone, alone)))
        self._query = adapted.query
        self._weights: Weights = {name: weight.detach().clone() for name, weight in adapted.weights.items()}
        self._leaves = {name: self._weights[name].requires_grad_() for name in learner.adapted}
        self._optimizer = torch.optim.Adam(list(self._leaves.values()), lr=self._settings.lr)
        self._kept: deque[tuple[Tensor, Tensor]] = deque(maxlen=self._settings.kept)

    def follow(self, frame: Image.Image) -> tuple[Array, float]:
        """The box in the next frame, and the height of the map."""
        settings, self._number = self._settings, self._number + 1
        x = self._window(frame)
        maps = self._maps(x[None])
        score = float(maps.max())
        if score > 0:
            grid = self._net.grid
            sides = settings.motion * cells(self._share[None], grid)
            moved = peak(maps * bell(torch.zeros(1, 2), sides, grid))[0] / grid
            self._middle = self._middle + moved.double().numpy() * self._extent
            self._middle = self._middle.clip(0, np.array(frame.size, float) - 1)
            self._rescale(frame)
            self._kept.append((x, self._truth(moved)))
        if settings.steps and self._number % settings.every == 0:
            self._update()
        return np.concatenate([self._middle - self._size / 2, self._size]), score

    @property
    def _extent(self) -> float:
        """Pixels of a window's side."""
        return float(WINDOW * self._size.max())

    def _window(self, frame: Image.Image, scale: float = 1.0) -> Tensor:
        return window(frame, self._middle, scale * self._extent, self._side).to(self._device)

    def _truth(self, place: Tensor) -> Tensor:
        return torch.cat([place, self._share]).to(self._device)

    def _outputs(self, x: Tensor) -> Tensor:
        return self._learner.outputs(self._net.prepare(x), self._weights, self._query)

    def _maps(self, x: Tensor) -> Tensor:
        """Of windows [n, 3, side, side], on the CPU, [n, G, G]."""
        with torch.no_grad():
            return maps_of(self._outputs(x)).float().cpu()

    def _rescale(self, frame: Image.Image) -> None:
        """Take over part of the size in which the map is highest."""
        settings = self._settings
        scales = (1.0, 1 / settings.scale, settings.scale)
        if settings.scale == 1:
            return
        heights = self._maps(torch.stack([self._window(frame, scale) for scale in scales])).flatten(1).amax(1)
        if heights[0] >= settings.sure:
            best = scales[int(heights.argmax())]
            self._size = np.maximum((1 - settings.blend + settings.blend * best) * self._size, 2.0)

    def _update(self) -> None:
        """Some steps on windows that are kept, in turn; none before a batch of them is there."""
        settings = self._settings
        if len(self._kept) < settings.batch:
            return
        kept = list(self._kept)
        for step in range(settings.steps):
            some = [kept[(step * settings.batch + place) % len(kept)] for place in range(settings.batch)]
            x, y = (torch.stack(part) for part in zip(*some, strict=True))
            with torch.enable_grad():
                self._optimizer.zero_grad()
                self._learner.loss(self._outputs(x), y).backward()  # type: ignore[no-untyped-call]
            self._optimizer.step()
