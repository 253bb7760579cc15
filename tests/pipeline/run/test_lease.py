"""A run directory has one writer: who holds it, who is refused, and when another one takes over."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from processes import run_distributed

from foreword.errors import ConfigError, MachineError
from pipeline.run import lease as lease_room
from pipeline.run.lease import BEATS, CLAIM, LEASE, Claim, Lease, acquire

SILENCE_S = 0.6  # where nobody's heart beats
ALIVE_S = 6.0  # where one does: a busy disk may hold up a beat or two, and the next one ends the wait
RACE_SILENCE_S = 12.0  # the winner may need seconds to write its claim on a busy disk
LONG_S = 300.0  # nobody waits for it here
NO_JOB: dict[str, str] = {}


@pytest.fixture
def run(tmp_path) -> Path:
    return tmp_path / "run"


def write_claim(run: Path, number: int, **changes) -> Path:
    """The claim of a process that is not this one; by default of another machine."""
    changes = {"host": "elsewhere", "machine": "another boot", **changes}
    claim = Claim.of_this_process(NO_JOB, SILENCE_S / BEATS).model_copy(update=changes)
    path = run / LEASE / f"{number:06d}"
    path.mkdir(parents=True)
    (path / CLAIM).write_text(claim.model_dump_json())
    return path


def numbers(run: Path) -> list[str]:
    return sorted(path.name for path in (run / LEASE).iterdir())


def seconds_of(work) -> float:
    started = time.monotonic()
    work()
    return time.monotonic() - started


def beat(claim: Path, ended: threading.Event) -> None:
    while not ended.wait(SILENCE_S / 20):
        os.utime(claim / CLAIM)


# Numbers


def test_numbers_grow_with_every_start_and_only_the_newest_claim_stays(run):
    for number in (1, 2, 3):
        with acquire(run, LONG_S, NO_JOB) as lease:
            assert lease.number == number
            assert numbers(run) == [f"{number:06d}"]
        assert json.loads((run / LEASE / f"{number:06d}" / CLAIM).read_text())["released"]


def test_a_number_is_not_used_again_when_it_has_more_digits_than_usual(run):
    write_claim(run, 1_000_000, released=True)
    with acquire(run, LONG_S, NO_JOB) as lease:
        assert lease.number == 1_000_001


def test_leftovers_of_a_start_that_was_killed_are_removed(run):
    write_claim(run, 3, released=True)
    write_claim(run, 4, released=True)
    (run / LEASE / ".tmp-0123").mkdir()
    with acquire(run, LONG_S, NO_JOB):
        assert numbers(run) == ["000005"]


# Who is refused


def test_a_second_start_is_refused_with_the_name_of_the_first(run):
    with acquire(run, ALIVE_S, {"SLURM_JOB_ID": "17"}) as lease, pytest.raises(ConfigError) as caught:
        acquire(run, ALIVE_S, NO_JOB)
    message = str(caught.value)
    assert message.startswith(f"{run}: another process is training in this directory: ")
    assert str(lease._claim) in message
    assert f"process {os.getpid()} of Slurm job 17 on {lease._claim.host}, started by " in message
    assert message.endswith("-> wait for it, or end it")
    assert lease.number == 1


def test_a_claim_of_another_host_that_beats_is_refused(run):
    ended = threading.Event()
    heart = threading.Thread(target=beat, args=(write_claim(run, 1), ended))
    heart.start()
    with pytest.raises(ConfigError, match="on elsewhere, started by"):
        acquire(run, ALIVE_S, NO_JOB)
    ended.set()
    heart.join()


@pytest.mark.parametrize("clock", [0, 2**62])
def test_a_beat_is_a_beat_wherever_the_clocks_stand(run, clock, monkeypatch):
    """Its own clock has jumped, or was never right; only that the time changes counts."""
    monkeypatch.setattr(lease_room.time, "time_ns", iter(range(clock, clock + 10**9)).__next__)
    with acquire(run, ALIVE_S, NO_JOB), pytest.raises(ConfigError, match="another process is training"):
        acquire(run, ALIVE_S, NO_JOB)


def test_whoever_is_in_a_hurry_waits_for_a_heart_that_beats_slowly_all_the_same(run):
    with acquire(run, ALIVE_S, NO_JOB), pytest.raises(ConfigError, match="another process is training"):
        acquire(run, 0.01, NO_JOB)


def test_the_same_job_is_refused_while_it_has_not_been_restarted(run):
    ended = threading.Event()
    heart = threading.Thread(target=beat, args=(write_claim(run, 1, job="17"), ended))
    heart.start()
    with pytest.raises(ConfigError, match="another process is training"):
        acquire(run, ALIVE_S, {"SLURM_JOB_ID": "17", "SLURM_RESTART_COUNT": "0"})
    ended.set()
    heart.join()


def acquire_or_not(run: Path) -> int | None:
    try:
        return acquire(run, RACE_SILENCE_S, NO_JOB).number
    except ConfigError:
        return None


def race(root: Path, runs: int) -> list[int | None]:
    import torch.distributed as dist

    dist.init_process_group("gloo")
    with ThreadPoolExecutor(runs) as pool:
        dist.barrier()
        outcomes = list(pool.map(acquire_or_not, [root / str(number) for number in range(runs)]))
    dist.barrier()  # nobody's end sets a run free
    dist.destroy_process_group()
    return outcomes


def test_of_those_who_start_at_the_same_moment_one_holds_the_run(tmp_path):
    for outcomes in zip(*run_distributed(4, race, tmp_path, 8), strict=True):
        assert sorted(outcomes, key=str) == [1, None, None, None]


# Who takes over

HOLD = """
import sys, time
from pathlib import Path
from pipeline.run.lease import acquire

acquire(Path(sys.argv[1]), float(sys.argv[2]), {})
print("held", flush=True)
time.sleep(60)
"""


def test_a_process_of_this_machine_that_was_killed_is_not_waited_for(run):
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(run), str(LONG_S)], stdout=subprocess.PIPE)
    assert holder.stdout is not None
    assert holder.stdout.readline() == b"held\n"
    holder.send_signal(signal.SIGKILL)
    while Path(f"/proc/{holder.pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z":  # dead, and not waited for
        time.sleep(0.01)
    with acquire(run, LONG_S, NO_JOB) as lease:
        assert lease.number == 2
    holder.communicate()


def test_a_process_number_that_another_process_has_now_is_not_waited_for(run):
    own = Claim.of_this_process(NO_JOB, 1.0)
    assert own.process_started is not None
    write_claim(run, 1, machine=own.machine, process_started=own.process_started - 1)
    assert seconds_of(lambda: acquire(run, LONG_S, NO_JOB)) < 10


def test_a_restarted_job_does_not_wait_for_what_it_was_before(run):
    write_claim(run, 1, job="17", restarts=1)
    later = {"SLURM_JOB_ID": "17", "SLURM_RESTART_COUNT": "2"}
    assert seconds_of(lambda: acquire(run, LONG_S, later)) < 10


@pytest.mark.parametrize("clock", [0, 2**62])
def test_silence_of_another_host_is_waited_out_and_said(run, capsys, clock):
    claim = write_claim(run, 1)
    os.utime(claim / CLAIM, ns=(clock, clock))
    assert seconds_of(lambda: acquire(run, SILENCE_S, NO_JOB)) >= SILENCE_S
    assert "this run was held by process" in capsys.readouterr().err
    assert numbers(run) == ["000002"]


@pytest.mark.parametrize("content", [None, "", "{", '{"user": "u"}'])
def test_a_claim_that_was_never_finished_is_waited_out(run, content):
    path = run / LEASE / "000001"
    path.mkdir(parents=True)
    if content is not None:
        (path / CLAIM).write_text(content)
    assert seconds_of(lambda: acquire(run, SILENCE_S, NO_JOB)) >= SILENCE_S


def test_a_claim_that_cannot_be_read_is_no_reason_to_crash(run):
    (run / LEASE / "000001" / CLAIM).mkdir(parents=True)
    with pytest.raises(ConfigError, match=r"cannot be .*: Is a directory"):
        acquire(run, SILENCE_S, NO_JOB)


# Who has lost it


def test_whoever_was_taken_over_is_told_by_whom(run):
    first = Lease(run, 1, Claim.of_this_process(NO_JOB, LONG_S))
    write_claim(run, 1)
    first.verify()
    successor = write_claim(run, 2, process=4711)
    first.check()  # has not looked yet
    with pytest.raises(MachineError) as caught:
        first.verify()
    assert str(caught.value).startswith(f"{run}: another process has taken this run over: process 4711 on elsewhere")
    with pytest.raises(MachineError, match="process 4711 on elsewhere"):
        first.check()
    first.__exit__()
    assert not json.loads((successor / CLAIM).read_text())["released"]
    assert not json.loads((run / LEASE / "000001" / CLAIM).read_text())["released"]


def test_the_heart_notices_by_itself_that_the_run_is_lost(run):
    with acquire(run, SILENCE_S, NO_JOB) as lease:
        write_claim(run, 2)
        deadline = time.monotonic() + 30
        with pytest.raises(MachineError, match="taken this run over"):
            while time.monotonic() < deadline:
                lease.check()
                time.sleep(0.01)


def test_a_claim_that_somebody_has_removed_is_lost(run):
    with acquire(run, LONG_S, NO_JOB) as lease:
        shutil.rmtree(lease.path)
        with pytest.raises(MachineError, match=r"the claim .*000001 is gone"):
            lease.verify()


def test_a_run_directory_that_has_disappeared_is_named(run):
    with acquire(run, LONG_S, NO_JOB) as lease:
        shutil.rmtree(run)
        with pytest.raises(MachineError, match=r"\.lease: cannot be read: No such file or directory"):
            lease.verify()
    assert not run.exists()


def test_a_file_of_the_run_is_written_whole_and_only_by_who_holds_it(run):
    with acquire(run, LONG_S, NO_JOB) as lease:
        with lease.write("file") as file:
            file.write(b"first")
        with pytest.raises(ZeroDivisionError), lease.write("file") as file:
            file.write(b"sec")
            raise ZeroDivisionError
        assert (run / "file").read_bytes() == b"first"
        with pytest.raises(FileNotFoundError), lease.write("file") as file:
            file.write(b"late")
            lease.path.rename(run / LEASE / ".tmp-gone")  # as the next start does
        assert (run / "file").read_bytes() == b"first"


@pytest.mark.parametrize("obstacle", ["run", "run/.lease"])
def test_a_directory_that_cannot_be_written_is_named(tmp_path, run, obstacle):
    (tmp_path / obstacle).parent.mkdir(exist_ok=True)
    (tmp_path / obstacle).write_text("a file")
    with pytest.raises(ConfigError, match=f"{run}: cannot be written: "):
        acquire(run, LONG_S, NO_JOB)
