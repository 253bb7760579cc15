"""Names of nodes, as Slurm abbreviates them."""

import pytest

from slurm.job.hostlist import expand, join


@pytest.mark.parametrize(
    ("abbreviated", "names"),
    [
        ("node1", ["node1"]),
        ("node[1-3]", ["node1", "node2", "node3"]),
        ("node[08-10,12],login", ["node08", "node09", "node10", "node12", "login"]),
        ("r[1-2]n[1,3]", ["r1n1", "r1n3", "r2n1", "r2n3"]),
        ("", []),
        ("(null)", []),
    ],
)
def test_names_of_nodes_are_expanded_as_slurm_does(abbreviated, names):
    assert expand(abbreviated) == names


def test_names_are_joined_as_slurm_takes_them():
    assert join(["node2", "node10", "node2"]) == "node10,node2"
