"""What is asked of each segment: the objectives and their mix, where prefixes end, what is masked."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, get_args

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PlainSerializer,
    model_validator,
)

from foreword.config import Section

UnitFraction = Annotated[float, Field(ge=0.0, le=1.0)]
ObjectiveName = Literal["causal", "prefix", "bidirectional"]
OBJECTIVES: tuple[ObjectiveName, ...] = get_args(ObjectiveName)
PromptReading = Literal["causal", "prefix"]


def _one_alone(value: Any) -> Any:
    """The name of an objective is short for it alone."""
    if isinstance(value, str) and value not in OBJECTIVES:
        raise ValueError(f"an objective is one of {', '.join(OBJECTIVES)}, or a mapping of them to weights")
    return {value: 1.0} if isinstance(value, str) else value


def _with_weight(weights: dict[ObjectiveName, float]) -> dict[ObjectiveName, float]:
    mixed = {name: weights[name] for name in OBJECTIVES if weights.get(name)}
    if not mixed:
        raise ValueError("no objective has a weight above 0")
    return mixed if len(mixed) > 1 else dict.fromkeys(mixed, 1.0)


def _as_written(weights: dict[ObjectiveName, float]) -> Any:
    return next(iter(weights)) if len(weights) == 1 else weights


# name -> weight, above 0 and in the order of OBJECTIVES; in YAML also the name of one alone
Objectives = Annotated[
    dict[ObjectiveName, NonNegativeFloat],
    BeforeValidator(_one_alone),
    AfterValidator(_with_weight),
    PlainSerializer(_as_written),
]


def describe_objectives(objectives: Mapping[ObjectiveName, float]) -> str:
    """For people: "prefix", or "causal 1, prefix 2"."""
    return next(iter(objectives)) if len(objectives) == 1 else ", ".join(f"{n} {w:g}" for n, w in objectives.items())


def prompt_reading(objectives: Mapping[ObjectiveName, float]) -> PromptReading:
    """How a model trained with these objectives reads a prompt: as a prefix if it was trained on prefixes at all."""
    return "prefix" if "prefix" in objectives else "causal"


class BoundariesConfig(Section):
    """Where prefixes end in training: as the shards say, or drawn anew for each segment in each epoch.

    `uniform` draws from [1, length) (T5); `fraction` draws a share of the segment's length from the range `fraction`.
    """

    policy: Literal["shards", "uniform", "fraction"] = "shards"
    fraction: tuple[UnitFraction, UnitFraction] | None = None

    @model_validator(mode="after")
    def _a_range_for_fractions(self) -> "BoundariesConfig":
        if (self.policy == "fraction") != (self.fraction is not None):
            raise ValueError("policy: fraction and fraction: [LOWEST, HIGHEST] go together")
        if self.fraction is not None and self.fraction[0] > self.fraction[1]:
            raise ValueError(f"fraction {list(self.fraction)} is not [LOWEST, HIGHEST]")
        return self


class MaskingConfig(Section):
    """Masked-token prediction as in BERT (Devlin et al. 2019).

    Of a segment's tokens `chosen` are predicted; of these `masked` are read as the mask token, `random` as a random
    token, and the rest as they are. `token_id` is the mask token, by default the vocabulary's first padding id.
    """

    chosen: Annotated[float, Field(gt=0.0, le=1.0)] = 0.15
    masked: UnitFraction = 0.8
    random: UnitFraction = 0.1
    token_id: NonNegativeInt | None = None

    @model_validator(mode="after")
    def _shares_of_a_whole(self) -> "MaskingConfig":
        if self.masked + self.random > 1.0:
            raise ValueError(f"masked {self.masked} and random {self.random} are more than all")
        return self
