"""Where a run's time goes: every moment belongs to exactly one part, so the parts add up to the whole."""

from collections.abc import Iterator
from contextlib import contextmanager
from time import perf_counter

PARTS = ("start_up", "training", "data_wait", "evaluating", "saving", "profiling")


class Clock:
    """Seconds by part. It begins with `start_up`.

    Args:
        began: when the run began, as `perf_counter` tells it; None is now.
    """

    def __init__(self, began: float | None = None) -> None:
        self._since = perf_counter() if began is None else began
        self._part = "start_up"
        self._seconds = dict.fromkeys(PARTS, 0.0)

    def go_over_to(self, part: str) -> str:
        """From now on time belongs to `part`; returns the part until now."""
        now, until_now = perf_counter(), self._part
        self._seconds[until_now] += now - self._since
        self._since, self._part = now, part
        return until_now

    @contextmanager
    def spent_on(self, part: str) -> Iterator[None]:
        """The time of this block belongs to `part`, and what comes behind it to the part before it."""
        above = self.go_over_to(part)
        try:
            yield
        finally:
            self.go_over_to(above)

    def seconds(self) -> dict[str, float]:
        """Part -> seconds until now."""
        self.go_over_to(self._part)
        return dict(self._seconds)
