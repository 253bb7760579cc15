"""What one rank cannot do, all ranks hear of, and none waits for ever."""

import contextlib
import io
import sys
from unittest import mock

import pytest
import torch.distributed as dist
import yaml
from processes import run_distributed
from training import train_config

from foreword.cli import main
from foreword.errors import DataError, ForewordError
from pipeline.distributed.agreement import all_ranks, gather, main_rank
from pipeline.distributed.parallel import initialize


def raise_on(rank: int, error: Exception) -> int:
    if dist.get_rank() == rank:
        raise error
    return dist.get_rank()


def outcomes_of_failures() -> list[str]:
    parallel = initialize()
    messages = []
    for work in (
        lambda: all_ranks(lambda: raise_on(1, DataError("torn", where="shard 3", remedy="copy it"))),
        lambda: gather(lambda: raise_on(0, OSError(28, "No space left"))),
        lambda: main_rank(lambda: raise_on(0, DataError("torn"))),
    ):
        with pytest.raises(ForewordError) as caught:
            work()
        messages.append(f"{type(caught.value).__name__}: {caught.value}")
    assert gather(dist.get_rank) == [0, 1]
    assert main_rank(lambda: "from the main rank") == "from the main rank"
    parallel.destroy()
    return messages


def test_an_error_on_one_rank_is_the_same_error_on_all():
    first, second = run_distributed(2, outcomes_of_failures)
    assert first == second
    assert first[0] == "DataError: shard 3: torn (rank 1)\n  -> copy it"
    assert first[1].startswith("PeerError: rank 0: OSError: [Errno 28] No space left\n  -> this is a bug")
    assert first[2] == "DataError: torn (rank 0)"


def train_with_a_bug_on_rank_1(config: str) -> tuple[int, str]:
    """The command as rank after rank meets it: its exit code and what it prints."""
    import pipeline.train

    def buggy(_):
        raise_on(1, ZeroDivisionError("a recognisable bug"))

    errors = io.StringIO()
    with (
        mock.patch.object(pipeline.train, "open_corpora", buggy),
        mock.patch.object(sys, "argv", ["foreword", "train", config]),
        contextlib.redirect_stderr(errors),
        pytest.raises(SystemExit) as ended,
    ):
        main()
    return ended.value.code, errors.getvalue()


def test_a_bug_shows_its_traceback_where_it_happened_and_ends_all_ranks_with_1(tmp_path):
    config = train_config(tmp_path / "run", tmp_path / "corpus")
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(config.model_dump(mode="json")))
    (code_0, errors_0), (code_1, errors_1) = run_distributed(2, train_with_a_bug_on_rank_1, str(tmp_path / "c.yaml"))
    assert (code_0, code_1) == (1, 1)
    assert "foreword: rank 1: ZeroDivisionError: a recognisable bug" in errors_0
    assert "Traceback" not in errors_0
    assert "Traceback" in errors_1
    assert "in buggy" in errors_1
