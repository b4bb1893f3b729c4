"""MetaMix against blocks, mixing and shuffling written down once more, with its own draws; what these draws are."""

from math import factorial
from typing import Any, cast

import pytest
import torch
import torch.nn.functional as F
from reference import Random, Weights, learner, maps, means
from torch import Tensor
from unrolled import (
    ALPHA,
    MAML,
    Loss,
    assert_same,
    descent,
    expected_gradient,
    learned,
    relative_error,
    together,
    unroll,
)

from raymeta.config import parse_trial
from raymeta.engine.tasks import for_each
from raymeta.inner import Context
from raymeta.models.passes import Pass
from raymeta.problem import Examples, Task, Tasks
from raymeta.schema import merge
from raymeta.testing import BUDGET, conformance, outer_gradient
from raymeta.training.trainer import Trainer
from trainables.regularizers.metamix import Draws, MetaMix

pytestmark = pytest.mark.usefixtures("glyphs")
STEPS, WIDTH, WAYS = 2, 6, 3
BOUNDS = {6: [0, 1, 2, 3, 4, 5, 6], 32: [0, 6, 11, 16, 22, 27, 32], 64: [0, 12, 22, 32, 44, 54, 64]}
LAYERS = torch.arange(4)  # of four tasks


def trainer(method: str = "maml", metamix: dict[str, Any] | None = None, **sections: Any) -> Trainer:
    """In float64, its parameters moved off their regular start; without `metamix` the plain learner."""
    inner = {"inner_lr": ALPHA, "inner_steps": STEPS} if method.startswith("maml") else {}
    own = {"method": method, method: inner, "regularizers": {} if metamix is None else {"metamix": metamix}}
    images = {"dataset": "glyphs", "ways": WAYS, "shots": 2, "queries": 3}
    model = sections.pop("model", {"name": "conv4", "width": WIDTH})
    made = Trainer(parse_trial(merge(BUDGET, {"task": images, "model": model}, own, sections)))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in made.learner.double().parameters():
            parameter += 0.05 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    return made


def regularizer(made: Trainer) -> MetaMix:
    return cast(MetaMix, made.learner.regularizers[0])


def watch(made: Trainer, **forced: Tensor) -> list[Draws]:
    """What is drawn for every outer step from now on, some of it replaced."""
    metamix, seen = regularizer(made), list[Draws]()
    plain = metamix.draw

    def draw(*arguments: Any) -> Draws:
        seen.append(plain(*arguments)._replace(**forced))
        return seen[-1]

    metamix.draw = draw  # type: ignore[method-assign, assignment]
    return seen


def episodes(tasks: int, **sizes: int) -> Tasks:
    return together(Random((1, 28, 28)).tasks(tasks, **sizes))


def each(draws: Draws) -> list[Draws]:
    """Task by task."""
    return [Draws(*values) for values in zip(*draws, strict=True)]


# The slow side


def block(h: Tensor, weights: Weights, number: int, step: int) -> Tensor:
    prefix = f"block{number}."
    own = {f"block1.{name.removeprefix(prefix)}": w for name, w in weights.items() if name.startswith(prefix)}
    return maps(h, own, step, blocks=1)


def shuffled(h: Tensor, draw: Draws) -> Tensor:
    first, last = BOUNDS[h.shape[1]][int(draw.group) :][:2]
    classes = h.chunk(WAYS)
    pairs = [(classes[i], classes[int(draw.following[i])]) for i in range(WAYS)]
    return torch.cat([torch.cat([own[:, :first], next_[:, first:last], own[:, last:]], 1) for own, next_ in pairs])


def ends(x: Tensor, weights: Weights, step: int, draw: Draws, support: list[Tensor] | None = None) -> list[Tensor]:
    """The pixels and what every block makes of them; a query is mixed with what they are of its support."""
    h, found = x, list[Tensor]()
    for number in range(5):
        if number:
            h = block(h, weights, number, step)
        if number and number == draw.block:
            h = shuffled(h, draw)
        if support is not None and number == draw.layer:
            h = draw.share * h + (1 - draw.share) * support[number][draw.partner]
        found.append(h)
    return found


def together_to_the_end(task: Task, weights: Weights, draw: Draws) -> tuple[Tensor, Tensor]:
    """What the blocks make of support and query in one pass, the query mixed on the way."""
    support, query = task.support.x, task.query.x
    for number in range(5):
        if number:
            both = block(torch.cat([support, query]), weights, number, 0)
            support, query = both[: len(support)], both[len(support) :]
        if number and number == draw.block:
            support, query = shuffled(support, draw), shuffled(query, draw)
        if number == draw.layer:
            query = draw.share * query + (1 - draw.share) * support[draw.partner]
    return support, query


def slow(method: str, draws: Draws, order: str, adapted: list[str], passes: str = "separate") -> Loss:
    """The outer loss of one task after the other, all mixed, and shuffled in a block that there is."""
    tasks = iter(each(draws))

    def loss(theta: Weights, own: Weights, task: Task) -> Tensor:
        draw = next(tasks)

        def network(x: Tensor, weights: Weights, step: int, normaliser: Tensor | None) -> Tensor:
            return head(ends(x, weights, step, draw), weights)

        def head(found: list[Tensor], weights: Weights) -> Tensor:
            return found[-1].flatten(1) @ weights["head.weight"].T + weights["head.bias"]

        def query_loss(weights: Weights, step: int) -> Tensor:
            support = ends(task.support.x, weights, step, draw)
            query = ends(task.query.x, weights, step, draw, support)
            if method == "protonet":
                last = (support[-1], query[-1]) if passes == "separate" else together_to_the_end(task, weights, draw)
                prototypes = means(last[0].flatten(1), task.support.y, WAYS)
                logits = -(last[1].flatten(1)[:, None] - prototypes).square().sum(-1)
            else:
                logits = head(query, weights)
            hard = F.cross_entropy(logits, task.query.y), F.cross_entropy(logits, task.support.y[draw.partner])
            return draw.share * hard[0] + (1 - draw.share) * hard[1]

        if method == "protonet":
            return query_loss(theta, 0)
        rule = MAML
        if method == "mamlpp":
            rule = descent(lambda step, name: own["rates"][adapted.index(name), step])
        path = list(enumerate(unroll(network, theta, task, rule, steps=STEPS, order=order)[1:]))
        asked = path if method == "mamlpp" else path[-1:]
        return torch.stack([query_loss(weights, step) for step, weights in asked]).mean()

    return loss


@pytest.mark.parametrize("own_draws", ["authors", "independent"])
@pytest.mark.parametrize("shuffle", [0.0, 1.0])
@pytest.mark.parametrize(("method", "order"), [
    ("maml", "first"), ("maml", "second"), ("protonet", "joint"), ("protonet", "separate"),
    ("mamlpp", "second"),
])  # fmt: skip
def test_the_outer_gradient_is_the_references_in_every_layer(
    method: str, order: str, shuffle: float, own_draws: str
) -> None:
    own = {method: {"passes" if method == "protonet" else "order": order}}
    metamix = {"shuffle": shuffle, "shuffle_start": 0.0, "draws": own_draws}
    made, batch = trainer(method, metamix, **own), episodes(4)
    seen = watch(made, layer=LAYERS, block=torch.tensor([1, 1, 3, 2]))  # after, at, after and before the mixing
    for vectorized in (False, True):
        found = outer_gradient(made, batch, vectorized=vectorized)
        draws = seen[-1] if shuffle else seen[-1]._replace(block=torch.zeros(4))
        if shuffle and own_draws == "authors":
            draws = draws._replace(layer=draws.block)
        loss = slow(method, draws, order, getattr(made.learner, "adapted", []), passes=order)
        assert_same(found, expected_gradient(made.learner, [batch.task(i) for i in range(4)], loss))
    assert ((seen[0].share > 0.02) & (seen[0].share < 0.98)).all()


@pytest.mark.parametrize("method", ["maml", "protonet"])
def test_rate_0_is_the_plain_learner(method: str) -> None:
    """To the last rounding: its labels are probabilities, which some processors sum in another order."""
    batch = episodes(2)
    (loss, found), (plain_loss, expected) = (
        outer_gradient(trainer(method, settings), batch) for settings in ({"rate": 0.0, "shuffle": 0.0}, None)
    )
    assert loss == pytest.approx(plain_loss, rel=1e-14)
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-12, atol=1e-14)


def test_before_the_shuffle_starts_rate_0_is_the_plain_learner() -> None:
    made, plain, batch = trainer(metamix={"rate": 0.0, "shuffle": 1.0, "shuffle_start": 0.5}), trainer(), episodes(2)
    assert_same(outer_gradient(made, batch), outer_gradient(plain, batch))
    made.outer_step = 2  # of 4
    assert abs(outer_gradient(made, batch)[0] - outer_gradient(plain, batch)[0]) > 1e-3


def test_the_gradient_of_a_squared_error_is_the_mixture_of_both_labels() -> None:
    made, batch = trainer("relationnet", {"shuffle": 0.0}), episodes(1)
    seen, method, task = watch(made, layer=torch.tensor([2])), made.learner, batch.task(0)
    _, found = outer_gradient(made, batch)
    (draw,), hooks = each(seen[0]), regularizer(made).on_step(method, batch, Context(True), seen[0])
    assert hooks.query is not None
    context = Context(True, hooks=(hooks,))
    queried, asked = hooks.query(method.adapt(task.support, context), task, context)
    scores = method.predict(queried, asked.query.x)
    hard = [(scores - F.one_hot(y, WAYS)).square().mean() for y in (task.query.y, task.support.y[draw.partner])]
    tensors = learned(method)
    gradients = torch.autograd.grad(draw.share * hard[0] + (1 - draw.share) * hard[1], list(tensors.values()))
    assert relative_error(found, dict(zip(tensors, gradients, strict=True))) < 1e-8


@pytest.mark.parametrize(("model", "places"), [
    ({"name": "resnet10", "channels": [4, 4, 4, 4]}, ("block1.0", "block2.0", "block3.0")),
    ({"name": "resnet18", "channels": [4, 4, 4, 4]}, ("block1.1", "block2.1", "block3.1")),
    ({"name": "resnet12", "channels": [4, 4, 4, 4]}, ("block1", "block2", "block3")),
    ({"name": "conv4", "width": WIDTH, "norm": "support"}, ("block1", "block2", "block3")),
], ids=["resnet10", "resnet18", "resnet12", "support"])  # fmt: skip
def test_lambda_0_asks_for_the_support_itself_in_every_layer_of_any_model(
    model: dict[str, Any], places: tuple[str, ...]
) -> None:
    made, plain, batch = trainer(metamix={"shuffle": 0.0}, model=model), trainer(model=model), episodes(4, queries=2)
    seen = watch(made, layer=LAYERS, share=torch.zeros(4))
    found = outer_gradient(made, batch)
    assert regularizer(made).places == places
    row, partner = LAYERS[:, None], seen[0].partner
    itself = Examples(batch.support.x[row, partner], batch.support.y[row, partner])
    assert_same(found, outer_gradient(plain, batch._replace(query=itself)))


# What is drawn


def drawn(tasks: int, *, shots: int = 2, queries: int = 3, ways: int = WAYS, **own: Any) -> Draws:
    labels = [torch.arange(ways).repeat_interleave(count).expand(tasks, -1) for count in (shots, queries)]
    batch = Tasks(*(Examples(torch.zeros(y.shape), y) for y in labels))
    generator = torch.Generator().manual_seed(4)
    return regularizer(trainer(metamix=own)).draw(batch, Context(True, outputs=ways), generator)


def shares(tasks: int, **own: Any) -> Tensor:
    """Of the query's own label in tasks whose partners are of other classes, [T]: lambda, or 1."""
    small, following = Random((1, 16, 16)), (torch.arange(WAYS) + 1) % WAYS
    made = learner(small, method="protonet", model={"name": "conv4", "width": 1}, regularizers={"metamix": own})
    (one,) = small.tasks(1, shots=1, queries=1)
    batch, metamix = together([one] * tasks), cast(MetaMix, made.regularizers[0])
    draws = metamix.draw(batch, Context(True), torch.Generator().manual_seed(4))
    hooks = metamix.on_step(made, batch, Context(True), draws._replace(partner=following.expand(tasks, -1)))

    def share(number: Any, support: Examples, query: Examples) -> Tensor:
        assert hooks.query is not None
        context = Context(True, vectorized=True, task=number)
        _, asked = hooks.query(made.adapt(support, context), Task(support, query), context)
        return asked.query.y.diagonal()[0]

    return cast(Tensor, for_each(share, batch.support, batch.query, vectorized=True))


def shuffled_blocks(tasks: int, progress: float = 0.0, **own: Any) -> Tensor:
    """The number of the block at whose end channels change, [T]; 0: none."""
    made, draws = trainer(metamix=own), drawn(tasks, **own)
    hooks = regularizer(made).on_step(made.learner, episodes(1), Context(True, progress), draws)
    h = torch.arange(float(WAYS)).view(-1, 1, 1, 1).expand(-1, WIDTH, 1, 1)  # an image of every class

    def changed(task: Tensor) -> Tensor:
        assert hooks.block is not None
        now = Pass(task=task)
        return torch.stack([(hooks.block(h, f"block{number}", now) != h).any() for number in (1, 2, 3, 4)])

    found = torch.vmap(changed)(torch.arange(tasks))
    assert int(found.sum(1).max()) <= 1
    return (found * torch.arange(1, 5)).sum(1)


def assert_shares(found: Tensor, expected: dict[int, float]) -> None:
    """Each value turns up as often as it is likely, and no other one does."""
    assert set(found.tolist()) <= {value for value, share in expected.items() if share}
    for value, share in expected.items():
        spread = 4.5 * (share * (1 - share) / found.numel()) ** 0.5
        assert float((found == value).double().mean()) == pytest.approx(share, abs=spread + 1e-12)


@pytest.mark.parametrize(("shots", "queries"), [(1, 1), (2, 2), (1, 3), (2, 3), (3, 7), (5, 2)])
def test_every_support_image_is_as_often_a_partner_up_to_one(shots: int, queries: int) -> None:
    partner, supports = drawn(3000, shots=shots, queries=queries).partner, WAYS * shots
    assert partner.shape == (3000, WAYS * queries)
    times = F.one_hot(partner, supports).sum(1)
    assert (int(times.min()), int(times.max())) == (queries // shots, -(-queries // shots))
    for i in (0, WAYS * queries // 2, -1):
        assert_shares(partner[:, i], dict.fromkeys(range(supports), 1 / supports))


@pytest.mark.parametrize("beta", [0.5, 2.0])
def test_lambda_is_of_the_beta_distribution(beta: float) -> None:
    share, variance = drawn(40_000, beta=beta).share - 0.5, 1 / (4 * (2 * beta + 1))
    assert float(share.mean()) == pytest.approx(0, abs=4.5 * (variance / 40_000) ** 0.5)
    assert float(share.square().mean()) == pytest.approx(variance, rel=0.03)
    assert float((share**4).mean()) == pytest.approx(variance**2 * (3 - 6 / (2 * beta + 3)), rel=0.04)


def test_a_task_is_mixed_with_the_rate() -> None:
    assert_shares((shares(4000, rate=0.3) < 1).int(), {1: 0.3, 0: 0.7})


def test_layers_and_groups_are_uniform() -> None:
    found = drawn(4000)
    assert_shares(found.layer, dict.fromkeys(range(4), 1 / 4))
    own = {"shuffle": 0.75, "shuffle_start": 0.0, "draws": "independent"}
    assert_shares(shuffled_blocks(4000, **own), {0: 0.25, 1: 0.25, 2: 0.25, 3: 0.25})
    assert_shares(found.group, dict.fromkeys(range(6), 1 / 6))
    assert_shares(drawn(50, layers="pixels").layer, {0: 1.0})


def test_all_tasks_of_an_outer_step_are_shuffled_or_none_and_mixed_at_that_layer() -> None:
    """As often as the probability says, each at a layer of its own; the others at any layer, pixels too."""
    made, batch = trainer(metamix={"shuffle": 0.3, "shuffle_start": 0.25, "beta": 2.0}), episodes(5)
    metamix, learner_of = regularizer(made), made.learner
    shuffled_steps, layers = 0, list[int]()
    for seed in range(300):
        draws = metamix.draw(batch, Context(True), torch.Generator().manual_seed(seed))
        assert len(set(draws.shuffled.tolist())) == 1
        on = bool(draws.shuffled[0] < 0.3)
        for progress, shuffles in ((0.0, False), (0.25, on)):
            acting = metamix.on_step(learner_of, batch, Context(True, progress), draws).query.__self__  # type: ignore[union-attr]
            found = [int(acting.of(task).layer) for task in range(5)]
            assert found == (draws.block if shuffles else draws.layer).tolist()
        shuffled_steps += on
        layers += draws.block.tolist() if on else []
    assert shuffled_steps / 300 == pytest.approx(0.3, abs=4.5 * (0.3 * 0.7 / 300) ** 0.5)
    assert_shares(torch.tensor(layers), {1: 1 / 3, 2: 1 / 3, 3: 1 / 3})


def test_pixels_stay_where_a_shuffled_task_is_mixed_if_that_is_asked_for() -> None:
    made, batch = trainer(metamix={"shuffle": 1.0, "shuffle_start": 0.0, "layers": "pixels"}), episodes(3)
    draws = regularizer(made).draw(batch, Context(True), torch.Generator())
    acting = regularizer(made).on_step(made.learner, batch, Context(True, 1.0), draws).query.__self__  # type: ignore[union-attr]
    assert [int(acting.of(task).layer) for task in range(3)] == [0, 0, 0]


def test_channels_are_shuffled_from_the_given_share_of_the_budget_on() -> None:
    for progress, on in ((0.0, False), (0.24, False), (0.25, True), (1.0, True)):
        found = shuffled_blocks(50, progress, shuffle=1.0, shuffle_start=0.25) > 0
        assert bool(found.all() if on else found.any()) is on


@pytest.mark.parametrize("ways", [1, 2, 5])
def test_the_classes_are_one_cycle_and_every_one_is_as_likely(ways: int) -> None:
    following = drawn(3000, ways=ways).following
    walk, place = [], torch.zeros(3000, dtype=torch.long)
    for _ in range(ways):
        place = following.gather(1, place[:, None])[:, 0]
        walk.append(place)
    assert (walk[-1] == 0).all()
    number = (torch.stack(walk) * ways ** torch.arange(ways)[:, None]).sum(0)
    assert_shares(number, dict.fromkeys(set(number.tolist()), 1 / factorial(ways - 1)))


@pytest.mark.parametrize("width", [32, 64])
def test_one_group_of_channels_is_the_next_classs_in_one_block(width: int) -> None:
    made = trainer(metamix={}, model={"name": "conv4", "width": width})
    tasks, following = torch.arange(6), torch.tensor([2, 0, 1])
    draws = Draws(
        mixed=torch.zeros(6), share=torch.ones(6), layer=tasks, partner=tasks[:, None],
        shuffled=torch.zeros(6), block=tasks % 3 + 1, group=tasks, following=following.expand(6, -1),
    )  # fmt: skip
    hooks = regularizer(made).on_step(made.learner, episodes(6), Context(True, progress=1.0), draws)
    assert hooks.block is not None
    classes = torch.arange(WAYS).repeat_interleave(2)  # every image is full of its class, and a bit its own
    h = (classes + 0.01 * torch.arange(6)).view(-1, 1, 1, 1).expand(-1, width, 2, 2)
    for task in range(6):
        for number in (1, 2, 3, 4):
            found = hooks.block(h, f"block{number}", Pass(task=task))
            first, last = BOUNDS[width][task : task + 2] if number == task % 3 + 1 else (0, 0)
            expected = h.clone()
            expected[:, first:last] = torch.cat([h[2 * k : 2 * k + 2, first:last] for k in following.tolist()])
            assert torch.equal(found, expected)


def test_draws_follow_the_seed_and_the_outer_step() -> None:
    def seen(seed: int) -> list[Draws]:
        made = trainer(metamix={"shuffle_start": 0.0}, seed=seed)
        found, batch = watch(made), episodes(3)
        for made.outer_step in range(2):
            outer_gradient(made, batch)
        return found

    one, again, other = seen(0), seen(0), seen(1)
    assert all(torch.equal(*values) for step in (0, 1) for values in zip(one[step], again[step], strict=True))
    shares = torch.cat([draws.share for draws in (*one, *other)])
    assert len(set(shares.tolist())) == len(shares) == 12


SHUFFLED = {"regularizers": {"metamix": {"shuffle": 0.75, "shuffle_start": 0.0}}}
test_metamix_conforms = conformance(
    "maml+metamix", "maml+dropgrad+metamix", config={"maml": {"inner_steps": 2}, **SHUFFLED}
)
test_metamix_conforms_without_an_inner_loop = conformance("protonet+metamix", config=SHUFFLED)
