"""Processes that were started one by one -> a store that all of them reach, once all have come and belong together.

Rank 0 listens at the meeting point. Every process says there who it is; rank 0 waits for all, compares, and gives one
verdict, which every process reads. So nobody goes on in a world that is smaller or other than it thinks: a process that
never came, two groups that each think they are the whole, or a port where another job listens, end here with a message.

It costs a few small messages a process, all of them to rank 0.
"""

import json
import os
import socket
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import timedelta

import torch.distributed as dist

from foreword.console import say
from foreword.errors import ProcessesApartError
from pipeline.distributed.placement import LISTENING_FD, Placement
from pipeline.distributed.ranks import ranks

TIMEOUT = timedelta(minutes=10)
IMPATIENCE_S = 60.0  # then the log says who is still waited for
LATER_S = 30.0  # rank 0 is given so much longer to speak than it gives the others to come
TELLING_S = 5.0  # so long it stays when it has spoken against going on
_PREFIX = "foreword"
_TORCHS_PREFIX = "default_pg"  # what torch puts before the keys of a store that it makes by itself
_REMEDY = "look at what these processes printed; the same command may be started again"


@dataclass(frozen=True)
class Presence:
    """What a process says of itself."""

    rank: int
    world_size: int
    host: str
    device: str
    job: str


def meet(placement: Placement, device: str, timeout: timedelta = TIMEOUT) -> dist.Store:
    """Wait for the others.

    Args:
        placement: which process this is, and where they meet.
        device: the kind of device it trains on, "cuda" or "cpu".
        timeout: how long to wait.

    Returns:
        The store, with nothing in it but what was said here.

    Raises:
        ProcessesApartError: not all have come in time, or they do not belong together; on all that have come.
    """
    if placement.meets_alone:
        return dist.HashStore()  # in memory: no port that somebody else could take
    own = Presence(placement.rank, placement.world_size, socket.gethostname(), device, placement.job)
    meeting = f"{placement.address}:{placement.port}"
    try:
        store = _open(placement, timeout)
        table = dist.PrefixStore(_PREFIX, store)
        if own.rank == 0:
            table.set("first", json.dumps(asdict(own)))
        else:
            _refuse_stranger(Presence(**json.loads(table.get("first"))), own, meeting)
        claims = table.add(f"claims/{own.rank}", 1)
        table.set(f"present/{own.rank}/{claims}", json.dumps(asdict(own)))
        if own.rank == 0:
            table.set("verdict", _judge(table, own, meeting, timeout) or "")
        table.wait(["verdict"], timeout + timedelta(seconds=LATER_S))
        verdict = table.get("verdict").decode()
        if verdict:
            _leave_together(table, own)
    except (dist.DistError, RuntimeError, ValueError) as error:
        what = f"could not meet the other processes at {meeting}: {str(error).splitlines()[0]}"
        raise ProcessesApartError(what, where=_where(own), remedy=_REMEDY) from None
    if verdict:
        raise ProcessesApartError(verdict, where=meeting, remedy=_REMEDY, on_all_ranks=True)
    return store


def join(placement: Placement, device: str, *, patience: timedelta = TIMEOUT, timeout: timedelta = TIMEOUT) -> None:
    """Meet the others, and make all of them torch's default process group: NCCL for "cuda", gloo for "cpu".

    Args:
        placement, device: see `meet`.
        patience: how long to wait for the others to come.
        timeout: how long a collective waits for the others before it is an error.

    Raises:
        ProcessesApartError: as `meet` does, or they cannot connect to each other.
    """
    store = meet(placement, device, patience)
    try:
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if device == "cuda" else "gloo",
            store=dist.PrefixStore(_TORCHS_PREFIX, store),
            rank=placement.rank,
            world_size=placement.world_size,
            timeout=timeout,
        )
    except (RuntimeError, ValueError) as error:
        where = f"rank {placement.rank} of {placement.world_size} on {socket.gethostname()}"
        remedy = "GLOO_SOCKET_IFNAME and NCCL_SOCKET_IFNAME name the network interface that the processes shall use"
        what = f"could not connect to the other processes: {str(error).splitlines()[0]}"
        raise ProcessesApartError(what, where=where, remedy=remedy) from None


def disagreement(present: Mapping[int, Sequence[Presence]]) -> str | None:
    """Why the processes do not belong together, or None.

    Args:
        present: rank -> what was said by the processes that claim it; rank 0 alone claims its own.
    """
    (first,) = present[0]
    for rank, claimants in sorted(present.items()):
        if len(claimants) > 1:
            hosts = " and ".join(sorted(claimant.host for claimant in claimants))
            return f"{len(claimants)} processes say that they are rank {rank}, on {hosts}"
    for (other,) in present.values():
        if other.world_size != first.world_size:
            return f"{_one_of(first)}, and {_one_of(other)}"
        if other.device != first.device:
            return (
                f"rank 0 on {first.host} trains on {first.device},"
                f" and rank {other.rank} on {other.host} on {other.device}"
            )
    return None


def _open(placement: Placement, timeout: timedelta) -> dist.Store:
    os.environ.pop(LISTENING_FD, None)  # for this one meeting, and not for processes that this one starts
    store = dist.TCPStore(
        placement.address,
        placement.port,
        placement.world_size,
        is_master=placement.rank == 0 and not placement.launcher_listens,
        timeout=timeout,
        wait_for_workers=False,  # it would not say who is missing
        master_listen_fd=placement.listening_fd,
    )
    # torchrun may keep its store over restarts, and with it what was said at the last one
    return dist.PrefixStore(placement.job, store) if placement.launcher_listens else store


def _refuse_stranger(first: Presence, own: Presence, meeting: str) -> None:
    """Leave when rank 0 is not one that would wait for this process."""
    if first.job != own.job:
        what = (
            f"other processes meet at {meeting}: of {first.job or 'no job'}, and this one is of {own.job or 'no job'}"
        )
        raise ProcessesApartError(what, where=_where(own), remedy="start again; the next start takes another port")
    if own.rank >= first.world_size:
        raise ProcessesApartError(f"{_one_of(first)}, and {_one_of(own)}", where=_where(own), remedy=_REMEDY)


def _judge(table: dist.Store, own: Presence, meeting: str, timeout: timedelta) -> str | None:
    """On rank 0: wait for the others, and compare."""
    deadline = time.monotonic() + timeout.total_seconds()
    patient_until = time.monotonic() + IMPATIENCE_S
    missing = list(range(own.world_size))
    while missing:
        missing = [rank for rank in missing if not table.check([f"claims/{rank}"])]
        now = time.monotonic()
        if missing and now > deadline:
            return (
                f"{ranks(missing)} of {own.world_size} did not come to {meeting} in {timeout.total_seconds():g} s;"
                f" rank 0 waited on {own.host}"
            )
        if missing and now > patient_until:
            say(f"still waiting at {meeting} for {ranks(missing)} of {own.world_size}")
            patient_until = float("inf")
        if missing:
            _wait_for(table, f"claims/{missing[0]}", min(deadline, patient_until) - now)
    return disagreement({rank: _claimants(table, rank) for rank in range(own.world_size)})


def _leave_together(table: dist.Store, own: Presence) -> None:
    """Rank 0 stays for a while until all that came have read the verdict: its end takes the store away from them."""
    table.add("told", 1)
    if own.rank != 0:
        return
    came = sum(table.add(f"claims/{rank}", 0) for rank in range(own.world_size))
    until = time.monotonic() + TELLING_S
    while table.add("told", 0) < came and time.monotonic() < until:
        time.sleep(0.02)


def _wait_for(table: dist.Store, key: str, seconds: float) -> None:
    try:
        table.wait([key], timedelta(seconds=max(seconds, 0.01)))
    except dist.DistStoreError:
        return  # it is asked for again, or given up


def _claimants(table: dist.Store, rank: int) -> list[Presence]:
    claims = table.add(f"claims/{rank}", 0)
    return [Presence(**json.loads(table.get(f"present/{rank}/{claim}"))) for claim in range(1, claims + 1)]


def _one_of(process: Presence) -> str:
    return f"rank {process.rank} on {process.host} is one of {process.world_size} processes"


def _where(own: Presence) -> str:
    return f"rank {own.rank} of {own.world_size} on {own.host}"
