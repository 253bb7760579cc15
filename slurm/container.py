"""How a process of a job is started: bare, or in a container.

Apptainer (and Singularity, its older name) is a command before the command; Pyxis is a plugin of srun, so there the
container is options of srun:

    srun ... apptainer exec --nv --bind /scratch --pwd DIR IMAGE foreword train ...
    srun ... --container-image=IMAGE --container-mounts=/scratch:/scratch --container-workdir=DIR foreword train ...

The directories that a job names (where it starts, its run, its corpora) are mounted under their own names without
being listed. Set-up lines run outside, before the container starts.
"""

import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from foreword.errors import ConfigError
from slurm.config import ClusterConfig, ContainerConfig

INSIDE = ("foreword",)  # what starts Foreword in an image where it is installed


@dataclass(frozen=True)
class Launch:
    """How srun starts a process.

    Attributes:
        srun_options: options of srun.
        command: the words that start Foreword.
        environment: variables to export before.
    """

    srun_options: tuple[str, ...]
    command: tuple[str, ...]
    environment: dict[str, str]

    @property
    def on_this_node(self) -> tuple[str, ...]:
        """The words that start Foreword once, on the first node of the job, from the job's script."""
        if not self.srun_options:
            return self.command
        return ("srun", "--nodes=1", "--ntasks=1", "--overlap", *self.srun_options, *self.command)


def launch(cluster: ClusterConfig, working_directory: Path, needed: Iterable[Path], **defaults: str) -> Launch:
    """How the processes of a job on `cluster` are started.

    Args:
        cluster: whose command, container and environment count.
        working_directory: where the job starts.
        needed: absolute paths of directories that the job reads or writes.
        defaults: variables that `cluster.environment` may overrule.

    Raises:
        ConfigError: a path that the container's runtime cannot be told to mount.
    """
    environment = defaults | cluster.environment
    container = cluster.container
    if container is None:
        return Launch((), tuple(cluster.command or (sys.executable, "-m", "foreword")), environment)
    command = tuple(cluster.command or INSIDE)
    mounts = [*container.mounts, *_missing_mounts(container.mounts, [working_directory, *needed])]
    if container.runtime == "pyxis":
        return Launch(_pyxis(container, mounts, working_directory, environment), command, environment)
    # variables with this prefix win over those that the image sets
    prefixed = {f"{container.runtime.upper()}ENV_{name}": value for name, value in environment.items()}
    words = _apptainer(container, mounts, working_directory, with_gpus=cluster.gpus_per_node > 0)
    return Launch((), (*words, *command), environment | prefixed)


def _apptainer(
    container: ContainerConfig, mounts: Sequence[str], working_directory: Path, with_gpus: bool
) -> tuple[str, ...]:
    binds = [word for mount in mounts for word in ("--bind", mount)]
    gpus = ["--nv"] if with_gpus else []
    pwd = ["--pwd", str(working_directory)]
    return (container.runtime, "exec", *gpus, *binds, *pwd, *container.options, container.image)


def _pyxis(
    container: ContainerConfig, mounts: Sequence[str], working_directory: Path, environment: Mapping[str, str]
) -> tuple[str, ...]:
    both_names = [mount if ":" in mount else f"{mount}:{mount}" for mount in mounts]
    options = [
        f"--container-image={container.image}",
        f"--container-mounts={','.join(both_names)}",
        f"--container-workdir={working_directory}",
    ]
    if environment:  # else those that the image sets would win
        options.append(f"--container-env={','.join(environment)}")
    return (*options, *container.options)


def _missing_mounts(mounts: Sequence[str], needed: Iterable[Path]) -> list[str]:
    """The outermost of the `needed` directories that no mount brings in under their own names."""
    there = [Path(source) for source, _, rest in (mount.partition(":") for mount in mounts) if _is_same(source, rest)]
    missing: list[Path] = []
    for path in sorted(set(needed) - {Path("/")}):  # a directory comes before what is in it
        if any(path.is_relative_to(outer) for outer in [*there, *missing]):
            continue
        if any(character in str(path) for character in ":,"):
            raise ConfigError(
                "a container cannot mount a path that holds a colon or a comma",
                where=path,
                remedy="choose another name, or mount a directory above it",
            )
        missing.append(path)
    return [str(path) for path in missing]


def _is_same(source: str, rest: str) -> bool:
    destination = rest.partition(":")[0]
    return destination in ("", source)
