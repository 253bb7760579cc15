"""Documents that come as ids -> the slice: what the tokenize stage does with sources that are tokenized already.

They are neither cleaned nor encoded. A document that ends with the end-of-document id keeps it, every other gets one.
The content hash is that of the ids, so exact copies are found among such documents and not between them and texts.
"""

from functools import lru_cache

import numpy as np
import xxhash

from data_prep.config import TextConfig
from data_prep.documents import TokenizedDocuments, leave_out
from data_prep.gather import gather
from data_prep.shards import token_dtype
from data_prep.slices import DOCUMENT, SliceWriter
from data_prep.tokenizers import Tokenizer

NO_BOUNDARY = -1


def append_tokenized(
    documents: TokenizedDocuments, limits: TextConfig, tokenizer: Tokenizer, writer: SliceWriter
) -> None:
    """Append a batch to the slice, counting what is left out: "empty", "too_few_tokens", "too_many_tokens"."""
    lengths = _text_lengths(documents, tokenizer.eod_id)
    faults = [
        ("empty", lengths == 0),
        ("too_few_tokens", lengths < limits.min_tokens),
        ("too_many_tokens", lengths > (limits.max_tokens or np.inf)),
    ]
    documents, dropped = leave_out(documents, faults)
    writer.record.dropped += dropped
    if not len(documents):
        return
    lengths = _text_lengths(documents, tokenizer.eod_id)
    ids = gather(documents.ids, documents.token_ptr[:-1], lengths)
    ends = np.cumsum(lengths + 1)
    is_text = np.ones(ends[-1], dtype=bool)
    is_text[ends - 1] = False
    tokens = np.full(ends[-1], tokenizer.eod_id, dtype=token_dtype(tokenizer.vocab_size))
    tokens[is_text] = ids
    records = np.empty(len(documents), dtype=DOCUMENT)
    records["hash_hi"], records["hash_lo"] = _hashes(ids, lengths)
    records["start"] = ends - lengths - 1 + writer.tokens_written
    records["length"] = lengths + 1
    records["boundary"] = NO_BOUNDARY
    bytes_before = np.append(0, np.cumsum(_token_bytes(tokenizer)[ids], dtype=np.int64))
    starts = np.cumsum(lengths) - lengths
    records["text_bytes"] = bytes_before[starts + lengths] - bytes_before[starts]
    writer.append(tokens, records)


def _text_lengths(documents: TokenizedDocuments, eod_id: int) -> np.ndarray:
    """int64 [documents]: ids without the end-of-document id at the end."""
    lengths = np.diff(documents.token_ptr)
    last = documents.ids[np.maximum(documents.token_ptr[1:] - 1, 0)] if len(documents.ids) else np.zeros(len(lengths))
    return lengths - ((lengths > 0) & (last == eod_id))


def _hashes(ids: np.ndarray, lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The two uint64 [documents] halves of the 128-bit hashes, the same in whatever type the ids came."""
    content = ids.astype("<u4").view(np.uint8).data
    ends = (4 * np.cumsum(lengths)).tolist()
    begins = [0, *ends[:-1]]
    digests = b"".join(xxhash.xxh3_128_digest(content[a:b]) for a, b in zip(begins, ends, strict=True))
    halves = np.frombuffer(digests, dtype=">u8").reshape(-1, 2)
    return halves[:, 0], halves[:, 1]


@lru_cache(maxsize=1)
def _token_bytes(tokenizer: Tokenizer) -> np.ndarray:
    return tokenizer.token_bytes()
