"""Errors: what, where and remedy in the message; the exit codes that scripts rely on."""

import pickle

import pytest

from foreword.errors import (
    CheckpointError,
    ConfigError,
    DataError,
    ForewordError,
    MachineError,
    ProcessesApartError,
    ProcessKilledError,
    StoppedOnRequest,
)


def test_the_message_says_where_and_what_to_do() -> None:
    error = ConfigError("no such key", where="a.yaml:3", remedy="remove it")
    assert str(error) == "a.yaml:3: no such key\n  -> remove it"


def test_the_message_leaves_out_what_is_not_known() -> None:
    assert str(ConfigError("no such key")) == "no such key"


@pytest.mark.parametrize(
    ("kind", "exit_code"),
    [
        (ConfigError, 2),
        (MachineError, 2),
        (ProcessKilledError, 1),
        (DataError, 3),
        (CheckpointError, 3),
        (StoppedOnRequest, 75),
        (ProcessesApartError, 76),
    ],
)
def test_each_kind_of_mistake_has_its_exit_code(kind: type[ForewordError], exit_code: int) -> None:
    assert kind("x").exit_code == exit_code


def test_an_error_crosses_a_process_boundary_whole() -> None:
    error = pickle.loads(pickle.dumps(DataError("truncated", where="x.npy", remedy="prepare again")))
    assert isinstance(error, DataError)
    assert str(error) == "x.npy: truncated\n  -> prepare again"
