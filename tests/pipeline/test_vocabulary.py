"""The ids beyond the tokenizer's: padding of the embedding, and the mask token in it."""

import pytest

from foreword.errors import ConfigError
from pipeline.config.objective import MaskingConfig
from pipeline.vocabulary import mask_token_id, padded_vocab_size


@pytest.mark.parametrize(("vocab_size", "padded"), [(1, 128), (128, 128), (129, 256), (50257, 50304)])
def test_the_embedding_has_a_multiple_of_128_rows(vocab_size, padded):
    assert padded_vocab_size(vocab_size) == padded


def test_the_mask_token_is_the_first_of_the_padding_or_the_one_that_is_named():
    assert mask_token_id(MaskingConfig(), 50257) == 50257
    assert mask_token_id(MaskingConfig(token_id=3), 50257) == 3
    assert mask_token_id(MaskingConfig(token_id=50303), 50257) == 50303
    assert mask_token_id(MaskingConfig(token_id=3), 256) == 3


def test_a_vocabulary_without_padding_needs_a_mask_token_of_its_own():
    with pytest.raises(ConfigError, match="a vocabulary of 256 ids, a multiple of 128, has no padding") as caught:
        mask_token_id(MaskingConfig(), 256)
    assert caught.value.where == "masking.token_id"


def test_a_mask_token_outside_of_the_embedding_is_refused():
    with pytest.raises(ConfigError, match="the mask token 50304 is outside of the embedding, which has 50304 rows"):
        mask_token_id(MaskingConfig(token_id=50304), 50257)
