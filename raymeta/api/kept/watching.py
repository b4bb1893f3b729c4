"""Watching what another process runs."""

from typing import TYPE_CHECKING, Union

from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from raymeta import registry
from raymeta.config import parse_trial
from raymeta.errors import Interrupted, UserError, suggest
from raymeta.finals.folders import config_in
from raymeta.finals.results import RESULT, FinalTable, SeedResult, read_result
from raymeta.report.finals import final_table
from raymeta.report.live.views import View
from raymeta.report.live.watch import StudyTarget, Target
from raymeta.report.live.watch import watch as watched
from raymeta.report.remarks import say
from raymeta.storage.files import studies_folder
from raymeta.storage.places import AnyPath
from raymeta.study.machines.session import INTERRUPTED
from raymeta.study.record.folder import names_in
from raymeta.study.record.pulse import Beat, last_beat

if TYPE_CHECKING:
    from raymeta.api.studies import Study

FINALS = "finals"


def watch(run: Union[str, "Study"], *, follow: bool = False) -> None:
    """Show a study or final runs that another process drives, until it ends, and then what has become of it.

    Nothing is locked or written: the folder may be read-only, and the process on another machine that shares it.
    Where nothing runs, this says so, shows the state and returns.

    Args:
        run: a study or its name, or the name of a folder of final runs.
        follow: wait until something runs it; return only when nothing is left to go on with.

    Raises:
        UserError: there is none of that name, or it was moved or removed.
        RunFailed: its driver was killed.
        Interrupted: Ctrl-C.
    """
    target = target_of(run if isinstance(run, str) else run.name)
    try:
        watched(target, Console(), say, follow=follow)
    except KeyboardInterrupt:
        raise Interrupted("not watched any longer; what runs goes on", INTERRUPTED) from None


def target_of(name: str) -> Target:
    """What a name stands for.

    Raises:
        UserError: neither a study nor final runs.
    """
    home = studies_folder()
    studies = names_in(home)
    if name in studies:
        return StudyTarget(home / name)
    folders: list[AnyPath] = [path.parent for path in (home / FINALS).glob("*/config.yaml")]
    finals = [folder.name for folder in folders if not folder.name.startswith(".")]
    if name in finals:
        return FinalsTarget(home / FINALS / name)
    raise UserError(f"no study and no final run '{name}' in {home}: {suggest(name, [*studies, *finals])}")


class FinalsTarget(Target):
    """The final runs of a config."""

    @property
    def driven(self) -> bool:
        beat = last_beat(self.folder)
        return beat is not None and beat.alive

    @property
    def fallen(self) -> Beat | None:
        beat = last_beat(self.folder)
        return None if beat is None or beat.alive else beat

    @property
    def over(self) -> bool:
        return bool(self._tested()) and last_beat(self.folder) is None

    def look(self) -> None:
        if not (self.folder / "config.yaml").exists():
            raise UserError(f"the final runs {self.folder.name} are not in {self.folder.parent} any more")

    def view(self) -> View:
        return _Tested(self)

    def state(self) -> RenderableType:
        config, seeds = config_in(self.folder), self._tested()
        if config is None or not seeds:
            return Text("no seed has been tested yet")
        parsed = parse_trial(config, str(self.folder))
        metric = registry.find("problem", parsed.task.problem).metric
        return final_table([FinalTable(parsed.spec, parsed, metric, self.folder, seeds)])

    def sentence(self) -> str:
        return f"{len(self._tested())} seeds have been tested; `raymeta final` goes on with what is left"

    def _tested(self) -> list[SeedResult]:
        folders: list[AnyPath] = [path.parent for path in self.folder.glob(f"seed*/{RESULT}")]
        return [read_result(folder) for folder in sorted(folders, key=str)]


class _Tested(View):
    """Final runs before their driver has said what it does."""

    def __init__(self, target: FinalsTarget) -> None:
        self.target = target

    def table(self) -> Table:
        return Table(box=None)

    def summary(self, left_s: float | None) -> str:
        return self.target.sentence()

    def ended(self) -> list[tuple[str, str]]:
        return []
