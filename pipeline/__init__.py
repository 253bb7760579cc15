"""Shards -> a trained model: order, batch, model, loss, engine, checkpoint."""

import warnings

# megatron-core warns that Transformer Engine and Apex are not installed, DeepSpeed and torch that functions they call
# themselves are renamed: Foreword needs none of it, and a user could not act on it
warnings.filterwarnings("ignore", module=r"megatron\.")
warnings.filterwarnings("ignore", category=FutureWarning, module=r"torch\.distributed")
warnings.filterwarnings("ignore", category=DeprecationWarning, module=r"(torch|deepspeed)\.")
