"""A record with named fields -> the parts of a document; what JSON lines, Parquet rows and datasets have in common.

A record is a dict of plain Python values. What is wrong with it is an `Unusable`, which the source turns into a bad
record that it can name.
"""

from collections.abc import Callable
from typing import Any

from data_prep.config import FieldPrefix, RecordSource, prefix_policy

PartsOf = Callable[[dict[str, Any]], list[str]]


class Unusable(Exception):  # noqa: N818 - control flow between this module and the sources
    """A record that cannot be used.

    Attributes:
        reason: the short name it is counted by.
        detail: one sentence for the person who reads the error.
    """

    def __init__(self, reason: str, detail: str) -> None:
        self.reason, self.detail = reason, detail


def fields_of(source: RecordSource) -> list[str]:
    """The names of the record's fields that make a document."""
    policy = prefix_policy(source)
    if not isinstance(policy, FieldPrefix):
        return [source.text_field]
    return [name for name in (policy.prefix_field, policy.target_field, policy.turns_field) if name is not None]


def parts_reader(source: RecordSource) -> PartsOf:
    """A function from a record to its parts: the text, or prefix and target, or the turns.

    It raises `Unusable` for a field that is missing or is not text.
    """
    policy = prefix_policy(source)
    if isinstance(policy, FieldPrefix) and policy.turns_field is not None:
        return _turns_reader(policy.turns_field, policy.turn_text_field)
    names = fields_of(source)
    return lambda record: [_string(record, name) for name in names]


def _turns_reader(turns_field: str, text_key: str | None) -> PartsOf:
    def turns_of(record: dict[str, Any]) -> list[str]:
        turns = _field(record, turns_field)
        if not isinstance(turns, list):
            raise wrong_type(turns_field, "a list of turns", turns)
        if text_key is None:
            for turn in turns:
                if not isinstance(turn, str):
                    raise wrong_type(f"{turns_field}[]", "a string", turn)
            return turns
        for turn in turns:
            if not isinstance(turn, dict):
                raise wrong_type(f"{turns_field}[]", "an object", turn)
        return [_string(turn, text_key) for turn in turns]

    return turns_of


def _field(record: dict[str, Any], name: str) -> Any:
    if name not in record:
        raise missing_field(name, record)
    return record[name]


def _string(record: dict[str, Any], name: str) -> str:
    value = _field(record, name)
    if not isinstance(value, str):
        raise wrong_type(name, "a string", value)
    return value


def missing_field(name: str, record: dict[str, Any] | list[str]) -> Unusable:
    """There is no such field; `record` has the names there are."""
    known = ", ".join(sorted(record)[:10]) or "none"
    return Unusable("missing_field", f"the record has no field {name!r}; it has: {known}")


def wrong_type(name: str, wanted: str, value: Any) -> Unusable:
    """The field's value is null, or something else than what is wanted."""
    if value is None:
        return Unusable("null", f"the field {name!r} is null, not {wanted}")
    return Unusable("wrong_type", f"the field {name!r} is not {wanted} but {name_of(value)}")


def name_of(value: Any) -> str:
    """What kind of value it is, in the words of JSON."""
    names = {type(None): "null", bool: "a boolean", int: "a number", float: "a number", str: "a string", list: "a list"}
    return names.get(type(value), "an object")
