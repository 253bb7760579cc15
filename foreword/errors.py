"""The errors a user can cause, each with what was wrong, where, and what to do; and the exit codes.

Everything else that is raised is a bug and shows a traceback.
"""

EXIT_DONE = 0
EXIT_BUG = 1
EXIT_USAGE = 2
EXIT_NOT_INTACT = 3
EXIT_STOPPED = 75  # sysexits' EX_TEMPFAIL: "run me again"
EXIT_HUNG = (
    76  # the processes did not come together, or one of them does not go on: "run me again, elsewhere if you can"
)


class ForewordError(Exception):
    """A mistake that the user can mend.

    Args:
        what: what was wrong, in one sentence without a final full stop.
        where: the file, line, key or rank it concerns, or None.
        remedy: what to do about it, or None.
        on_all_ranks: whether every process of a distributed command raises the same error, so that one may speak for
            all.
    """

    exit_code = EXIT_USAGE

    def __init__(
        self, what: str, *, where: object = None, remedy: str | None = None, on_all_ranks: bool = False
    ) -> None:
        super().__init__(what)
        self.what = what
        self.where = None if where is None else str(where)
        self.remedy = remedy
        self.on_all_ranks = on_all_ranks

    def __reduce__(self) -> tuple:  # keyword-only arguments do not survive pickling by themselves
        return _rebuild, (type(self), self.what, self.where, self.remedy)

    def __str__(self) -> str:
        located = f"{self.where}: {self.what}" if self.where else self.what
        return f"{located}\n  -> {self.remedy}" if self.remedy else located


class ConfigError(ForewordError):
    """A configuration file, an override or a command line that cannot be used."""


class MachineError(ForewordError):
    """Something that this machine lacks or a device that is not there."""


class ProcessKilledError(MachineError):
    """A process of this work was killed, by the kernel or by a person; the same work may well succeed another time."""

    exit_code = EXIT_BUG  # as of a process that died without a word: a job that sees it tries again


class ProcessesApartError(ForewordError):
    """Processes that should work together and do not find each other; another time or elsewhere they may well."""

    exit_code = EXIT_HUNG


class DataError(ForewordError):
    """Input or a corpus that is not intact, or not what it claims to be."""

    exit_code = EXIT_NOT_INTACT


class CheckpointError(ForewordError):
    """A checkpoint that is not intact, or does not belong to this run."""

    exit_code = EXIT_NOT_INTACT


class StoppedOnRequest(ForewordError):  # noqa: N818 - nothing went wrong
    """Work that stopped on a signal with everything saved: the same command continues it."""

    exit_code = EXIT_STOPPED


class PeerError(ForewordError):
    """A bug that one process met, told to all; where it happened, the exception itself is its cause."""

    exit_code = EXIT_BUG


def _rebuild(kind: type[ForewordError], what: str, where: str | None, remedy: str | None) -> ForewordError:
    return kind(what, where=where, remedy=remedy)
