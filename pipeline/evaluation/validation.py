"""How a training run is validated: on fixed rows of each of its corpora, read causally and as a prefix-LM.

Whatever the objectives of training, the same tokens are scored, those behind each prefix; so runs with different
objectives can be compared. Where training draws its boundaries anew in each epoch, they are drawn here once, and by the
same policy. A run that is trained on masked tokens is asked for masked tokens too: those of one draw, in the same rows.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

from pipeline.config.objective import ObjectiveName, prompt_reading
from pipeline.config.train import TrainConfig
from pipeline.data.corpora import Corpora
from pipeline.data.masking import TokenMasking
from pipeline.data.objective import SegmentObjectives
from pipeline.distributed.parallel import Parallel
from pipeline.evaluation import EvalResult, Score, score_segments, score_targets, split_batches
from pipeline.model import GPT2


@dataclass(frozen=True)
class Validation:
    """What a model makes of one corpus.

    Attributes:
        read: the tokens behind each prefix.
        masked: masked tokens; None where the run is not trained on any.
    """

    read: EvalResult
    masked: Score | None

    def summary(self) -> dict[str, float]:
        """The numbers for a log."""
        return self.read.summary() | ({} if self.masked is None else {"masked_loss": self.masked.loss})


def validate_model(model: GPT2, corpora: Corpora, config: TrainConfig, parallel: Parallel) -> dict[str, Validation]:
    """Corpus -> what the model makes of `evaluation.rows` rows of its validation split; every rank must call this.

    Raises:
        DataError: a row cannot be read, or nothing is scored; on all ranks.
    """
    drawn = None
    if config.boundaries.policy != "shards":
        drawn = SegmentObjectives({"prefix": 1.0}, config.boundaries, config.data.seed)
    token_bytes, group = corpora.token_bytes(), parallel.data_parallel_group
    results = {}
    for name, corpus in corpora.by_name.items():
        batches = partial(
            split_batches,
            corpus,
            config.data.validation_split,
            rows=config.evaluation.rows,
            micro_batch_size=config.batch.micro_batch_size,
            parallel=parallel,
        )
        scores, masked = score_segments(model, batches(objectives=drawn), token_bytes, group), None
        if "bidirectional" in config.objective:
            whole = SegmentObjectives({"bidirectional": 1.0}, config.boundaries, config.data.seed)
            masking = TokenMasking(config.masking, corpora.tokenizer.vocab_size, config.data.seed)
            masked = Score(*score_targets(model, batches(objectives=whole, masking=masking), token_bytes, group))
        results[name] = Validation(EvalResult.of(scores), masked)
    return results


def summarize(results: Mapping[str, Validation], weights: Mapping[str, int]) -> dict[str, float]:
    """The numbers for a log: `Validation.summary` of the blend.

    Losses are means over the corpora by their weights (of a bucket, over the corpora that have tokens in it), targets
    are sums. Of a blend also the numbers of each corpus, as "NAME/prefix_loss" and so on.
    """
    summaries = {name: result.summary() for name, result in sorted(results.items())}
    together = {}
    for key in dict.fromkeys(key for summary in summaries.values() for key in summary):
        values = {name: summary[key] for name, summary in summaries.items() if key in summary}
        if key.startswith("targets"):
            together[key] = sum(values.values())
        else:
            together[key] = sum(weights[name] * values[name] for name in values) / sum(weights[name] for name in values)
    if len(summaries) == 1:
        return together
    return together | {f"{name}/{key}": value for name, s in summaries.items() for key, value in s.items()}


def judged_by(objectives: Mapping[ObjectiveName, float]) -> str:
    """Which number of a summary says how good a model is: as it reads prompts, or of masked tokens if these are all."""
    return "masked_loss" if list(objectives) == ["bidirectional"] else f"{prompt_reading(objectives)}_loss"
