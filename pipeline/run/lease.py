"""One writer per run directory: who may publish, remove and append, and how another process takes over.

    run/.lease/000012/claim.json    the claim of the run's twelfth start; its modification time is the heartbeat

The number grows with every start and is never used twice. A claim is made by creating its directory, which only one
process can do, and the highest one holds. While its process lives, a thread sets the file's modification time again and
again; at its end the claim is marked as released.

Who comes later is refused when the heartbeat moves. It takes over at once when the holder's process is gone from this
machine, or belongs to an earlier start of the same Slurm job; else when it has watched the heartbeat stand still for
`takeover_after_s`. No two clocks are compared. A stopped or cut-off process may wake up after that. Here it only learns
that it has lost; what it could still do before it has looked is prevented elsewhere, by one means: each change that
matters is a rename out of a directory which the new start has renamed first (this one for metrics.jsonl, see
`checkpoint.workspace` for checkpoints), so it fails.
"""

import contextlib
import getpass
import os
import re
import shutil
import socket
import threading
import time
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import IO

from pydantic import ValidationError

from foreword.config import Section
from foreword.console import say
from foreword.errors import ConfigError, MachineError
from foreword.files import TEMPORARY_PREFIX, atomic_write, fsync_directory

CLAIM = "claim.json"
LEASE = ".lease"  # with a dot: what a run sets aside of itself does not include it
BEATS = 12  # heartbeats in the time after which silence means death
_CLAIM = re.compile(r"(\d{6,})")


class Claim(Section):
    """Who holds a run, or held it.

    Attributes:
        machine: this boot of this machine and this set of process numbers; None where the system does not tell.
        process_started: clock ticks from boot to the start of the process, which with its number names it for good.
        job, restarts: of Slurm, where it runs there.
        beats_every_s: how often its heart beats.
        released: whether the process has ended in good order.
    """

    user: str
    host: str
    machine: str | None
    process: int
    process_started: int | None
    job: str | None
    restarts: int
    started: str
    beats_every_s: float
    released: bool = False

    @classmethod
    def of_this_process(cls, environment: Mapping[str, str], beats_every_s: float) -> "Claim":
        """The claim that this process makes now."""
        return cls(
            user=_user(),
            host=socket.gethostname(),
            machine=_machine(),
            process=os.getpid(),
            process_started=_process_started(os.getpid()),
            job=environment.get("SLURM_JOB_ID"),
            restarts=int(environment.get("SLURM_RESTART_COUNT", "0")),
            started=datetime.now().astimezone().isoformat(timespec="seconds"),
            beats_every_s=beats_every_s,
        )

    def __str__(self) -> str:
        job = f" of Slurm job {self.job}" if self.job else ""
        return f"process {self.process}{job} on {self.host}, started by {self.user} at {self.started}"

    def gives_way_to(self, successor: "Claim") -> bool:
        """Whether this claim's process is known to be gone, without waiting for anything."""
        if self.released:
            return True
        if self.machine is not None and self.machine == successor.machine:
            return not _is_running(self.process, self.process_started)
        return self.job is not None and self.job == successor.job and self.restarts < successor.restarts


class Lease:
    """A held run directory. A context manager: its heart beats until its end, then the run is free again.

    Attributes:
        number: the fencing number of this start.
        path: a directory that is this start's while it holds the run: gone once another start has taken over.
    """

    def __init__(self, run_dir: Path, number: int, claim: Claim) -> None:
        self.run_dir, self.number = run_dir, number
        self.path = lease_directory(run_dir, number)
        self._claim = claim
        self._lost: str | None = None
        self._ended = threading.Event()
        self._heart = threading.Thread(target=self._beat, name="lease", daemon=True)
        self._heart.start()

    def __enter__(self) -> "Lease":
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._heart.join()
        with contextlib.suppress(OSError, MachineError):  # then others wait until they are sure
            self.verify()
            _write_claim(self.path, self._claim.model_copy(update={"released": True}))

    def check(self) -> None:
        """Raise if the last heartbeat found the lease lost; costs nothing.

        Raises:
            MachineError: another process has taken the run over.
        """
        if self._lost is not None:
            raise MachineError(
                f"another process has taken this run over: {self._lost}",
                where=self.run_dir,
                remedy="this one was cut off for too long and has ended; the other one continues the run",
            )

    def verify(self) -> None:
        """Look at the directory now, and raise if the lease is lost.

        Raises:
            MachineError: another process has taken the run over, or the directory cannot be read.
        """
        try:
            self._look()
        except OSError as error:
            raise MachineError(f"cannot be read: {error.strerror}", where=self.run_dir / LEASE) from None
        self.check()

    @contextlib.contextmanager
    def blamed_if_lost(self) -> Iterator[None]:
        """A block whose failure means, once the run is lost, just that.

        Raises:
            MachineError: the block raised, and another process has taken the run over.
        """
        try:
            yield
        except Exception:
            self.verify()
            raise

    @contextlib.contextmanager
    def write(self, name: str) -> Iterator[IO[bytes]]:
        """Open a file that takes the place of `name` in the run directory when the block ends without an exception.

        It is made in `path`, so a process that has lost the run cannot put it there any more.

        Raises:
            OSError: it cannot be written, or the run is lost.
        """
        with atomic_write(self.path / name) as file:
            yield file
        (self.path / name).replace(self.run_dir / name)
        fsync_directory(self.run_dir)

    def _look(self) -> None:
        numbers = _numbers(self.run_dir)
        if numbers and numbers[-1] > self.number:
            newest = lease_directory(self.run_dir, numbers[-1])
            self._lost = str(_read_claim(newest) or newest)
        elif self.number not in numbers:
            self._lost = f"the claim {self.path} is gone"

    def _beat(self) -> None:
        while self._lost is None and not self._ended.wait(self._claim.beats_every_s):
            with contextlib.suppress(OSError):  # a file system may be away for a while
                self._look()
                now = time.time_ns()
                os.utime(self.path / CLAIM, ns=(now, now))  # needs no space on a full disk


@dataclass(frozen=True)
class Holder:
    """Who holds a run, or held it last, as somebody sees it who has no part in it.

    Attributes:
        claim: None when its process died before it wrote one.
        silent_s: since its last heartbeat, by this machine's clock and the file server's.
        is_gone: whether its process is known to have ended. Otherwise a long silence is the only sign.
    """

    claim: Claim | None
    silent_s: float
    is_gone: bool


def find_holder(run_dir: Path) -> Holder | None:
    """Look who holds a run; nothing is changed. None when nobody ever has."""
    with contextlib.suppress(FileNotFoundError):
        numbers = _numbers(run_dir)
        if numbers:
            path = lease_directory(run_dir, numbers[-1])
            claim, beat = _read_claim(path), _last_beat(path)
            silent_s = max(0.0, time.time() - beat / 1e9) if beat is not None else float("inf")
            return Holder(
                claim, silent_s, claim is not None and claim.gives_way_to(Claim.of_this_process({}, beats_every_s=0))
            )
    return None


def acquire(run_dir: Path, takeover_after_s: float, environment: Mapping[str, str] = os.environ) -> Lease:
    """Hold a run directory, which is created where it is missing; for one rank.

    Args:
        run_dir: the run's directory.
        takeover_after_s: how long a heartbeat must stand still before its process counts as lost.
        environment: where Slurm's job number and number of restarts are looked up.

    Raises:
        ConfigError: another process is training in it, or it cannot be written.
    """
    claim = Claim.of_this_process(environment, takeover_after_s / BEATS)
    try:
        (run_dir / LEASE).mkdir(parents=True, exist_ok=True)
        while True:
            newest = max(_numbers(run_dir), default=0)
            if newest:
                _await_silence(lease_directory(run_dir, newest), claim, takeover_after_s)
            path = lease_directory(run_dir, newest + 1)
            try:
                path.mkdir()
            except FileExistsError:  # another start was faster: it holds the run now
                continue
            _write_claim(path, claim)
            _remove_former(run_dir, newest)
            return Lease(run_dir, newest + 1, claim)
    except OSError as error:
        raise ConfigError(f"cannot be written: {error.strerror}", where=run_dir) from None


def _await_silence(path: Path, successor: Claim, takeover_after_s: float) -> None:
    """Return when the process behind the claim `path` is gone.

    Every look counts as one, however long this process was kept from looking. A heart that was set to beat more slowly
    than this process's own would is watched for longer.

    Raises:
        ConfigError: its heart beats.
    """
    first_beat = _last_beat(path)
    wait_s = takeover_after_s / BEATS
    for look in range(BEATS + 1):
        holder = _read_claim(path)
        if holder is not None:
            wait_s = max(wait_s, holder.beats_every_s)
        if (holder and holder.gives_way_to(successor)) or not path.exists():
            return
        if _last_beat(path) != first_beat:
            raise ConfigError(
                f"another process is training in this directory: {holder or path}",
                where=path.parent.parent,
                remedy="wait for it, or end it",
            )
        if look == 1:
            say(f"this run was held by {holder or path}; waiting {BEATS * wait_s:g} s for a sign of life")
        if look < BEATS:
            time.sleep(wait_s)


def lease_directory(run_dir: Path, number: int) -> Path:
    """What `Lease.path` is, for the processes that do not hold the lease themselves."""
    return run_dir / LEASE / f"{number:06d}"


def _numbers(run_dir: Path) -> list[int]:
    """Of all claims, ascending. Listing a directory asks a file server where a look-up of a name may not."""
    names = [path.name for path in (run_dir / LEASE).iterdir()]
    return sorted(int(name) for name in names if _CLAIM.fullmatch(name))


def _remove_former(run_dir: Path, newest: int) -> None:
    """Take their directories away from all starts up to number `newest`."""
    for number in _numbers(run_dir):
        if number <= newest:
            path = lease_directory(run_dir, number)
            path.replace(path.with_name(f"{TEMPORARY_PREFIX}{uuid.uuid4().hex}"))
    for path in (run_dir / LEASE).glob(f"{TEMPORARY_PREFIX}*"):
        shutil.rmtree(path, ignore_errors=True)


def _write_claim(path: Path, claim: Claim) -> None:
    with atomic_write(path / CLAIM, "w") as file:
        file.write(claim.model_dump_json())


def _read_claim(path: Path) -> Claim | None:
    """None while its process has not written it yet, or when it died before."""
    try:
        return Claim.model_validate_json((path / CLAIM).read_bytes())
    except (FileNotFoundError, ValidationError):
        return None


def _last_beat(path: Path) -> int | None:
    """Modification time in ns; the file is opened because that makes a file server's client ask again."""
    try:
        with (path / CLAIM).open("rb") as file:
            return os.fstat(file.fileno()).st_mtime_ns
    except FileNotFoundError:
        return None


def _is_running(process: int, started: int | None) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    now_started = _process_started(process)
    return now_started is None or now_started == started


def _process_started(process: int) -> int | None:
    """Clock ticks since boot; -1 for one that has ended and was not waited for, None where the system does not tell."""
    try:
        # the fields after the program's name, which is in parentheses and may hold anything
        fields = Path(f"/proc/{process}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except OSError:
        return None
    return -1 if fields[0] in "ZX" else int(fields[19])


def _machine() -> str | None:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot}/{Path('/proc/self/ns/pid').stat().st_ino}"
    except OSError:
        return None


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a container's user without a name
        return str(os.getuid())
