"""Meta-MaxUp: the worst of copies is followed; what every way of changing a copy does, how often, and what it leaves.

Where images are told apart every value of every image is another one, and none is 0.
"""

import math
from itertools import combinations
from math import log
from typing import Any, cast
from unittest.mock import patch

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import Random, learner, same_tasks
from torch import Tensor
from unrolled import Gradient, assert_same, together

from raymeta.config import parse_trial
from raymeta.errors import UserError
from raymeta.inner import Context
from raymeta.problem import Examples, Tasks
from raymeta.schema import merge
from raymeta.testing import BUDGET, conformance, outer_gradient
from raymeta.training.trainer import Trainer
from trainables.maml import MAML
from trainables.regularizers import maxup
from trainables.regularizers.maxup import MaxUp, cutmix, erased

WAYS, SHOTS, QUERIES, SIDE = 3, 2, 3, 16
CHANGES = {  # by the number of the way
    1: {"mixed"},
    2: {"query erased"},
    3: {"support erased"},
    4: {"turned"},
    5: {"turned", "mixed"},
    6: {"turned", "query erased"},
}


def trainer(method: str = "maml", maxup: dict[str, Any] | None = None, **sections: Any) -> Trainer:
    """Without `maxup` the plain learner, from the same weights."""
    inner = {"inner_lr": 0.125, "inner_steps": 2} if method == "maml" else {}
    own = {"method": method, method: inner, "regularizers": {} if maxup is None else {"maxup": maxup}}
    images = {"task": {"dataset": "glyphs", "ways": WAYS, "shots": SHOTS}, "model": {"name": "conv4", "width": 6}}
    return Trainer(parse_trial(merge(BUDGET, images, own, sections)))


def noise(tasks: int) -> Tasks:
    return together(Random((1, 28, 28)).tasks(tasks, WAYS, SHOTS, QUERIES))


def alone(tasks: Tasks, number: int) -> Tasks:
    """One of them."""
    return tasks.map(lambda part: part[number : number + 1])


def watch(made: Trainer) -> list[tuple[Tasks, ...]]:
    """The copies of every outer step from now on."""
    regularizer, seen = cast(MaxUp, made.learner.regularizers[0]), list[tuple[Tasks, ...]]()
    plain = regularizer.draw

    def draw(*arguments: Any) -> tuple[Tasks, ...]:
        seen.append(plain(*arguments))
        return seen[-1]

    regularizer.draw = draw  # type: ignore[method-assign, assignment]
    return seen


def regularizer(problem: Random | None = None, **own: Any) -> MaxUp:
    made = learner(problem or Random((1, SIDE, SIDE)), model={"name": "conv4", "width": 2}, regularizers={"maxup": own})
    return cast(MaxUp, made.regularizers[0])


def numbered(*shape: int, first: int = 1) -> Tensor:
    return torch.arange(first, first + torch.Size(shape).numel(), dtype=torch.float64).view(shape)


def episodes(tasks: int, height: int = SIDE, width: int = SIDE) -> Tasks:
    labels = [torch.arange(WAYS).repeat_interleave(count).repeat(tasks, 1) for count in (SHOTS, QUERIES)]
    support = numbered(tasks, WAYS * SHOTS, 2, height, width)
    query = numbered(tasks, WAYS * QUERIES, 2, height, width, first=support.numel() + 1)
    return Tasks(Examples(support, labels[0]), Examples(query, labels[1]))


# The maximum


@pytest.mark.parametrize("method", ["maml", "mamlpp", "protonet"])
def test_the_outer_loss_is_the_mean_of_each_query_images_worst_copy(method: str, glyphs: object) -> None:
    made, plain, tasks = trainer(method, {"copies": 3}), trainer(method).learner.double(), 3
    seen, batch = watch(made), noise(tasks)
    found, context = outer_gradient(made, batch), Context(True)
    losses, worst = [], set[int]()
    for i in range(tasks):
        each = []
        for copy in seen[0]:
            (support, query), rows = copy.task(i), []
            adapted = plain.adapt(support, context)
            for share, logits in predicted(plain, adapted, query.x):
                rows.append(share * -(query.y * logits.log_softmax(1)).sum(1))
            each.append(torch.stack(rows).sum(0))
        largest, places = torch.stack(each).max(0)
        worst |= set(places.tolist())
        losses.append(largest.mean())
    loss = torch.stack(losses).mean()
    learned = {name: parameter for name, parameter in plain.named_parameters() if parameter.requires_grad}
    gradients = torch.autograd.grad(loss, list(learned.values()), materialize_grads=True)
    expected = dict(zip(learned, gradients, strict=True))
    assert worst == {0, 1, 2}
    assert_same(found, (float(loss.detach()), expected))
    assert_same(outer_gradient(made, batch, vectorized=True), found)


def predicted(method: Any, adapted: Any, x: Tensor) -> list[tuple[float, Tensor]]:
    """Logits, and their share of the outer loss: of each step of MAML++ the same at the beginning."""
    if not hasattr(adapted, "path"):
        return [(1.0, method.predict(adapted, x))]
    each = [method.outputs(method.model.prepare(x), weights, now) for _, weights, now in adapted.path]
    return [(1 / len(each), logits) for logits in each]


def test_what_is_added_to_a_copys_loss_counts_for_each_of_its_images(glyphs: object) -> None:
    """MR-MAML's term of each copy is as large as its loss here, and decides."""
    mr = {"regularizers": {"mr": {"noise": "weights", "blocks": 1, "beta": 1.0}}}
    made, alone, tasks = trainer(maxup={"copies": 2, "worst": "queries"}, **mr), trainer(**mr), noise(1)
    seen = watch(made)
    loss, _ = outer_gradient(made, tasks)
    with_terms = [outer_gradient(alone, copy)[0] for copy in seen[0]]
    assert max(with_terms) <= loss * (1 + 1e-9) <= sum(with_terms)


def test_a_learner_that_does_not_say_its_losses_has_no_worst_images(glyphs: object) -> None:
    class Twice(MAML):
        name = "maml"

        def query_loss(self, adapted: Any, query: Examples) -> Tensor:
            return 2 * super().query_loss(adapted, query)

    config = trainer(maxup={"copies": 2}).config
    method = Twice(config, trainer().problem)
    with pytest.raises(UserError) as caught:
        method.hooks(noise(1), Context(True), torch.Generator().manual_seed(0))
    assert str(caught.value) == (
        "regularizers.maxup.worst: found 'queries', but maml has a query_loss of its own and no query_losses; allowed: "
        "tasks"
    )


@pytest.mark.parametrize("method", ["maml", "protonet"])
def test_the_outer_loss_and_gradient_are_the_worst_copys(method: str, glyphs: object) -> None:
    made, plain, tasks = trainer(method, {"copies": 3, "worst": "tasks", "draws": "task"}), trainer(method), 4
    seen, batch, worst, chosen = watch(made), noise(tasks), list[Gradient](), set[int]()
    found = outer_gradient(made, batch)
    for i in range(tasks):
        copies = [outer_gradient(plain, alone(copy, i)) for copy in seen[0]]
        losses = [loss for loss, _ in copies]
        chosen.add(losses.index(max(losses)))
        worst.append(copies[losses.index(max(losses))])
        assert len(set(losses)) == 3
    assert len(chosen) > 1
    mean = {name: sum((g[name] for _, g in worst), torch.tensor(0.0)) / tasks for name in worst[0][1]}
    assert_same(found, (sum(loss for loss, _ in worst) / tasks, mean))
    assert_same(outer_gradient(made, batch, vectorized=True), found)


@pytest.mark.parametrize("method", ["maml", "protonet"])
def test_one_unchanged_copy_is_bitwise_the_plain_learner(method: str, glyphs: object) -> None:
    batch = noise(2)
    (loss, found), (plain_loss, expected) = (
        outer_gradient(trainer(method, own), batch) for own in ({"copies": 1, "pool": "none"}, None)
    )
    assert loss == plain_loss
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], gradient) for name, gradient in expected.items())


def test_copies_follow_the_seed_and_the_outer_step_and_leave_the_episodes_alone(glyphs: object) -> None:
    def seen(seed: int) -> list[Tasks]:
        made, batch = trainer(maxup={"copies": 3}, seed=seed), noise(4)
        found, before = watch(made), batch.map(torch.clone)
        for made.outer_step in range(2):
            outer_gradient(made, batch)
        assert same_tasks(batch, before)
        return [copy for copies in found for copy in copies]

    one, again, other = seen(0), seen(0), seen(1)
    assert len(one) == 6
    assert all(map(same_tasks, one, again))
    assert not any(same_tasks(a, b) for a, b in combinations(one + other, 2))


# CutMix


def boxes(changed: Tensor) -> tuple[Tensor, Tensor]:
    """First row and column of the changed pixels [k, H, W], and how many of each; they are one box, or none."""
    found = []
    for lines in (changed.any(2), changed.any(1)):
        first, count = lines.int().argmax(1), lines.sum(1)
        place = torch.arange(lines.shape[1])
        assert torch.equal(lines, (place >= first[:, None]) & (place < (first + count)[:, None]))
        found.append((first, count))
    low, size = (torch.stack(parts, 1) for parts in zip(*found, strict=True))
    assert torch.equal(changed.sum((1, 2)), size.prod(1))
    return low, size


@pytest.mark.parametrize("whole", [False, True])
def test_cutmix_takes_one_box_of_a_task_from_partners_and_mixes_labels_by_its_area(whole: bool) -> None:
    tasks, count, height, width = 200, 8, 12, 17
    x, pixels = numbered(tasks, count, 1, height, width, first=0), height * width
    soft, generator = torch.eye(count).double().expand(tasks, -1, -1), torch.Generator().manual_seed(0)
    found, labels = cutmix(x, soft, generator, whole=whole)
    source = (found.squeeze(2).long() // pixels) % count  # [T, n, H, W]: the image of each pixel
    image = torch.arange(count)[:, None, None]
    inside = (source != image).any(1)
    boxes(inside)
    somewhere = inside.flatten(1).int().argmax(1)[:, None, None].expand(-1, count, 1)
    partner = source.flatten(2).gather(2, somewhere).squeeze(2)  # of each image
    assert torch.equal(partner.sort(1).values, torch.arange(count).expand(tasks, -1))
    taken = x[torch.arange(tasks)[:, None], partner]
    assert torch.equal(found, torch.where(inside[:, None, None], taken, x))
    left = 1 - inside.double().mean((1, 2))[:, None, None]
    expected = left * torch.eye(count) + (1 - left) * torch.eye(count)[partner]
    torch.testing.assert_close(labels, expected, rtol=0, atol=1e-15)
    assert len({tuple(row) for row in partner.tolist()}) > tasks / 2


def test_the_box_has_the_area_of_a_beta_distribution_cut_at_the_edges() -> None:
    """A side of share s at a uniform place keeps s - s^2/4 in the mean; it touches no edge with 1 - s, less a pixel."""
    tasks, side, n = 4000, 24, 10_000
    x = numbered(tasks, 3, 1, side, side)
    found, _ = cutmix(x, torch.zeros(tasks, 3, 1), torch.Generator().manual_seed(1), whole=False)
    inside = (found != x).any(1).squeeze(1)
    inside = inside[inside.any((1, 2))]  # in one task of six all images are their own partners
    assert len(inside) == pytest.approx(tasks * 5 / 6, abs=120)
    low, size = boxes(inside)
    area, whole = size.prod(1).double() / side**2, ((low > 0) & (low + size < side)).all(1)
    b = (torch.arange(n).double() + 0.5) / n
    likely, s = 6 * b * (1 - b) / n, b.sqrt()
    uncut = likely * (1 - s - 1 / side).clamp(min=0) ** 2
    for values, expected in (
        (area, (s - s**2 / 4) ** 2 @ likely),
        (whole.double(), uncut.sum()),
        (area[whole], b @ uncut / uncut.sum()),
    ):
        spread = 4.5 * float(values.std()) / len(values) ** 0.5
        assert float(values.mean()) == pytest.approx(float(expected), abs=spread)


@settings(max_examples=25, deadline=None)
@given(st.integers(4, 40), st.integers(4, 40), st.integers(0, 2**32))
def test_a_whole_box_is_the_authors(height: int, width: int, seed: int) -> None:
    """Sides int(share * side), int(half) of them both ways from a whole centre, cut at the edges: in Python."""
    tasks = 20
    x = torch.stack([torch.zeros(tasks, 1, height, width), torch.ones(tasks, 1, height, width)], 1)
    found, labels = cutmix(x, torch.eye(2).expand(tasks, 2, 2), torch.Generator().manual_seed(seed))
    generator = torch.Generator().manual_seed(seed)
    uniform = torch.rand(5, tasks, generator=generator)
    swapped = torch.rand(tasks, 2, generator=generator).argsort(1)[:, 0] == 1
    for task in range(tasks):
        share = math.sqrt(1 - sorted(uniform[:3, task].tolist())[1])
        expected = torch.zeros(height, width)
        spans = []
        for side, place in ((height, uniform[3, task]), (width, uniform[4, task])):
            half, centre = int(side * share) // 2, int(float(place) * side)
            spans.append(slice(max(0, centre - half), min(side, centre + half)))
        expected[spans[0], spans[1]] = float(swapped[task])
        assert torch.equal(found[task, 0, 0], expected)
        area = (spans[0].stop - spans[0].start) * (spans[1].stop - spans[1].start) / (height * width)
        if swapped[task]:
            assert float(labels[task, 0, 1]) == pytest.approx(area, abs=1e-6)


# Erasing


@settings(max_examples=25)
@given(st.integers(12, 40), st.integers(12, 40), st.integers(0, 2**32))
def test_a_box_of_2_to_40_percent_of_the_area_is_erased(height: int, width: int, seed: int) -> None:
    x = numbered(2, 20, 2, height, width)
    found = erased(x, torch.Generator().manual_seed(seed))
    gone = (found == 0).flatten(0, 1)
    assert torch.equal(gone[:, 0], gone[:, 1])
    assert torch.equal(found, torch.where(found == 0, 0, x))
    gone = gone[gone.any((1, 2, 3)), 0]
    _, size = boxes(gone)
    rounded = size.double()  # each side was at most half a pixel longer or shorter
    assert ((rounded - 0.5).prod(1) <= 0.4 * height * width).all()
    assert ((rounded + 0.5).prod(1) >= 0.02 * height * width).all()
    assert ((rounded[:, 0] - 0.5) / (rounded[:, 1] + 0.5) <= 3.3).all()
    assert ((rounded[:, 0] + 0.5) / (rounded[:, 1] - 0.5) >= 0.3).all()


def test_half_of_the_images_are_erased_in_uniform_places() -> None:
    tasks, count, height, width = 100, 100, 28, 36
    gone = erased(torch.ones(tasks, count, 1, height, width), torch.Generator().manual_seed(2)).flatten(0, 2) == 0
    share = float(gone.any((1, 2)).double().mean())
    assert share == pytest.approx(0.5, abs=4.5 * 0.5 / (tasks * count) ** 0.5)
    assert len({int(n) for n in gone.any((1, 2)).view(tasks, count).sum(1)}) > 5  # image by image
    low, size = boxes(gone[gone.any((1, 2))])
    places = torch.tensor([height, width]) - size + 1
    for end in (low == 0, low == places - 1):
        likely = 1 / places
        spread = (likely * (1 - likely)).sum(0).sqrt()
        assert ((end.sum(0) - likely.sum(0)).abs() < 4.5 * spread).all()
    free = places > 1
    standard = ((low - (places - 1) / 2) / ((places.double() ** 2 - 1) / 12).sqrt().clamp(min=1e-9))[free]
    assert float(standard.mean()) == pytest.approx(0, abs=4.5 / len(standard) ** 0.5)
    assert float(standard.square().mean()) == pytest.approx(1, abs=0.05)
    size = size.double()
    area, ratio = size.prod(1) / (height * width), (size[:, 0] / size[:, 1]).log()
    assert float(area.mean()) == pytest.approx(0.21, abs=0.01)
    assert float(ratio.std()) == pytest.approx((log(3.3) - log(0.3)) / 12**0.5, rel=0.06)


# The pools


def all_turns(x: Tensor) -> Tensor:
    """By 0, 1, 2, 3 quarters; none but the first if they are not square."""
    return torch.stack([x.rot90(quarter, (-2, -1)) for quarter in range(4 if x.shape[-1] == x.shape[-2] else 1)])


def turns(before: Tensor, after: Tensor, per_class: int) -> Tensor:
    """Quarters of every class, [T, N]; erased pixels tell nothing."""
    same = torch.stack([(rotated == after) | (after == 0) for rotated in all_turns(before)])
    whole = same.flatten(3).all(3).view(len(same), -1, WAYS, per_class).all(3)
    assert (whole.sum(0) == 1).all(), "a class did not turn as a whole"
    return whole.int().argmax(0)


def facts(before: Tasks, after: Tasks) -> tuple[dict[str, Tensor], Tensor]:
    """What was done, by task; and the quarters of every class."""
    quarters = turns(before.support.x, after.support.x, SHOTS)
    turned = all_turns(before.query.x)
    per_image = quarters.repeat_interleave(QUERIES, 1)
    tasks, images = len(quarters), WAYS * QUERIES
    query = turned[per_image, torch.arange(tasks)[:, None], torch.arange(images)]
    gone, moved = after.query.x == 0, after.query.x != query
    theirs = after.query.x[:, :, None] == query[:, None]  # [T, n, n, C, H, W]
    assert (gone | theirs.any(2)).all(), "a pixel is of no query image of the task"
    mixed = (moved & ~gone).flatten(1).any(1)
    assert torch.equal(after.support.y, before.support.y)
    hard = F.one_hot(before.query.y, WAYS).double()
    assert torch.equal(after.query.y[~mixed], hard[~mixed])
    assert (after.query.y >= 0).all()
    torch.testing.assert_close(after.query.y.sum(2), torch.ones(tasks, images).double(), rtol=0, atol=1e-15)
    found = {
        "turned": (quarters > 0).any(1),
        "support erased": (after.support.x == 0).flatten(1).any(1),
        "query erased": gone.flatten(1).any(1),
        "mixed": mixed,
    }
    return found, quarters


def drawn(made: MaxUp, batch: Tasks, generator: torch.Generator) -> list[Tensor]:
    """The ways of every copy's tasks."""
    seen, plain = [], made.changed

    def changed(tasks: Tasks, chosen: Tensor, *rest: Any) -> Tasks:
        seen.append(chosen)
        return plain(tasks, chosen, *rest)

    with patch.object(made, "changed", changed):
        made.draw(batch, Context(True), generator)
    return seen


@pytest.mark.parametrize("pool", ["small", "full"])
def test_a_copy_of_all_tasks_of_a_step_is_changed_in_one_way(pool: str) -> None:
    """With replacement, evenly; also where tasks come one by one."""
    made, batch, ways = regularizer(pool=pool), episodes(3, 8, 8), maxup.POOLS[pool]
    found = []
    for seed in range(150):
        together = drawn(made, batch, torch.Generator().manual_seed(seed))
        assert [way.unique().numel() for way in together] == [1] * 4
        generator = torch.Generator().manual_seed(seed)
        apart = [drawn(made, alone(batch, i), generator) for i in range(3)] if seed < 5 else []
        assert all([int(way) for way in one] == [int(way[0]) for way in together] for one in apart)
        found.append([int(way[0]) for way in together])
    table = torch.tensor(found)
    for way in ways:
        assert float((table == way).double().mean()) == pytest.approx(1 / len(ways), abs=0.08)
    assert any(len(set(row)) < 4 for row in found)
    assert len({tuple(row) for row in found}) > 30


def test_ways_of_tasks_are_drawn_task_by_task_by_key() -> None:
    found = drawn(regularizer(draws="task"), episodes(40, 8, 8), torch.Generator().manual_seed(0))
    assert all(way.unique().numel() > 3 for way in found)


@pytest.mark.parametrize("number", CHANGES)
def test_every_way_changes_what_it_names_and_nothing_else(number: int) -> None:
    before = episodes(40)
    chosen, generator = torch.full((40,), number), torch.Generator().manual_seed(3)
    found, quarters = facts(before, regularizer().changed(before, chosen, WAYS, generator))
    assert {name for name, here in found.items() if here.any()} == CHANGES[number]
    assert all(float(here.double().mean()) > 0.7 for here in found.values() if here.any())
    expected = {0: 1 / 2, 1: 1 / 6, 2: 1 / 6, 3: 1 / 6} if number > 3 else {0: 1.0}
    for quarter in range(4):
        share = expected.get(quarter, 0)
        spread = 4.5 * (share * (1 - share) / quarters.numel()) ** 0.5
        assert float((quarters == quarter).double().mean()) == pytest.approx(share, abs=spread + 1e-12)


@pytest.mark.parametrize(("pool", "shares"), [
    ("small", {"mixed": 1 / 3, "query erased": 1 / 3, "support erased": 1 / 3, "turned": 0}),
    ("full", {"mixed": 1 / 3, "query erased": 1 / 3, "support erased": 1 / 6, "turned": 7 / 16}),
])  # fmt: skip
def test_every_way_of_a_pool_is_as_likely(pool: str, shares: dict[str, float]) -> None:
    before = episodes(300)
    made, context = regularizer(pool=pool, copies=1, draws="task"), Context(True)
    (after,) = made.draw(before, context, torch.Generator().manual_seed(4))
    found, _ = facts(before, after)
    assert found.keys() == shares.keys()
    for name, here in found.items():
        missed = 0.01 if name.endswith("erased") or name == "mixed" else 0  # none of the images drawn, a box of nothing
        spread = 4.5 * (shares[name] * (1 - shares[name]) / 300) ** 0.5
        assert float(here.double().mean()) == pytest.approx(shares[name], abs=spread + missed * (shares[name] > 0))


def test_without_a_pool_a_copy_is_the_episodes() -> None:
    before = episodes(2)
    copies = regularizer(pool="none").draw(before, Context(True), torch.Generator())
    assert len(copies) == 4
    assert all(same_tasks(copy, before) for copy in copies)


def test_images_that_are_not_square_are_refused_by_the_full_pool() -> None:
    with pytest.raises(UserError) as caught:
        regularizer(Random((2, 16, 24)))
    assert str(caught.value) == (
        "regularizers.maxup.pool: full turns square images only, found 16x24; allowed: small, none"
    )


def test_images_that_are_not_square_are_changed_by_the_small_pool() -> None:
    before, made = episodes(20, 16, 24), regularizer(Random((2, 16, 24)), pool="small", draws="task")
    copies = made.draw(before, Context(True, outputs=WAYS), torch.Generator().manual_seed(5))
    found = [facts(before, copy)[0] for copy in copies]
    assert len(found) == 4
    for one in found:
        assert {name for name, here in one.items() if here.any()} == CHANGES[1] | CHANGES[2] | CHANGES[3]


SHORT = {"regularizers": {"maxup": {"copies": 2}}}
test_maxup_conforms = conformance(
    "maml+maxup", "maml+dropgrad+metamix+maxup", config={"maml": {"inner_steps": 1}, **SHORT}
)
test_maxup_conforms_without_an_inner_loop = conformance("protonet+maxup", config=SHORT)
