"""What one start of training does with the checkpoints that its run directory has: go on, go back, or begin again.

By default the newest complete checkpoint is continued from. `--from`, `--fresh` and `--no-resume` ask for something
else, once: a Slurm job that comes back from the queue runs the same command again, and must not throw away what it has
done since. So the run directory remembers which job asked, and when that job is restarted it simply goes on.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from foreword.errors import ConfigError

if TYPE_CHECKING:
    from pipeline.run.lease import Lease

RECORD_NAME = "start.json"


@dataclass(frozen=True)
class Start:
    """The options of one start. At most one of the first three is given.

    Attributes:
        from_step: go back to the checkpoint of this step; everything later is set aside.
        fresh: begin at step 0; everything that is there is set aside.
        no_resume: refuse to start when there is a checkpoint.
        verify: read every file of the checkpoint and compare its hash before it is used.
    """

    from_step: int | None = None
    fresh: bool = False
    no_resume: bool = False
    verify: bool = False

    def __post_init__(self) -> None:
        """Refuse contradictions.

        Raises:
            ConfigError: two options that exclude each other.
        """
        if len(self._asked()) > 1:
            raise ConfigError(f"{' and '.join(self._asked())} exclude each other", remedy="give one of them")

    def arguments(self) -> list[str]:
        """The words on the command line of `foreword train` that mean this start."""
        return [*" ".join(self._asked()).split(), *["--verify"] * self.verify]

    def as_first_or_again(self, run_dir: Path, environment: Mapping[str, str]) -> "Start":
        """This start; or a plain one, when a restarted Slurm job has done in `run_dir` what it was asked to do once."""
        restarts, job = environment.get("SLURM_RESTART_COUNT", "0"), environment.get("SLURM_JOB_ID")
        if not self._asked() or restarts in ("", "0") or job is None or _recorded_job(run_dir) != job:
            return self
        return Start(verify=self.verify)

    def record(self, lease: "Lease", environment: Mapping[str, str]) -> None:
        """Remember in the run directory that what was asked for is done.

        Raises:
            OSError: it cannot be written.
        """
        if self._asked():
            record = {"options": self._asked(), "slurm_job_id": environment.get("SLURM_JOB_ID")}
            with lease.write(RECORD_NAME) as file:
                file.write(json.dumps(record).encode())

    def _asked(self) -> list[str]:
        options = {
            f"--from {self.from_step}": self.from_step is not None,
            "--fresh": self.fresh,
            "--no-resume": self.no_resume,
        }
        return [option for option, given in options.items() if given]


def _recorded_job(run_dir: Path) -> str | None:
    try:
        return json.loads((run_dir / RECORD_NAME).read_bytes())["slurm_job_id"]
    except (OSError, ValueError, KeyError, TypeError):  # never written, or torn by a full disk: not done
        return None
