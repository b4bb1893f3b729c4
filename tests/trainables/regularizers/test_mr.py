"""MR-MAML against the equations written down once more, with the noise that it drew; its limits; evaluation."""

from collections.abc import Callable
from typing import Any, cast

import pytest
import torch
import torch.nn.functional as F
from reference import GLYPHS, Random, Weights, learner, maps, noise_of, small_trial
from torch import Tensor
from torch.distributions import Normal, kl_divergence
from unrolled import (
    ALPHA,
    BOTH,
    EVALUATION,
    IMAGES,
    MAML,
    ORDERS,
    Case,
    Loss,
    assert_same,
    beside_theta,
    expected_gradient,
    hooks_of,
    outer_gradient,
    predict,
    query_loss,
    together,
    unroll,
)

from raymeta.engine.noise import Noise
from raymeta.errors import UserError
from raymeta.inner import Context, predictions
from raymeta.learner import Learner, task_loss
from raymeta.problem import Task
from raymeta.problems.images.dataset import ImageDataset
from raymeta.testing import conformance
from raymeta.training.trainer import Trainer
from trainables.regularizers.mr import EPSILON, MR, divergence

STEPS, BETA = 2, 0.3
ON = pytest.mark.parametrize("on", ["weights", "activations"])


def make(
    case: Case, on: str = "weights", method: str = "maml", order: str = "second", settings: Any = None, **mr: Any
) -> Learner:
    """In float64, what it learns moved off its start; a sigma that is not small."""
    made = learner(
        case.problem,
        method=method,
        model={"name": "conv4", "width": 6} if case.images else {"name": "mlp", "hidden": [6, 5]},  # as the case's own
        regularizers={"mr": {"noise": on, "beta": BETA, "init": -1.0, **mr}},
        **{method: {"inner_steps": STEPS, "order": order, **(settings or {"inner_lr": ALPHA})}},
    )
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            if beside_theta(name):
                parameter += 0.3 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    return made


def encoder(made: Learner) -> tuple[str, ...]:
    return cast(MR, made.regularizers[0]).encoder


class Watched(Noise):
    """Keeps what is drawn."""

    def __init__(self, key: Tensor) -> None:
        super().__init__(key)
        self.drawn: list[Tensor] = []

    def normal(self, like: Tensor) -> Tensor:
        self.drawn.append(super().normal(like))
        return self.drawn[-1]


def context(made: Learner, seed: int = 0) -> Context:
    return Context(True, noise=noise_of(seed, 0, Watched), hooks=hooks_of(made))


def drawn(made: Learner, task: Task) -> list[Tensor]:
    """In the pass over one task."""
    now = context(made)
    task_loss(made, task, now)
    return cast(Watched, now.noise).drawn


# The slow side


def block(h: Tensor, weights: Weights, name: str) -> Tensor:
    own = {n.replace(name, "block1"): weight for n, weight in weights.items() if n.startswith(f"{name}.")}
    if own["block1.weight"].ndim == 4:
        return maps(h, own, blocks=1)
    return F.relu(h @ own["block1.weight"].T + own["block1.bias"])


def prior(mean: Tensor, sigma: Tensor) -> Tensor:
    return kl_divergence(Normal(mean, sigma), Normal(torch.zeros_like(mean), torch.ones_like(mean)))


def slow(made: Learner, on: str, order: str) -> Loss:
    """The outer loss with the same draws: pass after pass, block after block."""
    blocks, encoded = made.model.blocks(), encoder(made)

    def loss(theta: Weights, own: Weights, task: Task) -> Tensor:
        noise = noise_of(0)
        sigmas = {name.split(".")[-1].replace("-", "."): F.softplus(rho) + EPSILON for name, rho in own.items()}
        rho = {name.split(".")[-1]: tensor for name, tensor in own.items()}
        terms: list[Tensor] = []  # of activations, by pass

        def draw(like: Tensor) -> Tensor:
            return noise.normal(like)

        def network(x: Tensor, weights: Weights, step: int = 0, normaliser: Tensor | None = None) -> Tensor:
            if on == "weights":
                weights = {n: w + sigmas[n] * draw(w) if n in sigmas else w for n, w in weights.items()}
            h = x
            for name in blocks:
                h = block(h, weights, name)
                if on == "activations" and name == encoded[-1]:
                    places = h.movedim(1, -1)
                    sigma = F.softplus(places @ rho["weight"].T + rho["bias"]).movedim(-1, 1)
                    terms.append(prior(h, sigma).mean())
                    h = h + sigma * draw(h)
            return h.flatten(1) @ weights["head.weight"].T + weights["head.bias"]

        def adapted(name: str) -> bool:
            return ".norm." not in name and name.split(".")[0] not in encoded

        path = unroll(network, theta, task, MAML, steps=STEPS, order=order, adapted=adapted)
        found = query_loss(network, path[-1], task)
        if on == "weights":
            terms = [torch.stack([prior(theta[name], sigma).sum() for name, sigma in sigmas.items()]).sum()]
        return found + BETA * terms[-1]

    return loss


@ORDERS
@ON
@BOTH
@pytest.mark.parametrize("blocks", [1, 2, None])
def test_the_outer_gradient_is_the_references(case: Case, on: str, order: str, blocks: int | None) -> None:
    made, (task,) = make(case, on, order=order, blocks=blocks), case.tasks(1)
    found = outer_gradient(made, [task], context(made))
    assert_same(found, expected_gradient(made, [task], slow(made, on, order)))
    own = [float(g.norm()) for name, g in found[1].items() if beside_theta(name)]
    assert len(own) == (len(encoder(made)) if on == "weights" else 2)
    assert min(own) > 1e-3


def test_the_penalty_is_the_kl_divergence() -> None:
    generator = torch.Generator().manual_seed(0)
    mean = 2 * torch.randn(500, generator=generator, dtype=torch.float64)
    sigma = torch.logspace(-12, 3, 500, dtype=torch.float64)
    torch.testing.assert_close(divergence(mean, sigma), prior(mean, sigma), rtol=1e-12, atol=1e-12)
    zero, one = torch.zeros(1).double(), torch.ones(1).double()
    assert float(divergence(zero, one)) == 0


@ON
@BOTH
@pytest.mark.parametrize("adapt_norm", [False, True])
def test_the_inner_loop_moves_all_but_the_encoder(case: Case, on: str, adapt_norm: bool) -> None:
    made, (task,) = make(case, on, settings={"adapt_norm": adapt_norm, "inner_lr": ALPHA}, blocks=1), case.tasks(1)
    theta = made.model.weights()
    adapted = made.adapt(task.support, context(made)).weights
    # A norm takes a convolution's bias out again: its gradient is 0, which torch's kernels give but for rounding.
    biases = {f"block{number}.bias" for number in range(1, 5)} & theta.keys()
    still = {name for name in theta if float((adapted[name] - theta[name]).abs().max()) < 1e-15}
    first = {name for name in theta if name.startswith(("block1.", "layer1."))}
    assert first
    assert still == first | biases | (set() if adapt_norm else made.model.norm_names())


@ORDERS
@BOTH
@pytest.mark.parametrize(("blocks", "base"), [(None, "anil"), (2, "maml")])
def test_without_noise_and_penalty_it_is_the_split_learner(
    case: Case, blocks: int | None, base: str, order: str
) -> None:
    made, tasks = make(case, order=order, blocks=blocks, beta=0.0, sigma_floor=0.0), case.tasks(1)
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            if beside_theta(name):
                parameter.fill_(-60)  # sigma of 1e-26
    split = case.learner(base, order=order, inner_steps=STEPS)
    split.model.load_state_dict(made.model.state_dict())
    if base == "maml":
        split.adapted = [n for n in split.adapted if n.split(".")[0] not in encoder(made)]  # type: ignore[union-attr, assignment]
    loss, found = outer_gradient(made, tasks[:1], context(made))
    assert all(float(g.norm()) < 1e-20 for name, g in found.items() if beside_theta(name))
    theirs = {name: g for name, g in found.items() if not beside_theta(name)}
    assert_same((loss, theirs), outer_gradient(split, tasks), error=1e-10, loss=1e-12)


@ON
def test_no_blocks_are_bitwise_the_plain_learner(on: str, glyphs: ImageDataset) -> None:
    plain, none, some = (
        Trainer(small_trial(GLYPHS, regularizers=regularizers))
        for regularizers in ({}, {"mr": {"noise": on, "blocks": 0}}, {"mr": {"noise": on, "blocks": 2}})
    )
    metrics = [{k: v for k, v in trainer.round().items() if k != "seconds"} for trainer in (plain, none, some)]
    assert metrics[0] == metrics[1] != metrics[2]
    assert len(list(none.learner.parameters())) == len(list(plain.learner.parameters()))


@ON
@BOTH
def test_in_evaluation_weights_are_drawn_by_the_tasks_number_and_activations_are_not(case: Case, on: str) -> None:
    made, tasks = make(case, on, blocks=2), case.tasks(3)
    batch, last = together(tasks), together(tasks[2:])
    with torch.no_grad():
        found = predictions(made, batch, False, [7, 8, 9])
        assert torch.equal(found, predictions(made, batch, False, [7, 8, 9]))
        torch.testing.assert_close(found, predictions(made, batch, True, [7, 8, 9]), rtol=1e-9, atol=1e-9)
        assert torch.equal(found[2:], predictions(made, last, False, [9]))
        without = torch.stack([predict(made, task, EVALUATION) for task in tasks])
        alike = [torch.equal(found[2:], predictions(made, last, False, [8])), torch.equal(found, without)]
    assert alike == [on == "activations"] * 2


@ON
@BOTH
def test_noise_is_new_for_every_pass_and_task(case: Case, on: str) -> None:
    made, tasks = make(case, on, blocks=2), case.tasks(2)
    seen = list[Tensor]()
    for number, task in enumerate(tasks):
        noise = cast(Watched, noise_of(0, number, Watched))
        task_loss(made, task, Context(True, noise=noise, hooks=hooks_of(made)))
        seen += noise.drawn
    assert len(seen) == 2 * (STEPS + 1) * (2 if on == "weights" else 1)
    assert len({tuple(draw.flatten()[:6].tolist()) for draw in seen}) == len(seen)


PLACES: dict[str, tuple[Any, dict[str, Any], int, str, int]] = {  # what it sits on, its blocks, its end, channels there
    "per_step": (Random((1, 16, 16)), {"name": "conv4", "width": 5, "norm": "per_step"}, 3, "block3", 5),
    "resnet10": (Random((3, 32, 32)), {"name": "resnet10", "channels": [3, 4, 5, 6]}, 2, "block1.0", 3),
    "resnet18": (Random((3, 32, 32)), {"name": "resnet18", "channels": [3, 4, 5, 6]}, 3, "block2.1", 4),
    "resnet12": (Random((3, 32, 32)), {"name": "resnet12", "channels": [3, 4, 5, 6]}, 4, "block4", 6),
}


@pytest.mark.parametrize("name", PLACES)
def test_activations_are_those_at_the_end_of_the_encoder(name: str) -> None:
    problem, model, blocks, end, channels = PLACES[name]
    made = learner(
        problem,
        model=model,
        maml={"inner_steps": STEPS},
        regularizers={"mr": {"noise": "activations", "blocks": blocks}},
    )
    (task,) = problem.tasks(1)
    shapes = [tuple(draw.shape[:2]) for draw in drawn(made, task)]
    assert cast(MR, made.regularizers[0]).end == end
    assert shapes == [(6, channels)] * STEPS + [(9, channels)]


@pytest.mark.parametrize("name", PLACES)
def test_kernels_of_every_network_are_random_and_nothing_else_is(name: str) -> None:
    problem, model, blocks, *_ = PLACES[name]
    made = learner(problem, model=model, maml={"inner_steps": STEPS}, regularizers={"mr": {"blocks": blocks}})
    below = set(made.model.blocks()[:blocks])
    kernels = [w.shape for n, w in made.model.weights().items() if n.split(".")[0] in below and w.ndim == 4]
    assert [draw.shape for draw in drawn(made, problem.tasks(1)[0])] == kernels * (STEPS + 1)


@BOTH
def test_with_the_whole_body_as_encoder_maml_is_anil(case: Case) -> None:
    """ANIL's features are new at every step then."""
    (task,) = case.tasks(1)
    made = [make(case, method=method) for method in ("maml", "anil")]
    maml, anil = (outer_gradient(one, [task], context(one)) for one in made)
    assert_same(anil, maml, error=1e-10, loss=1e-12)


@ON
def test_what_is_no_part_of_the_network_adapts_beside_a_whole_encoder(on: str) -> None:
    made, (task,) = make(IMAGES, on, "cavia", settings={"context_size": 3}), IMAGES.tasks(1)
    adapted, theta = made.adapt(task.support, context(made)).weights, made.model.weights()
    assert adapted.keys() - theta.keys() == {"context"}
    assert adapted["context"].all()
    assert all(torch.equal(adapted[name], weight) for name, weight in theta.items())


@pytest.mark.parametrize(("method", "model", "mr", "sentence"), [
    ("maml", "conv4", {"blocks": 5}, "regularizers.mr.blocks: found 5, but the model has 4 blocks"),
    (
        "maml",
        "resnet10",
        {"blocks": 1, "noise": "activations"},
        "regularizers.mr.blocks: the stem alone has no activations for it; take 2 or more",
    ),
    ("boil", "conv4", {}, "boil+mr: nothing is left for boil to adapt"),
    ("protonet", "conv4", {}, "protonet+mr: mr needs an inner loop, and protonet has none"),
])  # fmt: skip
def test_what_it_cannot_sit_on_is_refused(method: str, model: str, mr: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError) as caught:
        learner(Random((3, 32, 32)), method=method, model={"name": model}, regularizers={"mr": mr})
    assert str(caught.value) == sentence


def conforms(*specs: str, **mr: Any) -> Callable[..., None]:
    small = {"budget": {"outer_steps": 2, "validate_every": 1, "validation_tasks": 2}, "maml": {"inner_steps": 1}}
    return conformance(*specs, config={**small, "regularizers": {"mr": mr}})


test_mr_on_weights_conforms = conforms("maml+mr", "maml+dropgrad+mr", blocks=1)
test_mr_on_activations_conforms = conforms("maml+mr", noise="activations")
