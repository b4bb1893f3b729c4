"""SDNet's tracker: a learner's first inner step on the first frame, then what MetaSDNet's code does frame by frame.

1. First frame: the learner adapts to crops of the target and of the rest, half of these around it, half from the whole
   frame. The convolutions then stay. A ridge regression of boxes is fitted.
2. Every frame: boxes around the last one are scored by the margin of the logits, target less rest. The mean of the five
   highest is the box; the target is found where their mean score is above 0, and the box then refined by the
   regression. Else the box stays and the next frame's are drawn further around it.
3. Where it is found, crops of both kinds are kept. Every tenth frame the connected layers are trained on them by SGD
   with the hardest crops of the rest, and at once, on the last frames alone, where it is not found.

The code takes the target's logit alone for a score; the loss knows the margin only, so that is what a learner from
scratch has.
"""

from collections import deque
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from raymeta.errors import UserError
from raymeta.inner import in_evaluation
from raymeta.learner import Adapted, Learner
from raymeta.models import Weights
from raymeta.problem import Examples, Tasks
from raymeta.problems.tracking.boxes import Array, Draw, repeated, sampled
from raymeta.problems.tracking.frames import crops
from raymeta.problems.tracking.sdnet.net import CONNECTED, SDNet
from raymeta.problems.tracking.sdnet.regression import BoxRegression
from raymeta.problems.uniforms import Uniforms

if TYPE_CHECKING:
    from raymeta.problems.tracking.sdnet.problem import TrackingTask

NEAR, WHOLE = Draw("uniform", 1.0, 2.0, high=0.5), Draw("whole", 0.0, 1.2, high=0.5)
FITTED = Draw("uniform", 0.3, 1.5, low=0.6)
FOUND, REST = Draw("gaussian", 0.1, 1.2, low=0.7), Draw("uniform", 1.5, 1.2, high=0.3)
POSITIVE = FOUND
MOMENTUM, DECAY, CLIP, OF_HEAD = 0.9, 5e-4, 1000.0, 10.0
BATCH = 256  # crops in a pass
HEAD = ("head.weight", "head.bias")


class SDNetTracker:
    """A tracker of one target, made in a first frame; see the module's docstring."""

    def __init__(self, learner: Learner, first: Image.Image, box: Array, seed: int) -> None:
        if not isinstance(learner.model, SDNet):
            raise UserError("model.name: a tracker needs sdnet, whose connected layers it goes on learning")
        self._net, self._learner = learner.model, learner
        task: TrackingTask = learner.problem.task
        self._side, self._settings = task.side, task.tracker
        self._chance = Uniforms("tracker", seed).generator(0)
        self._box, self._lost, self._number = box, False, 0
        self._device = next(learner.parameters()).device
        self._adapt(first, task)
        kept = self._settings
        self._found: deque[Tensor] = deque(maxlen=kept.frames)
        self._rest: deque[Tensor] = deque(maxlen=kept.recent)
        self._keep(first)
        self._regression = self._regressed(first) if kept.regression else None

    def follow(self, frame: Image.Image) -> tuple[Array, float]:
        """The box in the next frame, and the mean score of the highest candidates."""
        settings, self._number = self._settings, self._number + 1
        how = Draw("gaussian", settings.lost_spread if self._lost else settings.spread, settings.grow)
        tried = sampled(self._chance, how, self._box, frame.size, settings.candidates)
        seen = self._convolved(frame, tried)
        scores = self._scores(seen, self._weights)
        best = scores.topk(min(settings.best, len(tried))).indices.numpy()
        score = float(scores[best].mean())
        self._lost = score <= 0
        if not self._lost:
            self._box = tried[best].mean(0)
            found = self._box
            if self._regression is not None:
                found = self._regression(seen[best].double().numpy(), tried[best]).mean(0)
                found = _inside(found, frame.size)
            self._keep(frame)
            shown = found
        else:
            shown = self._box
        if settings.steps and (self._lost or self._number % settings.every == 0):
            self._update()
        return shown, score

    def _adapt(self, first: Image.Image, task: "TrackingTask") -> None:
        """One inner loop of the learner's, without noise, on the first frame."""
        size = first.size
        near = sampled(self._chance, POSITIVE, self._box, size, task.positives)
        rest = [
            sampled(self._chance, how, self._box, size, count)
            for how, count in ((NEAR, task.negatives // 2), (WHOLE, task.negatives - task.negatives // 2))
        ]
        negative = np.concatenate(rest)
        if not len(negative):
            raise UserError("--box: leaves no room in the first frame for crops of anything else")
        boxes = np.concatenate(
            [repeated(near if len(near) else self._box[None], task.positives), repeated(negative, task.negatives)]
        )
        y = (torch.arange(len(boxes)) < task.positives).long()
        support = Examples(crops(first, boxes, self._side).to(self._device), y.to(self._device))
        alone = Examples(*(tensor[None] for tensor in support))
        with torch.no_grad():
            adapted = self._learner.adapt(support, in_evaluation(self._learner, Tasks(alone, alone)))
        if not isinstance(adapted, Adapted):
            raise UserError(f"{self._learner.name}: a tracker needs a learner that adapts the network's weights")
        self._weights: Weights = {name: weight.detach().clone() for name, weight in adapted.weights.items()}
        self._pass = adapted.query

    def _convolved(self, frame: Image.Image, boxes: Array) -> Tensor:
        """What the convolutions make of boxes, on the CPU, [n, F]."""
        found = []
        with torch.no_grad():
            for start in range(0, len(boxes), BATCH):
                x = crops(frame, boxes[start : start + BATCH], self._side).to(self._device)
                found.append(self._net.convolved(self._net.prepare(x), self._weights, self._pass).cpu())
        return torch.cat(found)

    def _logits(self, seen: Tensor, weights: Weights) -> Tensor:
        return self._net.classify(self._net.connected(seen.to(self._device), weights, self._pass), weights).cpu()

    def _scores(self, seen: Tensor, weights: Weights) -> Tensor:
        with torch.no_grad():
            logits = self._logits(seen, weights)
        return logits[:, 1] - logits[:, 0]

    def _keep(self, frame: Image.Image) -> None:
        """Crops of both kinds of a frame, as the convolutions see them."""
        for kept, how, count in (
            (self._found, FOUND, self._settings.positives),
            (self._rest, REST, self._settings.negatives),
        ):
            boxes = sampled(self._chance, how, self._box, frame.size, count)
            if len(boxes):
                kept.append(self._convolved(frame, boxes))

    def _regressed(self, first: Image.Image) -> BoxRegression | None:
        boxes = sampled(self._chance, FITTED, self._box, first.size, self._settings.boxes)
        if len(boxes) < 2:
            return None
        features = self._convolved(first, boxes).double().numpy()
        return BoxRegression(features, boxes, self._box, self._settings.ridge)

    def _update(self) -> None:
        """Train the connected layers on what is kept; of the target the last frames alone, if it is lost."""
        settings = self._settings
        found = list(self._found)[-settings.recent :] if self._lost else list(self._found)
        if not found or not self._rest:
            return
        positives, negatives = torch.cat(found), torch.cat(list(self._rest))
        names = [name for name in self._weights if name.split(".")[0] in (*CONNECTED, "head")]
        leaves = {name: self._weights[name].clone().requires_grad_() for name in names}
        groups = [
            {"params": [leaf for name, leaf in leaves.items() if (name in HEAD) == of_head], "lr": rate}
            for of_head, rate in ((False, settings.lr), (True, OF_HEAD * settings.lr))
        ]
        optimizer = torch.optim.SGD(groups, lr=settings.lr, momentum=MOMENTUM, weight_decay=DECAY)
        with torch.enable_grad():
            for _ in range(settings.steps):
                weights = {**self._weights, **leaves}
                some = negatives[self._chosen(len(negatives), settings.hardest_of)]
                hardest = self._scores(some, weights).topk(min(settings.batch_negatives, len(some))).indices
                near = positives[self._chosen(len(positives), settings.batch_positives)]
                logits = self._logits(torch.cat([near, some[hardest]]), weights)
                y = (torch.arange(len(logits)) < len(near)).long()
                loss = F.cross_entropy(logits, y, reduction="sum")
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                torch.nn.utils.clip_grad_norm_(list(leaves.values()), CLIP)
                optimizer.step()
        self._weights = {**self._weights, **{name: leaf.detach() for name, leaf in leaves.items()}}

    def _chosen(self, there: int, count: int) -> Tensor:
        return torch.from_numpy(self._chance.random(there).argsort()[: min(count, there)])


def _inside(box: Array, size: tuple[int, int]) -> Array:
    """A box kept within the frame."""
    sides = np.minimum(box[2:], np.array(size, float))
    return np.concatenate([np.clip(box[:2], 0, np.array(size) - sides), sides])
