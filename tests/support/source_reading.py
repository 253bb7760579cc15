"""What the tests of the sources share: reading a source as a preparation does, whole or in slices."""

from itertools import pairwise

from data_prep.config import NoPrefix, PrepConfig
from data_prep.sources import BadRecords, module_of
from foreword.config import validate

WHOLE = 2**62


def source_of(**values):
    """A validated source as a preparation settles it."""
    config = {"output": "corpus", "sources": [values], "tokenizer": {"path": "t.model"}}
    return validate(config, PrepConfig).sources[0]


def documents_in(batch):
    """The documents of a batch as lists of parts."""
    parts = batch.texts.to_pylist()
    return [parts[a:b] for a, b in zip(batch.part_ptr[:-1], batch.part_ptr[1:], strict=True)]


def read_documents(slice_bytes=WHOLE, refuse=True, **values):
    """All documents of a source as lists of parts, in canonical order, and the counted bad records."""
    source = source_of(prefix=values.pop("prefix", NoPrefix()), **values)
    module, bad = module_of(source.kind), BadRecords(refuse)
    documents = []
    for file in module.list_files(source):
        ranges = module.cut(file.path, file.size_bytes, slice_bytes)
        assert ranges[0][0] == 0
        assert ranges[-1][1] == file.size_bytes
        assert all(before[1] == after[0] for before, after in pairwise(ranges))
        for begin, end in ranges:
            for batch in module.read(source, file.path, begin, end, bad):
                documents += documents_in(batch)
    return documents, dict(bad.counts)


def read_texts(**values):
    """The same for documents of one part: their texts."""
    documents, bad = read_documents(**values)
    assert all(len(parts) == 1 for parts in documents)
    return [parts[0] for parts in documents], bad


def read_kept(refuse=True, **values):
    """What a source keeps of each record, as (id, fields), and the counted bad records."""
    source, bad = source_of(**values), BadRecords(refuse)
    module, kept = module_of(source.kind), []
    for file in module.list_files(source):
        for begin, end in module.cut(file.path, file.size_bytes, WHOLE):
            for batch in module.read(source, file.path, begin, end, bad):
                kept += [(row["id"], row["fields"]) for row in batch.kept.to_pylist()]
    return kept, dict(bad.counts)
