"""Plan + cluster -> the text of an sbatch script.

Promise: every value keeps its meaning and changes nothing else, whatever characters it holds. In shell lines that is
`shlex.quote`; `#SBATCH` lines follow sbatch's own rules, which `quote_for_sbatch` serves. The same plan gives the same
script, byte for byte.
"""

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from foreword.errors import ConfigError
from slurm.clients import COMMENT_PREFIX
from slurm.config import ClusterConfig, require_single_line
from slurm.container import Launch
from slurm.events import JOBS_DIRECTORY
from slurm.job.cluster_state import SINFO_FORMAT
from slurm.plan import TrainPlan
from slurm.prep_plan import PrepStage


def render_training(
    plan: TrainPlan,
    cluster: ClusterConfig,
    launch: Launch,
    *,
    arguments: Sequence[str],
    name: str,
    working_directory: Path,
) -> str:
    """The sbatch script of a training job.

    Args:
        plan: sizes and directories.
        cluster: what the job asks for.
        launch: how each task is started.
        arguments: what follows the words that start Foreword.
        name: the job's name in the queue.
        working_directory: where the job starts, so that relative paths mean what they meant at submission.

    Raises:
        ConfigError: a value for a `#SBATCH` line holds a newline or another control character.
    """
    options = sbatch_options(cluster, plan.run_dir, name, working_directory, signal="USR1", log="%j.log")
    return _render(
        "train.sbatch.j2",
        plan=plan,
        cluster=cluster,
        launch=launch,
        command=[*launch.command, *arguments],
        options=options,
        sinfo_format=SINFO_FORMAT,
    )


def render_preparation(
    stage: PrepStage,
    cluster: ClusterConfig,
    launch: Launch,
    *,
    directory: Path,
    arguments: Sequence[str],
    name: str,
    working_directory: Path,
) -> str:
    """The sbatch script of one kind of preparation job.

    Args:
        stage: what the job does; the tasks are a job array.
        cluster: `ClusterConfig.for_preparation()` of the cluster, with its `prep`.
        launch: how the process is started.
        directory: the corpus.
        arguments: what follows the words that start Foreword; a task's number is added to them on the node.
        name: the job's name in the queue.
        working_directory: where the job starts, so that relative paths mean what they meant at submission.

    Raises: as `render_training` does.
    """
    log = "%A_%a.log" if stage.tasks else "%j.log"
    options = sbatch_options(cluster, directory, name, working_directory, signal="TERM", log=log)
    if stage.tasks:
        options.append(("array", array_of(stage.tasks, cluster.prep.max_at_once)))
    return _render(
        "prep.sbatch.j2",
        stage=stage,
        cluster=cluster,
        launch=launch,
        command=[*launch.command, *arguments],
        options=options,
        records=directory / JOBS_DIRECTORY,
    )


def sbatch_options(
    cluster: ClusterConfig, directory: Path, name: str, working_directory: Path, *, signal: str, log: str
) -> list[tuple[str, str | None]]:
    """Long option names and values of the `#SBATCH` lines, None for an option without a value.

    Args:
        cluster: what the job asks for.
        directory: the run or the corpus that the job works on; its comment says so, and its log goes there.
        name: the job's name.
        working_directory: where it starts.
        signal: what its processes get before the time limit.
        log: the log's name, with sbatch's patterns.
    """
    gpus = f"{cluster.gpu_type}:{cluster.gpus_per_node}" if cluster.gpu_type else str(cluster.gpus_per_node)
    wanted: list[tuple[str, str | None]] = [
        ("job-name", name),
        ("comment", f"{COMMENT_PREFIX}{directory}"),
        ("partition", cluster.partition),
        ("account", cluster.account),
        ("qos", cluster.qos),
        ("nodes", str(cluster.nodes)),
        ("ntasks-per-node", str(cluster.processes_per_node)),
        ("gpus-per-node", gpus if cluster.gpus_per_node else None),
        ("cpus-per-task", str(cluster.cpus_per_task)),
        ("mem", f"{cluster.memory_per_node_gb}G" if cluster.memory_per_node_gb else None),
        ("time", cluster.time_limit),
        ("signal", f"{signal}@{cluster.signal_before_limit_s}"),
        ("chdir", str(working_directory)),
        # in the log's name sbatch reads % as the start of a pattern, and %% as the character
        ("output", str(directory / JOBS_DIRECTORY).replace("%", "%%") + f"/{log}"),
        ("open-mode", "append"),
    ]
    own = [(option, value) for option, value in wanted if value is not None]
    further = [(option, None if value is True else str(value)) for option, value in cluster.sbatch_options.items()]
    return [*own, ("requeue", None), *further]


def array_of(tasks: Sequence[int], max_at_once: int | None) -> str:
    """The numbers as sbatch's --array takes them: "0-3,7", with "%2" behind when only two may run at once."""
    ranges: list[list[int]] = []
    for task in sorted(tasks):
        if ranges and ranges[-1][-1] == task - 1:
            ranges[-1][1:] = [task]
        else:
            ranges.append([task])
    limit = f"%{max_at_once}" if max_at_once else ""
    return ",".join("-".join(map(str, ends)) for ends in ranges) + limit


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


def _render(template: str, *, options: list[tuple[str, str | None]], **values: Any) -> str:
    for option, value in options:
        if value is not None:
            try:
                require_single_line(value)
            except ValueError as error:
                raise ConfigError(f"{value!r} {error}", where=f"#SBATCH --{option}") from None
    environment = Environment(
        loader=PackageLoader("slurm"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"quote": lambda value: shlex.quote(str(value)), "sbatch": quote_for_sbatch}
    return environment.get_template(template).render(options=options, **values)
