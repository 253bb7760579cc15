"""Real text for the benchmarks, made from whatever documents are on this machine.

What comes in: directories with HTML pages and plain documentation. What goes out: JSON Lines files with the fields `id`
and `text`. Pages are turned into text by lxml; equal documents are taken once. Where a file is to be larger than all of
them, they are taken again with their lines rotated, so that exact deduplication keeps them. The same documents give the
same files.
"""

import gzip
import hashlib
import random
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import orjson

PAGES = (".html", ".htm")
PLAIN = (".txt", ".rst", ".md", ".txt.gz", ".rst.gz", ".md.gz")
SMALLEST_CHARS = 200
LARGEST_CHARS = 200_000  # longer ones are indices, tables of symbols and logs of changes
ROTATED_LINES = 10
SEED = 1234
_NOT_TEXT = ("script", "style", "nav", "header", "footer", "head", "svg")
_BLOCKS = ("p", "div", "li", "tr", "pre", "h1", "h2", "h3", "h4", "h5", "h6", "dt", "dd", "br", "section", "table")


def collect_documents(path: Path, directories: Iterable[Path], processes: int = 2) -> None:
    """Write every different document below `directories`, shuffled."""
    files = sorted({file for directory in directories for file in _documents_below(directory)})
    with ProcessPoolExecutor(processes) as pool:
        texts = list(_different(pool.map(_text_of, files, chunksize=64)))
    random.Random(SEED).shuffle(texts)
    _write(path, texts)


def write_text(path: Path, documents: Path, size_bytes: int) -> None:
    """Write a file whose texts have at least `size_bytes` bytes of UTF-8 together.

    Args:
        documents: what `collect_documents` wrote.

    Raises:
        ValueError: the documents do not suffice, however often they are taken.
    """
    with documents.open("rb") as lines:
        texts = [orjson.loads(line)["text"] for line in lines]
    enough = list(_up_to(_repeated(texts), size_bytes))
    size = sum(len(text.encode()) for text in enough)
    if size < size_bytes:
        raise ValueError(
            f"the documents of this machine give {size / 1e6:.0f} MB of text; install some, for example Debian's "
            "linux-doc, python3-doc and postgresql-doc, or name directories with --documents"
        )
    _write(path, enough)


def _write(path: Path, texts: Iterable[str]) -> None:
    temporary = path.with_name(f".{path.name}.part")
    with temporary.open("wb") as out:
        for number, text in enumerate(texts):
            out.write(orjson.dumps({"id": number, "text": text}) + b"\n")
    temporary.replace(path)


def _documents_below(directory: Path) -> Iterator[Path]:
    for file in directory.rglob("*"):
        if file.name.lower().endswith(PAGES + PLAIN) and file.is_file() and not file.is_symlink():
            yield file


def _text_of(file: Path) -> str:
    """A document's text, or nothing when it is not usable."""
    try:
        content = gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes()
        text = content.decode()
        if file.name.lower().endswith(PAGES):
            text = _page_text(content)
    except (OSError, EOFError, ValueError):
        return ""
    return text if SMALLEST_CHARS <= len(text) <= LARGEST_CHARS else ""


def _page_text(content: bytes) -> str:
    from lxml import etree, html

    try:
        page = html.document_fromstring(content, parser=html.HTMLParser(encoding="utf-8", remove_comments=True))
    except etree.ParserError:  # an empty page
        return ""
    etree.strip_elements(page, *_NOT_TEXT, with_tail=False)
    for block in page.iter(*_BLOCKS):
        block.tail = "\n" + (block.tail or "")
    lines = (" ".join(line.split()) for line in page.text_content().split("\n"))
    return "\n".join(line for line in lines if line)


def _different(texts: Iterable[str]) -> Iterator[str]:
    seen = set()
    for text in texts:
        key = hashlib.blake2b(text.encode(), digest_size=16).digest()
        if text and key not in seen:
            seen.add(key)
            yield text


def _repeated(texts: list[str]) -> Iterator[str]:
    """All texts; then all that have enough lines, begun at another line; and so on until none has."""
    yield from texts
    turn = ROTATED_LINES
    while texts:
        texts = [text for text in texts if text.count("\n") >= turn]
        for text in texts:
            lines = text.split("\n")
            yield "\n".join(lines[turn:] + lines[:turn])
        turn += ROTATED_LINES


def _up_to(texts: Iterable[str], size_bytes: int) -> Iterator[str]:
    size = 0
    for text in texts:
        if size >= size_bytes:
            return
        size += len(text.encode())
        yield text
