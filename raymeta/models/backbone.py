"""What a backbone is: a network that runs on weights it is given."""

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from raymeta.errors import UserError
from raymeta.models.init import linear
from raymeta.models.norm import NormMode
from raymeta.models.passes import Pass, Weights
from raymeta.schema import Section


class Backbone(nn.Module, ABC):
    """A network whose passes take its weights as an argument, so that inner loops can change them.

    Args:
        config: the `model` section.
        input_shape: of one example without the batch: (C, H, W), or (D,).
        outputs: logits or predicted values of the linear head; None: no head, the features are the output.
        steps: inner steps S, for norms that keep a row for each.

    Attributes:
        offers: what regularizers may need of it: `convolutions`, if it calls hooks on them, `policy`, if
            its outputs are a distribution over actions, `filter`, if they are a map of where a target is.
        needs: what it has no meaning without: `windows` of the problem.
        feature_size: F, numbers in the features of an example.
        map_shape: (C, h, w) of the last block's output; () where there are no places.
        stem_blocks: those of `blocks` that come before the first block proper.
        has_kernels: there are native kernels for it (`engine.kernels`).
        film_channels: C of every block that a pass can scale and shift before its nonlinearity (`Pass.on_normalised`).
    """

    Config: ClassVar[type[Section]]
    offers: ClassVar[frozenset[str]] = frozenset()
    needs: ClassVar[frozenset[str]] = frozenset()
    batches_tasks_on_cpu: ClassVar[bool]  # whether vmap over tasks beats a loop on a CPU
    has_kernels: ClassVar[bool] = False
    norm_mode: NormMode = "batch"
    stem_blocks: ClassVar[tuple[str, ...]] = ()
    feature_size: int
    map_shape: tuple[int, ...] = ()
    film_channels: tuple[int, ...] = ()

    def __init__(self, config: Any, input_shape: tuple[int, ...], outputs: int | None, steps: int) -> None:
        super().__init__()
        self.input_shape = input_shape

    def add_head(self, outputs: int | None, weight: str = "xavier", bias: str = "zeros") -> None:
        """The linear layer on the features, drawn by two laws; to be called once `feature_size` is known."""
        self.head = None if outputs is None else linear(self.feature_size, outputs, weight, bias)

    def weights(self) -> Weights:
        """The parameters by name."""
        return dict(self.named_parameters())

    def fitted(self, values: Weights, y: Tensor) -> Weights:
        """The weights, or tensors of their shapes such as rates of them, as a task uses them; by default as they are.

        A network whose shapes depend on the task resizes them, linearly, and adds what its passes must know.

        Args:
            values: by the weights' names.
            y: of the task's support set.
        """
        return values

    def prepare(self, x: Tensor) -> Any:
        """What every pass over the same inputs [n, *input_shape] computes alike, made once for all inner steps."""
        return x

    def forward(self, prepared: Any, weights: Weights, now: Pass) -> Tensor:
        """Outputs [n, outputs] of prepared inputs under the given weights; of a task that uses fewer, its own."""
        features = self.features(prepared, weights, now)
        outputs = self.classify(features, weights, now.outputs)
        for change in now.on_outputs:
            outputs = change(outputs, features, now)
        return outputs

    def features(self, prepared: Any, weights: Weights, now: Pass) -> Tensor:
        """What the head sees, [n, F]."""
        return self.maps(prepared, weights, now).flatten(1)

    def maps(self, prepared: Any, weights: Weights, now: Pass) -> Tensor:
        """The last block's output with its places, [n, C, h, w] ([n, F] where there are none).

        Images of another size than the model's end in maps of another size: those are averaged to `map_shape`, unless
        the pass cuts the head.
        """
        for change in now.on_weights:
            weights = change(weights, now)
        h = self.run(prepared, weights, now)
        if self.map_shape and h.shape[1:] != self.map_shape and not now.cuts_head:
            h = F.adaptive_avg_pool2d(h, (self.map_shape[1], self.map_shape[2]))
        return h

    @abstractmethod
    def run(self, prepared: Any, weights: Weights, now: Pass) -> Tensor:
        """All blocks, one after the other, on weights as they are."""

    def classify(self, features: Tensor, weights: Weights, first: int | None = None) -> Tensor:
        """The head: features [n, F] to outputs; to the `first` ones only, if it says how many.

        For fewer features than F, where a pass cuts the head, it uses the first columns of its weight.
        """
        outputs = features
        if self.head is not None:
            outputs = F.linear(features, weights["head.weight"][:, : features.shape[1]], weights["head.bias"])
        return outputs if first is None else outputs[:, :first]

    @abstractmethod
    def blocks(self) -> tuple[str, ...]:
        """Names of the parts below the head, from the input on."""

    def ends(self) -> tuple[str, ...]:
        """What `on_block` hooks are told at the end of each block that they are called in."""
        return self.blocks()

    def groups(self) -> dict[str, tuple[str, ...]]:
        """Parameter names by part, from the input to the output; the head, if any, is the last."""
        names = list(self.weights())
        parts = [*self.blocks(), *(["head"] if self.head is not None else [])]
        return {part: tuple(name for name in names if name.startswith(f"{part}.")) for part in parts}

    def scope(self, layers: str) -> frozenset[str]:
        """Parameter names of a scope: `all`, `head`, `last` (the last block and the head), `start` (the first block and
        the stem, if there is one), `stem` (empty without one), `body`.
        """
        groups = self.groups()
        body, head = [groups[block] for block in self.blocks()], groups.get("head", ())
        stem = len(self.stem_blocks)
        chosen = {
            "all": [*body, head], "head": [head], "last": [body[-1], head], "body": body,
            "stem": body[:stem], "start": body[: stem + 1],
        }  # fmt: skip
        return frozenset(name for group in chosen[layers] for name in group)

    def norm_names(self) -> frozenset[str]:
        """Names of the scales and shifts of normalisation."""
        return frozenset(name for name, _ in self.named_parameters() if ".norm" in name)

    def fixed_names(self) -> frozenset[str]:
        """Names of weights that no inner loop moves."""
        return frozenset()

    def shortcut_names(self) -> frozenset[str]:
        """Names of the weights of convolutions beside a block, and of their norms."""
        return frozenset()


def refuse_shape(model: str, takes: str, shape: tuple[int, ...], allowed: str) -> UserError:
    """The sentence for inputs that a backbone has no use for."""
    return UserError(f"model.name: {model} takes {takes}, not inputs of shape {shape}; allowed: {allowed}")
