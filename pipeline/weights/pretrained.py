"""A path that holds trained weights -> the model, its tokenizer and how it reads a prompt.

The path may be a run, one of its checkpoints (of any topology), or a weights directory.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from torch import Tensor

from data_prep.manifest import TokenizerInfo
from data_prep.tokenizers import Tokenizer, load_tokenizer
from foreword.errors import CheckpointError
from pipeline.checkpoint.find import find_checkpoint
from pipeline.checkpoint.meta import read_meta
from pipeline.checkpoint.read import load_full_weights
from pipeline.config import ModelConfig
from pipeline.model import GPT2, build_model, load_full_state
from pipeline.weights import directory as weights


@dataclass(frozen=True)
class Pretrained:
    """Trained weights that are not loaded yet.

    Attributes:
        path: the checkpoint or weights directory itself.
        config: the model's shape.
        vocab_size: ids in use, without padding.
        objective: "prefix" when prompts were read in both directions in training.
        tokenizer_dir: its tokenizer.
        tokenizer_sha256: what the tokenizer must be.
        load_weights: reads the logical parameters, name -> fp32 tensor of full shape.
    """

    path: Path
    config: ModelConfig
    vocab_size: int
    objective: Literal["causal", "prefix"]
    tokenizer_dir: Path
    tokenizer_sha256: str
    load_weights: Callable[[], dict[str, Tensor]]

    def load_model(self) -> GPT2:
        """The model on the CPU in fp32; needs `pipeline.distributed.parallel.initialize` before it."""
        model = build_model(self.config, self.vocab_size, seed=0)
        load_full_state(model, self.load_weights())
        return model.eval()

    def load_tokenizer(self) -> Tokenizer:
        """The tokenizer.

        Raises:
            ConfigError: there is none.
            CheckpointError: it is another than the weights were made with.
        """
        tokenizer = load_tokenizer(self.tokenizer_dir)
        if tokenizer.sha256 != self.tokenizer_sha256:
            raise CheckpointError(
                "this is not the tokenizer that the model was trained with",
                where=self.tokenizer_dir,
                remedy="put the tokenizer directory of its corpus there",
            )
        return tokenizer


def open_pretrained(path: Path) -> Pretrained:
    """Find out what `path` holds, without loading weights.

    Raises:
        CheckpointError: neither weights, nor a checkpoint, nor a run with a complete one; or it is not intact.
    """
    if weights.is_weights(path):
        meta = weights.read_weights_meta(path)
        return Pretrained(
            path=path,
            config=meta.model,
            vocab_size=meta.vocab_size,
            objective=meta.objective,
            tokenizer_dir=path / weights.TOKENIZER_DIRECTORY,
            tokenizer_sha256=meta.tokenizer.sha256,
            load_weights=lambda: weights.load_weights(path),
        )
    checkpoint = find_checkpoint(path)
    saved = read_meta(checkpoint)
    places = checkpoint, checkpoint.absolute().parent.parent  # its own, after a reshape; else the run's
    tokenizers = [place / weights.TOKENIZER_DIRECTORY for place in places]
    return Pretrained(
        path=checkpoint,
        config=ModelConfig.model_validate(saved.config["model"]),
        vocab_size=saved.corpus.vocab_size,
        objective=saved.config["objective"],
        tokenizer_dir=tokenizers[0] if tokenizers[0].is_dir() else tokenizers[1],
        tokenizer_sha256=saved.corpus.tokenizer_sha256,
        load_weights=lambda: load_full_weights(checkpoint),
    )


def initial_weights(path: Path, tokenizer: TokenizerInfo) -> dict[str, Tensor]:
    """The logical parameters at `path`, to start a run on data that `tokenizer` has encoded.

    Raises:
        CheckpointError: there are none, or they were made with another tokenizer.
    """
    pretrained = open_pretrained(path)
    if pretrained.tokenizer_sha256 != tokenizer.sha256:
        raise CheckpointError(
            f"these weights were made with another tokenizer than the corpus, whose is {tokenizer.name!r}",
            where=path,
            remedy=f"prepare the corpus with the tokenizer in {pretrained.tokenizer_dir}",
        )
    return pretrained.load_weights()
