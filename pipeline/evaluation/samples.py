"""What a model writes while it is trained: continuations of a few prompts of the validation split, always the same.

A prompt ends where its segment's prefix ends, or in the middle of a segment without one, and is read as the objective
reads prompts. Every rank must draw samples alike: the tensor-parallel ranks share each layer, and at ZeRO 3 all ranks
share the weights.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from data_prep.manifest import TOKENIZER_DIRECTORY
from data_prep.shards import PADDING, Split
from data_prep.tokenizers import load_tokenizer
from foreword.errors import DataError
from pipeline.config.objective import prompt_reading
from pipeline.config.train import TrainConfig
from pipeline.data.corpora import Corpora, require_rows
from pipeline.generation import Sampling, generate
from pipeline.model import GPT2

LONGEST_PROMPT = 64
TEMPERATURE = 0.8


@dataclass(frozen=True)
class Prompt:
    """Ids to continue, and those that really follow."""

    ids: list[int]
    truth: list[int]


class Sampler:
    """Draws the samples that `evaluation.samples` asks for.

    Args:
        corpora: prompts are from the one with the largest weight.
        config: of the run.

    Raises:
        DataError: no row of the validation split has a prompt and something behind it.
        ConfigError, DataError: the corpus's tokenizer cannot be read.
    """

    def __init__(self, corpora: Corpora, config: TrainConfig) -> None:
        corpus = corpora.by_name[max(corpora.by_name, key=lambda name: corpora.weights[name])]
        self._new_tokens = config.evaluation.sample_tokens
        self._reading = prompt_reading(config.objective)
        self._sampling = Sampling(temperature=TEMPERATURE, seed=config.seed)
        self._tokenizer = load_tokenizer(corpus.path / TOKENIZER_DIRECTORY)
        split = require_rows(corpus.split(config.data.validation_split))
        room = config.model.max_position_embeddings - self._new_tokens
        self._prompts = choose_prompts(split, config.evaluation.samples, min(LONGEST_PROMPT, room), self._new_tokens)

    def draw(self, model: GPT2) -> list[dict[str, Any]]:
        """One record for each prompt: prompt, what the model writes behind it, what stands there, and the reading."""
        with model.keeping_all_tokens():
            continuations = generate(
                model,
                [prompt.ids for prompt in self._prompts],
                max_new_tokens=self._new_tokens,
                sampling=self._sampling,
                prefix=self._reading == "prefix",
                stop_id=self._tokenizer.eod_id,
            )
        return [
            {
                "prompt": self._tokenizer.decode(prompt.ids),
                "continuation": self._behind(prompt.ids, continuation.ids),
                "truth": self._behind(prompt.ids, prompt.truth),
                "reading": self._reading,
            }
            for prompt, continuation in zip(self._prompts, continuations, strict=True)
        ]

    def _behind(self, prompt: list[int], ids: list[int]) -> str:
        """Decoded together: a token may stand for a space only inside of a text."""
        return self._tokenizer.decode([*prompt, *ids])[len(self._tokenizer.decode(prompt)) :]


def choose_prompts(split: Split, count: int, longest: int, num_truth: int) -> list[Prompt]:
    """Prompts from the longest segments of `count` rows, spread evenly over a split.

    Args:
        split: with at least one row.
        count: how many, fewer where rows have none.
        longest: tokens of a prompt; the beginning of a longer one is left out.
        num_truth: tokens of what follows, at most.

    Raises:
        DataError: no row has a segment of two tokens.
    """
    rows = np.unique(np.arange(count) * len(split) // count).tolist()
    prompts = []
    for row in split.rows(rows):
        start, prefix_len = row.segments.astype(np.int64).T
        length = np.diff(np.append(start, len(row.tokens)))
        length[prefix_len == PADDING] = 0
        place = int(length.argmax())
        if length[place] < 2:
            continue
        first, end = int(start[place]), int(start[place] + length[place])
        inside = int(prefix_len[place]) if 1 < prefix_len[place] < length[place] else int(length[place]) // 2
        boundary = first + inside
        ids = row.tokens[max(first, boundary - longest) : boundary].tolist()
        prompts.append(Prompt(ids, row.tokens[boundary : min(end, boundary + num_truth)].tolist()))
    if not prompts:
        raise DataError("no row has a segment of two tokens", where=split.corpus / split.name)
    return prompts
