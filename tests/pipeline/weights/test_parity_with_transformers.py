"""An exported model gives in transformers the logits, tokens and losses that it gives here, under every reading.

Shape suffixes: B rows, S columns, V vocabulary.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_gpt2 import VOCAB_SIZE, make_gpt2, pretend_objective, save_gpt2
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, GPT2LMHeadModel, PreTrainedModel

from data_prep.shards import PADDING
from pipeline.data.batch import make_batch
from pipeline.distributed.parallel import initialize
from pipeline.generation import GREEDY, Gap, Sampling, fill_gaps, generate
from pipeline.model import GPT2
from pipeline.weights.hugging_face import export_weights, import_weights
from pipeline.weights.pretrained import open_pretrained

SIZES = {"small": {}, "large": {"n_layer": 4, "n_embd": 64, "n_head": 8, "n_positions": 40}}
MASK_ID = VOCAB_SIZE
ROWS = [np.random.default_rng(length).integers(0, VOCAB_SIZE - 1, length).tolist() for length in (12, 7, 1, 9)]
PREFIX_LENGTHS = (5, 7, 0, 1)
NEW_TOKENS = 9
CLOSE = {"rtol": 1e-4, "atol": 1e-4}


@dataclass
class Sides:
    """One model on both sides.

    Attributes:
        ours, theirs: as Foreword and as the exported modeling file have it.
        exported: the directory.
    """

    ours: GPT2
    theirs: PreTrainedModel
    exported: Path


@pytest.fixture(scope="module", params=SIZES)
def sides(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sides]:
    root = tmp_path_factory.mktemp("parity")
    save_gpt2(make_gpt2(**SIZES[request.param]), root / "hf")
    import_weights(root / "hf", root / "weights")
    pretend_objective(root / "weights", {"causal": 1.0, "prefix": 1.0, "bidirectional": 1.0})
    exported = root / "exported"
    export_weights(root / "weights", exported, with_mask_token=True)
    parallel = initialize()
    yield Sides(open_pretrained(root / "weights").load_model(), load(exported, root / "modules"), exported)
    parallel.destroy()


def load(directory: Path, modules: Path) -> PreTrainedModel:
    """As a user does; the modeling file's copy goes to `modules` and not into the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(modules))
        return AutoModelForCausalLM.from_pretrained(directory, trust_remote_code=True).eval()


@torch.no_grad()
def our_logits(model: GPT2, row: list[int], prefix_len: int) -> Tensor:
    """[S, V]."""
    batch = make_batch(np.array([[*row, 0]]), [np.array([(0, prefix_len), (len(row), PADDING)])], np.array([0]))
    return model.logits(model.hidden(batch.tokens_BS, batch.position_ids_BS, model.backend.prepare(batch)))


def padded(rows: list[list[int]], side: str) -> dict[str, Tensor]:
    """input_ids and attention_mask [B, S], as a tokenizer pads them."""
    longest = max(map(len, rows))
    parts = [(row, [VOCAB_SIZE - 1] * (longest - len(row))) for row in rows]
    ids = [pad + row if side == "left" else row + pad for row, pad in parts]
    masks = [
        [0] * len(pad) + [1] * len(row) if side == "left" else [1] * len(row) + [0] * len(pad) for row, pad in parts
    ]
    return {"input_ids": torch.tensor(ids), "attention_mask": torch.tensor(masks)}


def without_mask_token(logits: Tensor) -> Tensor:
    """[..., V]: there the mask token has logits, which are not trained."""
    assert logits.shape[-1] == VOCAB_SIZE + 1
    return logits[..., :VOCAB_SIZE]


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@torch.no_grad()
def test_logits_are_equal_whatever_the_prefixes_and_the_padding(sides: Sides, side: str, attention: str) -> None:
    inputs = padded(ROWS, side)
    sides.theirs.set_attn_implementation(attention)
    logits_BSV = sides.theirs(**inputs, prefix_length=torch.tensor(PREFIX_LENGTHS)).logits
    sides.theirs.set_attn_implementation("sdpa")
    for row, prefix_len, logits_SV, mask_S in zip(
        ROWS, PREFIX_LENGTHS, logits_BSV, inputs["attention_mask"].bool(), strict=True
    ):
        expected = our_logits(sides.ours, row, prefix_len)
        torch.testing.assert_close(without_mask_token(logits_SV[mask_S]), expected, **CLOSE)


@torch.no_grad()
def test_logits_behind_a_cached_prefix_are_equal(sides: Sides) -> None:
    """The prefix in one call, and what is behind it in two."""
    row = torch.tensor([ROWS[0]])
    first = sides.theirs(row[:, :5], prefix_length=5, use_cache=True)
    second = sides.theirs(row[:, 5:9], prefix_length=5, past_key_values=first.past_key_values)
    third = sides.theirs(row[:, 9:], prefix_length=5, past_key_values=second.past_key_values)
    logits_SV = torch.cat([part.logits[0] for part in (first, second, third)])
    torch.testing.assert_close(without_mask_token(logits_SV), our_logits(sides.ours, ROWS[0], 5), **CLOSE)


@torch.no_grad()
def test_without_a_prefix_and_by_the_plain_class_the_reading_is_causal(sides: Sides) -> None:
    plain, report = GPT2LMHeadModel.from_pretrained(sides.exported, output_loading_info=True)
    assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    row = torch.tensor([ROWS[0]])
    expected = our_logits(sides.ours, ROWS[0], 0)
    for logits in (plain.eval()(row).logits, sides.theirs(row).logits, sides.theirs(row, prefix_length=0).logits):
        torch.testing.assert_close(without_mask_token(logits[0]), expected, **CLOSE)


@pytest.mark.parametrize("use_cache", [True, False])
@pytest.mark.parametrize("prefix", [True, False])
def test_greedy_tokens_are_equal_for_prompts_of_different_lengths(sides: Sides, use_cache: bool, prefix: bool) -> None:
    rows = generate(sides.ours, ROWS, max_new_tokens=NEW_TOKENS, sampling=GREEDY, prefix=prefix, use_cache=use_cache)
    written = sides.theirs.generate(
        **padded(ROWS, "left"),
        max_new_tokens=NEW_TOKENS,
        do_sample=False,
        use_cache=use_cache,
        eos_token_id=None,
        **({} if prefix else {"prefix_length": 0}),
    )
    assert [row.ids for row in rows] == written[:, max(map(len, ROWS)) :].tolist()
    assert len({i for row in rows for i in row.ids}) > NEW_TOKENS  # they do depend on what was read


def test_a_repetition_penalty_changes_greedy_tokens_in_the_same_way(sides: Sides) -> None:
    sampling = Sampling(temperature=0.0, repetition_penalty=1.4)
    (row,) = generate(sides.ours, ROWS[:1], max_new_tokens=NEW_TOKENS, sampling=sampling)
    options = {"max_new_tokens": NEW_TOKENS, "do_sample": False, "eos_token_id": None}
    written = sides.theirs.generate(torch.tensor(ROWS[:1]), repetition_penalty=1.4, **options)
    assert written[0, len(ROWS[0]) :].tolist() == row.ids
    assert not torch.equal(written, sides.theirs.generate(torch.tensor(ROWS[:1]), **options))


def test_the_prompt_is_a_prefix_of_its_own_length_in_every_kind_of_search(sides: Sides) -> None:
    options = {"max_new_tokens": 5, "do_sample": False, "num_beams": 3, "eos_token_id": None}
    together = sides.theirs.generate(**padded(ROWS, "left"), **options)[:, max(map(len, ROWS)) :]
    alone = [sides.theirs.generate(torch.tensor([row]), **options)[0, len(row) :] for row in ROWS]
    assert torch.equal(together, torch.stack(alone))
    sampled = sides.theirs.generate(**padded(ROWS, "left"), max_new_tokens=3, do_sample=True, num_return_sequences=2)
    assert len(sampled) == 2 * len(ROWS)
    assert not (sampled == MASK_ID).any()


@torch.no_grad()
def test_losses_are_those_of_the_tokens_behind_the_prefix(sides: Sides) -> None:
    row, prefix_len = ROWS[0], 5
    theirs = sides.theirs(torch.tensor([row]), prefix_length=prefix_len, labels=torch.tensor([row])).loss
    logits_SV = sides.theirs(torch.tensor([row]), prefix_length=prefix_len).logits[0]
    batch = make_batch(np.array([row]), [np.array([(0, prefix_len)])], np.array([0]))
    ours = sides.ours(batch) / batch.num_targets
    # there the mask token has a share of the probability
    surplus = (logits_SV.logsumexp(-1) - without_mask_token(logits_SV).logsumexp(-1))[prefix_len - 1 : -1].mean()
    torch.testing.assert_close(theirs - surplus, ours, **CLOSE)


@torch.no_grad()
def test_a_masked_token_is_predicted_where_it_stands(sides: Sides) -> None:
    filled = fill_gaps(sides.ours, [Gap(ROWS[0], 1, ROWS[1])], mask_id=MASK_ID, sampling=GREEDY)
    row = torch.tensor([[*ROWS[0], MASK_ID, *ROWS[1]]])
    logits_SV = sides.theirs(row, prefix_length=row.shape[1]).logits[0]
    assert filled == [[int(without_mask_token(logits_SV)[len(ROWS[0])].argmax())]]
    assert sides.theirs.config.foreword["mask_token_id"] == MASK_ID


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"prefix_length": 13}, r"prefix_length \[13\], but the call that begins has \[12\] tokens"),
        ({"prefix_length": 5, "attention_mask": torch.ones(1, 9)}, r"attention_mask is \(1, 9\)"),
        ({"prefix_length": 5, "attention_mask": torch.ones(1, 1, 12, 12)}, r"an attention_mask \[B, K\] or none"),
    ],
)
def test_what_cannot_be_read_is_refused(sides: Sides, arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        sides.theirs(torch.tensor(ROWS[:1]), **arguments)


def test_ways_that_would_lose_the_prefix_are_refused(sides: Sides, monkeypatch: pytest.MonkeyPatch) -> None:
    row = torch.tensor(ROWS[:1])
    with pytest.raises(ValueError, match="needs a dynamic cache"):
        sides.theirs.generate(row, max_new_tokens=2, cache_implementation="static")
    with pytest.raises(ValueError, match=r"prefix_length \[12\], but the call that begins has \[4\] tokens"):
        begun = sides.theirs(row[:, :4], prefix_length=4, use_cache=True)
        sides.theirs(row[:, 4:], prefix_length=12, past_key_values=begun.past_key_values)
    monkeypatch.setattr(sides.theirs.config, "_attn_implementation_internal", "flash_attention_2")
    with pytest.raises(ValueError, match="'flash_attention_2' cannot read prefixes"):
        sides.theirs(row, prefix_length=3)


def test_the_tokenizer_comes_along(sides: Sides) -> None:
    theirs, ours = AutoTokenizer.from_pretrained(sides.exported), open_pretrained(sides.exported).load_tokenizer()
    text = "Größe,  12 €\n"
    assert theirs(text)["input_ids"] == ours.encode(text)
    assert theirs.decode(ours.encode(text)) == text
    assert (theirs.eos_token_id, theirs.pad_token_id, theirs.padding_side) == (ours.eod_id, ours.pad_id, "left")
    assert theirs.model_max_length == sides.theirs.config.n_positions


@torch.no_grad()
def test_what_transformers_saves_it_loads_again_and_so_do_we(sides: Sides, tmp_path: Path) -> None:
    saved = tmp_path / "saved"
    sides.theirs.save_pretrained(saved)
    again, row = load(saved, tmp_path / "modules"), torch.tensor(ROWS[:1])
    assert torch.equal(again(row, prefix_length=5).logits, sides.theirs(row, prefix_length=5).logits)
    AutoTokenizer.from_pretrained(sides.exported).save_pretrained(saved)
    assert open_pretrained(saved).reads_prompts == "prefix"
    assert open_pretrained(saved).mask_token_id == MASK_ID
