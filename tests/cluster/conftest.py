"""A Ray cluster of three nodes on this machine, started once for all tests that need it."""

import os
import signal
from contextlib import suppress
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

MEMORY = 100 << 20  # of an object store; nothing of ours goes through it


class ThreeNodes:
    """A head that runs no step, and two nodes with a processor each; either can be killed."""

    def __init__(self):
        from ray.cluster_utils import Cluster

        head = {"num_cpus": 0, "object_store_memory": MEMORY, "include_dashboard": False}
        self.cluster = Cluster(initialize_head=True, head_node_args=head)
        self.address = self.cluster.address
        self.nodes = [self.add(), self.add()]

    def add(self):
        return self.cluster.add_node(num_cpus=1, object_store_memory=MEMORY)

    def kill_node_of(self, pid):
        """SIGKILL to the node that a worker process belongs to, and to that worker."""
        node = self._node_of(pid)
        self._kill(node)
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)

    def kill_other_node(self, pid):
        """SIGKILL to a node that a worker process does not belong to."""
        mine = self._node_of(pid)
        self._kill(next(each for each in self.nodes if each is not mine))

    def _node_of(self, pid):
        with open(f"/proc/{pid}/stat") as file:
            parent = int(file.read().rpartition(")")[2].split()[1])
        return next(
            each
            for each in self.nodes
            if parent in [one.process.pid for one in each.all_processes["raylet"]]
        )

    def _kill(self, node):
        self.cluster.remove_node(node, allow_graceful=False)
        self.nodes.remove(node)


@pytest.fixture(scope="session")
def three_nodes(tmp_path_factory):
    ray = pytest.importorskip("ray", reason="the extra ray is not installed")
    # what the workers of its nodes import: a cluster has the code of its users installed
    os.environ["PYTHONPATH"] = str(ROOT)
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"  # nothing is told to anybody
    os.environ["RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"] = "0"
    made = ThreeNodes()
    yield made
    ray.shutdown()
    made.cluster.shutdown()
    os.environ.pop("RAY_USAGE_STATS_ENABLED")


@pytest.fixture
def ray_address(three_nodes):
    """The cluster, with two nodes to work on."""
    while len(three_nodes.nodes) < 2:
        three_nodes.nodes.append(three_nodes.add())
    return three_nodes.address
