"""The items of the tasks in this directory, read from the files beside it: no network, and no cache to be written."""

import json
from pathlib import Path
from typing import Any

from datasets import Dataset

HERE = Path(__file__).parent


def last_word(**_: Any) -> dict[str, Dataset]:
    """Passages whose last word follows from what stands before it, in the style of LAMBADA."""
    return _items("last_word.jsonl")


def winograd(**_: Any) -> dict[str, Dataset]:
    """Sentences with a pronoun that only sense can resolve, in the style of Winograd's schemas."""
    return _items("winograd.jsonl")


def fill_in(**_: Any) -> dict[str, Dataset]:
    """Short texts with a gap in the middle and four candidates for it."""
    return _items("fill_in.jsonl")


def _items(name: str) -> dict[str, Dataset]:
    lines = (HERE / name).read_text(encoding="utf-8").splitlines()
    return {"test": Dataset.from_list([json.loads(line) for line in lines])}
