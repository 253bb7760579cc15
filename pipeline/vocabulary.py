"""Which ids the model knows beyond those of the tokenizer: the padding of its vocabulary, and the mask token.

The embedding has more rows than the tokenizer has ids, and the softmax leaves the padding out. A mask token is just
that: it is read and never predicted; so the first padding id is the mask token unless the configuration names another.
Nothing about the model's shape depends on it, and a model trained causally can go on with masked-token prediction.
"""

from foreword.errors import ConfigError
from pipeline.config.objective import MaskingConfig

VOCABULARY_MULTIPLE = 128


def padded_vocab_size(vocab_size: int) -> int:
    """`vocab_size` rounded up to a multiple of 128, which every usual tensor-parallel size divides."""
    return -(-vocab_size // VOCABULARY_MULTIPLE) * VOCABULARY_MULTIPLE


def mask_token_id(masking: MaskingConfig, vocab_size: int) -> int:
    """The id that stands for a token to be predicted.

    Raises:
        ConfigError: the vocabulary has no padding and `masking.token_id` is not set, or is outside of the embedding.
    """
    padded = padded_vocab_size(vocab_size)
    token_id = vocab_size if masking.token_id is None else masking.token_id
    if token_id < padded:
        return token_id
    if masking.token_id is None:
        raise ConfigError(
            f"a vocabulary of {vocab_size} ids, a multiple of {VOCABULARY_MULTIPLE}, has no padding for a mask token",
            where="masking.token_id",
            remedy="set it to an id that no text holds: the tokenizer's padding or unknown token, or a reserved one",
        )
    raise ConfigError(
        f"the mask token {token_id} is outside of the embedding, which has {padded} rows",
        where="masking.token_id",
        remedy=f"use an id below {padded}, or null for the vocabulary's first padding id, if it has any",
    )
