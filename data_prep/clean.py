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

from data_prep.arrays import mask_to_arrow, to_arrow, to_numpy
from data_prep.config import TextConfig
from data_prep.documents import Documents, buffers, leave_out, string_array

# C0 and C1 controls and DEL; tab, newline and carriage return are text
_CONTROLS = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")
_TAB, _NEWLINE, _RETURN = b"\t\n\r"
_DELETE, _FIRST_OF_C1, _FIRST_AFTER_C1 = 0x7F, 0xC2, 0xA0  # C1 is C2 80 to C2 9F in UTF-8
_FIRST_LEAD_TO_LOOK_AT = 0xCC  # of U+0300; all before it is in NFC as it is
# Blocks of the most usual characters from U+0300 on, [first, after the last): NFC changes, composes and reorders none
# of them.
_IN_NFC = np.zeros(0x110000, dtype=bool)
for _first, _after in [
    (0x0388, 0x0483),  # Greek and Cyrillic letters
    (0x048A, 0x0591),  # more Cyrillic, Armenian
    (0x05D0, 0x0610),  # Hebrew letters
    (0x061B, 0x064B),  # Arabic letters
    (0x2002, 0x20D0),  # punctuation, superscripts, currencies
    (0x2100, 0x2126),  # letter-like symbols
    (0x2190, 0x2329),  # arrows, mathematical and technical signs
    (0x232B, 0x2ADC),  # boxes, shapes, dingbats, more mathematical signs
    (0x3000, 0x302A),  # CJK punctuation
    (0x3041, 0x3099),  # Hiragana
    (0x309B, 0xA66F),  # Katakana, CJK ideographs, Yi
    (0xAC00, 0xD7A4),  # Hangul syllables
    (0xE000, 0xF900),  # private use
    (0xFE00, 0xFE10),  # variation selectors
    (0xFE50, 0x10000),  # small and full-width forms, the replacement character
    (0x1F000, 0x2F800),  # symbols and emoji, more CJK ideographs
]:
    _IN_NFC[_first:_after] = True
_CHUNK_BYTES = 1 << 18  # looked at together: its masks stay in the processor's cache
_DENSE = 16  # where more than one byte in so many starts a character from U+0300 on, each text is looked at as a whole


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
        import pyarrow.compute as pc

        chars = _sum_parts(to_numpy(pc.utf8_length(documents.texts)), documents.part_ptr)
        yield "too_few_chars", chars < config.min_chars
        if config.max_chars is not None:
            yield "too_many_chars", chars > config.max_chars


def normalize(texts: pa.LargeStringArray, config: TextConfig) -> pa.LargeStringArray:
    """Unicode normalisation and control characters as configured; the same array when nothing has to change."""
    nothing = np.zeros(len(texts), dtype=bool)
    with_controls, to_normalize = nothing, nothing
    data, offsets = buffers(texts)
    notable = _notable_bytes(data)
    if config.control_characters == "remove":
        with_controls = _with_controls(data, offsets, notable)
    if config.normalization == "nfc":
        to_normalize = _not_in_nfc(texts, data, offsets, notable)
    changed = with_controls | to_normalize
    if not changed.any():
        return texts
    import pyarrow.compute as pc  # takes as long as most modules here together, and the main process cleans nothing

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


def _notable_bytes(data: np.ndarray) -> np.ndarray:
    """Where the bytes are that may matter: those from C2 on and, but for newlines, the control characters of ASCII."""
    found = []
    for begin in range(0, len(data), _CHUNK_BYTES):
        chunk = data[begin : begin + _CHUNK_BYTES]
        is_notable = chunk - np.uint8(_FIRST_OF_C1) < (32 - _FIRST_OF_C1) % 256  # unsigned, so those below 32 wrap
        is_notable &= chunk != _NEWLINE
        is_notable |= chunk == _DELETE
        found.append(np.flatnonzero(is_notable) + begin)
    return np.concatenate([np.empty(0, np.int64), *found])


def _with_controls(data: np.ndarray, offsets: np.ndarray, notable: np.ndarray) -> np.ndarray:
    """bool [texts]: which ones hold a character of `_CONTROLS`; `notable` from `_notable_bytes`."""
    found = np.zeros(len(offsets) - 1, dtype=bool)
    byte = data[notable]
    in_ascii = (byte <= _DELETE) & (byte != _TAB) & (byte != _RETURN)
    found[_texts_at(offsets, notable[in_ascii])] = True
    c1 = notable[byte == _FIRST_OF_C1]
    found[_texts_at(offsets, c1[data[c1 + 1] < _FIRST_AFTER_C1])] = True
    return found


def _not_in_nfc(texts: pa.LargeStringArray, data: np.ndarray, offsets: np.ndarray, notable: np.ndarray) -> np.ndarray:
    """bool [texts]: which ones are not in NFC; only texts with a character outside of `_IN_NFC` are looked at whole."""
    found = np.zeros(len(texts), dtype=bool)
    leads = notable[data[notable] >= _FIRST_LEAD_TO_LOOK_AT]
    if len(leads) * _DENSE < len(data):
        leads = leads[~_IN_NFC[_code_points(data, leads)]]
    candidates = np.unique(_texts_at(offsets, leads))
    for index, text in zip(candidates.tolist(), texts.take(to_arrow(candidates)).to_pylist(), strict=True):
        found[index] = not unicodedata.is_normalized("NFC", text)
    return found


def _code_points(data: np.ndarray, leads: np.ndarray) -> np.ndarray:
    """int32: the characters, of two to four bytes, that begin at `leads`."""
    first = data[leads].astype(np.int32)
    points = (first & 0x1F) << 6 | data[leads + 1] & 0x3F
    longer = np.flatnonzero(first >= 0xE0)
    points[longer] = (points[longer] & 0x3FF) << 6 | data[leads[longer] + 2] & 0x3F
    longest = np.flatnonzero(first >= 0xF0)
    points[longest] = (points[longest] & 0x7FFF) << 6 | data[leads[longest] + 3] & 0x3F
    return points


def _texts_at(offsets: np.ndarray, positions: np.ndarray) -> np.ndarray:
    return np.searchsorted(offsets, positions, side="right") - 1


def _sum_parts(values: np.ndarray, part_ptr: np.ndarray) -> np.ndarray:
    sums = np.concatenate([[0], np.cumsum(values, dtype=np.int64)])
    return sums[part_ptr[1:]] - sums[part_ptr[:-1]]
