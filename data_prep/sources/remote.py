"""Files behind URLs (s3://, gs://, https://, hf://, memory://, ...), through fsspec.

Credentials and endpoints are those that the protocol's own package finds: environment variables, its configuration
files. Promise: whatever that package raises becomes an error that names the URL; a protocol whose package is not
installed is refused with the package's name.
"""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO, cast

from data_prep.sources import InputFile
from foreword.errors import ConfigError, DataError, ForewordError, MachineError

# what stores call the thing that changes with a file's content, as fsspec passes it on
_VERSION_KEYS = (
    *("ETag", "etag", "VersionId", "generation", "md5Hash", "crc32c", "blob_id"),
    *("LastModified", "Last-Modified", "updated", "mtime", "created"),
)


def is_remote(path: str) -> bool:
    """Whether it is a URL and not a path of this machine."""
    return "://" in path


def find_remote(url: str) -> list[InputFile]:
    """The file at a URL, or the files of a glob in name order; empty when there is none.

    Raises:
        ConfigError: no such protocol, or a file whose size the server does not tell.
        MachineError: the protocol's package is not installed, or the store cannot be reached.
    """
    filesystem, path = _filesystem(url)
    magic = "*[" if url.startswith(("http://", "https://")) else "*?["  # a question mark begins a URL's query
    try:
        if not any(character in path for character in magic):
            found = {filesystem.unstrip_protocol(path): filesystem.info(path)}
        else:
            matches = filesystem.glob(path, detail=True)
            found = {filesystem.unstrip_protocol(name): matches[name] for name in sorted(matches)}
    except FileNotFoundError as error:
        cause = error.__cause__  # over HTTP every failure is told as a missing file
        if cause is not None and getattr(cause, "status", None) not in {404, 410}:
            raise _not_reached(url, cause) from None
        return []
    except Exception as error:  # every store has its own errors
        raise _not_reached(url, error) from None
    return [_input_file(name, info) for name, info in found.items() if info.get("type") != "directory"]


def sha256_from_store(url: str) -> str | None:
    """Hex SHA-256 of the file at a URL as far as its store tells it (the Hugging Face hub, of large files), or None."""
    with _reading(url):
        filesystem, path = _filesystem(url)
        return (filesystem.info(path).get("lfs") or {}).get("sha256")


def open_remote(url: str) -> BinaryIO:
    """Open the file at a URL for reading bytes; seekable, read ahead in blocks of a few megabytes.

    Raises:
        DataError: now or while reading, it cannot be read.
    """
    with _reading(url):
        filesystem, path = _filesystem(url)
        return cast(BinaryIO, _RemoteFile(url, filesystem.open(path, "rb")))


class _RemoteFile(io.RawIOBase):
    """A file of fsspec whose errors name the URL."""

    def __init__(self, url: str, file: Any) -> None:
        self._url, self._file = url, file

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return bool(self._file.seekable())

    def read(self, size: int = -1) -> bytes:
        with _reading(self._url):
            return self._file.read(size)

    def readinto(self, buffer: Any) -> int:
        content = self.read(len(buffer))
        buffer[: len(content)] = content
        return len(content)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        with _reading(self._url):
            return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def close(self) -> None:
        self._file.close()
        super().close()


@contextmanager
def _reading(url: str) -> Iterator[None]:
    try:
        yield
    except ForewordError:
        raise
    except Exception as error:  # every store has its own errors
        raise DataError(f"cannot be read: {_text_of(error)}", where=url) from None


def _filesystem(url: str) -> tuple[Any, str]:
    """fsspec's file system for the URL, and the path in it."""
    from fsspec.core import url_to_fs  # imported by those who read from URLs only

    try:
        return url_to_fs(url)
    except ImportError as error:
        remedy = "install it with pip; foreword[remote] brings those for https://, s3:// and gs://"
        what = f"a package that this protocol needs is not installed: {error}"
        raise MachineError(what, where=url, remedy=remedy) from None
    except ValueError as error:
        raise ConfigError(f"not a URL that can be read: {error}", where=url) from None
    except Exception as error:
        raise _not_reached(url, error) from None


def _input_file(url: str, info: dict[str, Any]) -> InputFile:
    if info.get("size") is None:
        raise ConfigError("the server does not tell the file's size", where=url, remedy="download it first")
    version = ", ".join(f"{key}={info[key]}" for key in _VERSION_KEYS if info.get(key) is not None)
    return InputFile(url, int(info["size"]), version or "version unknown")


def _not_reached(url: str, error: BaseException) -> MachineError:
    return MachineError(f"cannot be reached: {_text_of(error)}", where=url)


def _text_of(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
