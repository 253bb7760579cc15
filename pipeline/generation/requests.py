"""What a user asks for, as a record -> ids, and what the model answers -> the record that goes out.

A record is a JSON object that asks for one of three things:

    prompt           a text to continue
    turns            a list of texts, the turns of a dialogue so far; the reply is asked for. As in the shards, each
                     ends with the end-of-document token, and so does the reply
    prefix, suffix_context
                     texts, one of which may be missing; what is between them is asked for, and `gap` is the number of
                     its tokens, if it is another than usual

Any other fields go out as they came in. What goes out has besides these

    generated        the text
    generated_ids    its tokens; with a stop string, those up to the one that completed it
    ended_by         end_of_document, stop, length or positions; of a gap: length

or, instead of them, `error`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from data_prep.tokenizers import Tokenizer
from foreword.errors import ConfigError
from pipeline.generation.decoding import check_prompt, generate
from pipeline.generation.gaps import Gap, check_gap, fill_gaps
from pipeline.generation.sampling import Sampling
from pipeline.generation.text import TextStream
from pipeline.model import GPT2

GAP_FIELDS = ("prefix", "suffix_context", "gap")
ANSWER_FIELDS = ("generated", "generated_ids", "ended_by", "error")


@dataclass(frozen=True)
class Request:
    """One thing to generate.

    Attributes:
        key: what its draws depend on besides the seed, in [0, 2**64).
        prompt: ids.
        gap: instead of a continuation.
        record: where it is from.
    """

    key: int
    prompt: list[int]
    gap: Gap | None
    record: Mapping[str, Any]


@dataclass(frozen=True)
class TextGenerator:
    """A model and how it is to answer.

    Attributes:
        model, tokenizer: of a trained model.
        mask_id: what it reads in place of tokens to be filled in; None when it was not trained to fill in.
        sampling, prefix, max_new_tokens, use_cache: see `generate`.
        stop: texts that end a continuation and are not part of it.
        gap_tokens: of a gap, where a record does not say.
    """

    model: GPT2
    tokenizer: Tokenizer
    mask_id: int | None
    sampling: Sampling
    prefix: bool
    max_new_tokens: int
    stop: Sequence[str] = ()
    use_cache: bool = True
    gap_tokens: int = 8

    def request(self, record: Mapping[str, Any], key: int) -> Request:
        """What a record asks for.

        Raises:
            ConfigError: it is not of the form that the module describes, or the model cannot do it; says why.
        """
        for name in ANSWER_FIELDS:
            if name in record:
                raise ConfigError(f"it has {name} already", where=name, remedy="rename the field")
        asks_for = [name for name in ("prompt", "turns") if name in record]
        if any(name in record for name in GAP_FIELDS):
            asks_for.append("a gap, with prefix and suffix_context around it")
        if len(asks_for) != 1:
            raise ConfigError(
                f"it asks for {' and for '.join(asks_for) or 'nothing'}",
                where="prompt",
                remedy="give one of prompt, turns, or prefix and suffix_context",
            )
        positions, vocab_size = self.model.config.max_position_embeddings, self.model.vocab_size
        if "prompt" not in record and "turns" not in record:
            gap = self._gap(record)
            check_gap(gap, positions=positions, vocab_size=vocab_size)
            return Request(key, list(gap.before), gap, record)
        prompt = self._turns(record["turns"]) if "turns" in record else self._encode(record["prompt"], "prompt")
        check_prompt(prompt, positions=positions, vocab_size=vocab_size)
        return Request(key, prompt, None, record)

    def answer(self, requests: Sequence[Request], show: Callable[[str], None] | None = None) -> list[dict[str, Any]]:
        """Records that go out, in the order of the requests; continuations are made together, and so are gaps.

        Args:
            requests: made by `request`.
            show: gets the pieces of a single request's text as they come.
        """
        streams = [TextStream(self.tokenizer, request.prompt, self.stop) for request in requests]
        answers: list[dict[str, Any]] = [dict(request.record) for request in requests]

        def add(place: int, token: int) -> bool:
            piece = streams[place].add(token)
            if show is not None and piece:
                show(piece)
            return streams[place].stopped

        open_ended = [place for place, request in enumerate(requests) if request.gap is None]
        continuations = generate(
            self.model,
            [requests[place].prompt for place in open_ended],
            max_new_tokens=self.max_new_tokens,
            sampling=self.sampling,
            prefix=self.prefix,
            stop_id=self.tokenizer.eod_id,
            row_keys=[requests[place].key for place in open_ended],
            use_cache=self.use_cache,
            on_token=lambda row, token: add(open_ended[row], token),
        )
        for place, continuation in zip(open_ended, continuations, strict=True):
            answers[place] |= {"generated_ids": continuation.ids, "ended_by": continuation.ended_by}

        gaps = {place: request.gap for place, request in enumerate(requests) if request.gap is not None}
        if gaps:
            assert self.mask_id is not None
            keys = [requests[place].key for place in gaps]
            filled = fill_gaps(
                self.model, list(gaps.values()), mask_id=self.mask_id, sampling=self.sampling, row_keys=keys
            )
            for place, ids in zip(gaps, filled, strict=True):
                streams[place] = TextStream(self.tokenizer, requests[place].prompt)  # a gap has its length, and no stop
                for token in ids:
                    add(place, token)
                answers[place] |= {"generated_ids": ids, "ended_by": "length"}

        for place, stream in enumerate(streams):
            rest = stream.end()
            if show is not None and rest:
                show(rest)
            answers[place]["generated"] = stream.text
            if stream.stopped:  # also by what was held back to the end
                answers[place]["ended_by"] = "stop"
        return answers

    def _turns(self, turns: Any) -> list[int]:
        if not isinstance(turns, list) or not turns or not all(isinstance(turn, str) and turn for turn in turns):
            raise ConfigError("not a list of texts, at least one and none of them empty", where="turns")
        return [i for turn in turns for i in (*self._encode(turn, "turns"), self.tokenizer.eod_id)]

    def _gap(self, record: Mapping[str, Any]) -> Gap:
        if self.mask_id is None:
            raise ConfigError(
                "this model cannot fill gaps: it was not trained on masked tokens, or they were left out when it was "
                "exported",
                where="gap",
                remedy="train with `bidirectional` among the objectives; export with --with-mask-token",
            )
        length = record.get("gap", self.gap_tokens)
        if not isinstance(length, int) or isinstance(length, bool):
            raise ConfigError(f"{length!r} is not a number of tokens", where="gap")
        before, after = (self._encode(record.get(name, ""), name) for name in ("prefix", "suffix_context"))
        return Gap(before, length, after)

    def _encode(self, text: Any, where: str) -> list[int]:
        if not isinstance(text, str):
            raise ConfigError("not a text", where=where)
        try:
            text.encode()
        except UnicodeEncodeError:  # bytes on a command line that are no UTF-8 come as halves of surrogate pairs
            raise ConfigError("not UTF-8 text", where=where) from None
        return self.tokenizer.encode(text)
