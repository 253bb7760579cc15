"""The records of an offline segment of Weights & Biases, read back from its .wandb file.

The file is a log as LevelDB writes it (https://github.com/google/leveldb/blob/main/doc/log_format.md) behind a header
of 7 bytes; each entry is a `Record` of wandb's protocol.
"""

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from wandb.proto.wandb_internal_pb2 import Record

BLOCK, FILE_HEADER, ENTRY_HEADER = 32768, 7, struct.Struct("<IHB")
FULL, LAST = 1, 4


def read_records(path: Path) -> Iterator[Record]:
    """The records of a .wandb file, in order."""
    content, at, parts = path.read_bytes(), FILE_HEADER, b""
    assert content[:4] == b":W&B"
    while at < len(content):
        left_in_block = BLOCK - at % BLOCK
        if left_in_block < ENTRY_HEADER.size:
            at += left_in_block
            continue
        _, length, kind = ENTRY_HEADER.unpack_from(content, at)
        at += ENTRY_HEADER.size + length
        parts += content[at - length : at]
        if kind in (FULL, LAST):
            yield Record.FromString(parts)
            parts = b""


def history_of(segment: Path) -> list[dict[str, Any]]:
    """What was logged in a segment's directory, one mapping a call."""
    rows = [record.history.item for record in _records_of(segment) if record.HasField("history")]
    return [{item.key or ".".join(item.nested_key): json.loads(item.value_json) for item in row} for row in rows]


def config_of(segment: Path) -> dict[str, Any]:
    """The configuration that a segment holds."""
    runs = [record.run for record in _records_of(segment) if record.HasField("run")]
    return {item.key: json.loads(item.value_json) for run in runs for item in run.config.update}


def step_metrics_of(segment: Path) -> dict[str, str]:
    """Metric, or pattern of metrics -> the metric that is its axis."""
    metrics = [record.metric for record in _records_of(segment) if record.HasField("metric")]
    return {metric.name or metric.glob_name: metric.step_metric for metric in metrics}


def _records_of(segment: Path) -> list[Record]:
    (file,) = segment.glob("*.wandb")
    return list(read_records(file))
