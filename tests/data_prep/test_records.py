"""What is kept of a record: its id as text, the other fields as JSON; what cannot be kept is a bad record."""

import json

import pytest
from source_reading import source_of

from data_prep.sources.records import Unusable, kept_of


def keeping(**values):
    return source_of(kind="jsonl", path="a.jsonl", **values)


def test_a_record_is_kept_by_its_id_and_the_fields_it_has():
    source = keeping(id_field="id", keep_fields=["b", "c"])
    identity, fields = kept_of(source, {"id": 7, "text": "t", "b": {"x": [1, None]}})
    assert identity == "7"
    assert json.loads(fields) == {"b": {"x": [1, None]}}
    assert kept_of(keeping(), {"text": "t"}) == (None, None)


def nested(depth):
    value: list = []
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        ({"b": 1}, "missing_field"),
        ({"id": None}, "null"),
        ({"id": 1.5}, "wrong_type"),
        ({"id": True}, "wrong_type"),
        ({"id": 1, "b": nested(300)}, "wrong_type"),
        ({"id": 1, "b": {1: 2}}, "wrong_type"),
    ],
)
def test_what_cannot_be_kept_is_a_bad_record(record, reason):
    with pytest.raises(Unusable) as caught:
        kept_of(keeping(id_field="id", keep_fields=["b"]), record)
    assert caught.value.reason == reason
