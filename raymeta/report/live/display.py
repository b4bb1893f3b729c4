"""A view on a terminal, drawn again and again; elsewhere a line whenever something ends."""

from abc import ABC, abstractmethod
from types import TracebackType
from typing import Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text

from raymeta.report.live.views import View, clock
from raymeta.study.record.pulse import Beat


class Display(ABC):
    """Shows what runs, as a context manager.

    Args:
        console: where.
        alone: nothing else goes on in this process: what is shown is drawn by `update` and goes when this ends.
    """

    def __init__(self, console: Console, *, alone: bool = False) -> None:
        self.console, self._alone = console, alone
        self._live: Live | None = None
        self._said: set[str] = set()  # what has ended and was said, or had before

    @abstractmethod
    def beat(self) -> Beat:
        """What the driver says beside the view."""

    @abstractmethod
    def view(self, beat: Beat) -> View:
        """What there is to see."""

    def __enter__(self) -> Self:
        self._said = {name for name, _ in self.view(self.beat()).ended()}
        if self.console.is_terminal and not self.console.is_dumb_terminal:
            self._live = Live(
                console=self.console,
                get_renderable=None if self._alone else self.render,
                auto_refresh=not self._alone,
                transient=self._alone,
                refresh_per_second=2,
            )
            self._live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._live:
            self._live.stop()
            self._live = None

    def update(self) -> None:
        """Something may have changed: the table shows it, or a line for each thing that has ended since."""
        if self._live:
            if self._alone:
                self._live.update(self.render(), refresh=True)
            return
        beat = self.beat()
        view = self.view(beat)
        new = {name: line for name, line in view.ended() if name not in self._said}
        self._said |= set(new)
        *lines, last = new.values() or [""]
        for line in lines:
            self.line(line, beat)
        self.line(f"{last} | {view.summary(beat.left_s)}" if last else "", beat)

    def line(self, text: str, beat: Beat) -> None:
        """Where there is no table: a line below what was said before."""
        if self._live or not text:
            return
        self.console.print(f"{clock(beat.started)}{text}", highlight=False, soft_wrap=True, markup=False, emoji=False)

    def render(self) -> RenderableType:
        """The view as it stands."""
        beat = self.beat()
        view = self.view(beat)
        summary = f"{clock(beat.started)}{view.summary(beat.left_s)}"
        return Group(view.table(), Text(summary, "bold"), Text(beat.message, "yellow"))
