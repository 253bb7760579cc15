"""A mapped file is the array that numpy wrote; what is no such file is named."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from data_prep.mapped import MappedArray
from foreword.errors import DataError

DTYPES = st.sampled_from([np.uint16, np.uint32, np.int32, np.int64, np.float64])


@settings(max_examples=60)
@given(arrays.arrays(DTYPES, arrays.array_shapes(max_dims=3, min_side=0, max_side=40)))
def test_it_is_the_array_that_was_written(tmp_path_factory, array):
    path = tmp_path_factory.mktemp("array") / "a.npy"
    np.save(path, array)
    mapped = MappedArray(path)
    assert mapped.array.dtype == array.dtype
    np.testing.assert_array_equal(mapped.array, array)
    assert not mapped.array.flags.writeable


def test_rows_may_be_expected_anywhere_and_are_the_same_afterwards(tmp_path):
    """Also where there are none: it is a hint, and who reads them is told."""
    array = np.arange(30_000, dtype=np.uint16).reshape(-1, 3)
    np.save(tmp_path / "a.npy", array)
    mapped = MappedArray(tmp_path / "a.npy")
    for start, stop in ((0, 1), (4000, 9000), (9_999, 10_000), (0, 10_000), (-1, 2), (9_999, 10_001), (7, 7), (8, 3)):
        mapped.expect(start, stop)
    np.testing.assert_array_equal(mapped.array, array)


def test_the_second_format_version_is_read_too(tmp_path):
    array = np.arange(6, dtype=np.int32).reshape(2, 3)
    with (tmp_path / "a.npy").open("wb") as file:
        np.lib.format.write_array(file, array, version=(2, 0))
    np.testing.assert_array_equal(MappedArray(tmp_path / "a.npy").array, array)


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def a_few_bytes(path: Path) -> None:
    path.write_bytes(b"\x93NUM")


def something_else(path: Path) -> None:
    path.write_bytes(b"no numpy file, but long enough to look at")


def objects(path: Path) -> None:
    np.save(path, np.array([{}, None]), allow_pickle=True)


def by_columns(path: Path) -> None:
    np.save(path, np.asfortranarray(np.ones((3, 2))))


def missing(path: Path) -> None:
    path.unlink()


@pytest.mark.parametrize(
    "spoil", [truncated, empty, a_few_bytes, something_else, objects, by_columns, missing], ids=lambda f: f.__name__
)
def test_what_is_no_array_is_named(tmp_path, spoil):
    path = tmp_path / "a.npy"
    np.save(path, np.arange(9))
    spoil(path)
    with pytest.raises(DataError, match=r"cannot be read as a \.npy file") as caught:
        MappedArray(path)
    assert caught.value.where == str(path)
