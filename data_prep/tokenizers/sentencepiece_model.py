"""sentencepiece models, trained here or brought."""

import json

import numpy as np
import sentencepiece

from data_prep.tokenizers.base import Tokenizer

SPACE = "\u2581"


class SentencePieceTokenizer(Tokenizer):
    """A sentencepiece model behind the `Tokenizer` interface."""

    kind = "sentencepiece"

    def __init__(self, name: str, files: dict[str, bytes]) -> None:
        model = self.model = sentencepiece.SentencePieceProcessor(model_proto=files["sentencepiece.model"])
        size = model.get_piece_size()
        special = frozenset(i for i in range(size) if model.is_control(i) or model.is_unknown(i) or model.is_unused(i))
        super().__init__(name, files, size, special)

    def encode(self, text: str) -> list[int]:
        """The ids of a text, by sentencepiece itself."""
        return self.model.encode(text)

    def decode_text(self, ids: list[int]) -> str:
        """The text of ids, by sentencepiece itself."""
        return self.model.decode(ids)

    def id_of(self, token: str) -> int | None:
        """The id of a piece, or None."""
        found = self.model.piece_to_id(token)
        return found if self.model.id_to_piece(found) == token else None

    def token_of(self, token_id: int) -> str:
        """The piece of an id."""
        return self.model.id_to_piece(token_id)

    def token_bytes(self) -> np.ndarray:
        """int32 [vocab_size]; the space mark counts as the one byte it stands for."""
        sizes = np.zeros(self.vocab_size, dtype=np.int32)
        for i in range(self.vocab_size):
            if i in self.special_ids:
                continue
            piece = self.model.id_to_piece(i)
            sizes[i] = 1 if self.model.is_byte(i) else len(piece.replace(SPACE, " ").encode())
        return sizes

    def engine_json(self) -> str | None:
        """The equivalent tokenizer.json of a BPE model with byte fallback; None for other models."""
        from gigatoken._load.sentencepiece import sentencepiece_to_tokenizer_json

        try:
            converted = json.loads(sentencepiece_to_tokenizer_json(self.files["sentencepiece.model"]))
        except ValueError:
            return None  # a unigram model, or one without byte fallback
        # Merges are rebuilt from the vocabulary there, with control and byte pieces as possible results; sentencepiece
        # itself never merges text into those.
        model = self.model
        unreachable = {
            model.id_to_piece(i)
            for i in range(self.vocab_size)
            if model.is_control(i) or model.is_unknown(i) or model.is_byte(i) or model.is_unused(i)
        }
        converted["added_tokens"] = [token for token in converted["added_tokens"] if not token["special"]]
        converted["model"]["merges"] = [
            merge for merge in converted["model"]["merges"] if "".join(merge) not in unreachable
        ]
        return json.dumps(converted, ensure_ascii=False)
