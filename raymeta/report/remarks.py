"""What is said beside results: remarks and progress, on standard error."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager


def say(text: str) -> None:
    """A line to the user."""
    print(text, file=sys.stderr)  # noqa: T201


@contextmanager
def progress_bar(what: str, *, quiet: bool = False) -> Iterator[Callable[[int, int], None]]:
    """A bar on a terminal, which goes when it is over; gives what is to be called with steps done and steps in all."""
    from rich.console import Console
    from rich.progress import Progress

    screen = Console(stderr=True)
    if quiet or not screen.is_terminal:  # a disabled bar ends with an empty line in Rich before 15
        yield lambda done, total: None
        return
    with Progress(console=screen, transient=True) as bars:
        bar = bars.add_task(what, total=None)
        yield lambda done, total: bars.update(bar, completed=done, total=total)
