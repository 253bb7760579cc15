"""Which data is read, and in which order."""

from pathlib import Path
from typing import Annotated

from pydantic import Field, PositiveFloat, StringConstraints, model_validator

from foreword.config import Section

Seed = Annotated[int, Field(ge=0, lt=2**63)]
CorpusName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]+$")]


class BlendedCorpus(Section):
    """One corpus of a blend: of all rows, `weight` over the sum of the weights come from it."""

    path: Path
    weight: PositiveFloat = 1.0


class DataConfig(Section):
    """Which corpus is read, or which blend of several, by name; and in which order."""

    corpus: Path | None = None
    corpora: dict[CorpusName, BlendedCorpus] = Field(default_factory=dict)
    train_split: str = "train"
    validation_split: str = "valid"
    seed: Seed = 1234

    @model_validator(mode="after")
    def _one_or_several(self) -> "DataConfig":
        if self.corpus is None and not self.corpora:
            raise ValueError("set corpus to the directory of one, or corpora to several with their weights")
        if self.corpus is not None and self.corpora:
            raise ValueError("corpus and corpora are both set; set corpus=null to read the blend")
        return self

    def sources(self) -> dict[str, BlendedCorpus]:
        """Name -> corpus; one alone is called "corpus"."""
        return self.corpora if self.corpus is None else {"corpus": BlendedCorpus(path=self.corpus)}
