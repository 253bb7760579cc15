"""From what the nodes say to which of them are fit."""

import json

import pytest

from slurm.preflight.answer import Answer, read
from slurm.preflight.report import (
    Arrived,
    Report,
    hear,
    judge,
    remove_probe,
    result_path,
    unfit_nodes,
    was_stopped,
    write_report,
)

CHECKS = {"versions": "torch 2.13, deepspeed 0.19", "GPUs": "8 x H100", "shared file system": "seen", "disk": "free"}


def answers(*nodes: str, **failing: str) -> list[Answer]:
    """All is well, but for `failing`: "node1__GPUs" -> what is found there."""
    said = [Answer(nodes[0], "all-reduce", True, "right", 100.0)]
    for node in nodes:
        for check, found in CHECKS.items():
            wrong = failing.get(f"{node}__{check.replace(' ', '_')}")
            said.append(Answer(node, check, wrong is None, wrong or found, 100.0))
        said.append(Answer(node, "done", True, "", 100.0))
    return said


def judged(nodes: list[str], said: list[Answer], seen: list[str] | None = None, heard: float = 100.1) -> Report:
    return judge(nodes, [Arrived(answer, heard) for answer in said], nodes if seen is None else seen, 4.2)


def with_versions(said: list[Answer], **versions: str) -> list[Answer]:
    return [
        Answer(one.node, one.check, True, versions[one.node], one.time)
        if one.check == "versions" and one.node in versions
        else one
        for one in said
    ]


def test_nodes_that_are_well_are_counted():
    report = judged(["n1", "n2"], answers("n1", "n2"))
    assert report.ok
    assert report.unfit == {}
    assert "preflight, 4.2 s: all nodes are fit" in report.table()
    assert "  ok      GPUs                8 x H100 (2 nodes)" in report.table()


def test_a_node_that_is_not_is_named_with_the_reason():
    report = judged(["n1", "n2", "n3"], answers("n1", "n2", "n3", n2__GPUs="7 of 8 are there", n2__disk="full"))
    assert not report.ok
    assert report.unfit == {"n2": "GPUs: 7 of 8 are there; disk: full"}
    assert report.summary() == "n2: GPUs: 7 of 8 are there; disk: full"
    assert "  FAILED  GPUs                n2: 7 of 8 are there" in report.table()
    assert "  ok      GPUs                8 x H100 (2 nodes)" in report.table()


def test_what_is_wrong_on_every_node_is_no_nodes_fault():
    report = judged(["n1", "n2"], answers("n1", "n2", n1__disk="full", n2__disk="full"))
    assert (report.ok, report.unfit) == (False, {})
    assert report.summary() == "disk: full"
    assert judged(["n1"], answers("n1", n1__disk="full")).unfit == {"n1": "disk: full"}


def test_a_node_that_says_nothing_is_unfit_and_one_that_stops_in_the_middle_too():
    said = [answer for answer in answers("n1", "n2", "n3") if (answer.node, answer.check) != ("n2", "done")]
    report = judged(["n1", "n2", "n3"], [answer for answer in said if answer.node != "n3"])
    assert report.unfit == {"n2": "answers: no answer after disk", "n3": "answers: no answer"}


def test_other_versions_than_on_most_nodes_are_wrong():
    odd = {"n2": "torch 2.12, deepspeed 0.19"}
    report = judged(["n1", "n2", "n3"], with_versions(answers("n1", "n2", "n3"), **odd))
    assert report.unfit == {"n2": "versions: torch 2.12, elsewhere torch 2.13"}


def test_without_a_majority_any_version_may_be_the_wrong_one():
    odd = {"n2": "torch 2.12, deepspeed 0.19"}
    report = judged(["n1", "n2"], with_versions(answers("n1", "n2"), **odd))
    assert report.unfit == {
        "n1": "versions: torch 2.13, elsewhere torch 2.12",
        "n2": "versions: torch 2.12, elsewhere torch 2.13",
    }


def test_a_node_whose_file_the_first_one_does_not_see_is_unfit():
    report = judged(["n1", "n2"], answers("n1", "n2"), seen=["n1"])
    assert report.unfit == {"n2": "shared file system: what it wrote cannot be seen on n1"}


def test_a_clock_that_is_far_from_the_first_nodes_is_named_with_the_distance():
    said = answers("n1", "n2", "n3")
    ahead = [Answer(a.node, a.check, a.ok, a.found, a.time + 60 * (a.node == "n2")) for a in said]
    report = judged(["n1", "n2", "n3"], ahead)
    assert report.unfit == {"n2": "clock: +60.0 s from n1's"}
    late = [Arrived(answer, 103.0 if answer.node == "n3" else 100.1) for answer in said]  # a slow way is no skew
    assert judge(["n1", "n2", "n3"], late, ["n1", "n2", "n3"], 1.0).ok


def test_an_all_reduce_that_fails_or_does_not_end_is_no_nodes_fault():
    said = answers("n1", "n2")
    report = judged(["n1", "n2"], [*said[1:], Answer("n2", "all-reduce", False, "rank 3 of 4 did not come", 100.0)])
    assert (report.ok, report.unfit) == (False, {})
    assert report.summary() == "all-reduce: rank 3 of 4 did not come"
    assert judged(["n1", "n2"], said[1:]).summary() == "all-reduce: no answer"


def test_lines_come_back_as_they_were_and_others_are_passed_on():
    answer = Answer("n1", "disk", False, 'it\'s full: /a "b" ü {}', 12.5)
    others: list[str] = []
    heard = list(hear(["banner of a container\n", answer.line() + "\n", '{"preflight": {"broken'], others.append))
    assert [one.answer for one in heard] == [answer]
    assert others == ["banner of a container", '{"preflight": {"broken']


@pytest.mark.parametrize(
    ("line", "stopped"),
    [("srun ended with 143\n", True), ("srun ended with 138\n", True), ("srun ended with 1\n", False), ("x", False)],
)
def test_tasks_that_were_told_to_stop_are_told_from_nodes_that_are_not_fit(line, stopped):
    assert was_stopped(["banner", line]) is stopped


@pytest.mark.parametrize("found", ["x" * 5000, "ü→𝄞" * 2000, "two\nlines"])
def test_a_line_is_one_line_that_srun_does_not_cut(found):
    line = Answer("n1", "disk", True, found).line()
    assert len(line.encode()) < 1000
    assert "\n" not in line
    assert read(line) is not None


def test_the_result_is_kept_for_a_program_and_the_files_of_the_nodes_are_not(tmp_path):
    (tmp_path / "slurm").mkdir()
    path = result_path(tmp_path, "7", 1)
    write_report(path, judged(["n1", "n2"], answers("n1", "n2", n2__GPUs="7 of 8")))
    assert unfit_nodes(path) == ("n2: GPUs: 7 of 8", {"n2": "GPUs: 7 of 8"})
    assert json.loads(path.read_text())["ok"] is False
    assert unfit_nodes(tmp_path / "none") == (None, {})

    probe = tmp_path / "probe"
    probe.mkdir()
    for name in ("first", "node-n1", "node-n2"):
        (probe / name).touch()
    assert sorted(remove_probe(probe)) == ["n1", "n2"]
    assert not probe.exists()
    assert remove_probe(probe) == []
