"""Plan + cluster -> the text of an sbatch script.

Promise: every value keeps its meaning and changes nothing else, whatever characters it holds. In shell lines that is
`shlex.quote`; `#SBATCH` lines follow sbatch's own rules, which `quote_for_sbatch` serves. The same plan gives the same
script, byte for byte.
"""

import shlex
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from slurm.config import ClusterConfig, require_single_line
from slurm.plan import TrainPlan

WAIT_FOR_OTHERS_S = 120


def render_training(
    plan: TrainPlan, cluster: ClusterConfig, *, command: list[str], name: str, working_directory: Path
) -> str:
    """The sbatch script of a training job.

    Args:
        plan: sizes and directories.
        cluster: what the job asks for.
        command: the words that each task runs.
        name: the job's name in the queue.
        working_directory: where the job starts, so that relative paths mean what they meant at submission.

    Raises:
        ValueError: a value for a `#SBATCH` line holds a newline or another control character.
    """
    environment = Environment(
        loader=PackageLoader("slurm"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"quote": shlex.quote, "sbatch": quote_for_sbatch}
    return environment.get_template("train.sbatch.j2").render(
        plan=plan,
        cluster=cluster,
        command=command,
        options=sbatch_options(plan, cluster, name, working_directory),
        environment={"OMP_NUM_THREADS": str(cluster.cpus_per_task)} | cluster.environment,
        wait_s=WAIT_FOR_OTHERS_S,
    )


def sbatch_options(
    plan: TrainPlan, cluster: ClusterConfig, name: str, working_directory: Path
) -> list[tuple[str, str | None]]:
    """Long option names and values of the `#SBATCH` lines, None for an option without a value."""
    gpus = f"{cluster.gpu_type}:{cluster.gpus_per_node}" if cluster.gpu_type else str(cluster.gpus_per_node)
    wanted: list[tuple[str, str | None]] = [
        ("job-name", name),
        ("partition", cluster.partition),
        ("account", cluster.account),
        ("qos", cluster.qos),
        ("nodes", str(plan.nodes)),
        ("ntasks-per-node", str(plan.processes_per_node)),
        ("gpus-per-node", gpus if cluster.gpus_per_node else None),
        ("cpus-per-task", str(cluster.cpus_per_task)),
        ("mem", f"{cluster.memory_per_node_gb}G" if cluster.memory_per_node_gb else None),
        ("time", cluster.time_limit),
        ("signal", f"USR1@{cluster.signal_before_limit_s}"),
        ("chdir", str(working_directory)),
        # in the log's name sbatch reads % as the start of a pattern, and %% as the character
        ("output", str(plan.run_dir / "slurm").replace("%", "%%") + "/%j.log"),
        ("open-mode", "append"),
    ]
    own = [(option, value) for option, value in wanted if value is not None]
    further = [(option, None if value is True else str(value)) for option, value in cluster.sbatch_options.items()]
    return [*own, ("requeue", None), *further]


def quote_for_sbatch(value: str) -> str:
    """Quote `value` for a `#SBATCH` line, where sbatch knows quotes, backslashes and comments but no shell.

    Raises:
        ValueError: the value holds a newline or another control character, which no quoting can carry there.
    """
    require_single_line(value)
    if all(character.isalnum() or character in "-_./:,@%+=[]" for character in value):
        return value
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
