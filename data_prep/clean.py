"""Raw text -> normalised text, and documents of unwanted length or quality left out.

What comes in: `Documents`. What goes out: `Documents` whose text is normalised, and a count per reason of those left
out. Promise: work is done only on text that needs it; a batch of plain ASCII passes at the speed of a scan.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from data_prep.arrays import mask_to_arrow, mask_to_numpy, to_arrow, to_numpy
from data_prep.config import TextConfig
from data_prep.documents import Documents, buffers, leave_out, string_array

# C0 and C1 controls and DEL; tab, newline and carriage return are text
_CONTROLS = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")
_IS_CONTROL_BYTE = np.array([(code < 32 and chr(code) not in "\t\n\r") or code == 127 for code in range(256)])


def clean(
    documents: Documents, config: TextConfig, judged: bool = True
) -> tuple[Documents, Counter[str], Counter[str]]:
    """Normalise every part, and leave out documents of unwanted length or quality.

    Args:
        documents: raw text.
        config: what to do.
        judged: whether the quality rules are meant for these documents; then each has one part.

    Returns:
        The documents that stay; reason -> documents left out; and what quality rules took out of documents' text:
        reason -> lines, and citation marks.
    """
    documents = replace(documents, texts=normalize(documents.texts, config))
    documents, dropped = leave_out(documents, _length_faults(documents, config))
    removed: Counter[str] = Counter()
    if judged and config.quality.is_on and len(documents):
        from data_prep.quality.rules import apply_rules

        documents, low_quality, removed = apply_rules(documents, config.quality)
        documents, too_short_now = leave_out(documents, _length_faults(documents, config))
        dropped += low_quality + too_short_now
    return documents, dropped, removed


def _length_faults(documents: Documents, config: TextConfig) -> Iterator[tuple[str, np.ndarray]]:
    data_offsets = buffers(documents.texts)[1]
    yield "empty", data_offsets[documents.part_ptr[1:]] == data_offsets[documents.part_ptr[:-1]]
    if config.min_chars > 1 or config.max_chars is not None:
        chars = _sum_parts(to_numpy(pc.utf8_length(documents.texts)), documents.part_ptr)
        yield "too_few_chars", chars < config.min_chars
        if config.max_chars is not None:
            yield "too_many_chars", chars > config.max_chars


def normalize(texts: pa.LargeStringArray, config: TextConfig) -> pa.LargeStringArray:
    """Unicode normalisation and control characters as configured; the same array when nothing has to change."""
    beyond_ascii = ~mask_to_numpy(pc.string_is_ascii(texts))
    with_controls = np.zeros(len(texts), dtype=bool)
    if config.control_characters == "remove":
        with_controls = _with_controls(texts, bool(beyond_ascii.any()))
    to_normalize = np.zeros(len(texts), dtype=bool)
    if config.normalization == "nfc":
        candidates = np.flatnonzero(beyond_ascii)
        normal = [unicodedata.is_normalized("NFC", text) for text in texts.take(to_arrow(candidates)).to_pylist()]
        to_normalize[candidates[~np.array(normal, dtype=bool)]] = True
    changed = with_controls | to_normalize
    if not changed.any():
        return texts
    replacements = []
    for index in np.flatnonzero(changed).tolist():
        text = texts[index].as_py()
        if with_controls[index]:
            text = _CONTROLS.sub("", text)
        # after the removal, because a control character can stand between a letter and its accent
        if config.normalization == "nfc" and not unicodedata.is_normalized("NFC", text):
            text = unicodedata.normalize("NFC", text)
        replacements.append(text)
    return pc.replace_with_mask(texts, mask_to_arrow(changed), string_array(replacements))


def _with_controls(texts: pa.LargeStringArray, beyond_ascii: bool) -> np.ndarray:
    """bool [texts]: which ones hold a character of `_CONTROLS`."""
    data, offsets = buffers(texts)
    found = np.zeros(len(texts), dtype=bool)
    # three counts over the block are several times faster than one table look-up per byte
    text_controls = sum(np.count_nonzero(data == code) for code in b"\t\n\r")
    if np.count_nonzero(data < 32) > text_controls or np.count_nonzero(data == 127):
        found[_texts_at(offsets, np.flatnonzero(_IS_CONTROL_BYTE[data]))] = True
    if beyond_ascii:  # C1 is C2 80 to C2 9F in UTF-8
        leads = np.flatnonzero(data == 0xC2)
        found[_texts_at(offsets, leads[data[leads + 1] < 0xA0])] = True
    return found


def _texts_at(offsets: np.ndarray, positions: np.ndarray) -> np.ndarray:
    return np.searchsorted(offsets, positions, side="right") - 1


def _sum_parts(values: np.ndarray, part_ptr: np.ndarray) -> np.ndarray:
    sums = np.concatenate([[0], np.cumsum(values, dtype=np.int64)])
    return sums[part_ptr[1:]] - sums[part_ptr[:-1]]
