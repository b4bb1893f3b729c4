"""A fleet: the Ray actor that computes the rounds of many trials."""

import asyncio
import os
import platform
import queue
import threading
import traceback
from collections.abc import Callable
from typing import Any

import ray
import torch

from raymeta.study.machines.fleet.crew import Answer, Crew
from raymeta.training.device import cap_memory


class Fleet:
    """Takes requests at any time, in Ray's thread; one of its own computes.

    Args:
        most: lanes of a program.
        gpu_share, gpu_context: as `cap_memory` takes them.
    """

    def __init__(self, most: int, gpu_share: float, gpu_context: int) -> None:
        torch.set_num_threads(1)
        cap_memory(gpu_share, gpu_context)
        self._crew = Crew(most)
        self._inbox: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._asked: dict[int, tuple[asyncio.AbstractEventLoop, asyncio.Future[Any]]] = {}
        threading.Thread(target=self._compute, daemon=True).start()

    async def round(self, trial: int, config: dict[str, Any], folder: str, heard: int) -> dict[str, Any]:
        """The first round of a trial after those that were heard of."""
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Any] = loop.create_future()

        def ask() -> None:
            self._asked[trial] = loop, answer  # of two that ask for a trial, one is dead
            if found := self._crew.ask(trial, config, folder, heard):
                self._tell(found)

        self._inbox.put(ask)
        metrics: dict[str, Any] = await answer
        return metrics | {"hostname": platform.node()}

    async def node(self) -> str:
        """Ray's name of the machine that it is on."""
        return str(ray.get_runtime_context().get_node_id())

    async def release(self, trial: int) -> None:
        """The trial has ended, or goes on elsewhere."""
        self._inbox.put(lambda: self._crew.release(trial))

    def _compute(self) -> None:
        try:
            while True:
                while not self._crew.busy or not self._inbox.empty():
                    self._inbox.get()()
                for answer in self._crew.work():
                    self._tell(answer)
        except BaseException:  # nobody would be answered any more; Ray starts the process again, and asks again
            traceback.print_exc()
            os._exit(1)

    def _tell(self, answer: Answer) -> None:
        loop, future = self._asked.pop(answer.trial, (None, None))
        if loop is None or future is None:
            return

        def done() -> None:
            if not future.done():
                future.set_exception(answer.error) if answer.error else future.set_result(answer.metrics)

        loop.call_soon_threadsafe(done)
