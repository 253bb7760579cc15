"""Signals -> a wish to stop, which the training loop asks about at each step's end.

A signal reaches some processes earlier than others, or only one of them; the loop therefore agrees with all ranks
before it acts, and this file only remembers that the wish was heard here.
"""

import signal
from types import FrameType


def stop_signals() -> list[signal.Signals]:
    """SIGTERM, SIGINT, SIGUSR1, and SIGHUP (a closed terminal) unless `nohup` has it ignored."""
    always = [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1]
    return always if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN else [*always, signal.SIGHUP]


class StopRequest:
    """Remembers a stop signal; a second SIGINT ends the process at once."""

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None
        self._previous: dict[signal.Signals, object] = {}

    def __enter__(self) -> "StopRequest":
        for number in stop_signals():
            self._previous[number] = signal.signal(number, self._remember)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    @property
    def heard(self) -> bool:
        """Whether a signal has arrived in this process."""
        return self.signal is not None

    @property
    def name(self) -> str:
        """The signal's name; another process's, when none arrived here."""
        return self.signal.name if self.signal else "another process's signal"

    def _remember(self, number: int, frame: FrameType | None) -> None:
        if self.heard and number == signal.SIGINT:
            signal.default_int_handler(number, frame)
        self.signal = signal.Signals(number)
