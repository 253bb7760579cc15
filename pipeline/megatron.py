"""What Foreword uses of megatron-core, imported in one place.

megatron-core warns on import that Transformer Engine and Apex are not installed; Foreword needs neither, and a user
could not act on it.
"""

import warnings

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from megatron.core import ModelParallelConfig, parallel_state
    from megatron.core.tensor_parallel import (
        ColumnParallelLinear,
        RowParallelLinear,
        VocabParallelEmbedding,
        copy_to_tensor_model_parallel_region,
        vocab_parallel_cross_entropy,
    )

__all__ = [
    "ColumnParallelLinear",
    "ModelParallelConfig",
    "RowParallelLinear",
    "VocabParallelEmbedding",
    "copy_to_tensor_model_parallel_region",
    "parallel_state",
    "vocab_parallel_cross_entropy",
]
