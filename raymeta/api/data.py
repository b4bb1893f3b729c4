"""Data sets made ready on this machine, before anything is started that needs them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from raymeta import registry
from raymeta.config import TaskConfig, TrialConfig
from raymeta.errors import UserError
from raymeta.problems.images.check import Finding, check_dataset
from raymeta.problems.images.reading.remote import Root
from raymeta.problems.images.store import Dataset, ImageDataset, open_dataset
from raymeta.report.remarks import progress_bar
from raymeta.schema import check


def datasets() -> dict[str, dict[str, Any]]:
    """What each data set is, by name, and what of it is on this machine."""
    return {name: _named(name, None).describe() for name in registry.names("dataset")}


def prepare(
    name: str, data_root: str | Path | None = None, *, rebuild: bool = False, quiet: bool = False
) -> dict[str, Any]:
    """Download or read a data set and pack it once for all trials of this machine.

    Args:
        name: of the data set.
        data_root: folder that holds the data, or a URL of an archive of it; None: drawn or downloaded.
        rebuild: pack it again even if it is there.
        quiet: show no progress.

    Returns:
        What it is, as plain data.

    Raises:
        UserError: no such data set, or its data are not in `data_root` or damaged.
    """
    root = root_of(data_root)
    dataset = _named(name, root)
    make_ready(dataset, root, rebuild=rebuild, quiet=quiet)
    return dataset.describe()


def check_data(name: str | None = None, data_root: str | Path | None = None) -> dict[str, list[Finding]]:
    """Compare packed images with what was published, and look for classes and images in two splits.

    Args:
        name: of a data set; None: all that are prepared.
        data_root: what tells two data sets of one name apart; see `prepare`.

    Returns:
        What was looked at, by data set; nothing of those that have no images.
    """
    root, findings = root_of(data_root), {}
    for one in [name] if name else registry.names("dataset"):
        dataset = _named(one, root)
        if isinstance(dataset, ImageDataset) and (name or dataset.ready):
            with progress_bar(f"checking {one}") as progress:
                findings[one] = check_dataset(dataset, progress)
    return findings


def draw_data(name: str, path: str | Path | None = None, data_root: str | Path | None = None) -> Path:
    """Draw some training and validation classes of a data set, and a training task.

    Args:
        name: of the data set.
        path: the picture; None: NAME.png in this folder.
        data_root: see `prepare`.

    Returns:
        Where the picture is.
    """
    from raymeta.problems.images.gallery import draw_classes

    root, where = root_of(data_root), Path(path or f"{name}.png")
    dataset = _named(name, root)
    make_ready(dataset, root)
    draw_classes(dataset, where)
    return where


def root_of(data_root: str | Path | None) -> Root | None:
    """A path, or a URL as it is."""
    return data_root if data_root is None or "://" in str(data_root) else Path(data_root).expanduser()


def make_ready(dataset: Dataset, root: Root | None, *, rebuild: bool = False, quiet: bool = False) -> None:
    """Make a data set ready with a progress bar; nothing happens if it is."""
    if dataset.ready and not rebuild and root is None:
        return
    with progress_bar(f"preparing {dataset.name}", quiet=quiet) as progress:
        dataset.prepare(root, progress, rebuild=rebuild)


def with_source(config: TrialConfig, root: Root | None) -> TrialConfig:
    """The config with `data_root` in it where that says which data they are: workers have nothing but the config."""
    update = _source(config.task.dataset, root)
    return config.model_copy(update={"task": config.task.model_copy(update=update)})


def pretrain(config: TrialConfig, dataset: Dataset, *, quiet: bool = False) -> None:
    """Make the pre-trained backbone ready, if the config wants one, with a progress bar; trials then find it."""
    if not config.pretraining.epochs:
        return
    import torch

    from raymeta.training.pretraining import pretrained
    from raymeta.training.trainer import device_of

    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as trials have: the same numbers wherever it is done
    try:
        with progress_bar(f"pre-training {config.model.name}", quiet=quiet) as progress:
            pretrained(config, dataset, device_of(config), progress)
    finally:
        torch.set_num_threads(threads)


def _source(dataset: str, root: Root | None) -> Mapping[str, str]:
    """The key of `task` that `data_root` stands for; {}: none.

    Raises:
        UserError: it would have to be a path and is a URL.
    """
    if root is None or not registry.find("dataset", dataset).has_source:
        return {}
    if isinstance(root, str):
        raise UserError(f"--data-root {root}: {dataset} is named by its path on this machine; fetch the archive first")
    return {"source": str(root.resolve())}


def _named(name: str, root: Root | None) -> Dataset:
    """A data set under its own defaults of a task."""
    defaults = registry.find("dataset", name).task_defaults
    return open_dataset(check(TaskConfig, {"dataset": name, **defaults, **_source(name, root)}, "task"))
