"""WARC, the web as it was fetched: the main text of every HTML page that was served with status 200; plain or .gz.

The text is taken out by Resiliparse (docs/sources.md has the measurements that chose it). Requests, metadata and
revisits are no records here; responses that are no such page, or whose text cannot be had, are left out and counted,
whatever `on_bad_record` says, because the web is made of them: `not_200`, `not_html`, `undecodable`, `too_deep`.
Pages that have no text are dropped as empty documents are.

A file is read from its start, so it is one slice; a crawl has thousands.
"""

import re
from collections.abc import Iterator
from functools import partial

from fastwarc.warc import WarcRecord
from resiliparse.extract.html2text import extract_plain_text
from resiliparse.parse.encoding import bytes_to_str, detect_encoding, map_encoding_to_html5

from data_prep.config import WarcSource
from data_prep.documents import Documents
from data_prep.sources import BadRecords, InputFile
from data_prep.sources.batches import Found, in_batches
from data_prep.sources.files import find_files, sha256_of_input
from data_prep.sources.records import Unusable
from data_prep.sources.web_archive import Record, kept_headers, name_of_place, read_records

PAGE_BYTES = 1 << 24
"""What is looked at of a page, after its content encoding is undone; a small one may stand for gigabytes."""
MAX_DEPTH = 1000
"""Of elements inside each other; the extractor's time grows with the cube of it, and browsers end at 512."""
_HTML_TYPES = {"text/html", "application/xhtml+xml"}
_NESTING_TAG = re.compile(r"<(/?)(?:div|article)\b", re.IGNORECASE)
"""The elements that the extractor's time depends on."""


class _LeftOut(Exception):  # noqa: N818 - control flow inside this module
    """Why a response is no document."""


def list_files(source: WarcSource) -> list[InputFile]:
    """The files of the source's paths, globs and URLs."""
    return find_files(source.path)


def sha256(path: str) -> str:
    """Hash of the file as it is stored, compressed or not."""
    return sha256_of_input(path)


def cut(path: str, size_bytes: int, slice_bytes: int) -> list[tuple[int, int]]:
    """One range."""
    return [(0, size_bytes)]


def read(source: WarcSource, path: str, begin: int, end: int, bad: BadRecords) -> Iterator[Documents]:
    """The documents of a file."""
    return in_batches(_documents(source, path, bad), begin)


def _documents(source: WarcSource, path: str, bad: BadRecords) -> Iterator[Found]:
    for record, read_to in read_records(path, "response", bad):
        try:
            page, charset = _page(record)
            text = main_text(decode_page(page, charset))
            yield Found(text, read_to, kept_headers(source, record))
        except _LeftOut as reason:
            bad.left_out(str(reason))
        except Unusable as error:
            bad.found(partial(name_of_place, path, record.position), error.reason, error.detail)


def _page(record: Record) -> tuple[bytes, str | None]:
    """The body of an HTML page, and the character set that its HTTP headers declare."""
    try:
        response = WarcRecord.from_bytes(record.raw)
        response.parse_http(auto_decode="all")
        status = response.http_headers.status_code if response.http_headers is not None else None
        if status is None:
            raise _LeftOut("undecodable")
        if status != 200:
            raise _LeftOut("not_200")
        content_type = response.http_content_type or record.headers.get("warc-identified-payload-type", "")
        if content_type.strip().lower() not in _HTML_TYPES:
            raise _LeftOut("not_html")
        return response.reader.read(PAGE_BYTES), response.http_charset
    except OSError:  # chunks or compression that are not what the headers say
        raise _LeftOut("undecodable") from None


def decode_page(body: bytes, charset: str | None) -> str:
    """A page's text: UTF-8 where it is valid, else as declared in HTTP or HTML, else as it looks."""
    if b"\x1b" not in body and b"\0" not in body:  # ISO-2022 and UTF-16 are valid UTF-8 by accident
        try:
            return body.decode("utf-8-sig")
        except UnicodeDecodeError:
            pass
    declared = map_encoding_to_html5(charset.strip("\"' "), fallback_utf8=False) if charset else None
    encoding = declared or detect_encoding(body, from_html_meta=True) or "utf-8"
    return bytes_to_str(body, encoding, errors="replace")


def main_text(html: str) -> str:
    """The main content of a page as plain text, without navigation, comments and the like; it may be empty."""
    depth = 0
    for tag in _NESTING_TAG.finditer(html):
        depth = max(depth - 1, 0) if tag[1] else depth + 1
        if depth > MAX_DEPTH:
            raise _LeftOut("too_deep")
    return extract_plain_text(html, main_content=True, alt_texts=False, comments=False, post_meta=False)
