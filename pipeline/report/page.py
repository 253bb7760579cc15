"""A template and its values -> a page on the disk, or what the machine says against it."""

from pathlib import Path
from typing import Any

from foreword.errors import MachineError
from foreword.pages import write_page


def write_report_page(path: Path, template: str, **values: Any) -> None:
    """Write `path` from one of this room's templates, see `write_page`.

    Raises:
        MachineError: it cannot be written.
    """
    try:
        write_page(path, "pipeline.report", template, **values)
    except OSError as error:
        raise MachineError(f"the page cannot be written: {error.strerror}", where=path) from None
