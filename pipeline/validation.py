"""How a training run is validated: on fixed rows of each of its corpora, read causally and as a prefix-LM.

Whatever the objectives of training, the same tokens are scored, those behind each prefix; so runs with different
objectives can be compared. Where training draws its boundaries anew in each epoch, they are drawn here once, and by the
same policy.
"""

from collections.abc import Mapping

from pipeline.config import TrainConfig
from pipeline.data.corpora import Corpora
from pipeline.data.objective import SegmentObjectives
from pipeline.distributed.parallel import Parallel
from pipeline.evaluate import EvalResult, evaluate, split_batches
from pipeline.model import GPT2


def validate_model(model: GPT2, corpora: Corpora, config: TrainConfig, parallel: Parallel) -> dict[str, EvalResult]:
    """Corpus -> what the model makes of `evaluation.rows` rows of its validation split; every rank must call this.

    Raises:
        DataError: a row cannot be read, or nothing is scored; on all ranks.
    """
    objectives = None
    if config.boundaries.policy != "shards":
        objectives = SegmentObjectives({"prefix": 1.0}, config.boundaries, config.data.seed)
    token_bytes = corpora.token_bytes()
    results = {}
    for name, corpus in corpora.by_name.items():
        batches = split_batches(
            corpus,
            config.data.validation_split,
            rows=config.evaluation.rows,
            micro_batch_size=config.batch.micro_batch_size,
            parallel=parallel,
            objectives=objectives,
        )
        results[name] = evaluate(model, batches, token_bytes, parallel.data_parallel_group)
    return results


def summarize(results: Mapping[str, EvalResult], weights: Mapping[str, int]) -> dict[str, float]:
    """The numbers for a log: `EvalResult.summary` of the blend, each the corpora's mean by their weights.

    Of a blend also those of each corpus, as "NAME/prefix_loss" and so on.
    """
    summaries = {name: result.summary() for name, result in results.items()}
    total = sum(weights[name] for name in summaries)
    keys = next(iter(summaries.values()))
    together = {key: sum(weights[name] * s[key] for name, s in summaries.items()) / total for key in keys}
    if len(summaries) == 1:
        return together
    return together | {f"{name}/{key}": value for name, s in sorted(summaries.items()) for key, value in s.items()}
