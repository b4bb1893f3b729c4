"""MGAug as its authors' code has it, against a slow outer step: scores, caps, the head's columns, SNIP."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from reference import Weights, learner, maps, means, noise_of
from subnetworks import (
    COUNTING,
    IMAGES,
    KEEP,
    KINDS,
    NETS,
    NETWORKS,
    SIZES,
    SNIP,
    STEPS,
    WEIGHT,
    loss_of,
    make,
    mgaug,
    shrunk,
)
from torch import Tensor
from unrolled import (
    ALPHA,
    assert_same,
    descent,
    hooks_of,
    learned,
    query_loss,
    unroll,
)

from raymeta.errors import UserError
from raymeta.inner import Context
from raymeta.learner import task_loss
from raymeta.models import Pass
from raymeta.problem import Examples, Task


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
