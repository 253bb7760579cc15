"""Nodes that a run avoids, and never so many that it could not run."""

from datetime import UTC, datetime
from pathlib import Path

import pytest

from slurm.job.cluster_state import Node
from slurm.job.suspects import Suspect, exclusions, read_suspects, with_news, write_suspects

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    (tmp_path / "slurm").mkdir()
    return tmp_path


def nodes(*names: str, **states: str) -> dict[str, Node]:
    return {name: Node(name, states.get(name, "idle"), frozenset()) for name in names}


def suspects(*names: str) -> list[Suspect]:
    return [Suspect(name, f"2026-01-0{day}", "slow") for day, name in enumerate(names, start=1)]


def test_the_file_can_be_read_edited_and_cleared_by_a_person(run_dir):
    assert read_suspects(run_dir) == []
    write_suspects(run_dir, with_news([], {"n1": "preflight: 7 of 8\nGPUs", "n2": "hung: rank 3"}, NOW))
    path = run_dir / "slurm/suspect_nodes"
    head, first, second = path.read_text().splitlines()
    assert head.startswith("# ")
    assert first.startswith("n1 2026-03-01T")
    assert first.endswith(" preflight: 7 of 8 GPUs")
    path.write_text("\n".join([head, second, "", "n9", "n8 yesterday"]))
    assert [(s.node, s.reason) for s in read_suspects(run_dir)] == [("n2", "hung: rank 3"), ("n9", ""), ("n8", "")]
    path.write_text("")
    assert read_suspects(run_dir) == []


def test_a_node_that_is_suspect_again_is_the_newest():
    again = with_news(suspects("n1", "n2"), {"n1": "hung"}, NOW)
    assert [(suspect.node, suspect.reason) for suspect in again] == [("n2", "slow"), ("n1", "hung")]


def test_suspects_are_excluded_while_enough_nodes_remain():
    assert exclusions(suspects("n1", "n2"), nodes("n1", "n2", "n3", "n4"), 2, "") == (["n1", "n2"], [])


def test_the_oldest_suspicions_are_dropped_when_too_few_remain():
    excluded, dropped = exclusions(suspects("n1", "n2", "n3"), nodes("n1", "n2", "n3", "n4"), 2, "")
    assert excluded == ["n2", "n3"]
    assert [suspect.node for suspect in dropped] == ["n1"]
    excluded, dropped = exclusions(suspects("n1", "n2"), nodes("n1", "n2"), 2, "")
    assert (excluded, len(dropped)) == ([], 2)


def test_nodes_that_are_down_do_not_count_as_remaining_and_dropping_them_would_not_help():
    there = nodes("n1", "n2", "n3", n1="down*", n3="drained")
    excluded, dropped = exclusions(suspects("n1", "n2"), there, 1, "")
    assert excluded == ["n1"]
    assert [suspect.node for suspect in dropped] == ["n2"]


def test_a_node_that_slurm_does_not_know_is_not_named_to_it():
    assert exclusions(suspects("gone"), nodes("n1"), 1, "") == ([], [])


def test_nodes_without_what_the_job_asks_for_do_not_count_as_remaining():
    there = nodes("n1", "n2") | {"n3": Node("n3", "idle", frozenset({"h100"}))}
    assert exclusions(suspects("n3"), there, 1, "h100")[0] == []
