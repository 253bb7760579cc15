"""What holds for all tests: how they are divided over processes, and that machines are shared."""

from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from xdist.scheduler import LoadFileScheduling

# how long an example of a property takes says nothing
settings.register_profile("foreword", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("foreword")


class _ByFile(LoadFileScheduling):
    """The tests of a file stay together, with what they set up; and all of those on the one real Slurm."""

    def _split_scope(self, nodeid: str) -> str:
        file = super()._split_scope(nodeid)
        return "slurm" if file.startswith("tests/cluster/") else file


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> _ByFile:
    """For `pytest --numprocesses N`."""
    return _ByFile(config, log)
