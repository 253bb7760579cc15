"""What one rank cannot do, all ranks hear of, and none waits for ever."""

import pytest
import torch.distributed as dist
from processes import run_distributed

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
    assert first[1] == "ForewordError: OSError: [Errno 28] No space left (rank 0)"
    assert first[2] == "DataError: torn (rank 0)"
