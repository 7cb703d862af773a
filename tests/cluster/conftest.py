import os
from pathlib import Path

import pytest

ROOT = str(Path(__file__).parents[2])


@pytest.fixture(scope="module")  # and no longer: other tests have a Ray of their own
def cluster():
    """Start a Ray cluster of two machines on this one, whose second can be taken away; return it with its driver on."""
    ray = pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch:
        # What the workers inherit: where the packages are, and no spinning beside each other.
        patch.setenv("PYTHONPATH", os.pathsep.join([ROOT, os.environ.get("PYTHONPATH", "")]))
        patch.setenv("OMP_WAIT_POLICY", "passive")
        own = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
        patch.setenv("RAY_ADDRESS", own.address)
        yield own
        ray.shutdown()
        own.shutdown()


@pytest.fixture
def second(cluster):
    """Add a machine to the cluster, and return what takes it away again, as when its power fails."""
    node = cluster.add_node(num_cpus=1)
    there = [node]

    def gone():
        cluster.remove_node(there.pop(), allow_graceful=False)

    yield gone
    if there:
        gone()
