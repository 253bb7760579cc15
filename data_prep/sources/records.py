"""A record with named fields -> the parts of a document; what JSON lines, Parquet rows and datasets have in common.

A record is a dict of plain Python values. What is wrong with it is an `Unusable`, which the source turns into a bad
record that it can name.
"""

from collections.abc import Callable, Iterable
from typing import Any

import orjson

from data_prep.config import FieldPrefix, KeepingSource, RecordSource, prefix_policy
from data_prep.documents import Documents, kept_batch

PartsOf = Callable[[dict[str, Any]], list[str]]


class Unusable(Exception):  # noqa: N818 - control flow between this module and the sources
    """A record that cannot be used.

    Attributes:
        reason: the short name it is counted by.
        detail: one sentence for the person who reads the error.
    """

    def __init__(self, reason: str, detail: str) -> None:
        self.reason, self.detail = reason, detail


class Collected:
    """Documents made record by record, with what the source keeps of each."""

    def __init__(self, source: RecordSource) -> None:
        self._source = source
        self._parts_of = parts_reader(source)
        self._parts: list[list[str]] = []
        self._kept: list[tuple[str | None, str | None]] = []

    def add(self, record: dict[str, Any]) -> None:
        """Add a record.

        Raises:
            Unusable: it cannot be used; nothing of it was added.
        """
        parts, kept = self._parts_of(record), kept_of(self._source, record)
        self._parts.append(parts)
        self._kept.append(kept)

    def documents(self) -> Documents:
        """The documents of all records added."""
        return Documents.from_parts(self._parts, kept_batch(self._kept) if self._source.keeps else None)


def kept_of(source: KeepingSource, record: dict[str, Any]) -> tuple[str | None, str | None]:
    """What the source keeps of a record: its id, and the other fields that it has as one JSON object.

    Raises:
        Unusable: the id is missing, or neither a string nor an integer.
    """
    identity, fields = None, None
    if source.id_field is not None:
        value = _field(record, source.id_field)
        if type(value) not in {str, int}:
            raise wrong_type(source.id_field, "a string or an integer", value)
        identity = str(value)
    if source.keep_fields:
        present = {name: record[name] for name in source.keep_fields if name in record}
        try:
            fields = orjson.dumps(present, default=str).decode()
        except orjson.JSONEncodeError as error:  # nested too deep, keys that are no strings
            raise Unusable("wrong_type", f"the fields to keep cannot be written as JSON: {error}") from None
    return identity, fields


def required_fields(source: RecordSource) -> list[str]:
    """The names of the fields that every record must have."""
    fields = fields_of(source)
    return fields if source.id_field in {None, *fields} else [*fields, str(source.id_field)]


def columns_of(source: RecordSource, names: Iterable[str]) -> list[str]:
    """Of the columns `names` of a table those that are read."""
    wanted = {*required_fields(source), *source.keep_fields}
    return [name for name in names if name in wanted]


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
