"""From what the ranks left behind to the one that held them up."""

import json
from dataclasses import replace

import pytest

from pipeline.watchdog.heartbeat import SIZE_BYTES, Heartbeat, read_heartbeats, write_heartbeat
from pipeline.watchdog.verdict import (
    Laggard,
    Report,
    Verdict,
    find_laggards,
    read_reports,
    summarize,
    verdict_on,
    write_report,
    write_verdict,
)

BEAT = Heartbeat(rank=0, host="node1", process=12, step=7, part="training", moves=20, stuck_s=3.0, beats=9, time=1.5)
WAITING = "all_reduce (distributed/distributed_c10d.py:9) in over_all_ranks (pipeline/run/step_counts.py:64)"


def reports(world_size: int, **of_rank_1: object) -> dict[int, Report]:
    """All wait in the same collective; rank 1 may differ."""
    made = {rank: Report(replace(BEAT, rank=rank, host=f"node{rank}"), WAITING) for rank in range(world_size)}
    where = of_rank_1.pop("where", WAITING)
    made[1] = Report(replace(made[1].heartbeat, **of_rank_1), where)
    return made


def test_a_rank_that_does_not_answer_is_the_one():
    silent = find_laggards(3, {0: reports(3)[0], 2: reports(3)[2]}, {1: replace(BEAT, rank=1, host="node1", step=6)})
    assert silent == (Laggard(1, "node1", "does not answer; its last heartbeat was at step 6, training"),)


def test_a_rank_that_never_had_a_heart_is_named_without_its_node():
    (silent,) = find_laggards(2, {0: reports(2)[0]}, {})
    assert (silent.rank, silent.host) == (1, None)


def test_of_ranks_that_all_answer_the_one_behind_the_others_is_the_one():
    (behind,) = find_laggards(4, reports(4, moves=19, part="data_wait"), {})
    assert behind == Laggard(1, "node1", "is behind the others: step 7, data_wait")


def test_moves_count_within_a_step_only():
    (behind,) = find_laggards(4, reports(4, step=6, moves=90), {})
    assert behind.rank == 1


def test_those_that_wait_for_the_one_that_noticed_first_are_not_accused_of_silence():
    further = {rank: replace(BEAT, rank=rank, moves=23) for rank in (0, 2, 3)}
    (behind,) = find_laggards(4, {1: reports(4)[1]}, further)
    assert behind == Laggard(1, "node1", "is behind the others: step 7, training")


def test_of_ranks_in_the_same_part_the_one_at_another_line_is_the_one():
    (astray,) = find_laggards(4, reports(4, where="sleep"), {})
    assert astray.rank == 1
    assert astray.reason == f"is at sleep, and 3 others at {WAITING}"


def test_without_a_sign_nobody_is_accused():
    assert find_laggards(4, reports(4), {}) == ()
    two_and_two = reports(4, where="elsewhere")
    two_and_two[2] = replace(two_and_two[2], where="elsewhere")
    assert find_laggards(4, two_and_two, {}) == ()
    assert "all 4 ranks stand at the same place" in summarize(4, BEAT, 300.0, (), "hangs/1")


def test_the_sentence_names_limit_step_rank_node_and_where_the_stacks_are(tmp_path):
    laggards = find_laggards(4, reports(4, moves=19), {})
    sentence = summarize(4, BEAT, 300.0, laggards, tmp_path)
    assert sentence.startswith("no progress for 300 s at step 7 (training): rank 1 on node1 is behind the others")
    assert str(tmp_path) in sentence


def test_heartbeats_and_reports_come_back_as_they_were_and_broken_ones_are_passed_over(tmp_path):
    for rank in (0, 3):
        write_heartbeat(tmp_path, replace(BEAT, rank=rank, step=10_000_000))
        write_heartbeat(tmp_path, replace(BEAT, rank=rank))
    assert {path.stat().st_size for path in tmp_path.iterdir()} == {SIZE_BYTES}
    (tmp_path / "00001").write_text('{"rank": 1, "ho')
    assert read_heartbeats(tmp_path) == {rank: replace(BEAT, rank=rank) for rank in (0, 3)}

    write_report(tmp_path, Report(BEAT, WAITING))
    (tmp_path / "rank_00001.json").write_text("{}")
    assert read_reports(tmp_path) == {0: Report(BEAT, WAITING)}


def test_a_heart_whose_start_has_lost_the_run_stops_beating(tmp_path):
    with pytest.raises(FileNotFoundError):
        write_heartbeat(tmp_path / "gone", BEAT)
    assert not (tmp_path / "gone").exists()


def test_the_verdict_on_a_start_of_a_job_is_found_among_others(tmp_path):
    for number, (job, restart) in enumerate([("7", 0), ("7", 1), ("8", 0)], start=1):
        directory = tmp_path / "hangs" / f"{number:06d}"
        directory.mkdir(parents=True)
        write_verdict(directory, Verdict(job, restart, f"verdict {number}", (Laggard(1, "node2", "slept"),)))
    unfinished = tmp_path / "hangs" / "000004"
    unfinished.mkdir()
    (unfinished / "verdict.json").touch()
    found = verdict_on(tmp_path, "7", 1)
    assert found == Verdict("7", 1, "verdict 2", (Laggard(1, "node2", "slept"),))
    assert verdict_on(tmp_path, "7", 2) is None
    assert json.loads((tmp_path / "hangs/000002/verdict.json").read_text())["laggards"][0]["host"] == "node2"
