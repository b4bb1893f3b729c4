"""ModGrad: inner gradients modulated element by element, by low-rank factors made from a context vector nu.

Simon, Koniusz, Nock, Harandi: On Modulating the Gradient for Meta-Learning (ECCV 2020).

`variant: code` is their code, chrysts/generative_preconditioner: only kernels and biases of the last two blocks adapt,
and always from theta, by the one gradient there; theta' is what the query is predicted with:

    g = grad Ls(theta);  nu = 0
    2 * inner_steps times:  theta' = theta - alpha * g * P(nu);  nu <- -context_lr * dLs(theta')/dnu

nu is replaced, not moved, and all of it is differentiated. P of a kernel [C_out, C_in, k, k] is relu(u v^T), whose
k C_out rows of k C_in numbers are the kernel's, read row by row; of a bias it is relu(b). u, v and b are made by an MLP
each with one hidden layer, as wide as what it makes: the softmax of its first `factors` outputs weighs as many vectors,
which are the outputs that follow. Regularizers of gradients see g once for every two modulations.

`variant: paper` follows the abstract and CxGrad's account of it, and is APPROXIMATE:

    theta_{j+1} = theta_j - alpha * M(nu) * grad Ls(theta_j),   M_l = 1 + u_l v_l^T on [C_out, rest], (u_l, v_l) from nu

for all kernels; biases follow plain MAML. What is ours: nu starts at 0 and moves once, by context_lr down the gradient
of the support loss after one modulated step from theta; (u_l, v_l) are an MLP's, of rank 1; its last layer starts
small, so that M starts near 1, and at first nu hardly matters.
"""

from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from raymeta.config import TrialConfig
from raymeta.errors import UserError
from raymeta.inner import Context, Step, descend, gradients, regularized
from raymeta.learner import Adapted, InnerLoopConfig, Support
from raymeta.models import Weights
from raymeta.models.init import TORCH
from raymeta.problem import Examples, Problem
from raymeta.registry import method
from raymeta.schema import Number, Section
from trainables.maml import MAML

NU = "context"


class ModGradConfig(InnerLoopConfig):
    """Defaults: the authors' code. Of the paper's form none are known; MAML's and a context of 100 were ours."""

    variant: Literal["code", "paper"] = "code"
    inner_steps: int = Field(1, ge=0, description="S; code: twice as many modulations.")
    inner_lr: Number = Field(0.1, ge=0, description="alpha, of the mean support loss.")
    context_lr: Number = Field(1.0, ge=0, description="Of nu's gradient; the code has none, which is 1.")
    context_size: int = Field(300, ge=1, description="Numbers in nu; paper: hidden units of the MLP too.")
    factors: int = Field(5, ge=1, description="code: vectors that are mixed to one.")


class Modulation(nn.ModuleDict):
    """P of the authors' code: nu, [context], to what the gradient of each adapted tensor is multiplied by.

    Its MLPs are `uu_3` and `vv_3` for the kernel of block 3 and `bb_3` for its bias.

    Args:
        theta: the adapted tensors.
        context: numbers in nu.
        factors: vectors that are mixed to one.
    """

    def __init__(self, theta: Weights, context: int, factors: int) -> None:
        super().__init__()
        self.count = factors
        self.shapes = {name: tensor.shape for name, tensor in theta.items()}
        self.makers: dict[str, tuple[str, ...]] = {}
        for name, shape in self.shapes.items():
            place = name.rpartition(".")[0].removeprefix("block").removeprefix("layer").replace(".", "_")
            if len(shape) == 1:
                sizes = {f"bb_{place}": len(theta[name])}
            else:
                rows = shape[0] * (shape[2] if len(shape) > 2 else 1)
                sizes = {f"uu_{place}": rows, f"vv_{place}": shape.numel() // rows}
            self.makers[name] = tuple(sizes)
            for key, size in sizes.items():
                self[key] = nn.Sequential(nn.Linear(context, size), nn.ReLU(), nn.Linear(size, factors * (1 + size)))

    def forward(self, nu: Tensor) -> Weights:
        """P by the names of the tensors, in their shapes."""
        found = {}
        for name, shape in self.shapes.items():
            vectors = [self.mixed(self[key](nu)) for key in self.makers[name]]
            found[name] = (torch.outer(*vectors) if len(vectors) == 2 else vectors[0]).relu().view(shape)
        return found

    def mixed(self, made: Tensor) -> Tensor:
        """The weighted sum of the vectors that an MLP made."""
        shares, vectors = made[: self.count].softmax(0), made[self.count :].view(self.count, -1)
        return shares @ vectors


@method("modgrad")
class ModGrad(MAML):
    """See the module's docstring."""

    Config: ClassVar[type[Section]] = ModGradConfig
    adapts: ClassVar[str] = "kernels and biases of the last two blocks (variant paper: as MAML), and a context vector"
    learns: ClassVar[str] = "theta, the MLPs of the modulation"
    presets_of: ClassVar[tuple[str, ...]] = ("maml",)
    cost: ClassVar[float | None] = 1.7
    own_settings: ClassVar[frozenset[str]] = frozenset({"inner_steps", "eval_steps", "inner_lr", "adapt_norm"})
    defaults: ClassVar[dict[str, Any]] = {"outer": {"reduction": "sum"}}
    networks: ClassVar[dict[str, dict[str, Any]]] = {"conv4": {"init": TORCH}}

    def __init__(self, config: TrialConfig, problem: Problem) -> None:
        super().__init__(config, problem)
        theta, settings = self.model.weights(), self.settings
        size = settings.context_size
        if settings.variant == "code":
            if settings.adapt_norm:
                raise UserError(
                    "modgrad.adapt_norm: found true, but variant code leaves the norm alone; allowed: false"
                )
            own = {name: theta[name] for name in self.adapted}
            self.modulation = Modulation(own, size, settings.factors)
            return
        self.modulated = [name for name in self.adapted if theta[name].ndim > 1]
        self.sides = [side for name in self.modulated for side in (len(theta[name]), theta[name][0].numel())]
        self.body = nn.Sequential(nn.Linear(size, size), nn.ReLU())
        self.factors = nn.Linear(size, sum(self.sides))
        nn.init.normal_(self.factors.weight, std=0.01)

    def moving(self) -> list[str]:
        if self.settings.variant == "paper":
            return super().moving()
        last, norms = self.model.blocks()[-2:], self.model.norm_names()
        return [name for name in self.model.weights() if name.split(".")[0] in last and name not in norms]

    def adapt(self, support: Examples, context: Context) -> Adapted:
        own = self.prepared(support, context)
        return self.adapted_state(own, self.by_code(own) if self.settings.variant == "code" else self.by_paper(own))

    def by_code(self, support: Support) -> list[Weights]:
        """The weights before the first inner step and after each, that is, after every other modulation."""
        context, loss, theta = support.context, self.step_loss(support), self.initial(support)
        ways = {"second_order": self.second_order(context), "vectorized": context.vectorized}
        start = {name: theta[name] for name in self.adapted}
        there = theta if ways["second_order"] else {name: weight.detach() for name, weight in theta.items()}

        def of_moving(moving: Weights) -> Tensor:
            return loss({**there, **moving}, 0)

        found = gradients(of_moving, start, **ways)
        nu, path = {NU: next(iter(theta.values())).new_zeros(self.settings.context_size)}, [theta]
        steps = self.steps(context)
        for step in range(steps):
            shown = regularized(Step(step, of_moving, start, found), context)

            def moved(nu: Tensor, of: Weights, shown: Weights = shown) -> Weights:
                way = self.modulation(nu)
                return {name: of[name] - self.numbers.inner_lr * way[name] * g for name, g in shown.items()}

            def replaced(nu: Weights, step: int = step, moved: Any = moved) -> Weights:
                slope = gradients(lambda nu: loss({**there, **moved(nu[NU], there)}, step), nu, **ways)
                return {NU: -self.numbers.context_lr * slope[NU]}

            nu = replaced(nu)
            path.append({**theta, **moved(nu[NU], start)})
            if step + 1 < steps:
                nu = replaced(nu)
        return path

    def by_paper(self, support: Support) -> list[Weights]:
        """The weights before the first inner step and after each."""
        context, loss, theta = support.context, self.step_loss(support), self.initial(support)
        second_order = self.second_order(context)
        start = {name: theta[name] for name in self.adapted}
        at = start if second_order else {name: weight.detach() for name, weight in start.items()}

        def from_theta(moving: Weights) -> Tensor:
            return loss({**theta, **moving}, 0)

        first = gradients(from_theta, at, second_order=second_order, vectorized=context.vectorized)

        def after_a_step(moving: Weights) -> Tensor:
            return loss({**theta, **self.modulated_step(at, first, moving[NU])}, 0)

        nu = {NU: next(iter(theta.values())).new_zeros(self.settings.context_size)}
        found = gradients(after_a_step, nu, second_order=second_order, vectorized=context.vectorized)
        context_vector = nu[NU] - self.numbers.context_lr * found[NU]

        def update(step: int, weights: Weights, gradients: Weights) -> Weights:
            return self.modulated_step(weights, gradients, context_vector)

        steps = self.steps(context)
        return descend(loss, theta, self.adapted, update, steps=steps, second_order=second_order, context=context)

    def modulated_step(self, weights: Weights, gradients: Weights, nu: Tensor) -> Weights:
        """One step of the paper's rule."""
        parts = iter(self.factors(self.body(nu)).split(self.sides))
        modulated = dict(gradients)
        for name in self.modulated:
            outer = torch.outer(next(parts), next(parts)).reshape(gradients[name].shape)
            modulated[name] = (1 + outer) * gradients[name]
        return self.update(0, weights, modulated)
