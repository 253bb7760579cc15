"""A tokenizer -> the files by which transformers knows it, beside its own, by which it can be loaded here again.

    GPT-2's        vocab.json, merges.txt
    tokenizer.json itself
    sentencepiece  sentencepiece.model, and a tokenizer.json that is made from it and held against it
    each           tokenizer_config.json with its special tokens; foreword_tokenizer.json

One thing is different there: the name of a special token in a text, such as <|endoftext|>, becomes that token (of a
unigram model the name of a byte, such as <0x41>, too), and here it is plain text.
"""

import json
from pathlib import Path
from typing import Any

import tokenizers

from data_prep.tokenizers import DESCRIPTION_NAME, Tokenizer, description_of
from data_prep.tokenizers.base import GPT2_FILES
from data_prep.tokenizers.sentencepiece_model import SPACE, SentencePieceTokenizer
from foreword.files import atomic_write

_SAMPLES = (
    "The quick brown fox, in 1987, didn't jump over 12 lazy dogs; it slept.",
    " Space before,  two  between,   three   too, and one behind ",
    "Lines\n\nand\ttabs\r\n    def f(x):\n        return x ** 2  # code",
    "Größe, naïve façade, œuvre, 12 € – “quoted”… and a\u00a0hard space",
    "Ελληνικά, русский язык, עברית, العربية, हिन्दी, 日本語のテキスト, 한국어, 🙂👩\u200d🚀",
    "a < b > c & d | e \\n %20 http://example.org/?a=1&b=2 <p>HTML</p> [brackets] {braces}",
    "",
    " ",
)


def write_tokenizer(tokenizer: Tokenizer, directory: Path, *, max_positions: int) -> str | None:
    """Write the files.

    Args:
        tokenizer: of the model.
        directory: where to.
        max_positions: of the model.

    Returns:
        Why transformers cannot load it, where that is so.

    Raises:
        OSError: a file cannot be written.
    """
    here_to_there = {name: there for there, name in GPT2_FILES.items()}
    contents = {here_to_there.get(name, name): content for name, content in tokenizer.files.items()}
    contents[DESCRIPTION_NAME] = description_of(tokenizer)
    problem = None
    if isinstance(tokenizer, SentencePieceTokenizer):
        converted = from_sentencepiece(tokenizer)
        if converted is None:
            problem = "transformers has no equal of this sentencepiece model"
        else:
            contents["tokenizer.json"] = json.dumps(converted, ensure_ascii=False).encode()
    if problem is None:
        contents["tokenizer_config.json"] = (json.dumps(_config(tokenizer, max_positions), indent=2) + "\n").encode()
    for name, content in contents.items():
        with atomic_write(directory / name) as file:
            file.write(content)
    return problem


def from_sentencepiece(tokenizer: SentencePieceTokenizer) -> dict[str, Any] | None:
    """An equivalent tokenizer.json, or None when on some sample it has other ids or gives back another text."""
    model, engine_json = tokenizer.model, tokenizer.engine_json()
    if engine_json is not None:
        converted = json.loads(engine_json)
    else:
        pieces = [[model.id_to_piece(i), model.get_score(i)] for i in range(tokenizer.vocab_size)]
        converted = {
            "version": "1.0",
            "truncation": None,
            "padding": None,
            "added_tokens": [],
            "normalizer": {"type": "Replace", "pattern": {"String": " "}, "content": SPACE},
            "pre_tokenizer": None,
            "post_processor": None,
            "model": {"type": "Unigram", "unk_id": model.unk_id(), "vocab": pieces, "byte_fallback": True},
        }
    spaces = {"type": "Replace", "pattern": {"String": SPACE}, "content": " "}
    converted["decoder"] = {"type": "Sequence", "decoders": [spaces, {"type": "ByteFallback"}, {"type": "Fuse"}]}
    try:
        there = tokenizers.Tokenizer.from_str(json.dumps(converted))
        for text in _SAMPLES:
            ids = tokenizer.encode(text)
            if there.encode(text, add_special_tokens=False).ids != ids or there.decode(ids) != tokenizer.decode(ids):
                return None
    except Exception as error:  # the tokenizers library raises bare Exception
        if type(error) is not Exception:
            raise
        return None
    return converted


def _config(tokenizer: Tokenizer, max_positions: int) -> dict[str, Any]:
    eod = tokenizer.token_of(tokenizer.eod_id)
    return {
        "tokenizer_class": "GPT2Tokenizer" if tokenizer.kind == "gpt2_bpe" else "PreTrainedTokenizerFast",
        "model_max_length": max_positions,
        "bos_token": eod,
        "eos_token": eod,
        "pad_token": tokenizer.token_of(tokenizer.pad_id),
        "padding_side": "left",  # for generation
        "add_prefix_space": False,
        "clean_up_tokenization_spaces": False,
    }
