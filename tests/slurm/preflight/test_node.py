"""What a node says of itself."""

import threading
import time
from pathlib import Path

import pytest

import slurm.preflight.node as node_checks
from slurm.preflight.node import disk, host_name, judge_gpus, look_at_node, shared_directory, versions, visible_gpus

GB = 10**9


def test_a_node_that_is_well(tmp_path: Path) -> None:
    (tmp_path / "slurm").mkdir()
    answers = list(
        look_at_node("n1", gpus=0, needs_bytes=1, probe=tmp_path / "slurm/probe", is_first=True, environment={})
    )
    assert [answer.check for answer in answers] == ["versions", "GPUs", "shared file system", "disk", "host name"]
    assert all(answer.ok for answer in answers), answers
    assert "torch 2" in versions()[1]


def test_whatever_is_wrong_with_a_node_it_says_so_and_goes_on(tmp_path: Path) -> None:
    (tmp_path / "slurm").write_text("in the way")
    answers = list(
        look_at_node("n1", gpus=0, needs_bytes=1, probe=tmp_path / "slurm/probe", is_first=True, environment={})
    )
    failed = {answer.check: answer.found for answer in answers if not answer.ok}
    assert list(failed) == ["shared file system"]
    assert failed["shared file system"].startswith("NotADirectoryError")


def test_missing_gpus_are_counted() -> None:
    problem, found = visible_gpus(8)
    assert problem
    assert found.endswith("of 8 are there")


def test_gpus_that_somebody_else_uses_are_named() -> None:
    assert judge_gpus("H100", [(79 * GB, 80 * GB), (78 * GB, 80 * GB)]) == (False, "2 x H100, idle")
    assert judge_gpus("H100", [(79 * GB, 80 * GB), (40 * GB, 80 * GB)]) == (
        True,
        "in use by somebody else: GPU 1: 40.0 GB",
    )


def test_the_second_node_waits_until_it_sees_what_the_first_has_written(tmp_path: Path) -> None:
    probe = tmp_path / "probe"
    first = threading.Timer(0.3, shared_directory, ["n1", probe, True])
    began = time.monotonic()
    first.start()
    problem, _ = shared_directory("n2", probe, False)
    assert not problem
    assert time.monotonic() - began >= 0.3
    first.join()
    assert sorted(path.name for path in probe.iterdir()) == ["first", "node-n1", "node-n2"]


def test_a_directory_that_is_not_shared_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node_checks, "VISIBLE_AFTER_S", 0.2)
    problem, found = shared_directory("n2", tmp_path / "probe", False)
    assert problem
    assert "what the first node wrote cannot be seen" in found
    (tmp_path / "probe" / "first").write_text("of another job")
    assert shared_directory("n2", tmp_path / "probe", False)[0]


def test_too_little_room_is_told_with_the_place(tmp_path: Path) -> None:
    problem, found = disk(tmp_path, 10**18)
    assert problem
    assert f"free in {tmp_path}, 1.0 EB needed" in found


def test_a_host_name_that_leads_to_itself_alone_is_told_where_other_nodes_must_find_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("socket.gethostbyname", lambda name: "127.0.1.1")
    two = {"SLURM_JOB_NUM_NODES": "2"}
    problem, found = host_name(two)
    assert problem
    assert "set GLOO_SOCKET_IFNAME" in found
    assert not host_name({"SLURM_JOB_NUM_NODES": "1"})[0]
    assert not host_name(two | {"GLOO_SOCKET_IFNAME": "lo"})[0]
    assert host_name(two | {"GLOO_SOCKET_IFNAME": "ib7"})[0]
