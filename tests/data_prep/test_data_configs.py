"""The examples in configs/data: each is a valid preparation, and every kind of source has one."""

from pathlib import Path

import pytest

from data_prep.config import PrepConfig
from data_prep.sources import MODULES, module_of
from foreword.config import load_config

EXAMPLES = sorted((Path(__file__).parents[2] / "configs" / "data").glob("*.yaml"))


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_an_example_is_valid(path):
    assert load_config(path, [], PrepConfig).sources


def test_every_kind_of_source_has_an_example_and_a_module():
    kinds = {source.kind for path in EXAMPLES for source in load_config(path, [], PrepConfig).sources}
    assert kinds == set(MODULES)
    for kind in kinds:
        assert all(callable(getattr(module_of(kind), name)) for name in ("list_files", "sha256", "cut", "read"))
