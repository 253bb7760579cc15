"""Rank and world size are read, never guessed."""

import pytest

from foreword.errors import MachineError
from pipeline.distributed.placement import Placement, find_placement

MEETING = {"MASTER_ADDR": "node1", "MASTER_PORT": "1234"}
TORCHRUN = {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", **MEETING}
SLURM = {"SLURM_STEP_ID": "0", "SLURM_PROCID": "3", "SLURM_NTASKS": "4", "SLURM_LOCALID": "1", **MEETING}


@pytest.mark.parametrize("environment", [TORCHRUN, SLURM, TORCHRUN | {"SLURM_STEP_ID": "0", "SLURM_PROCID": "9"}])
def test_torchrun_and_slurm_say_the_same_and_torchrun_comes_first(environment):
    assert find_placement(environment) == Placement(rank=3, world_size=4, local_rank=1, address="node1", port=1234)


@pytest.mark.parametrize("environment", [{}, {"SLURM_JOB_ID": "7", "SLURM_PROCID": "0"}])
def test_alone_without_a_launcher(environment):
    """The shell of a batch script has a SLURM_PROCID too, but is no job step."""
    placement = find_placement(environment)
    assert (placement.rank, placement.world_size, placement.meets_alone) == (0, 1, True)


@pytest.mark.parametrize("complete", [TORCHRUN, SLURM])
def test_a_variable_that_is_missing_is_named(complete):
    for name in set(complete) - {"SLURM_STEP_ID", "SLURM_PROCID"}:
        with pytest.raises(MachineError, match=name):
            find_placement({key: value for key, value in complete.items() if key != name})


def test_a_variable_that_is_not_a_number_is_named():
    with pytest.raises(MachineError, match="WORLD_SIZE is 'four'"):
        find_placement(TORCHRUN | {"WORLD_SIZE": "four"})


@pytest.mark.parametrize("complete", [TORCHRUN, SLURM])
def test_another_number_of_processes_than_planned_is_refused(complete):
    assert find_placement(complete | {"FOREWORD_WORLD_SIZE": "4"}).world_size == 4
    with pytest.raises(MachineError, match=r"4 processes were started .*, and 8 were planned"):
        find_placement(complete | {"FOREWORD_WORLD_SIZE": "8"})


def test_each_start_of_a_job_has_a_name_of_its_own():
    job = SLURM | {"SLURM_JOB_ID": "12"}
    names = {find_placement(environment).job for environment in (job, job | {"SLURM_RESTART_COUNT": "1"})}
    assert len(names) == 2
    assert all("12" in name for name in names)
