"""WET, the extracted text of Common Crawl: each conversion record is a document as it is; plain or .gz.

A file is read from its start, so it is one slice; a crawl has thousands.
"""

from collections.abc import Iterator
from functools import partial

from data_prep.config import WetSource
from data_prep.documents import Documents
from data_prep.sources import BadRecords, InputFile
from data_prep.sources.batches import Found, in_batches
from data_prep.sources.files import find_files, sha256_of_input
from data_prep.sources.records import Unusable
from data_prep.sources.web_archive import kept_headers, name_of_place, read_records


def list_files(source: WetSource) -> list[InputFile]:
    """The files of the source's paths, globs and URLs."""
    return find_files(source.path)


def sha256(path: str) -> str:
    """Hash of the file as it is stored, compressed or not."""
    return sha256_of_input(path)


def cut(path: str, size_bytes: int, slice_bytes: int) -> list[tuple[int, int]]:
    """One range."""
    return [(0, size_bytes)]


def read(source: WetSource, path: str, begin: int, end: int, bad: BadRecords) -> Iterator[Documents]:
    """The documents of a file."""
    return in_batches(_documents(source, path, bad), begin)


def _documents(source: WetSource, path: str, bad: BadRecords) -> Iterator[Found]:
    for record, read_to in read_records(path, "conversion", bad):
        try:
            text = record.raw[record.content_begin :].decode()
            yield Found(text, read_to, kept_headers(source, record))
        except UnicodeDecodeError as error:
            what = f"the text is not valid UTF-8 at byte {error.start} of its content"
            bad.found(partial(name_of_place, path, record.position), "invalid_utf8", what)
        except Unusable as error:
            bad.found(partial(name_of_place, path, record.position), error.reason, error.detail)
