"""Lanes: modules of one kind whose tensors lie beside each other, so that one program computes all of them."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten


class Stack:
    """The parameters and buffers of up to L modules of one kind by name, [L, ...].

    What belongs to a lane is a view of its row: a module that lies in a lane is used, saved and loaded as ever, and
    what is done to the whole tensor is done to it.

    Attributes:
        tensors: by name, parameters and then buffers, those too that are no part of a state dict.
        idle: what a row holds while it is no module's.
    """

    def __init__(self, module: nn.Module, width: int) -> None:
        self.idle = {name: tensor.detach().clone() for name, tensor in _tensors(module)}
        self.tensors = {name: t.expand(width, *t.shape).clone() for name, t in self.idle.items()}

    def take(self, lane: int, module: nn.Module) -> None:
        """Lay a module's tensors into a row; they are views from now on."""
        for name, tensor in list(_tensors(module)):
            row = self.tensors[name][lane]
            row.copy_(tensor.detach())
            _put(module, name, row)

    def give(self, lane: int, module: nn.Module) -> None:
        """Give a module tensors of its own again, and the row its idle ones."""
        for name, tensor in list(_tensors(module)):
            own = tensor.detach().clone()
            self.tensors[name][lane].copy_(self.idle[name])
            _put(module, name, own)


def beside(trees: Sequence[Any]) -> Any:
    """Trees of one form, tuples and lists nested at will, as one whose tensors are stacked: L times [...] to [L, ...].

    Raises:
        ValueError: they differ in form, in shapes or in what is no tensor.
    """
    leaves, forms = zip(*map(tree_flatten, trees), strict=True)
    if any(form != forms[0] for form in forms):
        raise ValueError("they are not of one form")
    stacked = []
    for of_each in zip(*leaves, strict=True):
        first = of_each[0]
        if isinstance(first, Tensor):
            if any(one.shape != first.shape for one in of_each):
                raise ValueError(f"their shapes differ: {sorted({tuple(one.shape) for one in of_each})}")
            stacked.append(torch.stack(of_each))
        elif any(one != first for one in of_each):
            raise ValueError(f"they differ in what is no tensor, as {first!r}")
        else:
            stacked.append(first)
    return tree_unflatten(stacked, forms[0])


def own(state: Any) -> Any:
    """A state, nested at will, with tensors of its own: a lane's are views, of which a file would get the whole."""
    return tree_map(lambda value: value.detach().clone() if isinstance(value, Tensor) else value, state)


def rows_of(tree: Any) -> Any:
    """`in_dims` of vmap for a tree that `beside` made: 0 for a tensor, None for what is none."""
    leaves, form = tree_flatten(tree)
    return tree_unflatten([0 if isinstance(leaf, Tensor) else None for leaf in leaves], form)


def _tensors(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from module.named_parameters()
    yield from module.named_buffers()


def _put(module: nn.Module, name: str, tensor: Tensor) -> None:
    *path, last = name.split(".")
    owner = module.get_submodule(".".join(path))
    if last in owner._parameters:
        owner._parameters[last].data = tensor  # type: ignore[union-attr]  # the optimizer knows the parameter
    else:
        owner._buffers[last] = tensor
