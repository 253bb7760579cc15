"""Errors that one rank meets become errors of all ranks, so that nobody waits for a process that has given up."""

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import TypeVar

import torch
import torch.distributed as dist

from foreword.errors import ForewordError, PeerError

Result = TypeVar("Result")


def all_ranks(work: Callable[[], Result]) -> Result:
    """Do `work` on every rank and return this rank's result once all have succeeded; every rank must call this.

    Raises:
        ForewordError: `work` raised on some rank. It is raised on all ranks, with that rank's message.
        PeerError: `work` raised something else on some rank, which is a bug. It is raised on all ranks, so that they
            part in the same way; on that rank the bug itself is its cause.
    """
    result, error = _attempt(work)
    failures: list[ForewordError | None] = [None] * dist.get_world_size()
    dist.all_gather_object(failures, _portable(error))
    failed = {rank: failure for rank, failure in enumerate(failures) if failure is not None}
    if failed:
        raise _merged(failed) from (None if isinstance(error, ForewordError) else error)
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


def in_step(items: Iterable[Result]) -> Iterator[Result]:
    """The same items, each handed out once every rank has its own; every rank must have as many.

    Raises:
        ForewordError: an iterator raised on some rank. It is raised on all ranks in place of that item.
    """
    iterator = iter(items)
    while True:
        item, error = _attempt(lambda: next(iterator, _END))
        failed = torch.tensor(error is not None)
        dist.all_reduce(failed, op=dist.ReduceOp.MAX)
        if failed:
            all_ranks(partial(_raise, error))
        if item is _END:
            return
        yield item  # type: ignore[misc]


class Alone:
    """Work that this rank does by itself between two meetings; its first error is kept until all ranks can raise it.

    Attributes:
        error: what this rank has met; None while all is well.
    """

    def __init__(self) -> None:
        self.error: ForewordError | None = None

    def __call__(self, work: Callable[[], Result]) -> Result | None:
        """Do `work` and return its result; None when it cannot be done."""
        try:
            return work()
        except ForewordError as error:
            self.error = self.error or error
            return None

    def raise_together(self) -> None:
        """Raise on all ranks what any of them has met; every rank must call this."""
        all_ranks(partial(_raise, self.error))


_END = object()


def _raise(error: Exception | None) -> None:
    if error is not None:
        raise error


def _attempt(work: Callable[[], Result]) -> tuple[Result | None, Exception | None]:
    try:
        return work(), None
    except Exception as error:
        return None, error


def _portable(error: Exception | None) -> ForewordError | None:
    """An exception of a library may not survive pickling; its text does."""
    if error is None:
        return None
    if isinstance(error, ForewordError):
        return type(error)(error.what, where=error.where, remedy=error.remedy)
    return PeerError(f"{type(error).__name__}: {error}", where=f"rank {dist.get_rank()}", remedy=_BUG_REMEDY)


def _merged(failures: dict[int, ForewordError]) -> ForewordError:
    """One error for all: a bug, if there is one, because what the others met may have come of it."""
    bugs = {rank: failure for rank, failure in failures.items() if isinstance(failure, PeerError)}
    first_rank, first = next(iter((bugs or failures).items()))
    ranks = f"rank {first_rank}" if len(failures) == 1 else f"{len(failures)} ranks, first rank {first_rank}"
    what = first.what if bugs or len(failures) == dist.get_world_size() else f"{first.what} ({ranks})"
    return type(first)(what, where=first.where, remedy=first.remedy, on_all_ranks=True)


_BUG_REMEDY = "this is a bug of Foreword or of a library; its traceback is in what that rank printed"
