"""foreword.json: what a checkpoint is, and the proof that it is whole.

Its first line holds the SHA-256 of every byte behind that line, so that a flipped bit in the file itself is found too.
"""

import hashlib
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError

from foreword.config import Section
from foreword.errors import CheckpointError
from foreword.files import atomic_write, damaged_files
from pipeline.config.objective import Objectives

META_NAME = "foreword.json"
# what is stored of each parameter: its fp32 value and Adam's two moments
MASTER = "fp32"
MOMENTS = ("exp_avg", "exp_avg_sq")
KINDS = (MASTER, *MOMENTS)
_FIRST_LINE = re.compile(rb'\{"sha256": "([0-9a-f]{64})",\n')


class Topology(Section):
    """How the run's state was cut when it was saved."""

    world_size: int
    tensor_parallel_size: int
    data_parallel_size: int
    zero_stage: int
    precision: str


class BlendPart(Section):
    """One of the corpora that the run reads, and its share: `weight` of every sum of all weights rows."""

    name: str
    path: str
    manifest_sha256: str
    weight: int


class CorpusIdentity(Section):
    """The data that the run reads: one corpus or a blend of several."""

    parts: tuple[BlendPart, ...]
    tokenizer_sha256: str
    vocab_size: int
    sequence_length: int

    def differences(self, now: "CorpusIdentity") -> list[str]:
        """What makes `now` other data, a line each; names, paths and the order of corpora do not."""
        found = [
            f"corpus {field}: {getattr(self, field)} in the checkpoint, {getattr(now, field)} now"
            for field in ("tokenizer_sha256", "vocab_size", "sequence_length")
            if getattr(self, field) != getattr(now, field)
        ]
        then_parts, now_parts = ({part.manifest_sha256: part for part in data.parts} for data in (self, now))
        for sha256 in sorted(then_parts.keys() | now_parts.keys()):
            if sha256 not in now_parts or sha256 not in then_parts:
                part, where = (now_parts | then_parts)[sha256], "now" if sha256 in now_parts else "in the checkpoint"
                found.append(f"corpus manifest_sha256: {sha256} ({part.name}: {part.path}) only {where}")
            elif then_parts[sha256].weight != now_parts[sha256].weight:
                weights = f"{then_parts[sha256].weight} in the checkpoint, {now_parts[sha256].weight} now"
                found.append(f"weight of corpus {now_parts[sha256].name}: {weights}")
        return found


class ParameterInfo(Section):
    """A logical parameter: its full shape, and the dimension that tensor parallelism cuts (None: every rank has it)."""

    shape: tuple[int, ...]
    partition_dim: int | None


class FragmentRange(Section):
    """Elements [start, start + numel) of a flattened tensor-parallel slice."""

    start: int
    numel: int


class FileEntry(Section):
    """One .safetensors file of the checkpoint and the fragments in it, by parameter name."""

    size: int
    sha256: str
    tensor_parallel_rank: int
    fragments: dict[str, FragmentRange]


class Progress(Section):
    """How far a run has come."""

    step: int = 0
    samples_consumed: int = 0
    tokens_consumed: int = 0
    targets_consumed: int = 0
    skipped_steps: int = 0

    @property
    def position(self) -> tuple[int, int]:
        """Steps and samples that lie behind, which the schedule goes by."""
        return self.step, self.samples_consumed

    def after_step(self, samples: int, tokens: int, targets: int, *, skipped: bool) -> "Progress":
        """The progress one optimizer step later, whose update was made or skipped."""
        return Progress(
            step=self.step + 1,
            samples_consumed=self.samples_consumed + samples,
            tokens_consumed=self.tokens_consumed + tokens,
            targets_consumed=self.targets_consumed + targets,
            skipped_steps=self.skipped_steps + skipped,
        )


class Origin(Section):
    """What a run began with in place of drawn weights; see `pipeline.run.init_from`.

    Attributes:
        path: the checkpoint or weights directory.
        meta_sha256: of its foreword.json, which holds the hash of every other file.
        objective: name -> weight, that the weights were trained with.
        progress: how far the run of that checkpoint had come; None for weights without a run.
        optimizer, position: whether they were kept or began anew.
    """

    path: str
    meta_sha256: str
    objective: Objectives
    progress: Progress | None
    optimizer: Literal["reset", "keep"]
    position: Literal["reset", "keep"]


class Randomness(Section):
    """Where the run's random numbers come from.

    Training draws none from a generator that has a state: the initial weights are keyed by (seed, name), the order of
    the rows by (data_seed, position), and there is no dropout. These keys are all that a resume needs.
    """

    seed: int
    data_seed: int
    stateful_generators: Literal["none"] = "none"


class GuardState(Section):
    """What the guard remembers: loss and gradient norm of the last accepted steps, where it looks for spikes."""

    skipped_in_a_row: int = 0
    losses: tuple[float, ...] = ()
    grad_norms: tuple[float, ...] = ()


class LossScalerState(Section):
    """Where fp16's dynamic loss scaling stands, under DeepSpeed's names."""

    cur_scale: float
    cur_iter: int
    last_overflow_iter: int
    cur_hysteresis: int


class EngineState(Section):
    """The engine's state besides its tensors."""

    guard: GuardState = GuardState()
    loss_scaler: LossScalerState | None = None


class CheckpointMeta(Section):
    """The contents of foreword.json.

    Attributes:
        progress: how far the run has come; the position in the data's order is `progress.samples_consumed`.
        optimizer_steps: updates that Adam has made.
        engine: what else decides the next steps: the guard and the loss scale.
        origin: what the run began with; None where its first weights were drawn.
        loss: training loss of the last step whose update was made, nats per scored token.
        validation_loss: what a model with these objectives is judged by (see
            `pipeline.evaluation.validation`); None when this step was not evaluated.
        config: the resolved configuration of the run.
        wandb_run_id: a resumed run continues it.
        saved_at: UTC, ISO 8601.
    """

    format: Literal["foreword-checkpoint"] = "foreword-checkpoint"
    version: Literal[1] = 1
    saved_at: str = Field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))
    progress: Progress
    optimizer_steps: int
    engine: EngineState = EngineState()
    origin: Origin | None = None
    loss: float | None
    validation_loss: float | None = None
    topology: Topology
    corpus: CorpusIdentity
    randomness: Randomness
    config: dict
    versions: dict[str, str]
    wandb_run_id: str | None
    parameters: dict[str, ParameterInfo]
    files: dict[str, FileEntry]


def write_meta(checkpoint: Path, meta: CheckpointMeta) -> None:
    """Write foreword.json, which makes the directory a checkpoint.

    Raises:
        OSError: it cannot be written.
    """
    behind = meta.model_dump_json(indent=1).removeprefix("{\n") + "\n"
    digest = hashlib.sha256(behind.encode()).hexdigest()
    with atomic_write(checkpoint / META_NAME, "w") as file:
        file.write(f'{{"sha256": "{digest}",\n{behind}')


def read_meta(checkpoint: Path) -> CheckpointMeta:
    """Read a checkpoint's foreword.json.

    Raises:
        CheckpointError: it is missing (the save did not finish), not what was written, or of another format version.
    """
    path = checkpoint / META_NAME
    try:
        content = path.read_bytes()
        first_line = _FIRST_LINE.match(content)
        behind = content[first_line.end() :] if first_line else content
        if first_line is None or hashlib.sha256(behind).hexdigest().encode() != first_line[1]:
            raise CheckpointError(
                "its bytes are not those that were written: its own SHA-256 is another",
                where=path,
                remedy="use another checkpoint",
            )
        return CheckpointMeta.model_validate_json(b"{" + behind)
    except FileNotFoundError:
        raise CheckpointError(
            f"no {META_NAME}: this is not a complete checkpoint", where=checkpoint, remedy="use another checkpoint"
        ) from None
    except OSError as error:
        raise CheckpointError(f"cannot be read: {error.strerror}", where=path) from None
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "the file"
        raise CheckpointError(f"not a valid {META_NAME}: {place}: {first['msg']}", where=path) from None


def damage(checkpoint: Path, meta: CheckpointMeta, *, hashes: bool = False) -> list[str]:
    """Problems with the files, one line each: missing, of another size or, with `hashes`, of other bytes."""
    expected = {name: (entry.size, entry.sha256) for name, entry in meta.files.items()}
    return damaged_files(checkpoint, expected, hashes=hashes)
