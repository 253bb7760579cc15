"""Exact duplicates: of equal hashes the first document stays, however the work is divided."""

import numpy as np
import pytest

from data_prep import dedup
from data_prep.slices import DOCUMENT, SliceWriter
from data_prep.workers import Workers


@pytest.mark.parametrize("run_documents", [1, 7, 40, 2**23])
@pytest.mark.parametrize("kinds", [1, 5, 1000])
def test_all_but_the_first_of_equal_hashes_are_found(tmp_path, monkeypatch, run_documents, kinds):
    monkeypatch.setattr(dedup, "RUN_DOCUMENTS", run_documents)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    random = np.random.default_rng(kinds)
    names, counts, seen, expected = [], [], set(), []
    for number, count in enumerate([0, 30, 1, 0, 45, 9]):
        documents = np.zeros(count, dtype=DOCUMENT)
        # equal upper halves with different lower ones too, up to both ends of the range of hashes
        documents["hash_hi"] = random.choice(np.array([0, 2**64 - 1, 2**63, 12345], dtype=np.uint64), count)
        documents["hash_lo"] = random.integers(kinds, size=count)
        for index, key in enumerate(documents[["hash_hi", "hash_lo"]].tolist(), start=sum(counts)):
            if key in seen:
                expected.append(index)
            seen.add(key)
        names.append(f"{number:06d}")
        counts.append(count)
        with SliceWriter(tmp_path, names[-1], scratch) as writer:
            writer.append(np.zeros(0, np.uint16), documents)
    with Workers(1) as workers:
        duplicates = dedup.find_duplicates(workers, tmp_path, names, counts, tmp_path)
    assert sorted(duplicates.between(0, sum(counts)).tolist()) == expected
    assert sorted(duplicates.between(31, 50).tolist()) == [index for index in expected if 31 <= index < 50]


def test_a_bucket_holds_a_hash_once_per_run_however_many_copies_there_are():
    hashed = np.zeros(1000, dtype=dedup._HASHED)
    hashed["index"] = np.arange(1000)[::-1]
    kept, copies = dedup._without_copies(hashed)
    assert kept["index"].tolist() == [0]
    assert copies.tolist() == list(range(1, 1000))
