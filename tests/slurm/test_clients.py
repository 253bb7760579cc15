"""Slurm's answers as values, and its refusals in its own words."""

from pathlib import Path

import pytest
from fake_slurm import FakeSlurm
from hypothesis import HealthCheck, example, given, settings
from played_jobs import LINE, TRICKY_LINE

from foreword.errors import MachineError
from slurm import clients


def test_a_job_is_read_as_squeue_shows_it(fake_slurm: FakeSlurm) -> None:
    fake_slurm.show(
        ("12_3", "RUNNING"), running="1-02:03:04", left="UNLIMITED", nodes="node[1-2]", comment="foreword:/scratch/run"
    )
    (job,) = clients.jobs_by_id(["12_0", "12_3"])
    assert fake_slurm.asked("squeue")[0][2:5] == ["--states=all", "--jobs", "12"]
    assert (job.job_id, job.state, job.reason, job.nodes) == ("12_3", "RUNNING", None, "node[1-2]")
    assert (job.running_s, job.left_s, job.starts) == (((24 + 2) * 60 + 3) * 60 + 4, None, None)
    assert job.directory == Path("/scratch/run")


def test_a_job_that_waits_has_a_reason_and_perhaps_a_start(fake_slurm: FakeSlurm) -> None:
    fake_slurm.show(("12", "PENDING"), reason="Priority", running="0:00", start="2026-11-29T10:00:00")
    (job,) = clients.jobs_by_id(["12"])
    assert (job.reason, job.running_s, job.starts, job.directory) == ("Priority", None, "2026-11-29T10:00:00", None)
    assert job.is_live


@given(name=LINE, directory=LINE)
@example(name=TRICKY_LINE, directory=TRICKY_LINE)
@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_names_may_hold_what_a_line_can(fake_slurm: FakeSlurm, name: str, directory: str) -> None:
    fake_slurm.show(("12", "RUNNING"), name=name, comment=f"foreword:/{directory}")
    (job,) = clients.own_jobs()
    assert job.name == name
    assert str(job.directory) == str(Path(f"/{directory}"))


def test_only_jobs_that_name_a_directory_are_ours(fake_slurm: FakeSlurm) -> None:
    fake_slurm.show(("12", "RUNNING"), comment="something else")
    assert clients.own_jobs() == []


def test_jobs_that_slurm_has_forgotten_are_none(fake_slurm: FakeSlurm) -> None:
    fake_slurm.refuse("squeue", "slurm_load_jobs error: Invalid job id specified")
    assert clients.jobs_by_id(["12"]) == []
    assert clients.jobs_by_id([]) == []


def test_steps_are_processes_and_not_the_script(fake_slurm: FakeSlurm) -> None:
    fake_slurm.show(steps="12.batch\n12.extern\n")
    assert not clients.has_steps("12")
    fake_slurm.show(steps="12.batch\n12.0\n")
    assert clients.has_steps("12")


def test_accounting_is_used_where_there_is_some(fake_slurm: FakeSlurm) -> None:
    fake_slurm.remember(("12", "CANCELLED by 0", "0:15"), ("13_2", "FAILED", "3:0"))
    assert clients.accounted_jobs(["12", "13_2"]) == [
        clients.EndedJob("12", "CANCELLED", 0),
        clients.EndedJob("13_2", "FAILED", 3),
    ]
    fake_slurm.refuse("sacct", "Slurm accounting storage is disabled")
    assert clients.accounted_jobs(["12"]) == []


def test_with_several_clusters_the_number_alone_is_the_job(fake_slurm: FakeSlurm, tmp_path: Path) -> None:
    (fake_slurm.directory / "bin" / "sbatch").write_text("#!/bin/bash\necho '42;cluster'\n")
    assert clients.submit_script(tmp_path / "x.sbatch") == "42"


def test_slurms_own_words_are_passed_on(fake_slurm: FakeSlurm) -> None:
    fake_slurm.refuse("scancel", "scancel: error: Access/permission denied")
    with pytest.raises(MachineError, match="scancel refused: scancel: error: Access/permission denied"):
        clients.ask("scancel", "12")


def test_a_client_that_is_not_here_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MachineError, match="there is no squeue on this machine"):
        clients.own_jobs()
    assert clients.accounted_jobs(["12"]) == []


def test_a_client_that_does_not_answer_is_not_waited_for(
    fake_slurm: FakeSlurm, monkeypatch: pytest.MonkeyPatch
) -> None:
    (fake_slurm.directory / "bin" / "squeue").write_text("#!/bin/bash\nexec sleep 30\n")
    monkeypatch.setattr(clients, "ANSWER_TIMEOUT_S", 0.1)
    with pytest.raises(MachineError, match="squeue did not answer"):
        clients.own_jobs()
