"""All configured quality rules over a batch of documents.

What comes in: documents of one part each, normalised and not empty. What goes out: the documents that stay, and a count
for each reason. A document that breaks several rules counts for the first of them.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np

from data_prep.documents import Documents, leave_out, string_array
from data_prep.quality.c4 import apply_c4
from data_prep.quality.gopher import Fault, quality_faults, repetition_faults
from data_prep.quality.thresholds import C4, QualityConfig
from foreword.config import Section


def apply_rules(documents: Documents, config: QualityConfig) -> tuple[Documents, Counter[str], Counter[str]]:
    """Apply every family that is switched on, in the order of `QualityConfig`.

    Returns:
        The documents that stay; "family.reason" -> documents left out; and what C4's rules took out of documents:
        "c4.reason" -> lines, and citation marks.
    """
    dropped: Counter[str] = Counter()
    removed: Counter[str] = Counter()
    if config.c4 is not None:
        documents = _apply_c4(documents, config.c4, dropped, removed)
    if config.gopher_quality is not None:
        documents = _apply_gopher(documents, "gopher_quality", quality_faults, config.gopher_quality, dropped)
    if config.gopher_repetition is not None:
        documents = _apply_gopher(documents, "gopher_repetition", repetition_faults, config.gopher_repetition, dropped)
    return documents, dropped, removed


def _apply_gopher(
    documents: Documents, family: str, faults: Callable[..., Iterator[Fault]], rules: Section, dropped: Counter[str]
) -> Documents:
    named = ((f"{family}.{reason}", applies) for reason, applies in faults(documents.texts, rules))
    documents, left_out = leave_out(documents, named)
    dropped.update(left_out)
    return documents


def _apply_c4(documents: Documents, rules: C4, dropped: Counter[str], removed: Counter[str]) -> Documents:
    kept, stays = [], []
    removed_here: Counter[str] = Counter()
    for text in documents.texts.to_pylist():
        left, reason = apply_c4(text, rules, removed_here)
        stays.append(reason is None)
        if reason is None:
            kept.append(left)
        else:
            dropped[f"c4.{reason}"] += 1
    removed.update({f"c4.{reason}": count for reason, count in removed_here.items()})
    return replace(documents.select(np.array(stays, dtype=bool)), texts=string_array(kept))
