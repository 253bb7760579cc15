"""Stopping on SIGINT and SIGTERM where it is safe.

The signal only leaves a note; work asks for it between two units (`stop_if_requested`). An exception raised by the
handler itself could come up inside any library, and some turn every exception into one of their own.
"""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from foreword.errors import StoppedOnRequest

_requested: str | None = None  # name of the signal; a signal handler has nowhere else to leave its note


def stop_if_requested() -> None:
    """Raise `StoppedOnRequest` when a signal has come since `stop_on_signals` began."""
    if _requested is not None:
        raise StoppedOnRequest(
            f"stopped on {_requested}", remedy="run the same command again, it continues with what is not done yet"
        )


@contextmanager
def stop_on_signals() -> Iterator[None]:
    """Take note of the first SIGINT or SIGTERM inside the block; a second one has its usual effect."""
    global _requested

    def note(number: int, _: FrameType | None) -> None:
        global _requested
        _requested = signal.Signals(number).name
        restore()

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    _requested = None
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    for number in before:
        signal.signal(number, note)
    try:
        yield
    finally:
        restore()
        _requested = None
