"""MGAug against sub-networks that are really cut out or masked once for all; what is pruned, what is resized."""

from functools import partial
from math import floor
from typing import Any, cast
from unittest.mock import patch

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from reference import GLYPHS, Random, Weights, learner, maps, means, noise_of, small_trial
from torch import Tensor
from unrolled import (
    ALPHA,
    MAML,
    Loss,
    assert_same,
    descent,
    expected_gradient,
    hooks_of,
    learned,
    outer_gradient,
    query_loss,
    unroll,
)

from raymeta.config import parse_trial
from raymeta.errors import UserError
from raymeta.hooks import Hooks
from raymeta.inner import Context
from raymeta.learner import Learner, build_learner, task_loss
from raymeta.models import Pass
from raymeta.problem import Examples, Task
from raymeta.problems.images.dataset import ImageDataset
from raymeta.testing import conformance
from raymeta.training.trainer import Trainer
from trainables.regularizers.mgaug import MGAug, masked, resized

STEPS, WIDTH, SIDE, NETWORKS, KEEP, WEIGHT = 2, 5, 32, 3, 0.45, 0.7
SIZES = (1.0, 0.75, 1.5)  # maps of 2x2, 1x1 and 3x3 places
IMAGES = Random((1, SIDE, SIDE))
# Every task by itself, without the bounds of the authors' code; what that code does is tested further down.
ALONE = {"cap": 1.0, "scores": "adapted", "head": "averaged", "count": "exact"}
KINDS = pytest.mark.parametrize("kind", ["first", "second", "protonet"])  # MAML's order, or ProtoNet
PRUNINGS = pytest.mark.parametrize("pruning", ["catfish", "parameter", "width"])
NETS: dict[str, dict[str, Any]] = {
    "conv4": {"name": "conv4", "width": WIDTH},
    "per_step": {"name": "conv4", "width": WIDTH, "norm": "per_step"},
    "resnet10": {"name": "resnet10", "channels": [4, 4, 5, 5]},
    "resnet12a": {"name": "resnet12", "channels": [3, 4, 5, 5]},
    "resnet12b": {"name": "resnet12", "channels": [3, 4, 5, 5], "variant": "b"},
}


def sections(kind: str = "second", net: str = "conv4", **mgaug: Any) -> dict[str, Any]:
    own: dict[str, Any] = {"method": "protonet", "protonet": {"passes": "separate"}}
    if kind != "protonet":
        own = {"method": "maml", "maml": {"inner_lr": ALPHA, "inner_steps": STEPS, "order": kind}}
    settings = {"networks": NETWORKS, "keep": KEEP, "weight": WEIGHT, "sizes": SIZES, **ALONE, **mgaug}
    return {"model": NETS[net], "regularizers": {"mgaug": settings}, **own}


def make(kind: str = "second", net: str = "conv4", **mgaug: Any) -> Learner:
    return learner(IMAGES, **sections(kind, net, **mgaug))


def mgaug(made: Learner) -> MGAug:
    return cast(MGAug, made.regularizers[0])


def context(made: Learner, seed: int = 0) -> Context:
    """That of the one task of an outer step."""
    return Context(True, noise=noise_of(seed), hooks=hooks_of(made, seed=seed))


def loss_of(made: Learner, task: Task, seed: int = 0) -> Tensor:
    return task_loss(made, task, context(made, seed))


# The slow side


def bins(size: int, places: int) -> Tensor:
    """[places, size]: means of `size` numbers over windows that cover them evenly."""
    windows = torch.zeros(places, size, dtype=torch.float64)
    for i in range(places):
        first, end = i * size // places, -(-(i + 1) * size // places)
        windows[i, first:end] = 1 / (end - first)
    return windows


def shrunk(x: Tensor, share: float) -> Tensor:
    """Bilinear, corners on corners: by matrices of hat functions."""
    at = torch.linspace(0, SIDE - 1, round(share * SIDE), dtype=torch.float64)
    hats = (1 - (at[:, None] - torch.arange(SIDE)).abs()).clamp(min=0)
    return hats @ x @ hats.T


def features(x: Tensor, weights: Weights) -> Tensor:
    h = maps(x, weights)
    return (bins(h.shape[-2], SIDE // 16) @ h @ bins(h.shape[-1], SIDE // 16).T).flatten(1)


def network(x: Tensor, weights: Weights, step: int = 0, normaliser: Tensor | None = None) -> Tensor:
    return features(x, weights) @ weights["head.weight"].T + weights["head.bias"]


def fitted(kind: str, start: Weights, task: Task, masks: Weights) -> tuple[Tensor, Weights]:
    """The query loss of a network by itself, and what it was predicted with."""
    if kind == "protonet":
        classes = means(features(task.support.x, start), task.support.y)
        distances = ((features(task.query.x, start)[:, None] - classes) ** 2).sum(2)
        return F.cross_entropy(-distances, task.query.y), start
    rule = descent(lambda step, name: ALPHA * masks.get(name, 1.0))
    path = unroll(network, start, task, rule, steps=STEPS, order=kind)
    return query_loss(network, path[-1], task), path[-1]


def cut_out(theta: Weights, share: float) -> Weights:
    """The narrower network: its tensors are smaller."""
    filters = floor(share * WIDTH)
    cut = {name: weight[:filters] for name, weight in theta.items()}
    for name, weight in theta.items():
        if weight.ndim == 4 and name != "block1.weight":
            cut[name] = weight[:filters, :filters]
        elif name == "head.weight":
            cut[name] = weight.unflatten(1, (WIDTH, -1))[:, :filters].flatten(1)
        elif name == "head.bias":
            cut[name] = weight
    return cut


def slow(kind: str, pruning: str) -> Loss:
    """The outer loss with the same draws."""

    def loss(theta: Weights, own: Weights, task: Task) -> Tensor:
        noise, generator = noise_of(0), torch.Generator().manual_seed(0)

        def draw(*shape: int) -> Tensor:
            return noise.uniform(torch.empty(shape, dtype=torch.float64))

        total, last = fitted(kind, theta, task, {})
        convolutions = [name for name in theta if theta[name].ndim == 4]
        scores: Weights = {}
        if pruning == "catfish":
            found = torch.autograd.grad(total, [last[name] for name in convolutions], retain_graph=True)
            scores = {n: abs(theta[n].detach() * g) for n, g in zip(convolutions, found, strict=True)}
        keep = [KEEP, *(KEEP + (1 - KEEP) * draw(NETWORKS))[1:].tolist()]
        sizes = [SIZES[at] for at in torch.randint(len(SIZES), (NETWORKS,), generator=generator)]
        assert len(set(sizes)) > 1
        for share, size in zip(keep, sizes, strict=True):
            seen = Task(*(Examples(shrunk(x, size), y) for x, y in task))
            masks: Weights = {}
            if pruning == "parameter":
                scores = {name: draw(*theta[name].shape) for name in convolutions}
            if pruning != "width":
                ranks = {name: score.flatten().argsort().argsort().view_as(score) for name, score in scores.items()}
                masks = {n: (r < r.numel() - floor((1 - share) * r.numel())).double() for n, r in ranks.items()}
            start = cut_out(theta, share) if pruning == "width" else theta
            start = {name: weight * masks.get(name, 1.0) for name, weight in start.items()}
            total = total + WEIGHT * fitted(kind, start, seen, masks)[0]
        return total

    return loss


@KINDS
@PRUNINGS
def test_the_outer_gradient_is_that_of_networks_cut_out(kind: str, pruning: str) -> None:
    made, (task,) = make(kind, pruning=pruning), IMAGES.tasks(1)
    assert_same(outer_gradient(made, [task], context(made)), expected_gradient(made, [task], slow(kind, pruning)))


# As the authors' code has it


def first_columns(x: Tensor, weights: Weights, step: int = 0, normaliser: Tensor | None = None) -> Tensor:
    """The head's first weights for maps of whatever size."""
    h = maps(x, weights).flatten(1)
    return h @ weights["head.weight"][:, : h.shape[1]].T + weights["head.bias"]


def authors_step(
    kind: str, theta: Weights, tasks: list[Task], sizes: list[list[float]], cap: float, scores: str, pruning: str
) -> Tensor:
    """The summed losses of an outer step, task after task, with theta's gradient accumulated by hand."""
    convolutions = [name for name in theta if theta[name].ndim == 4]
    accumulated = {name: torch.zeros_like(theta[name]) for name in convolutions}
    losses = []

    def alone(start: Weights, task: Task) -> Tensor:
        if kind == "protonet":
            support, query = (maps(x, start).flatten(1) for x in (task.support.x, task.query.x))
            classes = means(support, task.support.y)
            return F.cross_entropy(-((query[:, None] - classes) ** 2).sum(2), task.query.y)
        rule = descent(lambda step, name: ALPHA)
        path = unroll(pruned_network, start, task, rule, steps=STEPS, order=kind)
        return query_loss(pruned_network, path[-1], task)

    def pruned_network(x: Tensor, weights: Weights, step: int = 0, normaliser: Tensor | None = None) -> Tensor:
        return first_columns(x, {n: w * masks[n] if n in masks else w for n, w in weights.items()})

    for number, task in enumerate(tasks):
        masks: Weights = {}
        draws = noise_of(0, number).uniform(torch.empty(NETWORKS, dtype=torch.float64))
        whole = alone(theta, task)
        own = torch.autograd.grad(whole, [theta[name] for name in convolutions], retain_graph=True)
        g = {
            n: accumulated[n] * (scores == "authors" and kind != "protonet") + o
            for n, o in zip(convolutions, own, strict=True)
        }
        for share, size in zip([KEEP, *(KEEP + (1 - KEEP) * draws)[1:].tolist()], sizes[number], strict=True):
            share, chosen = min(share, cap), {}
            for name in convolutions:
                score = (theta[name] * g[name]).abs().detach()
                ranked = sorted(score.flatten().tolist(), reverse=True)
                if pruning == "snip":
                    chosen[name] = (score >= ranked[int(len(ranked) * share) - 1]).double()
                else:
                    chosen[name] = (score <= ranked[int(len(ranked) * (1 - share)) - 1]).double()
            masks = chosen
            seen = Task(*(Examples(shrunk(x, size), y) for x, y in task))
            start = {n: w * masks[n] if n in masks else w for n, w in theta.items()} if kind == "protonet" else theta
            whole = whole + WEIGHT * alone(start, seen)
        for name, found in zip(
            convolutions, torch.autograd.grad(whole, [theta[n] for n in convolutions], retain_graph=True), strict=True
        ):
            accumulated[name] = accumulated[name] + found
        losses.append(whole)
    return torch.stack(losses).sum()


@KINDS
@pytest.mark.parametrize("scores", ["authors", "task"])
@pytest.mark.parametrize("pruning", ["catfish", "snip"])
def test_an_outer_step_is_that_of_the_authors_code(kind: str, scores: str, pruning: str) -> None:
    """Three tasks, some keep rates above the cap, sub-networks in sizes of their own."""
    cap, sizes = 0.7, (1.0, 0.75, 0.5)
    own = {"cap": cap, "scores": scores, "head": "authors", "count": "authors", "sizes": sizes, "pruning": pruning}
    made, tasks = make(kind, **own), IMAGES.tasks(3)
    hooks = hooks_of(made, tasks=tasks)
    losses = [task_loss(made, t, Context(True).of_task(i, noise_of(0, i), hooks)) for i, t in enumerate(tasks)]
    names = list(learned(made))
    found = dict(zip(names, torch.autograd.grad(torch.stack(losses).sum(), list(learned(made).values())), strict=True))
    drawn = torch.randint(len(sizes), (3, NETWORKS), generator=torch.Generator().manual_seed(0))
    theta = {n.removeprefix("model."): p.detach().clone().requires_grad_() for n, p in learned(made).items()}
    shares = [[sizes[at] for at in row] for row in drawn]
    assert len({size for row in shares for size in row}) > 1
    total = authors_step(kind, theta, tasks, shares, cap, scores, pruning)
    expected = dict(zip(names, torch.autograd.grad(total, list(theta.values())), strict=True))
    assert_same((float(torch.stack(losses).sum().detach()), found), (float(total.detach()), expected))


def test_scores_differ_from_the_second_task_on() -> None:
    tasks = IMAGES.tasks(2)
    found = {}
    for scores in ("authors", "task"):
        made = make("first", scores=scores, resize=False)
        hooks = hooks_of(made, tasks=tasks)
        found[scores] = [
            float(task_loss(made, t, Context(True).of_task(i, noise_of(0, i), hooks)).detach())
            for i, t in enumerate(tasks)
        ]
    assert found["authors"][0] == found["task"][0]
    assert found["authors"][1] != found["task"][1]


@pytest.mark.parametrize("net", [net for net in NETS if net.startswith("resnet")])
def test_a_resnet_averages_the_places_that_there_are(net: str) -> None:
    made, (task,) = make(net=net, sizes=(1.0, 0.75), head="authors"), IMAGES.tasks(1)
    model, theta, now = made.model, made.model.weights(), Pass(cuts_head=True)
    for share in SIZES:
        x = model.prepare(shrunk(task.support.x, share))
        torch.testing.assert_close(model.features(x, theta, now), model.run(x, theta, now).mean((2, 3)))


def test_larger_images_have_no_columns_in_the_head() -> None:
    with pytest.raises(UserError, match=r"^regularizers.mgaug.sizes: found 1.5, but with head authors there are no"):
        make(head="authors")
    make("protonet", head="authors")
    make(head="authors", resize=False)


def test_weights_that_are_not_learned_have_no_scores() -> None:
    own = {"method": "alfa", "alfa": {"initialisation": "random"}, "model": NETS["conv4"]}
    made, (task,) = learner(IMAGES, **own, regularizers={"mgaug": {"resize": False}}), IMAGES.tasks(1)
    with pytest.raises(UserError, match=r"^regularizers.mgaug.scores: found 'authors', but alfa does not learn"):
        loss_of(made, task)
    adapted = learner(IMAGES, **own, regularizers={"mgaug": {"resize": False, "scores": "adapted"}})
    assert bool(loss_of(adapted, task).isfinite())


@pytest.mark.parametrize("method", ["relationnet", "matchingnet"])
def test_a_network_after_the_maps_sees_them_in_their_usual_size(method: str) -> None:
    made, (task,) = learner(IMAGES, method=method, model=NETS["conv4"], regularizers={"mgaug": {}}), IMAGES.tasks(1)
    assert bool(loss_of(made, task).isfinite())


# What is pruned


@pytest.mark.parametrize("share", [0.2, 0.5, 0.8, 1.0])
def test_width_pruning_is_a_narrower_network(share: float) -> None:
    made, (task,) = make(pruning="width"), IMAGES.tasks(1)
    theta = made.model.weights()
    pruned = Context(True, hooks=(Hooks(weights=partial(masked, mgaug(made).width(theta, torch.tensor(share)))),))
    last = unroll(network, cut_out(theta, share), task, MAML, steps=STEPS)[-1]
    adapted = made.adapt(task.support, pruned)
    torch.testing.assert_close(made.predict(adapted, task.query.x), network(task.query.x, last), rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("net", NETS)
def test_pruned_filters_are_dead_to_the_end_of_every_network(net: str) -> None:
    made, (task,) = make(net=net, pruning="width"), IMAGES.tasks(1)
    model, theta = made.model, made.model.weights()
    masks = mgaug(made).width(theta, torch.tensor(0.6))
    assert {name for name in theta if name.split(".")[0] != "head"} == masks.keys()
    now = Context(True).at()
    features = model.maps(model.prepare(task.support.x), masked(masks, theta, now), now)
    alive = features.flatten(2).abs().amax((0, 2)) > 0
    assert alive.tolist() == [True] * 3 + [False] * 2


@given(n=st.integers(1, 3000), shares=st.tuples(st.integers(1, 1000), st.integers(1, 1000)), seed=st.integers(0, 9))
@pytest.mark.parametrize("count", ["exact", "authors"])
def test_as_many_are_pruned_as_the_share_says_the_largest_first_in_nested_masks(
    count: str, n: int, shares: tuple[int, int], seed: int
) -> None:
    score = torch.randperm(n, generator=torch.Generator().manual_seed(seed)).double()
    masks = []
    for share in sorted(shares):  # in thousandths, so that whole numbers say how many
        mask = COUNTING[count].pruned({"w": score}, torch.tensor(share / 1000, dtype=torch.float64))["w"]
        pruned = (1000 - share) * n // 1000
        pruned = max(int((1 - share / 1000) * n) - 1, 0) if count == "authors" else pruned
        assert torch.equal(mask, (score < n - pruned).double())
        masks.append(mask)
    assert bool((masks[0] <= masks[1]).all())


@given(n=st.integers(1, 3000), share=st.integers(1, 1000), seed=st.integers(0, 9))
def test_snip_keeps_as_many_as_the_share_says_the_largest(n: int, share: int, seed: int) -> None:
    score = torch.randperm(n, generator=torch.Generator().manual_seed(seed)).double() + 1
    mask = SNIP.pruned({"w": score}, torch.tensor(share / 1000, dtype=torch.float64))["w"]
    assert torch.equal(mask, (score > n - max(int(share / 1000 * n), 1)).double())


@pytest.mark.parametrize("count", ["exact", "authors"])
@pytest.mark.parametrize("pruning", ["catfish", "snip"])
def test_a_layer_whose_scores_are_all_0_stays_whole(pruning: str, count: str) -> None:
    one = mgaug(make(pruning=pruning, count=count))
    masks = one.pruned({"dead": torch.zeros(4, 5), "alive": torch.arange(20.0)}, torch.tensor(0.5))
    assert bool(masks["dead"].all())
    assert 0 < int(masks["alive"].sum()) < 20


def test_the_authors_prune_what_is_above_the_kth_score_so_ties_stay() -> None:
    score = torch.tensor([3.0, 5.0, 5.0, 5.0, 1.0, 2.0, 0.0, 0.0, 9.0, 8.0])
    keep = torch.tensor(0.7, dtype=torch.float64)  # of the three largest the third is 5
    assert COUNTING["authors"].pruned({"w": score}, keep)["w"].tolist() == [1, 1, 1, 1, 1, 1, 1, 1, 0, 0]
    few = SNIP.pruned({"w": score}, torch.tensor(0.3, dtype=torch.float64))["w"]
    assert few.tolist() == [0, 1, 1, 1, 0, 0, 0, 0, 1, 1]


COUNTING = {count: mgaug(make(count=count)) for count in ("exact", "authors")}
SNIP = mgaug(make(pruning="snip"))


@KINDS
@PRUNINGS
def test_pruned_weights_are_zero_in_passes_stay_where_they_are_and_get_no_gradient(kind: str, pruning: str) -> None:
    made, (task,) = make(kind, pruning=pruning, resize=False), IMAGES.tasks(1)
    masks, fits = list[Weights](), list[tuple[Any, Weights]]()
    prune, score = "width" if pruning == "width" else "pruned", made.query_loss
    plain = getattr(MGAug, prune)

    def note(*arguments: Any) -> Weights:
        masks.append(plain(*arguments))
        return masks[-1]

    def fit(adapted: Any, query: Examples) -> Tensor:
        loss, theta = score(adapted, query), made.model.weights()
        found = torch.autograd.grad(loss, list(theta.values()), retain_graph=True, allow_unused=True)
        fits.append((adapted, dict(zip(theta, found, strict=True))))
        return loss

    with (
        patch.object(MGAug, prune, note),
        patch.object(made, "query_loss", fit),
        patch.object(made.model, "run", wraps=made.model.run) as run,
    ):
        loss_of(made, task)
    theta, passes = made.model.weights(), 2 if kind == "protonet" else STEPS + 1
    assert (len(masks), len(fits), run.call_count) == (NETWORKS, NETWORKS + 1, passes * (NETWORKS + 1))
    assert not any(
        bool((weight == 0).any()) for call in run.call_args_list[:passes] for weight in call.args[1].values()
    )
    for u, mask in enumerate(masks):
        adapted, found = fits[u + 1]
        pruned = {name: mask[name].expand_as(theta[name]) == 0 for name in mask}
        for call in run.call_args_list[passes * (u + 1) : passes * (u + 2)]:
            assert all(torch.equal(call.args[1][name] == 0, where) for name, where in pruned.items())
        for name, where in pruned.items():
            g = found[name]
            assert bool(where.any())
            assert not g[where].any()
            assert g[~where].any() or where.ndim == 1  # the norm undoes a bias
            if kind != "protonet":
                assert torch.equal(adapted.weights[name][where], theta[name][where])


def test_no_networks_are_bitwise_the_plain_learner_and_evaluation_knows_of_none(glyphs: ImageDataset) -> None:
    plain, none, some = (
        Trainer(small_trial(GLYPHS, regularizers=regularizers))
        for regularizers in ({}, {"mgaug": {"networks": 0}}, {"mgaug": {"networks": 2, "keep": 0.5}})
    )
    assert plain.validate() == some.validate()
    metrics = [{k: v for k, v in trainer.round().items() if k != "seconds"} for trainer in (plain, none, some)]
    assert metrics[0] == metrics[1] != metrics[2]
    some.learner.load_state_dict(plain.learner.state_dict())
    assert plain.validate() == some.validate()


@pytest.mark.parametrize("resize", [False, True])
def test_sub_networks_see_support_and_query_in_one_drawn_size_and_the_whole_one_in_its_own(resize: bool) -> None:
    made, (task,) = make("protonet", networks=12, resize=resize), IMAGES.tasks(1)
    with (
        patch.object(made, "adapt", wraps=made.adapt) as adapt,
        patch.object(made, "query_loss", wraps=made.query_loss) as query,
    ):
        loss_of(made, task)
    seen = [call.args[0].x.shape[-2:] for call in adapt.call_args_list]
    assert seen == [call.args[1].x.shape[-2:] for call in query.call_args_list]
    assert all(torch.equal(call.args[0].y, task.support.y) for call in adapt.call_args_list)
    assert seen[0] == (SIDE, SIDE)
    assert set(seen[1:]) == ({(24, 24), (32, 32), (48, 48)} if resize else {(SIDE, SIDE)})


@pytest.mark.parametrize(("size", "share", "expected"), [
    ((84, 84), 64 / 84, (64, 64)),
    ((84, 84), 48 / 84, (48, 48)),
    ((28, 40), 0.5, (16, 20)),  # what Conv-4 needs
    ((12, 30), 0.4, (12, 16)),
])  # fmt: skip
def test_images_are_not_made_smaller_than_a_network_can_take(
    size: tuple[int, int], share: float, expected: tuple[int, int]
) -> None:
    x, y = torch.zeros(2, 1, *size), torch.zeros(2).long()
    found = resized(Task(Examples(x, y), Examples(x, y)), share)
    assert found.support.x.shape[-2:] == found.query.x.shape[-2:] == expected


@pytest.mark.parametrize("net", [net for net in NETS if net != "per_step"])
def test_maps_of_other_sizes_are_averaged_to_the_usual_one(net: str) -> None:
    made, (task,) = make(net=net), IMAGES.tasks(1)
    model, theta, now = made.model, made.model.weights(), Context(True).at()
    for share in SIZES:
        x = model.prepare(shrunk(task.support.x, share))
        h, found = model.run(x, theta, now), model.maps(x, theta, now)
        assert share != 1 or h.shape[1:] == model.map_shape
        expected = bins(h.shape[-2], model.map_shape[1]) @ h @ bins(h.shape[-1], model.map_shape[2]).T
        assert found.shape[1:] == model.map_shape
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    assert all(bool(g.isfinite().all()) for g in outer_gradient(made, [task], context(made))[1].values())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_first_keeps_the_least_and_the_others_a_uniform_share(dtype: torch.dtype) -> None:
    """In training's precision too: a share of 0.98 as float32 would prune 19 of 1000."""
    count, keep = 300, 0.98
    trial = parse_trial(sections("protonet", networks=count + 1, keep=keep, resize=False))
    made = build_learner(trial, IMAGES)  # as training has it: its weights are float32
    made = made.double() if dtype == torch.float64 else made
    task = Task(*(Examples(x[:1].to(dtype), y[:1]) for x, y in IMAGES.tasks(1)[0]))
    with patch.object(MGAug, "pruned", autospec=True, side_effect=MGAug.pruned) as prune:
        loss_of(made, task)
    first, *others = (float(call.args[2]) for call in prune.call_args_list)
    assert first == keep
    expected = [keep + (1 - keep) * (i + 0.5) / count for i in range(count)]
    apart = max(abs(a - b) for a, b in zip(sorted(others), expected, strict=True))
    assert apart < (1 - keep) * 1.63 / count**0.5  # Kolmogorov and Smirnov, 1 %
    assert keep - 1e-6 <= min(others) < max(others) <= 1


@pytest.mark.parametrize("pruning", ["catfish", "parameter"])
def test_tasks_have_masks_of_their_own(pruning: str) -> None:
    made, (task, other) = make(pruning=pruning), IMAGES.tasks(2)
    with patch.object(MGAug, "pruned", autospec=True, side_effect=MGAug.pruned) as prune:
        loss_of(made, task, seed=0)
        loss_of(made, *((task, 1) if pruning == "parameter" else (other, 0)))  # by the noise, or by the images
    scores = [call.args[1]["block2.weight"] for call in prune.call_args_list]
    assert not torch.equal(scores[0].argsort(), scores[-1].argsort())


def test_what_it_cannot_do_is_refused(glyphs: ImageDataset) -> None:
    with pytest.raises(UserError) as caught:
        Trainer(small_trial(GLYPHS, regularizers={"mgaug": {}}, engine={"tasks": "vmap"}))
    assert str(caught.value) == "engine.tasks: found 'vmap', but mgaug computes task by task; allowed: auto, loop"
    with pytest.raises(UserError) as caught:
        learner(Random((3,), "values"), model={"name": "mlp"}, regularizers={"mgaug": {}})
    assert str(caught.value) == "maml+mgaug: mgaug needs images, and random has none"


SMALL: dict[str, Any] = {
    "task": {"shots": 1, "queries": 2},
    "budget": {"outer_steps": 2, "validate_every": 1, "validation_tasks": 2},
    "regularizers": {"mgaug": {"networks": 2, "keep": 0.8}},
}
test_mgaug_conforms = conformance("maml+mgaug", "maml+dropgrad+mgaug", config={**SMALL, "maml": {"inner_steps": 1}})
test_mgaug_without_an_inner_loop_conforms = conformance("protonet+mgaug", config=SMALL)
