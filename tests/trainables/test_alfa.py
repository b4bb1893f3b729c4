"""ALFA against an unrolled loop and finite differences; MAML where its rule is; what a random initialisation leaves."""

from typing import Any

import pytest
import torch
from reference import GLYPHS, dense, small_trial
from torch import Tensor
from unrolled import (
    ALPHA,
    BOTH,
    IMAGES,
    ORDERS,
    TRAINING,
    VECTORS,
    Case,
    alfas_rule,
    assert_batched_is_looped,
    assert_evaluation_only_predicts,
    assert_gradient,
    everything,
    finite_difference_error,
    no_norm,
    outer_gradient,
    relative_error,
    support_gradient,
    unrolled_loss,
)

from raymeta.config import parse_trial
from raymeta.errors import UserError
from raymeta.learner import Learner, build_learner
from raymeta.problems.images.dataset import ImageDataset
from raymeta.training.trainer import Trainer

VARIANTS = pytest.mark.parametrize(
    "settings",
    [
        {},
        {"depth": 2},
        {"state": "weights"},
        {"state": "gradients"},
        {"initialisation": "random"},
        {"initialisation": "random", "state": "weights", "depth": 2},
        {"attenuate": True},
        {"adapt_norm": True},
    ],
    ids=lambda settings: "-".join(map(str, settings.values())) or "default",
)


def learner(case: Case, model: dict[str, Any] | None = None, **settings: Any) -> Learner:
    """Its rates a and decays b large enough to matter: a about 1, b about 0.5 or 1."""
    return case.learner("alfa", model, **{"inner_lr": 1.0, "decay": 0.5, **settings})


@ORDERS
@BOTH
@VARIANTS
def test_outer_gradient_is_the_unrolled_loops(settings: dict[str, Any], case: Case, order: str) -> None:
    method, tasks = learner(case, order=order, **settings), case.tasks(2)
    adapted = everything if settings.get("adapt_norm") else no_norm

    def loss(theta: Any, own: Any, task: Any) -> Any:
        if settings.get("attenuate"):
            names = list(filter(adapted, theta))
            found = support_gradient(case.network, theta, task, names, step=0)
            scales = torch.sigmoid(dense(own, "attenuator.", torch.stack([found[name].mean() for name in names])))
            theta = {**theta, **{name: scale * theta[name] for name, scale in zip(names, scales, strict=True)}}
        rule = alfas_rule(own, settings.get("state", "both"))
        return unrolled_loss(case.network, theta, task, rule, order=order, adapted=adapted)

    assert_gradient(method, tasks, loss)


@pytest.mark.parametrize("initialisation", ["learned", "random"])
@pytest.mark.parametrize("settings", [{"state": "weights"}, {"inner_steps": 1}], ids=["weights", "one step"])
def test_outer_gradient_is_the_finite_difference(settings: dict[str, Any], initialisation: str) -> None:
    """Exact where no gradient that the generator sees depends on what is learned through an earlier step."""
    method = learner(VECTORS, initialisation=initialisation, **settings)

    def exact(name: str) -> bool:
        return name.startswith("rule.") or ("state" in settings and initialisation == "learned")

    assert finite_difference_error(method, VECTORS.tasks(2), exact) < 1e-7


# MAML


def plain(case: Case, **settings: Any) -> Learner:
    """With A = 1, W = 0 and a = alpha."""
    method = case.learner("alfa", **settings)
    last = method.rule.generator[-1]
    torch.nn.init.zeros_(last.weight)
    last.bias.data = torch.tensor([1.0, 0.0]).double().repeat_interleave(len(last.bias) // 2)
    torch.nn.init.constant_(method.rule.rates, ALPHA)
    return method


@ORDERS
@BOTH
@pytest.mark.parametrize("initialisation", ["learned", "random"])
def test_a_rule_that_is_mamls_is_maml_step_for_step(initialisation: str, case: Case, order: str) -> None:
    tasks, settings = case.tasks(2), {"order": order}
    for steps in (0, 1, 2, 3):
        method = plain(case, **settings, inner_steps=steps, initialisation=initialisation)
        maml = case.maml(method, **settings, inner_steps=steps)
        one, two = (m.adapt(tasks[0].support, TRAINING).weights for m in (method, maml))
        assert all(torch.equal(one[name], two[name]) for name in two)
    (loss, found), (expected_loss, expected) = outer_gradient(method, tasks), outer_gradient(maml, tasks)
    assert loss == pytest.approx(expected_loss, rel=1e-12)
    if initialisation == "learned":
        assert relative_error({name: found[name] for name in expected}, expected) < 1e-12


# What there is to learn


def parts(method: Learner) -> dict[str, list[Tensor]]:
    return {
        part: [tensor for name, tensor in method.named_parameters() if name.startswith(f"rule.{part}")]
        for part in ("generator", "rates", "decays", "scales")
    }


@pytest.mark.parametrize(
    ("model", "settings", "count"),
    [
        ({}, {"depth": 2}, 840),
        ({}, {}, 1260),
        ({}, {"state": "weights", "depth": 2}, 640),  # 10 inputs: 20 x 10 + 20 fewer in the first layer
        ({"conv_bias": False}, {"depth": 2}, 312),  # 6 tensors: 2 x (12 x 12 + 12)
    ],
)
def test_size_of_the_generator(model: dict[str, Any], settings: dict[str, Any], count: int) -> None:
    config = parse_trial({"method": "alfa", "alfa": settings, "model": {"name": "conv4", **model}})
    generator = parts(build_learner(config, IMAGES.problem))["generator"]
    assert sum(tensor.numel() for tensor in generator) == count


@pytest.mark.parametrize(("initialisation", "decay"), [("learned", 5e-6), ("random", 1.0)])
def test_where_rates_and_decays_start(initialisation: str, decay: float) -> None:
    config = parse_trial({"method": "alfa", "alfa": {"initialisation": initialisation}})
    method = build_learner(config, IMAGES.problem)
    found = parts(method)
    torch.testing.assert_close(found["rates"][0], torch.full((10, 5), 0.01))
    torch.testing.assert_close(found["decays"][0], torch.full((10, 5), decay))
    theta = [weight for name, weight in method.model.named_parameters() if no_norm(name)]
    assert [c.shape for c in found["scales"]] == (
        [weight.shape for weight in theta] if initialisation == "random" else []
    )
    assert all(torch.equal(c, torch.full_like(c, 5e-6)) for c in found["scales"])


def test_a_random_initialisation_is_not_learned() -> None:
    method = learner(IMAGES, initialisation="random")
    assert not any(parameter.requires_grad for parameter in method.model.parameters())
    assert all(tensor.requires_grad for part in parts(method).values() for tensor in part)
    _, found = outer_gradient(method, IMAGES.tasks(2))
    assert {name.split(".")[1] for name in found} == {"generator", "rates", "decays", "scales"}
    for name, gradient in found.items():
        assert float(gradient.abs().sum()) > 0, name


@pytest.mark.parametrize("engine", ["loop", "vmap"])
def test_training_leaves_a_random_initialisation_as_it_was(engine: str, glyphs: ImageDataset) -> None:
    settings = {"initialisation": "random", "inner_lr": 0.5}
    now = Trainer(small_trial(GLYPHS, "alfa", alfa=settings, engine={"tasks": engine}, outer={"lr": 0.01, "clip": 1.0}))
    before = {name: tensor.clone() for name, tensor in now.learner.state_dict().items()}
    while not now.done:
        assert now.round()["diverged"] is False
    still = {name for name, tensor in now.learner.state_dict().items() if torch.equal(tensor, before[name])}
    # Where theta is 0 and has no gradient under batch norm, in a convolution's bias, c has nothing to decay.
    assert still - {f"rule.scales.{i}" for i in (1, 3, 5, 7)} == {name for name in before if name.startswith("model.")}
    learned = sum(len(group["params"]) for group in now.update.optimizer.param_groups)
    assert learned == sum(not name.startswith("model.") for name, _ in now.learner.named_parameters())


# The rest


@ORDERS
@BOTH
@VARIANTS
def test_tasks_batched_are_tasks_looped_over(settings: dict[str, Any], case: Case, order: str) -> None:
    assert_batched_is_looped(learner(case, order=order, **settings), case.tasks(3))


@VARIANTS
def test_evaluation_only_predicts(settings: dict[str, Any]) -> None:
    assert_evaluation_only_predicts(learner(IMAGES, **settings), IMAGES.tasks(3))


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        (
            {"inner_steps": 2, "eval_steps": 3},
            "alfa.eval_steps: found 3, but alfa learns something for each of its inner_steps (2) and has nothing for "
            "more",
        ),
        (
            {"initialisation": "random", "attenuate": True},
            "alfa.attenuate: it attenuates a learned initialisation; not with initialisation 'random'",
        ),
    ],
)
def test_settings_that_have_nothing_to_use_are_refused(settings: dict[str, Any], sentence: str) -> None:
    config = parse_trial({"method": "alfa", "alfa": settings})
    with pytest.raises(UserError) as caught:
        build_learner(config, IMAGES.problem)
    assert str(caught.value) == sentence
