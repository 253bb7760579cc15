"""The shape of a model."""

from pydantic import PositiveFloat, PositiveInt, model_validator

from foreword.config import Section


class ModelConfig(Section):
    """The shape of a GPT-2. The vocabulary is the corpus's."""

    num_layers: PositiveInt
    hidden_size: PositiveInt
    num_attention_heads: PositiveInt
    max_position_embeddings: PositiveInt = 1024
    layer_norm_eps: PositiveFloat = 1e-5
    initializer_range: PositiveFloat = 0.02

    @model_validator(mode="after")
    def _heads_divide_hidden_size(self) -> "ModelConfig":
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"hidden_size {self.hidden_size} is not a multiple of num_attention_heads {self.num_attention_heads}"
            )
        return self
