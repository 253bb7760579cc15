"""What several tests of the pipeline need."""

from collections.abc import Iterator

import pytest

from pipeline.distributed.parallel import Parallel, initialize


@pytest.fixture
def one_process() -> Iterator[Parallel]:
    """This process as a world of its own, left again after the test."""
    parallel = initialize()
    yield parallel
    parallel.destroy()
