"""HTML pages that need nothing but themselves, all with the same look, light and dark, on a laptop and on a phone."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2

from foreword.files import atomic_write

Bar = tuple[str, str, float]
"""Label, the number shown, and the bar's length as a share of the longest."""


def write_page(path: Path, package: str, template: str, **values: Any) -> None:
    """Write `path`, whole or not at all.

    Args:
        package: whose `templates/` has the template; it includes `page.css`, which is here.
        template: its name.
        values: what it shows; text is escaped.

    Raises:
        OSError: it cannot be written.
    """
    environment = jinja2.Environment(
        loader=jinja2.ChoiceLoader([jinja2.PackageLoader(package), jinja2.PackageLoader("foreword")]),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
    )
    page = environment.get_template(template).render(**values)
    with atomic_write(path, "w") as file:
        file.write(page)


def bars(rows: Sequence[tuple[str, float, str]]) -> list[Bar]:
    """(label, value, shown) -> bars, the largest value's the longest."""
    largest = max((value for _, value, _ in rows), default=0) or 1
    return [(label, shown, value / largest) for label, value, shown in rows]
