"""Errors that one rank meets become errors of all ranks, so that nobody waits for a process that has given up."""

from collections.abc import Callable
from typing import TypeVar

import torch.distributed as dist

from foreword.errors import ForewordError

Result = TypeVar("Result")


def all_ranks(work: Callable[[], Result]) -> Result:
    """Do `work` on every rank and return this rank's result once all have succeeded; every rank must call this.

    Raises:
        ForewordError: `work` raised on some rank. It is raised on all ranks, with that rank's message.
    """
    result, error = _attempt(work)
    failures: list[Exception | None] = [None] * dist.get_world_size()
    dist.all_gather_object(failures, _portable(error))
    failed = {rank: failure for rank, failure in enumerate(failures) if failure is not None}
    if failed:
        raise _merged(failed) from error
    return result  # type: ignore[return-value]


def gather(work: Callable[[], Result]) -> list[Result]:
    """Do `work` on every rank and return all results, which must be picklable, by rank. Raises as `all_ranks` does."""
    own = all_ranks(work)
    results: list[Result | None] = [None] * dist.get_world_size()
    dist.all_gather_object(results, own)
    return results  # type: ignore[return-value]


def main_rank(work: Callable[[], Result]) -> Result:
    """Do `work` on rank 0 alone and return its (picklable) result on every rank. Raises as `all_ranks` does."""
    box = [all_ranks(lambda: work() if dist.get_rank() == 0 else None)]
    dist.broadcast_object_list(box, src=0)
    return box[0]  # type: ignore[return-value]


def _attempt(work: Callable[[], Result]) -> tuple[Result | None, Exception | None]:
    try:
        return work(), None
    except Exception as error:
        return None, error


def _portable(error: Exception | None) -> Exception | None:
    """An exception of a library may not survive pickling; its text does."""
    if error is None:
        return None
    if isinstance(error, ForewordError):
        return type(error)(error.what, where=error.where, remedy=error.remedy)
    return RuntimeError(f"{type(error).__name__}: {error}")


def _merged(failures: dict[int, Exception]) -> ForewordError:
    first_rank, first = next(iter(failures.items()))
    ranks = f"rank {first_rank}" if len(failures) == 1 else f"{len(failures)} ranks, first rank {first_rank}"
    if not isinstance(first, ForewordError):
        return ForewordError(f"{first} ({ranks})", on_all_ranks=True)
    what = first.what if len(failures) == dist.get_world_size() else f"{first.what} ({ranks})"
    return type(first)(what, where=first.where, remedy=first.remedy, on_all_ranks=True)
