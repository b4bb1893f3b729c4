"""What shows itself as a table: in a notebook, in a terminal by Rich, and as text by `print`."""

from abc import ABC, abstractmethod

from rich.console import Console, RenderableType
from rich.jupyter import JupyterMixin

WIDE = 1000  # columns, where there is no terminal whose edge could be met


class Shown(JupyterMixin, ABC):
    """A base for what has a `__rich__`: a notebook's cell shows it, and `str` and `repr` are its text."""

    @abstractmethod
    def __rich__(self) -> RenderableType:
        """What Rich prints."""

    def __str__(self) -> str:
        return text(self.__rich__())

    def __repr__(self) -> str:
        return str(self)


class View(Shown):
    """Something of Rich's that shows itself."""

    def __init__(self, content: RenderableType) -> None:
        self.content = content

    def __rich__(self) -> RenderableType:
        return self.content


def text(content: RenderableType) -> str:
    """The plain text of something of Rich's, without colours and blanks at the ends of lines."""
    console = Console(width=WIDE, color_system=None, force_jupyter=False)
    with console.capture() as captured:
        console.print(content, soft_wrap=isinstance(content, str), highlight=False)
    return "\n".join(line.rstrip() for line in captured.get().splitlines())
