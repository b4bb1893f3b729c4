"""A real Ray cluster of two nodes on this machine: a head without cores, and a worker with a data cache of its own."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest


@dataclass
class TwoNodes:
    """The cluster, and where the worker keeps its data."""

    cluster: Any
    cache: Path

    @property
    def address(self) -> str:
        return str(self.cluster.address)

    def add_worker(self) -> None:
        self.cluster.add_node(num_cpus=1, env_vars={"RAYMETA_CACHE": str(self.cache)})


@contextmanager
def two_nodes(folder: Path, *, worker: bool = True) -> Iterator[TwoNodes]:
    """The nodes see the environment of the moment; `worker`: the second is there from the start."""
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_worker_niceness", "0")
        patch.setenv("RAY_AUTH_MODE", "disabled")
        patch.delenv("RAY_ADDRESS", raising=False)
        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
        nodes = TwoNodes(cluster, folder / "cache")
        try:
            if worker:
                nodes.add_worker()
            yield nodes
        finally:
            cluster.shutdown()
            assert "RAY_ADDRESS" not in os.environ
