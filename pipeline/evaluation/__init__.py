"""What a model makes of held-out rows.

rows       a split -> batches, with its own boundaries or drawn ones
segments   model and batches -> `SegmentScores`, one line for each segment, from all ranks
scores     such lines -> losses, perplexities, bits per byte, accuracies; by length of the prefix
documents  which document and which source each line is of
bootstrap  how sure the numbers are
evaluation all of it, as JSON
table      and for a person
"""

from pipeline.evaluation.rows import split_batches
from pipeline.evaluation.scores import EvalResult, Readings, Score, bucket_name
from pipeline.evaluation.segments import SegmentScores, score_segments, score_targets

__all__ = [
    "EvalResult",
    "Readings",
    "Score",
    "SegmentScores",
    "bucket_name",
    "score_segments",
    "score_targets",
    "split_batches",
]
