"""A path that holds trained weights -> the model, its tokenizer, and what it was trained for.

The path may be a run, one of its checkpoints (of any topology), or a weights directory.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter
from torch import Tensor

from data_prep.tokenizers import Tokenizer, load_tokenizer
from foreword.errors import CheckpointError
from pipeline.checkpoint.find import find_checkpoint
from pipeline.checkpoint.meta import CheckpointMeta, read_meta
from pipeline.checkpoint.read import load_full_weights
from pipeline.config import ModelConfig, ObjectiveName, Objectives, PromptReading, prompt_reading
from pipeline.model import GPT2, build_model, load_full_state
from pipeline.weights import directory as weights


@dataclass(frozen=True)
class Pretrained:
    """Trained weights that are not loaded yet.

    Attributes:
        path: the checkpoint or weights directory itself.
        config: the model's shape.
        vocab_size: ids in use, without padding.
        objective: name -> weight, that they were trained with.
        tokenizer_dir: its tokenizer.
        tokenizer_sha256: what the tokenizer must be.
        load_weights: reads the logical parameters, name -> fp32 tensor of full shape.
        checkpoint: what the checkpoint says of itself; None for a weights directory.
    """

    path: Path
    config: ModelConfig
    vocab_size: int
    objective: dict[ObjectiveName, float]
    tokenizer_dir: Path
    tokenizer_sha256: str
    load_weights: Callable[[], dict[str, Tensor]]
    checkpoint: CheckpointMeta | None

    @property
    def reads_prompts(self) -> PromptReading:
        """As a prefix, in both directions, or causally."""
        return prompt_reading(self.objective)

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
            checkpoint=None,
        )
    checkpoint = find_checkpoint(path)
    saved = read_meta(checkpoint)
    places = checkpoint, checkpoint.absolute().parent.parent  # its own, after a reshape; else the run's
    tokenizers = [place / weights.TOKENIZER_DIRECTORY for place in places]
    return Pretrained(
        path=checkpoint,
        config=ModelConfig.model_validate(saved.config["model"]),
        vocab_size=saved.corpus.vocab_size,
        objective=TypeAdapter(Objectives).validate_python(saved.config["objective"]),
        tokenizer_dir=tokenizers[0] if tokenizers[0].is_dir() else tokenizers[1],
        tokenizer_sha256=saved.corpus.tokenizer_sha256,
        load_weights=lambda: load_full_weights(checkpoint),
        checkpoint=saved,
    )
