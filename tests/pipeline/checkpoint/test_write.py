"""What is written is what was in memory, past the page cache or through it, or there is no file."""

import errno
import hashlib
import os
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.checkpoint import write
from pipeline.checkpoint.write import ALIGNMENT_BYTES, write_and_hash

CHUNK_BYTES = 2 * ALIGNMENT_BYTES


@pytest.fixture(autouse=True, scope="module")
def small_chunks():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(write, "CHUNK_BYTES", CHUNK_BYTES)
        yield


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return tmp_path_factory.mktemp("written") / "file"


def write_all(path, content) -> None:
    digest = write_and_hash(path, memoryview(content), threading.Event())
    assert path.read_bytes() == content
    assert digest == hashlib.sha256(content).hexdigest()


@given(
    length=st.integers(0, 3).flatmap(lambda n: st.integers(-2, 2).map(lambda by: max(0, n * ALIGNMENT_BYTES + by))),
    offset=st.sampled_from([0, 1, 64, ALIGNMENT_BYTES - 1]),
)
def test_any_length_from_any_address_is_written_as_it_is(path, length, offset):
    memory = memoryview(bytearray(os.urandom(length + offset)))
    write_all(path, memory[offset:])


@pytest.mark.parametrize("refused_at", ["open", "write"])
def test_a_file_system_that_has_only_its_page_cache_gets_the_same_bytes(path, monkeypatch, refused_at):
    refusals = []

    def refuse(name):
        real = getattr(os, name)

        def call(*arguments):
            direct = arguments[1] if name == "open" else write.fcntl.fcntl(arguments[0], write.fcntl.F_GETFL)
            if direct & os.O_DIRECT:
                refusals.append(name)
                raise OSError(errno.EINVAL, "Invalid argument")
            return real(*arguments)

        monkeypatch.setattr(os, name, call)

    content = os.urandom(2 * CHUNK_BYTES + 1)
    with monkeypatch.context() as monkeypatch:
        refuse(refused_at)
        digest = write_and_hash(path, memoryview(content), threading.Event())
    assert refusals == [refused_at]
    assert path.read_bytes() == content
    assert digest == hashlib.sha256(content).hexdigest()


def test_a_write_that_fails_leaves_no_file(path, monkeypatch):
    written = []

    def full(descriptor, data):
        written.append(len(data))
        if len(written) == 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        return len(data)

    with monkeypatch.context() as patched, pytest.raises(OSError, match="No space left"):
        patched.setattr(os, "write", full)
        write_and_hash(path, memoryview(bytes(3 * CHUNK_BYTES)), threading.Event())
    assert not path.exists()


def test_a_write_that_is_cancelled_leaves_no_file_and_no_hash(path):
    cancelled = threading.Event()
    cancelled.set()
    assert write_and_hash(path, memoryview(bytes(CHUNK_BYTES)), cancelled) is None
    assert not path.exists()
