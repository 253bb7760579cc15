"""Training jobs, each with its fault: what happens to them from outside, until they have ended.

Each has nodes of its own, so that they can go on side by side: most of their time is waiting, for the queue or for a
limit. `TRAINING` train; `PRETENDED` play training, and only what the job does about itself is real.
"""

import os
import signal
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from cluster_of_nodes import Cluster
from training_job import PATIENCE_S, SAVE_EVERY, TrainingJob

Fault = Callable[[Cluster, Path], TrainingJob]


def none(slurm: Cluster, directory: Path) -> TrainingJob:
    """Two nodes with two tasks each, looked at before the first step."""
    job = TrainingJob.submit(slurm, directory, {"partition": "pair", "tasks_per_node": 2, "preflight_timeout_s": 120})
    job.wait_for_state("COMPLETED", "FAILED")
    return job


def stopped(slurm: Cluster, directory: Path) -> TrainingJob:
    """A signal, as preemption sends it; then `scontrol requeue` by somebody."""
    job = TrainingJob.submit(slurm, directory, {"partition": "stopped"})
    job.wait_for_steps(1, 20)
    slurm.run("scancel", "--signal=TERM", job.number)
    job.wait_for_steps(2, 20)
    slurm.run("scontrol", "requeue", job.number)
    job.wait_for_state("COMPLETED", "FAILED")
    return job


def crashed_then_hung(slurm: Cluster, directory: Path) -> TrainingJob:
    """One process is killed; of the next start one is stopped for ever. There is a third node."""
    job = TrainingJob.submit(
        slurm, directory, {"partition": "hung"}, watchdog={"timeout_s": {"step": 12.0, "save": 12.0}}
    )
    job.wait_for_steps(1, 30)
    slurm.signal_trainer(job.number, 1, signal.SIGKILL)
    job.wait_for_steps(2, 20)
    slurm.signal_trainer(job.number, 1, signal.SIGSTOP)
    job.wait_for_state("COMPLETED", "FAILED")
    return job


def lost_nodes(slurm: Cluster, directory: Path) -> TrainingJob:
    """A node loses power in the middle of a step, and at the next start one in the middle of a save."""
    job = TrainingJob.submit(slurm, directory, {"partition": "lost"})
    job.wait_for_steps(1, 30)
    slurm.crash(job.nodes()[1])

    workspace = job.run_dir / "checkpoints" / ".tmp-000002"
    slurm.wait_until(workspace.is_dir, PATIENCE_S)
    save = workspace / f"step_{SAVE_EVERY * 6:08d}"
    save.mkdir()
    os.mkfifo(save / "tp_00_dp_001.safetensors")  # rank 1 waits here for a reader: its part is never written
    slurm.wait_until((save / "tp_00_dp_000.safetensors").exists, PATIENCE_S)
    slurm.crash(job.nodes()[1])
    job.wait_for_state("COMPLETED", "FAILED")
    return job


def cut_off(slurm: Cluster, directory: Path) -> TrainingJob:
    """The network of the only node fails. Its process trains on, and wakes up beside the one that took over."""
    changes = {"checkpoint__takeover_after_s": 6.0}
    job = TrainingJob.submit(slurm, directory, {"partition": "cut", "nodes": 1}, **changes)
    job.wait_for_steps(1, 30)
    (node,) = job.nodes()
    former = slurm.signal_trainer(job.number, 0, signal.SIGSTOP)  # it shall not finish before the other starts
    slurm.cut(node)
    job.wait_for_steps(2, 5)
    os.kill(former, signal.SIGCONT)
    slurm.wait_until(lambda: not Path(f"/proc/{former}").exists(), PATIENCE_S)
    slurm.join(node)
    job.wait_for_state("COMPLETED", "FAILED")
    return job


def out_of_time(slurm: Cluster, directory: Path) -> TrainingJob:
    """A time limit of a minute, and notice 30 s before it, which is as little as Slurm can."""
    limits = {"SBATCH_TIMELIMIT": "1", "SBATCH_SIGNAL": "USR1@30"}  # sbatch prefers them to what the script says
    impatient = replace(slurm, environment=slurm.environment | limits)
    job = TrainingJob.submit(impatient, directory, {"partition": "short", "nodes": 1})
    slurm.wait_until(lambda: job.steps(1) > 5 or "stopped" in job.happened(), PATIENCE_S)
    process = slurm.trainer(job.number, 0)
    if process is not None and "stopped" not in job.happened():  # else the notice came while it was starting
        os.kill(process, signal.SIGSTOP)  # it shall not finish before the notice comes
        slurm.wait_until(lambda: is_pending(process, signal.SIGUSR1), PATIENCE_S)
        os.kill(process, signal.SIGCONT)
    slurm.wait_until(lambda: "requeued" in job.happened(), PATIENCE_S)
    slurm.run("scontrol", "update", f"JobId={job.number}", "TimeLimit=20")  # once is enough
    job.wait_for_state("COMPLETED", "FAILED", "TIMEOUT")
    return job


def is_pending(process: int, number: signal.Signals) -> bool:
    status = dict(line.split(":\t") for line in Path(f"/proc/{process}/status").read_text().splitlines())
    return bool((int(status["SigPnd"], 16) | int(status["ShdPnd"], 16)) >> (number - 1) & 1)


def unfit_nodes(slurm: Cluster, directory: Path) -> TrainingJob:
    """Of five nodes one has no shared memory left, one may not write, one has another version of a library."""
    shadow = f"{slurm.environment['SL_DIR']}/local/shadow"  # each node has its own `local`
    environment = {"PYTHONPATH": os.pathsep.join(filter(None, [shadow, os.environ.get("PYTHONPATH")]))}
    values = {"partition": "unfit", "preflight_timeout_s": 120, "environment": environment}
    job = pretend(slurm, directory, "exit 0", values | {"sbatch_options": {"hold": True}})
    slurm.inside("node17", "mount", "-o", "remount,size=1m", "/dev/shm")
    slurm.inside("node18", "mount", "--bind", str(job.run_dir), str(job.run_dir))
    slurm.inside("node18", "mount", "-o", "remount,bind,ro", str(job.run_dir))
    other = f"{shadow}/deepspeed-0.0.1.dist-info"
    slurm.inside("node20", "mkdir", "-p", other)
    slurm.inside(
        "node20", "sh", "-c", f"printf 'Metadata-Version: 2.1\\nName: deepspeed\\nVersion: 0.0.1\\n' > {other}/METADATA"
    )
    slurm.run("scontrol", "release", job.number)
    job.wait_for_state("COMPLETED", "FAILED")
    return job


def hopeless(slurm: Cluster, directory: Path) -> TrainingJob:
    """Every start crashes."""
    job = pretend(slurm, directory, "exit 7", {"max_failures": 2})
    job.wait_for_state("COMPLETED", "FAILED")
    return job


def cancelled(slurm: Cluster, directory: Path) -> TrainingJob:
    """scancel."""
    job = pretend(slurm, directory, f"touch {directory}/running; sleep 600")
    slurm.wait_until((directory / "running").exists, PATIENCE_S)
    slurm.run("scancel", job.number)
    job.wait_for_state("CANCELLED", "COMPLETED", "FAILED", "PENDING")
    return job


def overdue(slurm: Cluster, directory: Path) -> TrainingJob:
    """The time limit comes before the first start has saved."""
    impatient = replace(slurm, environment=slurm.environment | {"SBATCH_TIMELIMIT": "1"})
    job = pretend(impatient, directory, '[ -n "$SLURM_RESTART_COUNT" ] || { trap "" USR1; exec sleep 600; }')
    job.wait_for_state("COMPLETED", "FAILED", "TIMEOUT")
    return job


def broken(slurm: Cluster, directory: Path) -> TrainingJob:
    """Foreword is gone when the first start has stopped with a checkpoint."""
    gone = '[ "$2$SLURM_RESTART_COUNT" = end ] && exit 127'
    job = pretend(slurm, directory, '[ -n "$SLURM_RESTART_COUNT" ] || exit 75', before=gone)
    job.wait_for_state("COMPLETED", "FAILED")
    return job


def neighbours(slurm: Cluster, directory: Path) -> TrainingJob:
    """Two jobs share a node: each listens at its port until the other does too."""
    listen = f"""exec {sys.executable} -c '
import os, socket, time
with socket.create_server(("", int(os.environ["MASTER_PORT"]))):
    open("../" + os.environ["SLURM_JOB_ID"], "w").close()
    while len(os.listdir("..")) < 4:
        time.sleep(0.1)
'"""
    one, other = (pretend(slurm, directory / name, listen) for name in ("one", "other"))
    other.wait_for_state("COMPLETED", "FAILED")
    one.wait_for_state("COMPLETED", "FAILED")
    return one


def pretend(
    slurm: Cluster, directory: Path, training: str, cluster: dict[str, Any] | None = None, before: str = ""
) -> TrainingJob:
    """Submit a job whose tasks run `training`, some shell; what its script asks of Foreword, the real one answers.

    Unless `before` does: some shell that comes first.
    """
    directory.mkdir(parents=True)
    script = directory / "pretend.sh"
    script.write_text(f'{before}\n[ "$1" = job ] && exec {sys.executable} -m foreword "$@"\n{training}\n')
    settled = {"partition": "shared", "nodes": 1, "command": ["bash", str(script)]}
    if cluster is not None and "partition" in cluster:
        del settled["nodes"]
    return TrainingJob.submit(slurm, directory, settled | (cluster or {}))


def named(*faults: Fault) -> dict[str, Fault]:
    return {fault.__name__: fault for fault in faults}


TRAINING = named(none, stopped, crashed_then_hung, lost_nodes, cut_off, out_of_time)
PRETENDED = named(unfit_nodes, hopeless, cancelled, overdue, broken, neighbours)
