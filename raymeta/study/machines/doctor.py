"""`raymeta doctor`: is this machine, or is every machine of a cluster, fit to run studies?

All are asked the same (`examine`): through Ray the machines of `$RAY_ADDRESS`'s cluster, without one this machine.
"""

import os
import platform
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from raymeta.config import TaskConfig
from raymeta.errors import StorageError, UserError
from raymeta.problem import open_problem, task_section
from raymeta.storage.files import studies_folder
from raymeta.storage.places import AnyPath, any_path, remove_tree
from raymeta.study.machines.resources import join_cluster, on_cluster, stop_ray

PACKAGES = ("raymeta", "torch", "ray", "optuna", "mlflow")
CLOCKS_S = 2.0  # by how much clocks may differ
SHARING_S = 10.0  # how long a network file system may take to show a file
ANSWER_S = 120.0


@dataclass(frozen=True)
class Check:
    """One line of the doctor's.

    Attributes:
        name: cluster, versions, studies, data, mlflow, clocks or gpus.
        text: what is right, or machine by machine what is wrong and what to do.
    """

    name: str
    ok: bool
    text: str

    def __str__(self) -> str:
        return f"{'OK' if self.ok else 'WRONG':<7}{self.name:<10}{self.text}"


@dataclass(frozen=True)
class Finding:
    """What a machine says of itself.

    Attributes:
        versions: of Python and of the packages; "none" if it has not got one.
        wrote: the file that it wrote beside the one it was shown; "" if it could not.
        studies: why it could not.
        data: the data set's fingerprint; "" if none was asked for or it has none.
        no_data: why it has none.
        gpus: how many torch sees.
    """

    versions: dict[str, str]
    wrote: str
    studies: str
    data: str
    no_data: str
    gpus: int


def examine(shown: str, task: dict[str, Any] | None) -> Finding:
    """Run on each machine.

    Args:
        shown: a file that the asking machine has written among the studies.
        task: whose data set to look for.
    """
    data = no_data = ""
    if task is not None:
        try:
            data = open_problem(task_section(task)).fingerprint
        except UserError as error:
            no_data = str(error)
    return Finding(_versions(), *_write_beside(any_path(shown)), data, no_data, _gpus())


def clock() -> float:
    """Run on each machine: seconds since the epoch."""
    return time.time()


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "none"
    return found


def _write_beside(shown: AnyPath) -> tuple[str, str]:
    """The name of the file written, and why none was."""
    name = uuid.uuid4().hex
    try:
        if not shown.exists():
            return "", "does not see what this machine writes there"
        (shown.parent / name).touch()
    except OSError as error:
        return "", f"cannot write there: {error.strerror or error}"
    return name, ""


def _gpus() -> int:
    # In a process of its own: Ray hides the GPUs from a task that asked for none.
    environment = {key: value for key, value in os.environ.items() if key != "CUDA_VISIBLE_DEVICES"}
    command = [sys.executable, "-c", "import torch; print(torch.cuda.device_count())"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    return int(done.stdout) if done.returncode == 0 else 0


def diagnose(task: TaskConfig | None) -> list[Check]:
    """All checks.

    Args:
        task: whose data set every machine must have; None: none is looked for.

    Raises:
        UserError: `$RAY_ADDRESS` is set, and there is no cluster that can be joined; or the studies cannot be written.
    """
    plain = task.model_dump() if task is not None else None
    with _shown() as shown:
        if not on_cluster():
            found = {platform.node(): examine(str(shown), plain)}
            return [_agree(found), _shared(found, shown), *_data(found, task), _mlflow(), _seen(found, {})]
        import ray

        from raymeta.study.machines.nodes import on_every_node

        try:
            join_cluster()
            answers = on_every_node(examine, str(shown), plain, within_s=ANSWER_S)
            found = {answer.node: answer.value for answer in answers if answer.value is not None}
            silent = {answer.node: answer.problem for answer in answers if answer.value is None}
            clocks = _clocks() if not silent else []
            there, gpus = ray.cluster_resources(), {answer.node: answer.gpus for answer in answers}
        finally:
            stop_ray()
        size = f"{len(answers)} machines, {there.get('CPU', 0):.0f} cores and {there.get('GPU', 0):.0f} GPUs for trials"
        return [
            _check("cluster", size, silent, "install raymeta there as here, and look at Ray's logs there"),
            _agree(found),
            _shared(found, shown),
            *_data(found, task),
            _mlflow(),
            *clocks,
            _seen(found, gpus),
        ]


@contextmanager
def _shown() -> Iterator[AnyPath]:
    """A file among the studies for the others to see; what they write beside it is taken away with it."""
    studies = studies_folder()
    new = not studies.exists()
    try:
        studies.mkdir(parents=True, exist_ok=True)
        folder = studies / f".doctor-{uuid.uuid4().hex}"
        folder.mkdir()
        (folder / "shown").touch()
    except StorageError:
        raise
    except OSError as error:
        raise UserError(f"{studies}: cannot be written: {error.strerror} (RAYMETA_STUDIES moves it)") from error
    try:
        yield folder / "shown"
    finally:
        remove_tree(folder)
        if new and isinstance(studies, Path):
            studies.rmdir()


def _check(name: str, fine: str, wrong: Mapping[str, str], remedy: str) -> Check:
    if not wrong:
        return Check(name, True, fine)
    alike: dict[str, list[str]] = {}
    for node, text in wrong.items():
        alike.setdefault(text, []).append(node)
    told = [f"{', '.join(nodes)}: {text}" for text, nodes in alike.items()]
    return Check(name, False, f"{'; '.join(told)}. {remedy}")


def _agree(found: Mapping[str, Finding]) -> Check:
    mine = _versions()
    wrong = {
        node: ", ".join(f"{name} {own} and not {mine[name]}" for name, own in others)
        for node, finding in found.items()
        if (others := [(name, own) for name, own in finding.versions.items() if own != mine[name]])
    }
    fine = ", ".join(f"{name} {number}" for name, number in mine.items())
    return _check("versions", fine, wrong, "Install the same everywhere (`ray up` again does)")


def _shared(found: Mapping[str, Finding], shown: AnyPath) -> Check:
    wrong = {node: finding.studies for node, finding in found.items() if finding.studies}
    end = time.monotonic() + SHARING_S
    for node, finding in found.items():
        while finding.wrote and not (shown.parent / finding.wrote).exists():
            if time.monotonic() > end:
                wrong[node] = "writes there what this machine does not see"
                break
            time.sleep(0.2)
    studies = shown.parent.parent
    remedy = f"Mount one shared folder at {studies} on all machines"
    if not isinstance(studies, Path):
        remedy = "Give every machine the store's credentials"
    return _check("studies", str(studies), wrong, remedy)


def _data(found: Mapping[str, Finding], task: TaskConfig | None) -> list[Check]:
    if task is None:
        return []
    wrong = {node: finding.no_data for node, finding in found.items() if finding.no_data}
    prints = {finding.data for finding in found.values() if finding.data}
    if len(prints) > 1:
        wrong |= {node: f"fingerprint {finding.data[:12]}" for node, finding in found.items() if finding.data}
    fine = f"{task.data} {''.join(prints)[:12]}"
    return [_check("data", fine, wrong, "A search packs it on every machine before its trials")]


def _mlflow() -> Check:
    from raymeta.study.tracking import embedded
    from raymeta.study.tracking.connection import connect, problem_of, tracking_uri

    uri = tracking_uri()
    shown = problem_of(Exception(uri)).removeprefix("Exception: ")
    if embedded.used() and not embedded.database().exists():
        return Check("mlflow", True, f"{shown}, which the first study makes")
    try:
        connect().search_experiments(max_results=1)
    except Exception as error:  # of any database, driver or file system
        return Check("mlflow", False, f"{shown}: {problem_of(error)}. Start the server, or unset MLFLOW_TRACKING_URI")
    return Check("mlflow", True, shown)


def _clocks() -> list[Check]:
    """Each machine's clock against this one's; the quickest of three answers bounds the error."""
    from raymeta.study.machines.nodes import on_every_node

    errors: dict[str, list[tuple[float, float]]] = {}
    for _ in range(3):
        asked = time.time()
        for answer in on_every_node(clock, within_s=ANSWER_S):
            if answer.value is not None:
                half = (time.time() - asked) / 2
                errors.setdefault(answer.node, []).append((half, answer.value - asked - half))
    best = {node: min(pairs) for node, pairs in errors.items()}
    wrong = {node: f"{error:+.1f} s off" for node, (half, error) in best.items() if abs(error) - half > CLOCKS_S}
    most = max((abs(error) + half for half, error in best.values()), default=0.0)
    return [_check("clocks", f"within {most:.2f} s of this machine's", wrong, "Let all machines keep time (NTP)")]


def _seen(found: Mapping[str, Finding], declared: Mapping[str, int]) -> Check:
    wrong = {
        node: f"Ray has {declared[node]} GPUs, torch sees {finding.gpus}"
        for node, finding in found.items()
        if declared.get(node, finding.gpus) != finding.gpus
    }
    fine = f"torch sees {sum(finding.gpus for finding in found.values())}"
    return _check("gpus", fine, wrong, "Install a torch for its driver, or start Ray there with --num-gpus")
