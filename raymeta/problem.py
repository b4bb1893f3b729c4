"""What is learned: a distribution of tasks, and how what was learned of one is scored.

A problem is a folder or file of `raymeta.problems`, or of a package from outside; nothing else here knows what its
tasks are made of.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

import torch
from numpy.typing import NDArray
from torch import Tensor

from raymeta import registry
from raymeta.config.sections import TaskConfig
from raymeta.engine.arrays import as_numbers
from raymeta.engine.labelled import Labelled
from raymeta.engine.tasks import Examples, Task, Tasks
from raymeta.errors import UserError, suggest
from raymeta.inner import Player, predictions
from raymeta.metric import Metric, Score
from raymeta.schema import check

if TYPE_CHECKING:
    from raymeta.learner import Learner

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = ("train", "validation", "test")
__all__ = ["Bank", "Examples", "Problem", "Split", "Task", "Tasks", "TestSplitClosed"]
CHUNK = 25  # tasks drawn (and, under vmap, computed) at a time, if they are of one shape


class Bank(Protocol):
    """An endless numbered sequence of tasks: task i is a function of (problem, split, seed, i) alone, and of the
    learner of now where it makes the examples.
    """

    def draw(self, first: int, count: int, player: "Player | None" = None) -> Tasks:
        """Tasks `first` .. `first + count - 1`; one at a time where they are of different shapes.

        Args:
            first: number of the first one.
            count: how many.
            player: the learner of now, for banks that make their examples with it.
        """
        ...


class TestSplitClosed(RuntimeError):
    """The test split was asked for by something that is not a final run."""

    __test__ = False  # for pytest: no test case


class Problem(ABC):
    """A problem under the settings of its `task` section.

    Attributes:
        name: as registered.
        Config: the problem's `task` section.
        metric: what a task is scored by.
        input_shape: of one example: (C, H, W), or (D,).
        labels: classes of the largest task, if y are labels; None: y are values.
        one_shape: all tasks have tensors of the same shapes; if not they are computed one by one.
        has_source: which data it is is said by `task.source`.
        task_defaults: what a data set of a problem changes of the defaults of its `task` section.
        form: what `parse` takes, for messages.
        keeps_on_devices: it has data that `keep_on` can copy to a device.
        needs: what it has no meaning without: `policy` of the model.
    """

    name: ClassVar[str]
    Config: ClassVar[type[TaskConfig]]
    metric: ClassVar[Metric]
    input_shape: tuple[int, ...]
    labels: int | None = None
    one_shape: bool = True
    keeps_on_devices: ClassVar[bool] = False
    has_source: ClassVar[bool] = False
    task_defaults: ClassVar[dict[str, Any]] = {}
    form: ClassVar[str] = "NAME"
    needs: ClassVar[frozenset[str]] = frozenset()

    def __init__(self, task: Any) -> None:
        """Nothing is read yet.

        Raises:
            UserError: settings that do not fit.
        """
        self.task = task

    @classmethod
    def open(cls, task: Any) -> "Problem":
        """The problem of a `task` section of its own `Config`."""
        return cls(task)

    @classmethod  # noqa: B027
    def check(cls, task: Any) -> None:
        """Look at what a `task` section names, as far as that needs no data; most problems name nothing.

        Raises:
            UserError: there is nothing of that name.
        """

    @classmethod
    def parse(cls, text: str) -> dict[str, Any] | None:
        """What `--task TEXT` means in the `task` section, if it names this problem; its name alone does."""
        return {} if text == cls.name else None

    @property
    def outputs(self) -> int:
        """Outputs of a model: a logit per label, or the numbers of a y."""
        return self.labels or 1

    @property
    def offers(self) -> frozenset[str]:
        """What learners, regularizers, outer steps and analyses may need of it: `labels`, `images`, `policy`, `plane`.
        Where the learner's policy makes the examples, they must say of themselves that they have a meaning there.
        """
        labels, images = {"labels"} if self.labels else set(), {"images"} if len(self.input_shape) == 3 else set()
        return frozenset(labels | images)

    def outputs_of(self, tasks: Tasks) -> int | None:
        """Outputs that tasks use where tasks differ in them; None: all."""
        return None

    @abstractmethod
    def loss(self, outputs: Tensor, y: Tensor) -> Tensor:
        """What learners descend, inner and outer: a mean over examples, []."""

    def outer_loss(
        self, outputs: Tensor, y: Tensor, inner: Callable[[Tensor, Tensor], Tensor], clip: float | None = None
    ) -> Tensor:
        """What the outer loop descends of a query set, []: by default what the inner loop descends of a support set.

        Args:
            outputs: of the adapted learner, [n, ...].
            y: of the query set.
            inner: the learner's loss of outputs and y.
            clip: how far from the policy that sampled y it pays to move, for outer steps that limit it so.
        """
        return inner(outputs, y)

    def distance(self, outputs: Tensor, y: Tensor) -> Tensor:
        """How far outputs are from those that the examples were made with, [], for outer steps that limit it. Of
        problems that offer a `policy`.
        """
        raise RuntimeError(f"{self.name} has no policy")

    def of_step(self, support: Examples, step: int) -> Examples:
        """The examples that an inner step descends the loss of: all, unless they are made again before every step."""
        return support

    @abstractmethod
    def score(self, outputs: Tensor, y: Tensor) -> Tensor:
        """The metric of a task's query set, []."""

    def also(self, predicted: Sequence[tuple[Tensor, Tensor]]) -> dict[str, float]:
        """Other scores of an evaluation, by name, of the outputs and y of each task's query set."""
        return {}

    def answers(self, outputs: Tensor) -> Tensor:
        """Outputs [n, ...] as a user wants them where y are values: by default as they are."""
        return outputs

    def bank(self, split: Split, seed: int, *, final: bool = False) -> Bank:
        """The numbered tasks of a split.

        Args:
            split: train, validation or test; they share nothing that is to be generalised to.
            seed: other seeds are other tasks.
            final: this is a final run, which alone may open the test split.

        Raises:
            TestSplitClosed: the test split without `final`.
            UserError: the data are not there or damaged, or can't give such tasks.
        """
        if split not in SPLITS:
            raise UserError(f"unknown split '{split}': {suggest(split, SPLITS)}")
        if split == "test" and not final:
            raise TestSplitClosed("the test split is opened by final runs only")
        return self._bank(split, seed)

    def training_bank(self, seed: int, tasks_per_step: int) -> Bank:
        """`bank` of training tasks, for a problem whose tasks of one outer step may have something in common: step t
        has those from t * tasks_per_step on.
        """
        return self.bank("train", seed)

    def untrained_bank(self, seed: int) -> Bank:
        """`bank` of tasks that are drawn as in training, none of which a run of this seed is trained on."""
        return self.bank("train", seed + 2**32)

    @abstractmethod
    def _bank(self, split: Split, seed: int) -> Bank: ...

    def parts(self, tasks: int) -> list[str] | None:
        """Which part of a benchmark of several each of the first tasks of the test is of; None: it has no parts."""
        return None

    def evaluate(
        self,
        learner: "Learner",
        bank: Bank,
        tasks: int,
        *,
        device: torch.device,
        vectorized: bool,
        members: Sequence[Mapping[str, Tensor]] = (),
        steps: int | None = None,
    ) -> Score:
        """Adapt to tasks 0 .. tasks-1 of a bank and score the predictions for their query sets.

        The loss is the mean loss of the predictions, whatever the learner adds to it in training. Problems whose
        examples are made by the learner have an evaluation of their own.

        Args:
            learner: with its present weights, which it has again afterwards.
            bank: whose tasks.
            tasks: how many of them.
            device: where to compute.
            vectorized: batch the tasks with vmap.
            members: state dicts of an ensemble, which predicts the mean of its members' outputs; none: the present
                weights.
            steps: inner steps; None: the learner's own.
        """
        chunk = CHUNK if self.one_shape else 1
        firsts = range(0, tasks, chunk)
        targets: list[Tensor] = []
        outputs: list[list[Tensor]] = [[] for _ in firsts]  # of each chunk by member
        now = {name: tensor.clone() for name, tensor in learner.state_dict().items()} if members else {}
        with torch.no_grad():
            for number, member in enumerate(members or [now]):
                if members:
                    learner.load_state_dict(member)
                for place, first in enumerate(firsts):
                    count = min(chunk, tasks - first)
                    drawn = bank.draw(first, count, Player.in_evaluation(learner, first, count, steps)).to(device)
                    outputs[place].append(predictions(learner, drawn, vectorized, first, steps))
                    if number == 0:
                        targets.append(drawn.query.y)
            if members:
                learner.load_state_dict(now)
            losses, scores, predicted = [], [], []
            for made, y in zip(outputs, targets, strict=True):
                together = torch.stack(made).mean(0) if len(made) > 1 else made[0]
                for prediction, expected in zip(together, y, strict=True):
                    losses.append(learner.loss(prediction, expected))
                    scores.append(self.score(prediction, expected))
                    predicted.append((prediction, expected))
            loss = float(torch.stack(losses).double().mean())
            return Score(torch.stack(scores).double().cpu(), loss, self.also(predicted))

    def inputs(self, given: Any) -> Tensor:
        """Examples that a user has as models see them, float32 [n, ...]: numbers [n, ...], or of one each [n].

        Raises:
            UserError: not of such a form.
        """
        found = as_numbers(given, "x")
        if found.ndim == 1 and self.input_shape == (1,):
            found = found[:, None]
        if found.shape[1:] != self.input_shape or not len(found):
            shape = ["n", *self.input_shape]
            raise UserError(f"x: found shape {list(found.shape)}: expected [{', '.join(map(str, shape))}]")
        return found

    def given(self, x: Tensor) -> NDArray[Any]:
        """Examples [n, ...] as models see them in a form that `inputs` takes, and makes the same of."""
        return x.cpu().numpy()

    def pixels(self, x: Tensor) -> Tensor:
        """Inputs of a problem that is made of images as they look: [n, C, H, W] in 0..1."""
        raise RuntimeError(f"{self.name} is not made of images")

    def changed(self, x: Tensor, change: Tensor) -> Tensor:
        """Inputs x [n, C, H, W] with a change [n, C, H, W] added to their `pixels`; none leaves them to the bit."""
        raise RuntimeError(f"{self.name} is not made of images")

    def labelled(self) -> Labelled | None:
        """All training examples with their classes, for pre-training; None: there are no classes."""
        return None

    @property
    def kept_bytes(self) -> int:
        """What `keep_on` takes of a device."""
        return 0

    def keep_on(self, device: torch.device) -> None:
        """Copy the data to a device; banks opened from now on gather their tasks there, to the same bits."""
        raise RuntimeError(f"{self.name} has nothing to keep on {device}")

    def picture(self, path: Path) -> None:
        """Draw tasks of the training and the validation split; the suffix says the format.

        Raises:
            UserError, OSError: the data are not prepared, or it draws none; `path` can't be written.
        """
        raise UserError(f"{self.name} draws no pictures of its tasks")

    def prepare(self, root: Any = None, progress: Any = None, *, rebuild: bool = False) -> None:
        """Make the data ready on this machine; nothing happens if they are.

        Args:
            root: folder with the data on disk or a URL of an archive of one, or of a packed store; read only if there
                is something to do. None: drawn, computed or downloaded, whatever the problem does.
            progress: called with steps done and steps in all.
            rebuild: do it again even if they are ready.

        Raises:
            UserError: it has a `root` and reads no data.
        """
        if root is not None:
            raise UserError(f"{root}: {self.name} is computed and reads no data: leave out --data-root")

    @property
    def ready(self) -> bool:
        """`prepare` has been run, or has nothing to do."""
        return True

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """64 hexadecimal digits that change when an example, a class or a split does."""

    def describe(self) -> dict[str, Any]:
        """What it is, as plain data for `raymeta data`; more of it once it is ready."""
        about = {"name": self.name, "input_shape": list(self.input_shape), "splits": [], "ready": self.ready}
        return about | {"fingerprint": self.fingerprint}


def find_problem(name: str) -> "type[Problem]":
    """The problem of a name, or the one that a data set of this name is of.

    Raises:
        UserError: there is neither.
    """
    problems, name = registry.names("problem"), name.partition(":")[0]
    if name not in (known := [*problems, *registry.names("dataset")]):
        raise UserError(f"unknown data set '{name}': {suggest(name, known)}")
    cls: type[Problem] = registry.find("problem" if name in problems else "dataset", name)
    return cls


def parse_task(text: str) -> dict[str, Any]:
    """What a user types after `--task`, `omniglot-5w1s` say, as keys of the `task` section.

    Raises:
        UserError: no problem and no data set of that name, or not of its form.
    """
    cls = find_problem(text if text in registry.names("problem") else text.split("-")[0])
    keys = cls.parse(text)
    if keys is None:
        raise UserError(f"--task {text}: expected {cls.form}")
    return {"problem": cls.Config.model_fields["problem"].default, **keys}


def task_section(data: Mapping[str, Any]) -> TaskConfig:
    """Plain data as the `task` section of the problem that they name.

    Raises:
        UserError: one sentence on what does not fit.
    """
    section: TaskConfig = check(registry.find("problem", str(data.get("problem", "images"))).Config, data, "task")
    return section


def open_problem(task: TaskConfig) -> Problem:
    """The problem that a `task` section is of. Nothing is read or built yet.

    Raises:
        UserError: no problem or no data set of that name, or settings that do not fit.
    """
    problem: Problem = registry.find("problem", task.problem).open(task)
    return problem
