"""Where a document's prefix ends.

Two ways lead here. Sampled policies (`none`, `uniform`, `fraction`) decide for each packed piece, from a key made of
the seed, the document's content hash and the piece's number. Records that bring their boundaries (`field`) are turned
into documents with a boundary in tokens before they are packed.

Promise: a prefix leaves at least one target in its segment, and it depends on nothing but content, seed and policy.
"""

from dataclasses import dataclass

import numpy as np

from data_prep.config import FieldPrefix, FractionPrefix, NoPrefix, UniformPrefix
from data_prep.keyed import keyed_bits, to_range


@dataclass(frozen=True)
class TokenDocuments:
    """Documents as ranges of a flat array of ids.

    Attributes:
        start, length: int64 [documents], tokens, the end-of-document token included; ranges may overlap.
        boundary: int64 [documents], tokens of the prefix that the record brought, or -1.
        first_part, last_part: int64 [documents], the parts of text that the document consists of, both included.
    """

    start: np.ndarray
    length: np.ndarray
    boundary: np.ndarray
    first_part: np.ndarray
    last_part: np.ndarray

    def select(self, keep: np.ndarray) -> "TokenDocuments":
        """The documents where the bool [documents] array `keep` is true."""
        return TokenDocuments(
            self.start[keep], self.length[keep], self.boundary[keep], self.first_part[keep], self.last_part[keep]
        )


def ends_with_eod(policy: object, part_ptr: np.ndarray) -> np.ndarray:
    """bool [parts]: after which parts an end-of-document token stands.

    After a document's last part; and after every turn of a dialogue, which is how dialogue models are prompted.
    """
    if isinstance(policy, FieldPrefix) and policy.turns_field is not None:
        return np.ones(part_ptr[-1], dtype=bool)
    ends = np.zeros(part_ptr[-1], dtype=bool)
    ends[part_ptr[1:] - 1] = True
    return ends


def token_documents(policy: object, part_ptr: np.ndarray, token_ptr: np.ndarray) -> TokenDocuments:
    """Parts -> documents: the whole record, or one document per reply of a dialogue with its history as the prefix.

    Args:
        part_ptr: int64 [records + 1]; record r has the parts part_ptr[r]:part_ptr[r + 1], at least one.
        token_ptr: int64 [parts + 1]; part p has the tokens token_ptr[p]:token_ptr[p + 1], with what ends it.
    """
    first, last = part_ptr[:-1], part_ptr[1:] - 1
    if isinstance(policy, FieldPrefix) and policy.turns_field is not None:
        replies = last - first
        first = np.repeat(first, replies)
        last = first + 1 + np.arange(len(first)) - np.repeat(np.cumsum(replies) - replies, replies)
    start = token_ptr[first]
    boundary = token_ptr[last] - start if isinstance(policy, FieldPrefix) else np.full(len(first), -1)
    return TokenDocuments(start, token_ptr[last + 1] - start, boundary, first, last)


def fit_field_documents(
    policy: FieldPrefix, documents: TokenDocuments, row_length: int
) -> tuple[TokenDocuments, np.ndarray, int]:
    """Treat documents with a boundary that are longer than a row: dropped, or their prefix cut from the left.

    Returns:
        The documents with starts, lengths and boundaries adjusted; bool [documents], which of them fit now; and how
        many prefixes were cut. With `cut_prefix` a document still does not fit when its target leaves no room for a
        prefix.
    """
    excess = np.maximum(documents.length - row_length, 0)
    if policy.too_long == "drop":
        return documents, excess == 0, 0
    fits = (excess == 0) | (documents.boundary > excess)
    adjusted = TokenDocuments(
        documents.start + excess,
        documents.length - excess,
        documents.boundary - excess,
        documents.first_part,
        documents.last_part,
    )
    return adjusted, fits, int(((excess > 0) & fits).sum())


def prefix_lengths(
    policy: NoPrefix | UniformPrefix | FractionPrefix | FieldPrefix,
    seed: int,
    content_hash: tuple[np.ndarray, np.ndarray],
    copy: np.ndarray,
    number: np.ndarray,
    length: np.ndarray,
    boundary: np.ndarray,
) -> np.ndarray:
    """The prefix length of each piece of documents of one policy.

    Args:
        content_hash: the two uint64 [pieces] halves of the documents' hashes.
        copy: int64 [pieces], 0 for a document's first appearance, 1 for its second (sources with a weight above 1).
        number, length: int64 [pieces], the piece's number in its document and its tokens, at least 2.
        boundary: int64 [pieces], the boundary that the record brought (`field`).

    Returns:
        int64 [pieces], each in [0, length - 1]; `uniform` draws from [1, length - 1].
    """
    if isinstance(policy, UniformPrefix):
        return 1 + to_range(keyed_bits(seed, "prefix", *content_hash, copy, number), length - 1)
    if isinstance(policy, FractionPrefix):
        return np.minimum((policy.fraction * length).astype(np.int64), length - 1)
    if isinstance(policy, FieldPrefix):
        return np.minimum(boundary, length - 1)
    return np.zeros(len(length), dtype=np.int64)
