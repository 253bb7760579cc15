"""Stage 1: one slice of input -> its documents' ids and content hashes, in the work directory.

A task is one slice; tasks know nothing of each other. Memory is a few batches of text, however long the slice is.
"""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import pyarrow as pa
import xxhash

from data_prep.arrays import to_arrow
from data_prep.clean import clean
from data_prep.config import FieldPrefix, PrepConfig, prefix_policy
from data_prep.documents import Documents, TokenizedDocuments, buffers
from data_prep.prefix import TokenDocuments, ends_with_eod, fit_field_documents, token_documents
from data_prep.shards import token_dtype
from data_prep.slices import DOCUMENT, LARGEST_DOCUMENT_BYTES, SliceRecord, SliceWriter
from data_prep.sources import BadRecords, module_of
from data_prep.tokenized import append_tokenized
from data_prep.tokenizers import Tokenizer, load_tokenizer
from data_prep.tokenizers.engine import SAMPLE_CHARS, Engine, ReferenceEngine, check_engine, check_ids, make_engine
from data_prep.workers import report_progress
from foreword.errors import DataError
from foreword.files import atomic_write

BATCHES_PER_CHECK = 4
"""The first batch of each slice, some 2 MB of text, and every so many after it are held against the reference."""


@dataclass(frozen=True)
class TokenizeTask:
    """One slice to tokenize.

    Attributes:
        config: the preparation.
        source: number of the source in `config.sources`.
        path, begin, end: the range of a file, in the source module's own units.
        size_bytes: what the slice counts for in the progress shown.
        tokenizer: the directory that `save_tokenizer` wrote.
        directory, name: where the tokenized slice goes.
        scratch: where it lies until it is finished.
        limit_bytes: stop when about this much of the stored file has been read; a sample, for predictions.
    """

    config: PrepConfig
    source: int
    path: str
    begin: int
    end: int
    size_bytes: int
    tokenizer: Path
    directory: Path
    name: str
    scratch: Path
    limit_bytes: int | None = None


@dataclass(frozen=True)
class HashTask:
    """One input file to hash for the manifest; `marker` keeps the result for a continued run."""

    kind: str
    path: str
    file: int
    marker: Path


def first_stage(task: TokenizeTask | HashTask) -> SliceRecord | str:
    """What the workers of the first stage do."""
    return tokenize_slice(task) if isinstance(task, TokenizeTask) else hash_input(task)


def hash_input(task: HashTask) -> str:
    """Hex SHA-256 of an input file, also left in the work directory."""
    digest = module_of(task.kind).sha256(task.path)
    with atomic_write(task.marker, "w") as file:
        file.write(digest)
    return digest


def tokenize_slice(task: TokenizeTask) -> SliceRecord:
    """Read, clean, hash and encode one slice.

    Raises:
        DataError: a record that is refused, or a fast engine that differs from the reference.
    """
    config, source = task.config, task.config.sources[task.source]
    policy = prefix_policy(source)
    tokenizer, engine = _engine_of(task.tokenizer)
    bad = BadRecords(refuse=config.on_bad_record == "refuse")
    with SliceWriter(task.directory, task.name, task.scratch) as writer:
        record = writer.record
        batches = module_of(source.kind).read(source, task.path, task.begin, task.end, bad)
        for number, batch in enumerate(batches):
            record.records += len(batch)
            if isinstance(batch, TokenizedDocuments):
                append_tokenized(batch, config.text, tokenizer, writer)
            else:
                documents, dropped, removed = clean(batch, config.text, judged=not isinstance(policy, FieldPrefix))
                record.dropped += dropped
                record.removed += removed
                if len(documents):
                    is_checked = number % BATCHES_PER_CHECK == 0
                    encode_batch(documents, config, policy, tokenizer, engine, writer, task.path, is_checked)
            report_progress(batch.input_bytes)
            record.input_bytes += batch.input_bytes
            if task.limit_bytes is not None and record.input_bytes >= task.limit_bytes:
                break
        record.records += sum(bad.counts.values())
        record.dropped += bad.counts
    report_progress(task.size_bytes - record.input_bytes)
    return writer.record


def encode_batch(
    documents: Documents,
    config: PrepConfig,
    policy: object,
    tokenizer: Tokenizer,
    engine: Engine,
    writer: SliceWriter,
    where: str,
    is_checked: bool = True,
) -> None:
    """Encode a batch of clean documents and append it to the slice, counting what is left out.

    Args:
        is_checked: hold the engine against the reference on one of the texts.
    """
    encoded = engine.encode(documents.texts)
    if is_checked:
        _check_sample(documents.texts, encoded, tokenizer, engine, where)
    with_eod = ends_with_eod(policy, documents.part_ptr)
    tokens, token_ptr = _with_eod(encoded, with_eod, tokenizer.eod_id, token_dtype(tokenizer.vocab_size))
    found = token_documents(policy, documents.part_ptr, token_ptr)
    dropped = writer.record.dropped
    if isinstance(policy, FieldPrefix):
        dialogues_without_reply = int((np.diff(documents.part_ptr) < 2).sum())
        has_target = found.length - found.boundary > 1  # more than the end-of-document token
        dropped["no_target"] += dialogues_without_reply + int((~has_target).sum())
        found, fits, cut = fit_field_documents(policy, found.select(has_target), config.sequence_length + 1)
        dropped["too_long"] += int((~fits).sum())
        writer.record.prefixes_cut += cut
        found = found.select(fits)
    text_tokens = found.length - 1
    too_few = text_tokens < config.text.min_tokens
    too_many = text_tokens > (config.text.max_tokens or np.inf)
    dropped["too_few_tokens"] += int(too_few.sum())
    dropped["too_many_tokens"] += int(too_many.sum())
    found = found.select(~(too_few | too_many))
    records = _document_records(documents, found, writer.tokens_written)
    writer.append(tokens, records, _kept_of(documents, found))


def _with_eod(
    encoded: list[np.ndarray], with_eod: np.ndarray, eod_id: int, dtype: np.dtype
) -> tuple[np.ndarray, np.ndarray]:
    """Ids of parts -> ids in `dtype` with an end-of-document id after chosen parts, and where each part begins."""
    lengths = np.fromiter(map(len, encoded), np.int64, len(encoded))
    token_ptr = np.zeros(len(encoded) + 1, dtype=np.int64)
    np.cumsum(lengths + with_eod, out=token_ptr[1:])
    tokens = np.empty(token_ptr[-1], dtype)
    tokens[token_ptr[1:][with_eod] - 1] = eod_id
    # one pass narrows and moves them
    for begin, ids in zip(token_ptr[:-1].tolist(), encoded, strict=True):
        tokens[begin : begin + len(ids)] = ids
    return tokens, token_ptr


def _document_records(documents: Documents, found: TokenDocuments, tokens_before: int) -> np.ndarray:
    data, offsets = buffers(documents.texts)
    text_bytes = offsets[found.last_part + 1] - offsets[found.first_part]
    if len(text_bytes) and text_bytes.max() > LARGEST_DOCUMENT_BYTES:
        raise DataError(f"a document of {int(text_bytes.max()):,} bytes", remedy="split it into documents below 4 GiB")
    records = np.empty(len(found.start), dtype=DOCUMENT)
    digests = b"".join(_digests(data.data, offsets.tolist(), found))
    halves = np.frombuffer(digests, dtype=">u8").reshape(-1, 2)
    records["hash_hi"], records["hash_lo"] = halves[:, 0], halves[:, 1]
    records["start"] = found.start + tokens_before
    records["length"] = found.length
    records["boundary"] = found.boundary
    records["text_bytes"] = text_bytes
    return records


def _kept_of(documents: Documents, found: TokenDocuments) -> pa.RecordBatch | None:
    """What is kept of the record that each document comes from."""
    if documents.kept is None:
        return None
    return documents.kept.take(to_arrow(np.searchsorted(documents.part_ptr, found.first_part, side="right") - 1))


def _digests(data: memoryview, offsets: list[int], found: TokenDocuments) -> list[bytes]:
    """The 128-bit content hash of each document: of its text, or of its parts each with its length before it."""
    digest = xxhash.xxh3_128_digest
    spans = zip(found.first_part.tolist(), found.last_part.tolist(), strict=True)
    if (found.first_part == found.last_part).all():
        return [digest(data[offsets[first] : offsets[first + 1]]) for first, _ in spans]
    digests = []
    for first, last in spans:
        running = xxhash.xxh3_128()
        for part in range(first, last + 1):
            running.update((offsets[part + 1] - offsets[part]).to_bytes(8, "little"))
            running.update(data[offsets[part] : offsets[part + 1]])
        digests.append(running.digest())
    return digests


def _check_sample(
    texts: pa.LargeStringArray, encoded: list[np.ndarray], tokenizer: Tokenizer, engine: Engine, where: str
) -> None:
    """Hold the engine against the reference on one text of this batch, chosen by content.

    A short one is compared with the ids that go into the corpus, of a long one a stretch is encoded by both.
    """
    if isinstance(engine, ReferenceEngine):
        return
    key = xxhash.xxh3_64_intdigest(buffers(texts)[0][:SAMPLE_CHARS].data)
    chosen = key % len(texts)
    text = texts[chosen].as_py()
    if len(text) > SAMPLE_CHARS:
        begin = (key >> 32) % (len(text) - SAMPLE_CHARS)
        check_engine(engine, tokenizer, [text[begin : begin + SAMPLE_CHARS]], where)
    else:
        check_ids(encoded[chosen].tolist(), tokenizer, text, where)


@lru_cache(maxsize=1)
def _engine_of(directory: Path) -> tuple[Tokenizer, Engine]:
    """Loaded once per process."""
    pa.set_cpu_count(1)  # parallelism is over slices
    tokenizer = load_tokenizer(directory)
    return tokenizer, make_engine(tokenizer)
