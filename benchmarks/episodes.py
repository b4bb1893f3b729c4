"""What episodes cost: per second against per-image pipelines, as a share of an outer step, and in memory.

    uv run python benchmarks/episodes.py                       # speed, share and memory, about 3 minutes
    uv run python benchmarks/episodes.py speed --episodes 200 --workers 4
    uv run python benchmarks/episodes.py memory --processes 8
    uv run python benchmarks/episodes.py trials --dataset cifarfs --data-root ~/data     # a real set, real trials

speed: learn2learn and torchmeta are not installed; their documented way is written out here. A task draws classes and
images, and each image is opened, resized, made a tensor and standardised by torchvision's transforms, alone; a
DataLoader puts tasks together. The images are files, or arrays in memory as where a pickle was read. All contenders
take turns on the same images (A B C A B C …), and the figure is the ratio of the medians. Files are in the page cache.

share: time of drawing an outer step's episodes in that of the whole outer step, MAML with Conv-4.

memory: processes that have drawn from all images of one store, at the same time: proportional set size (a page counts
as one over how many processes have it) and private memory by /proc/PID/smaps_rollup, before the store was opened and
after. Beside it the same with a copy of the images in each process. What stays private of a memory-mapped store's user
are the buffers of the episodes drawn: 4 tasks of 84x84 colour are 34 MiB as float32.

trials: the same of Ray workers, each with a trial of MAML (Conv-4, 5-way 1-shot) of a real data set: one alone, then
as many at once as `--processes`. A trial trains `--steps` outer steps, validates, and then touches every page of the
store, so that all of it counts. The store's part is that of the mapping of `images.npy` by /proc/PID/smaps: its
resident size is the whole store in every worker, its proportional set sizes add up to the one copy there is. (A trial
alone has the pages to itself, so they count as private though the system can drop them.) The last row is what a trial
more costs: the difference of the sums over the number of further trials.
"""

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from multiprocessing import get_context
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from raymeta import registry
from raymeta.config import parse_trial
from raymeta.problem import open_problem
from raymeta.problems.images.dataset import ImageDataset
from raymeta.problems.images.reading.packing import Packed, Progress
from raymeta.problems.images.store import Store
from raymeta.problems.images.task import ImagesTask
from raymeta.study.machines.resources import WORKER_ENVIRONMENT
from raymeta.training.trainer import Trainer

TASKS = 4  # of an outer step
WORKS = {
    "glyphs": ("28x28 grey, 5-way 1-shot", {"dataset": "glyphs", "shots": 1}, ".png"),
    "photos": ("84x84 colour, 5-way 5-shot", {"dataset": "photos", "shots": 5}, ".jpg"),
}
MIB = 2**20


@registry.dataset("photos")
class Photos(ImageDataset):
    """Smooth colour noise in place of photographs: 64 / 16 / 20 classes, as many images as `$PHOTOS` says."""

    input_shape: ClassVar[tuple[int, ...]] = (3, 84, 84)
    mean: ClassVar[tuple[float, ...] | None] = (0.485, 0.456, 0.406)
    std: ClassVar[tuple[float, ...] | None] = (0.229, 0.224, 0.225)

    def build(self, root: Path | None, progress: Progress) -> Packed:
        per_class, generator = int(os.environ["PHOTOS"]), np.random.default_rng(0)
        images = np.empty((100 * per_class, 84, 84, 3), np.uint8)
        for image in images:
            coarse = Image.fromarray(generator.integers(0, 256, (12, 12, 3), np.uint8))
            image[:] = np.asarray(coarse.resize((84, 84), Image.Resampling.BICUBIC))
        split = {"train": range(64), "validation": range(64, 80), "test": range(80, 100)}
        names = [f"class {number}" for number in range(100)]
        return Packed(images.transpose(0, 3, 1, 2), names, [per_class] * 100, {"standard": split})


def prepared(task: dict[str, Any]) -> ImageDataset:
    """A data set, packed."""
    dataset = open_problem(ImagesTask(**task))
    assert isinstance(dataset, ImageDataset)
    dataset.prepare()
    return dataset


class PerImage(Dataset[Any]):
    """Tasks as in the documentation of learn2learn (NWays, KShots, LoadData) and torchmeta (ClassSplitter)."""

    def __init__(self, dataset: ImageDataset, classes: list[list[Any]], tasks: int) -> None:
        from torchvision import transforms

        _, height, width = dataset.input_shape
        steps = [transforms.Resize((height, width)), transforms.ToTensor()]
        if dataset.mean is not None:
            steps.append(transforms.Normalize(dataset.mean, dataset.std))
        self.transform = transforms.Compose(steps)
        self.mode = "L" if dataset.input_shape[0] == 1 else "RGB"
        self.classes, self.task, self.tasks = classes, dataset.task, tasks

    def __len__(self) -> int:
        return self.tasks

    def __getitem__(self, number: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        generator, task = np.random.default_rng(number), self.task
        support, query = [], []
        for one in generator.choice(len(self.classes), task.ways, replace=False):
            members = self.classes[one]
            chosen = generator.choice(len(members), task.shots + task.queries, replace=False)
            images = [self.image(members[place]) for place in chosen]
            support += images[: task.shots]
            query += images[task.shots :]
        labels = torch.arange(task.ways)
        return (
            torch.stack(support), labels.repeat_interleave(task.shots),
            torch.stack(query), labels.repeat_interleave(task.queries),
        )  # fmt: skip

    def image(self, member: Any) -> Tensor:
        """One image, from a file or from an array [H, W] or [H, W, 3]."""
        image = Image.open(member) if isinstance(member, Path) else Image.fromarray(member)
        tensor: Tensor = self.transform(image.convert(self.mode))
        return tensor


def on_disk(store: Store, folder: Path, suffix: str) -> tuple[list[list[Path]], list[list[Any]]]:
    """The training images of a store as files and as arrays, class by class."""
    files, arrays = [], []
    for number in store.classes("train"):
        rows = store.images[store.starts[number] :][: store.sizes[number]]
        arrays.append([np.ascontiguousarray(row.transpose(1, 2, 0).squeeze()) for row in rows])
        files.append([folder / f"{number}-{place}{suffix}" for place in range(len(rows))])
        for path, array in zip(files[-1], arrays[-1], strict=True):
            Image.fromarray(array).save(path)
    return files, arrays


def speed(options: argparse.Namespace) -> None:
    """Print the table of episodes per second."""
    print("| episodes | contender | episodes/s | raymeta is |\n| --- | --- | --: | --: |")
    for name, (title, task, suffix) in WORKS.items():
        dataset = prepared(task)
        with tempfile.TemporaryDirectory() as folder:
            files, arrays = on_disk(dataset.store, Path(folder), suffix)
            count = options.episodes
            _check(dataset, arrays, files if suffix == ".png" else arrays)

            def loader(classes: list[list[Any]], workers: int) -> Callable[[], int]:
                tasks = PerImage(dataset, classes, count)  # noqa: B023  (used before the loop goes on)
                batches = DataLoader(tasks, TASKS, num_workers=workers, persistent_workers=workers > 0)
                return lambda: sum(len(support_x) for support_x, *_ in batches)

            bank = dataset.bank("train", 0)
            runs: dict[str, Callable[[], int]] = {
                "raymeta": lambda: sum(bank.draw(first, TASKS).size for first in range(0, count, TASKS)),  # noqa: B023
                "arrays, an image at a time": loader(arrays, 0),
                "files, an image at a time": loader(files, 0),
                f"the same, {options.workers} DataLoader workers": loader(files, options.workers),
            }
            seconds: dict[str, list[float]] = {who: [] for who in runs}
            for turn in range(options.rounds + 1):  # the first is a warm-up
                for who, run in runs.items():
                    start = time.perf_counter()
                    assert run() == count
                    if turn:
                        seconds[who].append(time.perf_counter() - start)
        medians = {who: statistics.median(values) for who, values in seconds.items()}
        for who, median in medians.items():
            print(
                f"| {name}, {title} | {who} | {count / median:,.0f} | {median / medians['raymeta']:.1f}x |", flush=True
            )


def _check(dataset: ImageDataset, arrays: list[list[Any]], lossless: list[list[Any]]) -> None:
    """The pipeline's pixels are the sampler's, wherever the files are not JPEG."""
    store, pipeline = dataset.store, PerImage(dataset, arrays, 1)
    for number, row in enumerate(store.classes("train")[:5]):
        expected = torch.from_numpy(store.scaled(np.asarray(store.images[store.starts[row]])))
        torch.testing.assert_close(pipeline.image(lossless[number][0]), expected)


def share(options: argparse.Namespace) -> None:
    """Print the table of the sampler's share of an outer step."""
    print("| episodes | network | outer step, ms | its episodes, ms | share |\n| --- | --- | --: | --: | --: |")
    for name, (title, task, _) in WORKS.items():
        prepared(task)
        for order in ("first", "second"):
            config = {
                "method": "maml", "maml": {"order": order}, "model": {"name": "conv4", "width": options.width},
                "task": task, "outer": {"tasks_per_step": TASKS}, "engine": {"device": "cpu"},
            }  # fmt: skip
            trainer = Trainer(parse_trial(config))
            bank = trainer.problem.bank("train", 1)
            whole, drawn = [], []
            for turn in range(options.rounds + 1):
                start = time.perf_counter()
                bank.draw(turn * TASKS, TASKS)
                middle = time.perf_counter()
                trainer.outer_update()
                if turn:
                    drawn.append(1000 * (middle - start))
                    whole.append(1000 * (time.perf_counter() - middle))
            episodes, step = statistics.median(drawn), statistics.median(whole)
            network = f"Conv-4-{options.width}, {order} order"
            print(f"| {name}, {title} | {network} | {step:,.0f} | {episodes:.1f} | {episodes / step:.2%} |", flush=True)


class Worker:
    """A trial in a Ray worker, as a search has it."""

    def __init__(self, config: dict[str, Any]) -> None:
        from raymeta.trainable import MetaTrainable

        self.trainable = MetaTrainable(config)

    def train(self) -> None:
        """A round, and a look at every page of the store."""
        self.trainable.step()
        images = self.trainable.trainer.problem.store.images
        page = os.sysconf("SC_PAGE_SIZE")
        int(np.asarray(images).reshape(-1)[::page].max())

    def memory(self) -> list[int]:
        """Of the worker: proportional set size, private; of the store's mapping: resident, proportional, private."""
        whole, path = _memory(), str(self.trainable.trainer.problem.folder / "images.npy")
        fields, inside = dict.fromkeys(("Rss", "Pss", "Private_Clean", "Private_Dirty"), 0), False
        for line in Path("/proc/self/smaps").read_text().splitlines():
            key, _, value = line.partition(":")
            if "-" in key:  # the head of a mapping: its addresses, and the file at the end
                inside = line.endswith(path)
            elif inside and key in fields:
                fields[key] += 1024 * int(value.split()[0])
        return [*whole, fields["Rss"], fields["Pss"], fields["Private_Clean"] + fields["Private_Dirty"]]


def trials(options: argparse.Namespace) -> None:
    """Print the table of memory of real trials."""
    import ray

    from raymeta.study.machines.resources import start_ray, stop_ray

    task = {"dataset": options.dataset, **registry.find("dataset", options.dataset).task_defaults, "shots": 1}
    dataset = open_problem(ImagesTask(**task))
    dataset.prepare(options.data_root)
    assert isinstance(dataset, ImageDataset)
    config = {
        "method": "maml", "maml": {"order": options.order}, "model": {"name": "conv4", "width": options.width},
        "task": task, "outer": {"tasks_per_step": TASKS}, "engine": {"device": "cpu"},
        "budget": {"outer_steps": options.steps, "validate_every": options.steps, "validation_tasks": 100},
    }  # fmt: skip
    size = dataset.store.images.nbytes
    print(f"{options.dataset}, a store of {size / MIB:.0f} MiB, Conv-4-{options.width}, {options.order} order")
    print("| trials | worker | PSS, MiB | private, MiB | store resident, MiB | store PSS, MiB | store private, MiB |")
    print("| --: | --- | --: | --: | --: | --: | --: |")
    start_ray(options.processes)
    sums = []
    try:
        for count in (1, options.processes):
            workers = [
                ray.remote(Worker).remote(parse_trial(config | {"seed": seed}).as_dict()) for seed in range(count)
            ]
            ray.get([worker.train.remote() for worker in workers])
            rows = ray.get([worker.memory.remote() for worker in workers])
            for number, row in enumerate(rows, start=1):
                _print_row(str(count), str(number), row)
            sums.append([sum(column) for column in zip(*rows, strict=True)])
            _print_row(str(count), "all", sums[-1])
            for worker in workers:
                ray.kill(worker)
    finally:
        stop_ray()
    more = max(options.processes - 1, 1)
    _print_row(str(options.processes), "each more", [(b - a) / more for a, b in zip(*sums, strict=True)])


def _print_row(trials: str, worker: str, values: Sequence[float]) -> None:
    print(f"| {trials} | {worker} |" + "".join(f" {value / MIB:.1f} |" for value in values), flush=True)


def _memory() -> tuple[int, int]:
    """Proportional set size and private memory of this process, bytes."""
    fields = {}
    for line in Path("/proc/self/smaps_rollup").read_text().splitlines()[1:]:
        key, value = line.split(":")
        fields[key] = 1024 * int(value.split()[0])
    return fields["Pss"], fields["Private_Clean"] + fields["Private_Dirty"]


def _draw(copied: bool, task: dict[str, Any], episodes: int, barrier: Any, results: Any) -> None:
    """In a process of its own: memory before it opens the store and after it drew, while the others have it too."""
    torch.set_num_threads(1)
    dataset = open_problem(ImagesTask(**task))
    assert isinstance(dataset, ImageDataset)
    barrier.wait()
    before = _memory()
    barrier.wait()
    store = dataset.store
    if copied:
        store.images = np.array(store.images)
    int(np.asarray(store.images)[:, :, ::8].max())  # every eighth row of pixels: every page is touched
    bank = dataset.bank("train", os.getpid())
    for number in range(0, episodes, TASKS):
        bank.draw(number, TASKS)
    barrier.wait()
    results.put((before, _memory()))
    barrier.wait()


def memory(options: argparse.Namespace) -> None:
    """Print the table of memory."""
    if not Path("/proc/self/smaps_rollup").exists():
        sys.exit("memory: this system has no /proc/PID/smaps_rollup")
    task = WORKS["photos"][1]
    size = prepared(task).store.images.nbytes
    print(f"{options.processes} processes, a store of {size / MIB:.0f} MiB")
    print("| images | process | PSS, MiB | private, MiB | more PSS than before | more private than before |")
    print("| --- | --- | --: | --: | --: | --: |")
    context = get_context("spawn")
    for copied, what in ((False, "memory-mapped"), (True, "a copy each")):
        barrier, results = context.Barrier(options.processes), context.Queue()
        job = (copied, task, options.episodes, barrier, results)
        processes = [context.Process(target=_draw, args=job) for _ in range(options.processes)]
        for process in processes:
            process.start()
        found = [results.get() for _ in processes]
        for process in processes:
            process.join()
        rows = [(*after, *(now - then for now, then in zip(after, before, strict=True))) for before, after in found]
        for number, row in enumerate(rows, start=1):
            print(f"| {what} | {number} |" + "".join(f" {value / MIB:.1f} |" for value in row))
        total = [sum(column) for column in zip(*rows, strict=True)]
        print(f"| {what} | all |" + "".join(f" {value / MIB:.1f} |" for value in total), flush=True)


def main() -> None:
    """Make the tables asked for, under the environment that raymeta gives its workers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    tables = {"speed": speed, "share": share, "memory": memory, "trials": trials}
    parser.add_argument("tables", nargs="*", default=["speed", "share", "memory"], help=", ".join(tables))
    parser.add_argument("--episodes", type=int, default=200, help="drawn in a round, and by each process")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--workers", type=int, default=2, help="of a DataLoader")
    parser.add_argument("--processes", type=int, default=4)
    parser.add_argument("--photos", type=int, default=100, help="images of each of the 100 classes of 84x84 colour")
    parser.add_argument("--width", type=int, default=64, help="of Conv-4")
    parser.add_argument("--dataset", default="cifarfs", help="of the table of trials")
    parser.add_argument("--data-root", type=Path, help="where it is; by default it is downloaded")
    parser.add_argument("--order", default="second", choices=["first", "second"], help="of MAML in the trials")
    parser.add_argument("--steps", type=int, default=20, help="outer steps of a trial")
    options = parser.parse_args()
    if "RAYMETA_BENCHMARK" not in os.environ:  # malloc reads its settings when a process starts
        os.execve(
            sys.executable, [sys.executable, *sys.argv], {**os.environ, **WORKER_ENVIRONMENT, "RAYMETA_BENCHMARK": "1"}
        )
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as cache:
        os.environ |= {"RAYMETA_CACHE": cache, "PHOTOS": str(options.photos)}
        for name in options.tables:
            tables[name](options)


if __name__ == "__main__":
    main()
