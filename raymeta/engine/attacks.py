"""Adversarial changes of images: norm balls, and attacks on a loss inside them.

A change d is [n, ...], one for each image, of at most the given radius in a norm, linf, l2 or l1; the changed pixels
stay in [0, 1]. Images are attacked together: with batch statistics one's gradient passes through its neighbours.

    FGSM    the d in ball and box with the largest <d, g>, g the gradient at the images; in l2 cut to the box after
    PGD     d <- box(ball(d + 2.5 radius / steps * u)), u the steepest ascent; of all d that of the largest loss counts

Goodfellow, Shlens, Szegedy: Explaining and Harnessing Adversarial Examples (ICLR 2015); Madry et al.: Towards Deep
Learning Models Resistant to Adversarial Attacks (ICLR 2018); Tramer, Boneh: Adversarial Training and Robustness for
Multiple Perturbations (NeurIPS 2019) for the steps in l1, whose steepest ascent would move a single pixel.
"""

from collections.abc import Callable
from math import sqrt
from typing import Literal, get_args

import torch
from torch import Tensor

Norm = Literal["linf", "l2", "l1"]
NORMS: tuple[Norm, ...] = get_args(Norm)
Loss = Callable[[Tensor], Tensor]  # change [n, ...] to the loss of all images, []
STEP = 2.5  # of the radius, in all steps together: from any start the whole ball can be reached
SPARSE = 0.05  # share of an image's pixels that a step in l1 moves


def length(change: Tensor, norm: Norm) -> Tensor:
    """Norms of changes [n, ...], each: [n]."""
    order = {"linf": torch.inf, "l2": 2, "l1": 1}[norm]
    found: Tensor = torch.linalg.vector_norm(change.flatten(1), order, dim=1)
    return found


def diameter(pixels: int, norm: Norm) -> float:
    """The radius beyond which a ball holds every image of so many pixels, whatever is at its centre."""
    return {"linf": 1.0, "l2": sqrt(pixels), "l1": float(pixels)}[norm]


def in_ball(change: Tensor, norm: Norm, radius: float) -> Tensor:
    """The nearest changes, in Euclid's distance, that are no longer than `radius`.

    In l1 by sorting: Duchi et al.: Efficient Projections onto the l1-Ball (ICML 2008), figure 1.

    Args:
        change: [n, ...].
        norm: of which the ball is.
        radius: >= 0.
    """
    if norm == "linf":
        return change.clamp(-radius, radius)
    flat = change.flatten(1)
    if norm == "l2":
        lengths = flat.norm(dim=1, keepdim=True)
        return (flat * torch.where(lengths > radius, radius / lengths, 1.0)).view_as(change)
    sizes = flat.abs()
    ordered = sizes.sort(1, descending=True).values
    excess = ordered.cumsum(1) - radius
    places = torch.arange(1, flat.shape[1] + 1, device=flat.device)
    kept = (ordered * places > excess).sum(1, keepdim=True).clamp(min=1)  # pixels that stay above 0
    threshold = (excess.gather(1, kept - 1) / kept).clamp(min=0)  # 0: inside already
    return (flat.sign() * (sizes - threshold).clamp(min=0)).view_as(change)


def in_box(change: Tensor, pixels: Tensor) -> Tensor:
    """Changes after which pixels are in [0, 1]; none gets longer, as each pixel moves towards its own."""
    return torch.minimum(torch.maximum(change, -pixels), 1 - pixels)


def fgsm(gradient: Tensor, pixels: Tensor, norm: Norm, radius: float) -> Tensor:
    """The fast gradient method's change, [n, ...]; see the module's docstring.

    Args:
        gradient: of the loss at the images.
        pixels: of the images.
        norm: of which the ball is.
        radius: of the ball.
    """
    if norm == "linf":
        return in_box(radius * gradient.sign(), pixels)
    if norm == "l2":
        return in_box(radius * _unit(gradient), pixels)
    # The pixels of the largest gradients to the wall, one after the other, until the radius is used up.
    flat, own = gradient.flatten(1), pixels.flatten(1)
    room = torch.where(flat > 0, 1 - own, own) * (flat != 0)
    order = flat.abs().argsort(1, descending=True)
    sorted_room = room.gather(1, order)
    before = torch.cat([torch.zeros_like(room[:, :1]), sorted_room.cumsum(1)[:, :-1]], 1)
    spent = torch.minimum((radius - before).clamp(min=0), sorted_room)
    return (flat.sign() * torch.zeros_like(room).scatter(1, order, spent)).view_as(gradient)


def direction(gradient: Tensor, pixels: Tensor, norm: Norm) -> Tensor:
    """Where a step goes, of length 1 in the norm, 0 where there is no gradient: [n, ...].

    Args:
        gradient: of the loss, at pixels.
        pixels: as they are changed by now: in l1 those at the wall don't count.
        norm: of the ball.
    """
    if norm == "linf":
        return gradient.sign()
    if norm == "l2":
        return _unit(gradient)
    flat, own = gradient.flatten(1), pixels.flatten(1)
    sizes = flat.abs() * torch.where(flat > 0, own < 1, own > 0)
    count = max(1, round(SPARSE * flat.shape[1]))
    largest, places = sizes.topk(count, 1)
    moved = torch.zeros_like(flat).scatter(1, places, (largest > 0).to(flat)) * flat.sign()
    return (moved / moved.abs().sum(1, keepdim=True).clamp(min=1)).view_as(gradient)


def drawn(pixels: Tensor, norm: Norm, radius: float, generator: torch.Generator, *, inside: bool = False) -> Tensor:
    """Random changes, [n, ...], in the box: on the ball's surface in a random direction, or anywhere inside.

    Args:
        pixels: of the images.
        norm: of the ball.
        radius: of the ball.
        generator: on the CPU.
        inside: in linf uniformly; else the direction as on the surface, at radius * U^(1/d) for d pixels.
    """
    count, size = len(pixels), pixels[0].numel()

    def uniform(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator, dtype=torch.float64)

    if norm == "l2":
        flat = torch.randn(count, size, generator=generator, dtype=torch.float64)
        flat /= flat.norm(dim=1, keepdim=True)
    else:
        flat = (2 * uniform(count, size) - 1).sign()
        if norm == "l1":
            flat *= -torch.log1p(-uniform(count, size))  # exponential: uniform on the simplex once divided by the sum
            flat /= flat.abs().sum(1, keepdim=True)
    if inside:
        flat *= uniform(count, size) if norm == "linf" else uniform(count, 1) ** (1 / size)
    return in_box((radius * flat).to(pixels).view_as(pixels), pixels)


def pgd(
    loss: Loss,
    pixels: Tensor,
    norm: Norm,
    radius: float,
    *,
    steps: int,
    restarts: int = 0,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Projected gradient ascent from no change, and from random ones: the change of the largest loss, [n, ...].

    Args:
        loss: of changes.
        pixels: of the images.
        norm: of the ball.
        radius: of the ball.
        steps: gradients taken from each start.
        restarts: random starts; more never give a smaller loss.
        generator: on the CPU, for them.
    """
    best, highest = torch.zeros_like(pixels), -torch.inf
    size = STEP * radius / max(steps, 1)
    for start in range(1 + restarts):
        change = torch.zeros_like(pixels)
        if start:
            assert generator is not None
            change = drawn(pixels, norm, radius, generator, inside=True)
        for _ in range(steps):
            reached, gradient = with_gradient(loss, change)
            if (value := float(reached)) > highest:
                best, highest = change, value
            change = moved(change, gradient, pixels, norm, radius, size)
        with torch.no_grad():
            value = float(loss(change))
        if value > highest:
            best, highest = change, value
    return best


def moved(change: Tensor, gradient: Tensor, pixels: Tensor, norm: Norm, radius: float, size: float) -> Tensor:
    """A change after a step of ascent of a length, back in ball and box."""
    change = change + size * direction(gradient, pixels + change, norm)
    return in_box(in_ball(change, norm, radius), pixels)


def with_gradient(loss: Loss, change: Tensor) -> tuple[Tensor, Tensor]:
    """The loss [] of a change, and its gradient [n, ...]."""
    with torch.enable_grad():
        change = change.detach().requires_grad_()
        value = loss(change)
        (gradient,) = torch.autograd.grad(value, change)
    return value.detach(), gradient


def _unit(gradient: Tensor) -> Tensor:
    """Each of Euclidean length 1, or 0."""
    flat = gradient.flatten(1)
    lengths = flat.norm(dim=1, keepdim=True)
    return torch.where(lengths > 0, flat / lengths.clamp(min=torch.finfo(flat.dtype).tiny), 0.0).view_as(gradient)
