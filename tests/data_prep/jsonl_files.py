"""Writing JSON Lines for tests."""

import json
from pathlib import Path


def write_jsonl(path: Path, records: list) -> Path:
    """One JSON record per line; strings become {"text": ...}."""
    lines = [json.dumps({"text": record} if isinstance(record, str) else record) for record in records]
    path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    return path
