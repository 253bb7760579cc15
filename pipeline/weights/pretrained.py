"""A path that holds trained weights -> the model, its tokenizer, and what it was trained for.

The path may be a run, one of its checkpoints (of any topology), a weights directory, or a directory in the Hugging Face
layout: what `foreword export` wrote, or GPT-2 and DialoGPT themselves.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
from pydantic import TypeAdapter

from data_prep.tokenizers import Tokenizer, load_tokenizer
from foreword.errors import CheckpointError
from pipeline.checkpoint.find import find_checkpoint
from pipeline.checkpoint.meta import MASTER, CheckpointMeta, read_meta
from pipeline.config.model import ModelConfig
from pipeline.config.objective import MaskingConfig, ObjectiveName, Objectives, PromptReading, prompt_reading
from pipeline.model import GPT2, build_model
from pipeline.vocabulary import mask_token_id
from pipeline.weights import directory as weights
from pipeline.weights.hf_directory import is_hugging_face, load_own_tokenizer, read_config
from pipeline.weights.stored import open_stored


@dataclass(frozen=True)
class Pretrained:
    """Trained weights that are not loaded yet.

    Attributes:
        path: the checkpoint or directory itself.
        config: the model's shape.
        vocab_size: ids in use, without padding.
        objective: name -> weight, that they were trained with.
        mask_token_id: what masked tokens are read as; None where the model was not trained on them, or where an export
            left out the row of its embedding.
        tokenizer_dir: its tokenizer.
        tokenizer_sha256: what the tokenizer must be.
        checkpoint: what the checkpoint says of itself; None for other weights.
    """

    path: Path
    config: ModelConfig
    vocab_size: int
    objective: dict[ObjectiveName, float]
    mask_token_id: int | None
    tokenizer_dir: Path
    tokenizer_sha256: str
    checkpoint: CheckpointMeta | None

    @property
    def reads_prompts(self) -> PromptReading:
        """As a prefix, in both directions, or causally."""
        return prompt_reading(self.objective)

    @torch.no_grad()
    def load_model(self) -> GPT2:
        """The model on the CPU in fp32; needs `pipeline.distributed.parallel.initialize` before it.

        Each rank reads one logical tensor after another, and keeps its part of it.

        Raises:
            CheckpointError: the tensors are not those of the model, or cannot be read.
        """
        model = build_model(self.config, self.vocab_size, seed=None)
        with open_stored(self.path) as stored:
            if stored.shapes != {name: layout.full_shape for name, layout in model.layout.items()}:
                raise CheckpointError("its tensors are not those of the model that it describes", where=self.path)
            for name, parameter in model.named_parameters():
                full = stored.read(name, MASTER)
                parameter.copy_(model.layout[name].cut(full, model.ranks.rank, model.ranks.size))
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
        CheckpointError: nothing that holds weights, or it is not intact.
        DataError, ConfigError: a Hugging Face directory that cannot be used, see `hf_directory`.
    """
    if weights.is_weights(path):
        meta = weights.read_weights_meta(path)
        return Pretrained(
            path=path,
            config=meta.model,
            vocab_size=meta.vocab_size,
            objective=meta.objective,
            mask_token_id=meta.mask_token_id,
            tokenizer_dir=path / weights.TOKENIZER_DIRECTORY,
            tokenizer_sha256=meta.tokenizer.sha256,
            checkpoint=None,
        )
    if is_hugging_face(path):
        config = read_config(path)
        return Pretrained(
            path=path,
            config=config.model,
            vocab_size=config.notes.vocab_size,
            objective=config.notes.objective,
            mask_token_id=config.notes.mask_token_id,
            tokenizer_dir=path,
            tokenizer_sha256=load_own_tokenizer(path, config).sha256,
            checkpoint=None,
        )
    checkpoint = find_checkpoint(path)
    saved = read_meta(checkpoint)
    places = checkpoint, checkpoint.absolute().parent.parent  # its own, after a reshape; else the run's
    tokenizers = [place / weights.TOKENIZER_DIRECTORY for place in places]
    objective = TypeAdapter(Objectives).validate_python(saved.config["objective"])
    masking = MaskingConfig.model_validate(saved.config.get("masking", {}))
    vocab_size = saved.corpus.vocab_size
    return Pretrained(
        path=checkpoint,
        config=ModelConfig.model_validate(saved.config["model"]),
        vocab_size=vocab_size,
        objective=objective,
        mask_token_id=mask_token_id(masking, vocab_size) if "bidirectional" in objective else None,
        tokenizer_dir=tokenizers[0] if tokenizers[0].is_dir() else tokenizers[1],
        tokenizer_sha256=saved.corpus.tokenizer_sha256,
        checkpoint=saved,
    )
