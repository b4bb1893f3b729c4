"""The driver's end of MLflow's copy: it starts the process that makes it, and tells what is new (for_mlflow.py)."""

import json
import pickle
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import TYPE_CHECKING, Self

from raymeta.installed import child_environment
from raymeta.study.record.record import StudyRecord, TrialRecord
from raymeta.study.record.threads import SideThread
from raymeta.study.run.for_mlflow import study_content, summary_content, trial_content
from raymeta.study.tracking.connection import problem_of
from raymeta.study.tracking.messages import Message
from raymeta.study.tracking.mlflow_copy import RETRY_S

if TYPE_CHECKING:
    from raymeta.study.machines.session import Session

LISTEN_S = 0.2
PATIENCE_S = 60.0  # how long the end of a study waits for a server that takes nothing


class Tracker:
    """Keeps MLflow equal to a study's record, from a process of its own. Use as a context manager.

    Args:
        record: of the study.
        say: is told once, early, that MLflow can't be used, and why.

    Attributes:
        problem: why MLflow lacks something; at the end "" says that it has everything.
        process: that writes to MLflow.
    """

    def __init__(self, record: StudyRecord, say: Callable[[str], None] = lambda text: None) -> None:
        self.record, self._say, self._said = record, say, False
        self.problem = self._unsaid = ""
        self._sent = 0
        self._configs: set[int] = set()  # trials whose config was told

    def __enter__(self) -> Self:
        start = "from raymeta.study.tracking.mlflow_copy import main; main()"
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-c", start],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=child_environment(),
            process_group=0,  # Ctrl-C of a terminal is not for it
        )
        self._listener = SideThread(target=self._listen, name="mlflow", daemon=True)
        self._listener.start()
        self._tell(study_content(self.record))
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._tell(None)
        sent, since = self._sent, time.monotonic()
        while self.process.poll() is None:
            if self._sent > sent:  # a database that is only slower than the trials were is waited for
                sent, since = self._sent, time.monotonic()
            # One that has taken nothing and has said why is tried once more.
            if time.monotonic() - since > (RETRY_S if self.problem and not sent else PATIENCE_S):
                break
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(LISTEN_S)
        if self.process.poll() is None:
            self.process.kill()
            self.problem = self.problem or "no answer"
        elif self.process.returncode:
            self.problem = self.problem or f"the process that writes to it ended ({self.process.returncode})"
        self.process.wait()
        self._listener.join()
        self.problem = self.problem or self._unsaid

    def update(self, number: int) -> None:
        """A trial has something new."""
        self._update(self.record.trial(number))

    def update_all(self) -> None:
        """Tell of all trials: MLflow may lack something of the time before this session."""
        for trial in self.record.trials():
            self._update(trial)

    def summarise(self, session: "Session | None" = None) -> None:
        """The session is over: tell its figures, if there was one, the places of trials, and the best one's weights."""
        try:
            content = summary_content(self.record, session)
        except Exception as error:  # of data that are gone, or a problem from outside; a copy ends no study
            self._unsaid = f"it has no summary ({problem_of(error)})"
        else:
            self._tell(content)

    def _update(self, trial: TrialRecord) -> None:
        if not self.record.plan.space.complete(trial.point):
            return  # its driver was killed while it drew the values: they are told with the trial's next news
        told = trial.number in self._configs
        self._configs.add(trial.number)
        self._tell(trial_content(self.record, trial, config=not told))

    def _tell(self, news: Message) -> None:
        assert self.process.stdin is not None
        with suppress(OSError):  # it has ended, which `__exit__` says
            pickle.dump(news, self.process.stdin)
            self.process.stdin.flush()

    def _listen(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            state = json.loads(line)
            self.problem, self._sent = state["problem"] or state["lacking"], state["sent"]
            if state["problem"] and not self._said:
                self._said = True
                self._say(
                    f"MLflow can't be used: {self.problem}; trials are kept in the study and copied when it is back "
                    f"(`raymeta sync {self.record.name}`)"
                )
