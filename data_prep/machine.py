"""What the machine refuses while files are written (no space, no permission) -> an error that says what to do."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from foreword.errors import ForewordError, MachineError

_REMEDIES = {
    errno.ENOSPC: "free some space",
    errno.EDQUOT: "free some of the quota",
    errno.EROFS: "choose an output that can be written",
    errno.EACCES: "choose an output that can be written",
    errno.EPERM: "choose an output that can be written",
    errno.ENOTDIR: "choose an output that is a directory",
}


@contextmanager
def machine_errors(output: Path) -> Iterator[None]:
    """Raise `MachineError` for what the machine refuses inside the block; `output` is named when no file is."""
    try:
        yield
    except OSError as error:
        if isinstance(error, ForewordError) or error.errno not in _REMEDIES:
            raise
        raise MachineError(
            (error.strerror or str(error)).lower(),
            where=error.filename or output,
            remedy=f"{_REMEDIES[error.errno]} and run the same command again, it continues",
        ) from None
