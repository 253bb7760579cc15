"""Where a run's time goes: every moment belongs to exactly one part, so the parts add up to the whole."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from time import perf_counter
from typing import TypeVar

Item = TypeVar("Item")

PARTS = ("start_up", "training", "data_wait", "evaluating", "saving", "profiling")


class Clock:
    """Seconds by part. It begins with `start_up`.

    Args:
        began: when the run began, as `perf_counter` tells it; None is now.

    Attributes:
        part: the part that time belongs to now.
        moves: how often that has changed, and how often something was begun within a part; see `follow`.
    """

    def __init__(self, began: float | None = None) -> None:
        self._since = perf_counter() if began is None else began
        self.part, self.moves = "start_up", 0
        self._seconds = dict.fromkeys(PARTS, 0.0)

    def go_over_to(self, part: str) -> str:
        """From now on time belongs to `part`; returns the part until now."""
        now, until_now = perf_counter(), self.part
        self._seconds[until_now] += now - self._since
        self._since, self.part = now, part
        self.moves += part != until_now
        return until_now

    @contextmanager
    def spent_on(self, part: str) -> Iterator[None]:
        """The time of this block belongs to `part`, and what comes behind it to the part before it."""
        above = self.go_over_to(part)
        try:
            yield
        finally:
            self.go_over_to(above)

    def follow(self, items: Iterable[Item]) -> list[Item]:
        """The items as a list; whoever goes through it makes a move with each of them."""
        return _Followed(self, items)

    def seconds(self) -> dict[str, float]:
        """Part -> seconds until now."""
        self.go_over_to(self.part)
        return dict(self._seconds)


class _Followed(list[Item]):
    def __init__(self, clock: Clock, items: Iterable[Item]) -> None:
        super().__init__(items)
        self._clock = clock

    def __iter__(self) -> Iterator[Item]:
        for item in super().__iter__():
            self._clock.moves += 1
            yield item
