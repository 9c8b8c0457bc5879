"""A Ray cluster of three nodes on this machine, started once for all tests that need it."""

import os

import pytest

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

    def kill(self, node_id):
        """SIGKILL to every process of a node; another one takes its place in the list."""
        [node] = [each for each in self.nodes if each.node_id == node_id]
        self.cluster.remove_node(node, allow_graceful=False)
        self.nodes.remove(node)


@pytest.fixture(scope="session")
def three_nodes(tmp_path_factory):
    ray = pytest.importorskip("ray", reason="the extra ray is not installed")
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
