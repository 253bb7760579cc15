"""JSON Lines of requests -> JSON Lines of answers, in the order of the lines and a few at a time.

A line that cannot be answered goes out with its error, and the others are none the worse for it. Blank lines are
skipped. The draws of a line depend on the seed and on its number, and so not on who is answered together with it.
"""

from collections.abc import Iterable, Iterator
from typing import Any

import orjson

from foreword.errors import ForewordError
from pipeline.generation.requests import Request, TextGenerator


def answer_lines(lines: Iterable[bytes], generator: TextGenerator, batch_size: int) -> Iterator[dict[str, Any]]:
    """Yield the records that go out.

    Args:
        lines: UTF-8; each a record as `requests` describes them.
        generator: who answers.
        batch_size: requests that are answered together.
    """
    waiting: list[Request | dict[str, Any]] = []
    for index, line in enumerate(lines):
        if not line.strip():
            continue
        waiting.append(_request(line, index, generator))
        if len(waiting) == batch_size:
            yield from _answer(waiting, generator)
            waiting = []
    yield from _answer(waiting, generator)


def _request(line: bytes, index: int, generator: TextGenerator) -> Request | dict[str, Any]:
    """The request, or a record with the error."""
    where = f"line {index + 1}"
    try:
        record = orjson.loads(line)
        orjson.dumps(record)  # its other fields go out again, and what is nested very deeply does not
    except (orjson.JSONDecodeError, orjson.JSONEncodeError) as error:
        return {"error": f"{where}: not valid JSON: {error}"}
    if not isinstance(record, dict):
        return {"error": f"{where}: not a JSON object"}
    try:
        return generator.request(record, key=index)
    except ForewordError as error:
        message = f"{error.where}: {error.what}" if error.where else error.what
        return record | {"error": f"{where}: {message}"}


def _answer(waiting: list[Request | dict[str, Any]], generator: TextGenerator) -> Iterator[dict[str, Any]]:
    answers = iter(generator.answer([request for request in waiting if isinstance(request, Request)]))
    for request in waiting:
        yield next(answers) if isinstance(request, Request) else request
