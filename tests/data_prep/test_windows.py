"""Windows: every document in one of them, of bounded size, the same however the input was sliced."""

from collections import Counter

import numpy as np
import pytest

from data_prep import windows
from data_prep.dedup import Duplicates
from data_prep.slices import DOCUMENT, SliceWriter
from data_prep.windows import SPLITS, SliceOfCorpus, members, plan_windows


@pytest.fixture
def documents() -> np.ndarray:
    """A thousand documents, most of them short."""
    random = np.random.default_rng(0)
    found = np.zeros(1000, dtype=DOCUMENT)
    found["hash_hi"], found["hash_lo"] = random.integers(2**63, size=(2, 1000))
    found["length"] = np.minimum(2 + random.pareto(1.0, 1000) * 3, 500).astype(int)
    return found


def windows_of(config, directory, documents, cuts) -> dict[tuple[str, int], list[int]]:
    """(split, number) -> the documents of the window, when the input is sliced at `cuts`."""
    directory.mkdir()
    slices, first = [], 0
    for number, part in enumerate(np.split(documents, cuts)):
        with SliceWriter(directory, f"{number:06d}", directory.parent) as writer:
            writer.append(np.zeros(0, np.uint16), part)
        slices.append(SliceOfCorpus(f"{number:06d}", 0, first, len(part)))
        first += len(part)
    nothing = Duplicates([])
    found = {}
    for window in plan_windows(config, directory, slices, nothing):
        inside = []
        for stretch in window.stretches:
            part = documents[stretch.slice.first + stretch.begin : stretch.slice.first + stretch.end]
            chosen = members(part, stretch, SPLITS.index(window.split), nothing, config)
            inside += (stretch.slice.first + stretch.begin + np.flatnonzero(chosen)).tolist()
        found[window.split, window.number] = inside
    return found


@pytest.mark.parametrize(("shard_tokens", "most"), [(300, 10**6), (300, 7), (10**6, 7), (1, 3), (10**6, 1)])
def test_windows_hold_every_document_once_and_no_more_than_they_may(
    make_config, tmp_path, documents, monkeypatch, shard_tokens, most
):
    monkeypatch.setattr(windows, "MOST_DOCUMENTS", most)
    monkeypatch.setattr(windows, "CHUNK_DOCUMENTS", 100)
    config = make_config({"path": "unused"}, shard_tokens=shard_tokens, splits={"valid": 0.1})
    found = windows_of(config, tmp_path / "one", documents, [])
    assert Counter(document for inside in found.values() for document in inside) == Counter(range(1000))
    for split in SPLITS[:2]:
        mine = [inside for (name, _), inside in sorted(found.items()) if name == split]
        in_order = [document for inside in mine for document in inside]
        assert in_order == sorted(in_order)
        for inside in mine:
            tokens = documents["length"][inside].sum()
            assert len(inside) <= most and tokens - documents["length"][inside[-1]] < shard_tokens
            assert inside is mine[-1] or len(inside) == most or tokens >= shard_tokens
    for cuts in ([500], [0, 1, 2, 999, 1000], list(range(0, 1000, 13))):
        assert windows_of(config, tmp_path / f"{len(cuts)}", documents, cuts) == found


def test_a_weight_takes_documents_again_in_windows_of_their_own_round(make_config, tmp_path, documents):
    config = make_config({"path": "unused", "weight": 2.0}, shard_tokens=1000, splits={"valid": 0.1})
    found = windows_of(config, tmp_path / "one", documents, [300])
    taken = Counter(document for inside in found.values() for document in inside)
    held_out = {document for (split, _), inside in found.items() if split == "valid" for document in inside}
    assert all(taken[document] == (1 if document in held_out else 2) for document in range(1000))
