"""Data sets made ready on this machine, before anything is started that needs them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from raymeta import registry
from raymeta.config import TrialConfig
from raymeta.errors import UserError, shown
from raymeta.problem import Problem, find_problem, open_problem, parse_task, task_section
from raymeta.problems.images.check import Finding, check_dataset
from raymeta.problems.images.dataset import ImageDataset
from raymeta.problems.images.datasets.folder import Folder
from raymeta.problems.images.reading.remote import Root
from raymeta.problems.images.stored import StoredImages
from raymeta.problems.metadataset.problem import MetaDataset
from raymeta.problems.metadataset.source import MetaDatasetSource
from raymeta.report.remarks import progress_bar, say
from raymeta.report.style import PICTURES
from raymeta.storage.files import missing
from raymeta.storage.outputs import output
from raymeta.storage.places import expanded

NAMELESS = "a store of raymeta 0.1.0, or a damaged one, which does not say its folder: name it by --data-root"


def datasets() -> dict[str, dict[str, Any]]:
    """What each data set is, by name, and what of it is on this machine."""
    found: dict[str, dict[str, Any]] = {}
    for name in registry.working("dataset"):
        problem = _named(name, None)
        if not isinstance(problem, Folder):
            found[name] = _described(problem)
            continue
        own = problem.prepared()
        found |= {one.title: _described(one) for one in own}
        found |= {store: problem.describe() | {"problem": NAMELESS} for store in problem.nameless()}
        if not own:
            found[name] = problem.describe()
    return found | {one.title: _described(one) for one in MetaDataset.prepared()}


def _described(problem: Problem) -> dict[str, Any]:
    """What a data set is, and if its store is damaged what is wrong."""
    try:
        return problem.describe()
    except UserError as error:
        shape = list(problem.input_shape)
        return {"name": problem.name, "input_shape": shape, "splits": [], "ready": False, "problem": str(error)}


def prepare(
    name: str,
    data_root: str | Path | None = None,
    *,
    validation_share: float | None = None,
    rebuild: bool = False,
    quiet: bool = False,
    **how: Any,
) -> dict[str, Any]:
    """Download or read a data set and pack it once for all trials of this machine.

    Args:
        name: of the data set.
        data_root: folder that holds the data, or a URL of an archive of it; None: drawn or downloaded.
        validation_share: of the training classes of a `folder`, to hold out where nothing says which are for
            validation; the store keeps it.
        rebuild: pack it again even if it is there.
        quiet: show no progress.
        how: keys of the `task` section that say how pictures of one's own are packed: size, grey, background,
            skip_broken.

    Returns:
        What it is, as plain data.

    Raises:
        UserError: no such data set, or its data are not in `data_root` or damaged.
    """
    root = root_of(data_root)
    problem = _shared_out(_named(name, root, how), validation_share)
    _pack(problem, root, rebuild=rebuild, quiet=quiet)
    return problem.describe()


def preview(
    name: str, data_root: str | Path | None = None, *, validation_share: float | None = None, **how: Any
) -> dict[str, Any]:
    """Say what `prepare` would pack, without packing it; arguments and errors are as there.

    Returns:
        Where it comes from, classes and images of each split, some examples, what is left out and why, and, if
        `prepare` would refuse it because other counts were published, why, as plain data.
    """
    root = root_of(data_root)
    problem = _shared_out(_named(name, root, how), validation_share)
    if isinstance(root, str):
        raise UserError(f"--data-root {root}: what is behind a URL is not looked at; fetch the archive and name it")
    found = problem.preview(root) if isinstance(problem, StoredImages) else None
    return {"name": name, **(found or {"source": "drawn or downloaded: nothing is read from files"})}


def convert(
    name: str, data_root: str | Path, out: str | Path, *, spec: str | Path | None = None, quiet: bool = False
) -> Path:
    """Make records of Meta-Dataset's form of pictures as their authors publish them.

    Args:
        name: of one of its data sets, or another.
        data_root: where the pictures are.
        out: where a folder of the data set's name is made.
        spec: the specification that Meta-Dataset publishes, which says the classes' splits and their order.
        quiet: show no progress.

    Returns:
        The folder.

    Raises:
        UserError: the pictures are not there or damaged, or not those of the specification; or the folder is there.
    """
    from raymeta.problems.metadataset.convert import convert as made

    with progress_bar(f"converting {name}", quiet=quiet) as progress:
        return made(name, expanded(data_root), expanded(out), progress, None if spec is None else expanded(spec))


def check_data(name: str | None = None, data_root: str | Path | None = None) -> dict[str, list[Finding]]:
    """Compare packed images with what was published, and look for classes and images in two splits.

    Args:
        name: of a data set; None: all that are prepared.
        data_root: what tells two data sets of one name apart; see `prepare`.

    Returns:
        What was looked at, by data set; nothing of those that have no images.
    """
    root, findings = root_of(data_root), {}
    for one in [name] if name else [*registry.working("dataset"), MetaDataset.name]:
        problem = _named(one, root if name else None)
        if root is not None and not problem.has_source:
            look_at(problem, root)
        for each in _stored(problem, root):
            if isinstance(each, ImageDataset) and (name or each.folder.exists()):
                title = each.title if isinstance(each, Folder | MetaDatasetSource) else each.name
                with progress_bar(f"checking {title}") as progress:
                    findings[title] = check_dataset(each, progress)
        if isinstance(problem, Folder) and root is None:
            for store in problem.nameless():
                say(f"{store}: not checked: {NAMELESS}")
    return findings


def _stored(problem: Problem, root: Root | None) -> Sequence[Problem]:
    """The prepared data sets of a name and, if that is said, of a root; else the data set itself."""
    if isinstance(problem, MetaDataset):
        return problem.prepared()
    if not isinstance(problem, Folder):
        return [problem]
    found = [one for one in problem.prepared() if root is None or one.source == problem.source]
    return found or ([problem] if root is not None else [])


def draw_data(name: str, path: str | Path | None = None, data_root: str | Path | None = None, **how: Any) -> Path:
    """Draw some training and validation classes of a data set, and a training task.

    Args:
        name: of the data set.
        path: the picture; None: NAME.png in this folder.
        data_root: see `prepare`; None, for a data set that is named by its folder: the one that is prepared.
        how: see `prepare`.

    Returns:
        Where the picture is.

    Raises:
        UserError: see `prepare`; or `path` can't be written, or its suffix is of no kind of picture.
    """
    root, where = root_of(data_root), output(f"{name}.png" if path is None else path, PICTURES)
    problem = _named(name, root, how)
    if isinstance(problem, Folder) and not any(value is not None for value in how.values()):
        stored = _stored(problem, root)
        if root is None and len(stored) > 1:
            raise UserError(f"{name}: name one by --data-root: {', '.join(shown(one.task.source) for one in stored)}")
        problem = stored[0] if len(stored) == 1 else problem
    make_ready(problem, root)
    problem.picture(where)
    return where


def root_of(data_root: str | Path | None) -> Root | None:
    """A path, or a URL as it is.

    Raises:
        UserError: `~name` of a user that there is not.
    """
    return data_root if data_root is None or "://" in str(data_root) else expanded(data_root)


def make_ready(problem: Problem, root: Root | None, *, rebuild: bool = False, quiet: bool = False) -> None:
    """Make a data set ready with a progress bar, and say what was found if it was packed; nothing happens if it is.

    Raises:
        UserError: there is nothing at `root`, or not what there should be.
    """
    before = _packed_at(problem)
    _pack(problem, root, rebuild=rebuild, quiet=quiet)
    if not quiet and isinstance(problem, StoredImages) and _packed_at(problem) != before:
        for key, line in problem.remarks.items():
            say(f"{problem.name}: {'' if key == 'layout' else f'{spaced(key)}: '}{line}")


def spaced(key: str) -> str:
    """A key as a sentence has it: `left out`."""
    return key.replace("_", " ")


def look_at(problem: Problem, root: Root, *, rebuild: bool = False) -> None:
    """Say that a root is not used, if it is not.

    Raises:
        UserError: there is no such path, or it could not be used.
    """
    if isinstance(root, Path) and not root.exists():
        raise UserError(f"--data-root {missing(root, 'folder')}")
    if isinstance(problem, MetaDataset):
        return  # it has several, of which some may be there
    if not isinstance(problem, StoredImages):
        raise UserError(f"--data-root {shown(root)}: {problem.name} is computed and reads no data: leave it out")
    if problem.ready and not rebuild:
        say(f"--data-root {shown(root)} is not used: {problem.name} is packed already, in {problem.folder}")


def with_source(config: TrialConfig, root: Root | None) -> TrialConfig:
    """The config with `data_root` in it where that says which data they are: workers have nothing but the config."""
    update = _source(config.task.data, root)
    return config.model_copy(update={"task": config.task.model_copy(update=update)})


def pretrain(config: TrialConfig, problem: Problem, *, quiet: bool = False) -> None:
    """Make the pre-trained backbone ready, if the config wants one, with a progress bar; trials then find it."""
    if not config.pretraining.epochs:
        return
    import torch

    from raymeta.training.device import device_of
    from raymeta.training.pretraining import pretrained

    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as trials have: the same numbers wherever it is done
    try:
        with progress_bar(f"pre-training {config.model.name}", quiet=quiet) as progress:
            pretrained(config, problem, device_of(config), progress)
    finally:
        torch.set_num_threads(threads)


def _pack(problem: Problem, root: Root | None, *, rebuild: bool, quiet: bool) -> None:
    if root is not None and not problem.has_source:
        look_at(problem, root, rebuild=rebuild)
    if root is None and not rebuild and problem.ready:
        return
    with progress_bar(f"preparing {problem.name}", quiet=quiet) as progress:
        problem.prepare(root, progress, rebuild=rebuild)


def _packed_at(problem: Problem) -> int | None:
    """When its store was made; None: it has none."""
    meta = problem.folder / "meta.json" if isinstance(problem, StoredImages) and _is_named(problem) else None
    return meta.stat().st_mtime_ns if meta is not None and meta.exists() else None


def _is_named(problem: Problem) -> bool:
    return not problem.has_source or problem.task.source is not None


def _source(dataset: str, root: Root | None) -> Mapping[str, str]:
    """The key of `task` that `data_root` stands for; {}: none.

    Raises:
        UserError: it would have to be a path that a config can hold, and is none.
    """
    if root is None or not find_problem(dataset).has_source:
        return {}
    if isinstance(root, str):
        raise UserError(f"--data-root {root}: {dataset} is named by its path on this machine; fetch the archive first")
    source = str(root.resolve())
    if not source.isprintable():
        raise UserError(
            f"--data-root {shown(source)}: this name can't be written into a config; name it by a link to it"
        )
    return {"source": source}


def _shared_out(problem: Problem, share: float | None) -> Problem:
    if share is not None:
        if not isinstance(problem, Folder):
            raise UserError(
                f"--validation-share: {problem.name} has a class split of its own; it is an option of folder"
            )
        problem.validation_share = share
    return problem


def _named(name: str, root: Root | None, how: Mapping[str, Any] | None = None) -> Problem:
    """A data set under its own defaults of a task."""
    defaults = find_problem(name).task_defaults
    given = {key: value for key, value in (how or {}).items() if value is not None}
    return open_problem(task_section({**parse_task(name), **defaults, **_source(name, root), **given}))
