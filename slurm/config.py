"""The configuration of a cluster, as the user writes it in configs/cluster/*.yaml.

Nothing in it belongs to one training run: the same file serves every run on that cluster. The keys at the top say what
a training job asks for; `prep` says what the jobs of a preparation ask for instead. Values that end up in the script's
`#SBATCH` lines must fit on a line, so control characters are refused here, where the key can still be named.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field, NonNegativeInt, PositiveInt, StrictInt, model_validator

from foreword.config import Section, load_config
from foreword.errors import ConfigError
from pipeline.plan.hardware import network_named

# options that a template or another key of ClusterConfig writes
OWNED_OPTIONS = {
    "account": "account",
    "array": None,
    "chdir": None,
    "comment": None,
    "cpus-per-task": "cpus_per_task",
    "dependency": None,
    "gpus-per-node": "gpus_per_node",
    "job-name": None,
    "mem": "memory_per_node_gb",
    "nodes": "nodes",
    "no-requeue": None,
    "ntasks": None,
    "ntasks-per-node": "tasks_per_node",
    "open-mode": None,
    "output": None,
    "partition": "partition",
    "qos": "qos",
    "requeue": None,
    "signal": "signal_before_limit_s",
    "time": "time_limit",
}
# sbatch's own forms: minutes, minutes:seconds, hours:minutes:seconds, and days-hours[:minutes[:seconds]]
TIME_LIMIT = re.compile(r"(?:(?P<days>\d+)-(?P<after_days>\d+(?::\d+){0,2})|(?P<without_days>\d+(?::\d+){0,2}))")
_TIME_OVERRIDE = re.compile(r"^(?P<key>(?:prep\.)?time_limit)=(?P<value>[\d:-]+)$")
MINIMUM_SIGNAL_LEAD_S = 60  # Slurm looks at time limits every 30 s to 60 s; a shorter notice may never arrive


def require_single_line(value: str) -> str:
    """Refuse what would end a `#SBATCH` line or hide in it: newlines and all other control characters.

    Raises:
        ValueError: the value is empty or holds a control character.
    """
    if not value:
        raise ValueError("must not be empty")
    if any(ord(character) < 32 or ord(character) == 127 for character in value):
        raise ValueError("must not hold a newline or another control character: it is written on an #SBATCH line")
    return value


def _option_name(name: str) -> str:
    if not re.fullmatch(r"[a-z][a-z-]*", name):
        raise ValueError("must be the long name of an sbatch option without its dashes, for example constraint")
    if name in OWNED_OPTIONS:
        key = OWNED_OPTIONS[name]
        raise ValueError(f"is written by the key {key!r}" if key else "is written by Foreword itself")
    return name


def _variable_name(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
        raise ValueError("must be the name of an environment variable: letters, digits and underscores")
    return name


def _without_nul(value: str) -> str:
    if "\0" in value:
        raise ValueError("must not hold a NUL character: no environment variable and no script can")
    return value


def _time_limit(value: object) -> object:
    if isinstance(value, int):
        raise ValueError("must be written in quotes: YAML reads 12:00:00 without them as a number of seconds")
    if isinstance(value, str) and not TIME_LIMIT.fullmatch(value):
        raise ValueError("must be a Slurm time, for example '24:00:00' or '2-12:00:00'")
    return value


def _network(text: str) -> str:
    try:
        network_named(text)
    except ConfigError as error:
        raise ValueError(f"{error.what}; {error.remedy}") from None
    return text


SingleLine = Annotated[str, AfterValidator(require_single_line)]
OptionName = Annotated[str, AfterValidator(_option_name)]
VariableName = Annotated[str, AfterValidator(_variable_name)]
ShellText = Annotated[str, AfterValidator(_without_nul)]
TimeLimit = Annotated[str, BeforeValidator(_time_limit)]
SbatchOptions = dict[OptionName, SingleLine | StrictInt | Literal[True]]


class ContainerConfig(Section):
    """A container around every process; see `slurm.container` for what becomes of it on the command line."""

    runtime: Literal["apptainer", "singularity", "pyxis"]
    image: SingleLine
    """A file, or what the runtime fetches: docker://... with apptainer, nvcr.io#nvidia/pytorch:TAG with pyxis."""
    mounts: list[SingleLine] = Field(default_factory=list)
    """PATH, or HOST:CONTAINER[:OPTIONS]. The directories that a job names itself are mounted without being listed."""
    options: list[ShellText] = Field(default_factory=list)
    """Further words: of `apptainer exec`, or with pyxis of srun."""


class PrepJobsConfig(Section):
    """What each job of a preparation asks for: one process with its workers on one node, no GPU.

    What is not set here is what the training jobs have, but for memory and `sbatch_options`, which are theirs alone.
    """

    cpus_per_task: PositiveInt | None = None
    """As many workers a job starts, unless the command line says `workers=...`."""
    memory_gb: PositiveInt | None = None
    time_limit: TimeLimit | None = None
    signal_before_limit_s: int = Field(default=120, ge=MINIMUM_SIGNAL_LEAD_S)
    max_at_once: PositiveInt | None = None
    """So many elements of the job array run beside each other; null: as many as the queue lets."""
    max_retries: NonNegativeInt = 3
    """So often a job that crashed, or was killed, is put back into the queue; being stopped for time does not count."""
    partition: SingleLine | None = None
    account: SingleLine | None = None
    qos: SingleLine | None = None
    sbatch_options: SbatchOptions = Field(default_factory=dict)
    setup: list[ShellText] | None = None
    environment: dict[VariableName, ShellText] | None = None
    command: list[ShellText] | None = Field(default=None, min_length=1)
    container: ContainerConfig | None = None


class ClusterConfig(Section):
    """What a job asks of the cluster, and what the cluster's nodes need before Foreword starts."""

    nodes: PositiveInt = 1
    gpus_per_node: NonNegativeInt
    gpu_type: SingleLine | None = None
    network: Annotated[SingleLine, AfterValidator(_network)] | None = None
    """What connects the nodes, for the times that --dry-run predicts: hdr200, ndr400, ethernet-400g, ethernet-100g, or
    'GBIT,MICROSECONDS' of each GPU. Needs a gpu_type: a100, h100 or h200."""
    tasks_per_node: PositiveInt | None = None
    """Processes on each node of a cluster without GPUs; with GPUs there is one process per GPU."""
    cpus_per_task: PositiveInt
    memory_per_node_gb: PositiveInt | None = None
    time_limit: TimeLimit
    signal_before_limit_s: int = Field(300, ge=MINIMUM_SIGNAL_LEAD_S)
    """How long before the time limit training is told to save and stop: longer than a step and a save."""
    max_restarts: NonNegativeInt = 100
    """After so many starts the job no longer puts itself back into the queue."""
    max_failures: NonNegativeInt = 5
    """So many crashes, hangs and failures of nodes in a row bring the job back, if there is no new checkpoint between
    them."""
    restart_delay_s: PositiveInt = 60
    """How long the job waits before it starts after the first of them; twice as long after the second, and so on."""
    preflight_timeout_s: PositiveInt | None = 60
    """How long every node may take to show that it is fit, before the first step; null: no node is asked."""
    end_together_s: PositiveInt = 120
    """Once a process has ended, the others have so long to end as well, for example to finish a save."""
    partition: SingleLine | None = None
    account: SingleLine | None = None
    qos: SingleLine | None = None
    sbatch_options: SbatchOptions = Field(default_factory=dict)
    """Further sbatch options by long name; `true` stands for an option without a value."""
    setup: list[ShellText] = Field(default_factory=list)
    """Lines of shell that every job runs first, for example `module load cuda`. They are code and are not quoted."""
    environment: dict[VariableName, ShellText] = Field(default_factory=dict)
    command: list[ShellText] | None = Field(default=None, min_length=1)
    """The words that start Foreword on a node; by default `foreword` in a container, and elsewhere the Python that ran
    `foreword submit`, with `-m foreword`."""
    container: ContainerConfig | None = None
    prep: PrepJobsConfig = PrepJobsConfig()

    @model_validator(mode="after")
    def _one_process_per_gpu(self) -> "ClusterConfig":
        if self.gpus_per_node and self.tasks_per_node:
            raise ValueError("tasks_per_node is for clusters without GPUs: with gpus_per_node every GPU has its task")
        if not self.gpus_per_node and not self.tasks_per_node:
            raise ValueError("without GPUs (gpus_per_node: 0) tasks_per_node must say how many processes a node runs")
        return self

    @model_validator(mode="after")
    def _the_signal_comes_before_the_limit(self) -> "ClusterConfig":
        if self.signal_before_limit_s >= self.time_limit_s:
            raise ValueError(
                f"signal_before_limit_s {self.signal_before_limit_s} must be below time_limit, {self.time_limit_s} s"
            )
        if self.prep.signal_before_limit_s >= seconds_of(self.prep.time_limit or self.time_limit):
            raise ValueError(
                f"prep.signal_before_limit_s {self.prep.signal_before_limit_s} must be below these jobs' time limit"
            )
        return self

    def for_preparation(self) -> "ClusterConfig":
        """What each job of a preparation asks for, in the same terms: one task on one node without GPUs."""
        prep = self.prep.model_dump(exclude_none=True, exclude={"memory_gb", "max_at_once", "max_retries"})
        one_task = {"nodes": 1, "gpus_per_node": 0, "gpu_type": None, "network": None, "tasks_per_node": 1}
        values = self.model_dump() | one_task | {"memory_per_node_gb": self.prep.memory_gb} | prep
        return ClusterConfig.model_validate(values)

    @property
    def processes_per_node(self) -> int:
        """Tasks that srun starts on each node."""
        return self.gpus_per_node or self.tasks_per_node or 0

    @property
    def world_size(self) -> int:
        """Processes of the whole job."""
        return self.nodes * self.processes_per_node

    @property
    def time_limit_s(self) -> int:
        """The time limit in seconds, read as sbatch reads it."""
        return seconds_of(self.time_limit)


def load_cluster(path: Path, overrides: Sequence[str]) -> ClusterConfig:
    """Read a cluster's configuration; a time limit on the command line is text without YAML's quotes.

    Raises: as `load_config` does.
    """
    return load_config(path, [_TIME_OVERRIDE.sub(r"\g<key>='\g<value>'", text) for text in overrides], ClusterConfig)


def seconds_of(time_limit: str) -> int:
    """Seconds of a time in one of sbatch's forms; `time_limit` must match TIME_LIMIT."""
    match = TIME_LIMIT.fullmatch(time_limit)
    assert match is not None, time_limit
    if match["days"]:
        hours, minutes, seconds = ([int(part) for part in match["after_days"].split(":")] + [0, 0])[:3]
        return ((int(match["days"]) * 24 + hours) * 60 + minutes) * 60 + seconds
    parts = [int(part) for part in match["without_days"].split(":")]
    if len(parts) == 1:
        return parts[0] * 60
    hours, minutes, seconds = ([0, *parts])[-3:]
    return (hours * 60 + minutes) * 60 + seconds
