"""The first rows of a run -> what a row asks for on average, without a batch and without torch.

Only the tables of segments are read: the segments as the run trains them, with their objectives and drawn boundaries.
Where there is no corpus yet, an estimate takes its place.
"""

from dataclasses import dataclass

import numpy as np

from pipeline.config.train import TrainConfig
from pipeline.data.corpora import Corpora
from pipeline.data.masking import num_chosen
from pipeline.data.objective import RowKeys, SegmentObjectives, corpus_key
from pipeline.data.places import Places
from pipeline.data.segments import Segments, segments_of
from pipeline.plan.flops import attended_pairs

ROWS = 1024


@dataclass(frozen=True)
class Census:
    """Averages of a row.

    Attributes:
        rows: how many were counted; 0 for an estimate.
        targets: scored positions.
        attended_pairs: query-key pairs that the mask allows, in one layer.
        prefix_tokens: inputs inside of prefixes of at least two tokens.
    """

    rows: int
    targets: float
    attended_pairs: float
    prefix_tokens: float


def take_census(corpora: Corpora, config: TrainConfig, rows: int = ROWS) -> Census:
    """Count the rows at the first positions of the run.

    Raises:
        DataError: a shard's file is not what the manifest says, or a row's segments do not tile it.
    """
    segments = _segments_at(np.arange(rows), corpora, config)
    in_inputs = np.stack([segments.start, segments.num_inputs, _prefix_inputs(segments)], axis=1)
    prefix_tokens = in_inputs[in_inputs[:, 2] > 1, 2].sum()
    return Census(
        rows, _targets(segments, config) / rows, attended_pairs(in_inputs) / rows, float(prefix_tokens) / rows
    )


def estimate_census(sequence_length: int, config: TrainConfig) -> Census:
    """Without any rows: each is one document, and prefixes end anywhere in it with equal chances."""
    length = sequence_length
    causal_pairs = length * (length + 1) / 2
    by_objective = {
        "causal": Census(0, length, causal_pairs, 0.0),
        "prefix": Census(0, length / 2, causal_pairs + length**2 / 6, length / 2),  # the mean of p^2 / 2 is n^2 / 6
        "bidirectional": Census(0, config.masking.chosen * length, float(length**2), length),
    }
    total = sum(config.objective.values())
    mean = [
        sum(weight * getattr(by_objective[name], field) for name, weight in config.objective.items()) / total
        for field in ("targets", "attended_pairs", "prefix_tokens")
    ]
    return Census(0, *mean)


def _segments_at(positions: np.ndarray, corpora: Corpora, config: TrainConfig) -> Segments:
    """The segments of the rows at these positions, as they are trained."""
    read = list(corpora.by_name.values())
    splits = [corpus.split(config.data.train_split) for corpus in read]
    corpus, row, epoch = Places(corpora, config.data).places_at(positions)
    stored = [splits[which].row(index).segments for which, index in zip(corpus.tolist(), row.tolist(), strict=True)]

    def where(index: int) -> str:
        split = splits[corpus[index]]
        return f"{split.corpus / split.name}, row {row[index]}"

    keys = np.array([corpus_key(of.manifest_sha256) for of in read], dtype=np.uint64)
    objectives = SegmentObjectives(config.objective, config.boundaries, config.data.seed)
    return objectives.assign(segments_of(stored, corpora.sequence_length + 1, where), RowKeys(keys[corpus], epoch, row))


def _prefix_inputs(segments: Segments) -> np.ndarray:
    """int64 [K]: how many inputs of each segment are its prefix."""
    return np.clip(segments.prefix_len, 0, segments.num_inputs)


def _targets(segments: Segments, config: TrainConfig) -> int:
    """Scored positions: the tokens behind each prefix, but not a segment's first; or the chosen ones."""
    behind_prefix = np.maximum(segments.length - np.maximum(segments.prefix_len, 1), 0)
    chosen = num_chosen(config.masking, segments.num_inputs)
    return int(np.where(segments.masked, chosen, behind_prefix)[~segments.is_padding].sum())
