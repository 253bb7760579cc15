"""Records become prompts as the shards would have them, and come back with what was generated, or with their error."""

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tiny_gpt2 import EOD, VOCAB_SIZE, save_tokenizer_files

from data_prep.tokenizers import load_tokenizer
from foreword.errors import ConfigError
from pipeline.config.model import ModelConfig
from pipeline.distributed.parallel import Parallel
from pipeline.generation import GREEDY, Continuation, Gap, Sampling
from pipeline.generation.lines import answer_lines
from pipeline.generation.requests import TextGenerator
from pipeline.model import build_model

CONFIG = ModelConfig(
    num_layers=1, hidden_size=16, num_attention_heads=2, max_position_embeddings=40, initializer_range=0.5
)
MASK_ID = VOCAB_SIZE
GOOD = [
    {"prompt": "One", "id": 7},
    {"turns": ["Hello", "Hi. You?"], "source": {"nested": [1, None]}},
    {"prompt": "A longer prompt"},
    {"prefix": "left", "suffix_context": "right", "gap": 4, "id": "g"},
    {"suffix_context": "right", "gap": 2},
]


@pytest.fixture
def generator(one_process: Parallel, tmp_path: Path) -> Iterator[TextGenerator]:
    save_tokenizer_files(tmp_path)
    return TextGenerator(
        model=build_model(CONFIG, VOCAB_SIZE, seed=3),
        tokenizer=load_tokenizer(tmp_path),
        mask_id=MASK_ID,
        sampling=Sampling(seed=2),
        prefix=True,
        max_new_tokens=9,
    )


def as_lines(records: list[dict[str, Any]]) -> list[bytes]:
    return [json.dumps(record).encode() + b"\n" for record in records]


def test_turns_are_read_as_the_shards_have_them(generator: TextGenerator) -> None:
    tokenizer = generator.tokenizer
    eod = tokenizer.id_of(EOD)
    request = generator.request({"turns": ["Hello", "Hi"]}, key=3)
    assert request.prompt == [*tokenizer.encode("Hello"), eod, *tokenizer.encode("Hi"), eod]
    gap = generator.request({"prefix": "a", "gap": 2, "suffix_context": "b"}, key=3).gap
    assert gap == Gap(tokenizer.encode("a"), 2, tokenizer.encode("b"))


@pytest.mark.parametrize("batch_size", [1, 2, 100])
def test_lines_come_back_in_order_with_all_their_fields_however_many_at_a_time(
    generator: TextGenerator, batch_size: int
) -> None:
    answers = list(answer_lines(as_lines(GOOD), generator, batch_size))
    assert answers == list(answer_lines(as_lines(GOOD), generator, 3))
    for record, answer in zip(GOOD, answers, strict=True):
        assert record.items() <= answer.items()
        assert answer.keys() - record.keys() == {"generated", "generated_ids", "ended_by"}
        shown = [i for i in answer["generated_ids"] if i != generator.tokenizer.eod_id]
        assert answer["generated"] == generator.tokenizer.decode(shown)
        assert len(answer["generated_ids"]) == record.get("gap", len(answer["generated_ids"]))
    assert all(answer["generated_ids"] for answer in answers)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"{", "line 2: not valid JSON"),
        (b"[1]", "line 2: not a JSON object"),
        (b'{"prompt": "a", "deep": ' + b"[" * 300 + b"]" * 300 + b"}", "line 2: not valid JSON: Recursion limit"),
        (b'"\xff"', "line 2: not valid JSON"),
        (b"{}", "line 2: prompt: it asks for nothing"),
        (b'{"prompt": "a", "turns": ["b"]}', "it asks for prompt and for turns"),
        (b'{"prompt": ""}', "line 2: prompt: the prompt is empty"),
        (b'{"prompt": 3}', "line 2: prompt: not a text"),
        (b'{"turns": []}', "turns: not a list of texts"),
        (b'{"turns": ["a", ""]}', "turns: not a list of texts"),
        (b'{"turns": ["a"], "gap": 1}', "it asks for turns and for a gap"),
        (b'{"prompt": "' + b"x" * 41 + b'"}', "the prompt has 41 tokens and the model 40 positions"),
        (b'{"prompt": "a", "suffix_context": "b"}', "it asks for prompt and for a gap"),
        (b'{"prefix": "a", "gap": true}', "gap: True is not a number of tokens"),
        (b'{"prefix": "a", "gap": 0}', "a gap of 0 tokens"),
        (b'{"prefix": ["a"]}', "prefix: not a text"),
        (b'{"gap": 2}', "nothing around the gap"),
        (b'{"prompt": "a", "generated": "b"}', "generated: it has generated already"),
    ],
)
def test_a_bad_line_goes_out_with_its_error_and_the_others_with_their_answers(
    generator: TextGenerator, line: bytes, message: str
) -> None:
    first, last = as_lines([{"prompt": "One"}, {"prompt": "Two", "id": 2}])
    answers = list(answer_lines([first, line, b"\n", last], generator, 2))
    alone = list(answer_lines([first, b"\n", b"\n", last], generator, 8))
    assert [answers[0], answers[2]] == alone
    assert message in answers[1]["error"]


def test_a_stop_string_ends_a_row_where_it_begins_and_leaves_the_others(generator: TextGenerator) -> None:
    greedy = replace(generator, sampling=GREEDY)
    requests = [greedy.request({"prompt": text}, key=0) for text in ("One", "Two two")]
    endless = greedy.answer(requests)
    stop = endless[0]["generated"][3:5]
    first, second = replace(greedy, stop=[stop]).answer(requests)
    assert first["generated"] == endless[0]["generated"][: endless[0]["generated"].index(stop)]
    assert first["ended_by"] == "stop"
    assert stop in greedy.tokenizer.decode(first["generated_ids"])
    assert stop not in second["generated"]


def test_a_stop_string_that_the_last_token_completes_is_a_stop(generator: TextGenerator) -> None:
    """Also where the token before it ended inside of a character, which the end alone settles."""
    tokenizer = generator.tokenizer
    ids = [*tokenizer.encode("ab"), tokenizer.encode("é")[0]]

    def say_these(model: object, prompts: object, *, on_token: Callable[[int, int], bool], **_: object) -> list:
        for token in ids:
            on_token(0, token)
        return [Continuation(ids, "length")]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pipeline.generation.requests.generate", say_these)
        request = generator.request({"prompt": "x"}, key=0)
        (answer,) = replace(generator, stop=["b\ufffd"]).answer([request])
    assert (answer["generated"], answer["ended_by"]) == ("a", "stop")


def test_pieces_that_are_shown_are_the_text(generator: TextGenerator) -> None:
    for record in GOOD:
        shown: list[str] = []
        (answer,) = generator.answer([generator.request(record, key=0)], shown.append)
        assert "".join(shown) == answer["generated"]


def test_text_is_shown_while_more_of_it_is_computed(generator: TextGenerator, monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[str] = []
    as_it_is = generator.model.logits
    monkeypatch.setattr(generator.model, "logits", lambda hidden_TD: events.append("computed") or as_it_is(hidden_TD))
    generator.answer([generator.request({"prompt": "One"}, key=0)], lambda piece: events.append("shown"))
    assert "computed" in events[events.index("shown") :]


def test_a_model_that_was_not_trained_to_fill_gaps_says_so(generator: TextGenerator) -> None:
    with pytest.raises(ConfigError, match="cannot fill gaps: it was not trained on masked tokens"):
        replace(generator, mask_id=None).request({"prefix": "a", "gap": 1}, key=0)
