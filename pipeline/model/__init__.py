"""GPT-2, its parameters as logical tensors, and its key-value cache."""

from pipeline.model.gpt2 import GPT2, build_model, load_full_state, padded_vocab_size, parameter_layout
from pipeline.model.parameters import ParameterLayout

__all__ = ["GPT2", "ParameterLayout", "build_model", "load_full_state", "padded_vocab_size", "parameter_layout"]
