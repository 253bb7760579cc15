"""GPT-2 weights come in and go out to the bit, and give the logits that transformers computes with them."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from processes import run_distributed
from safetensors.torch import load_file, save_file
from segment_lists import Segments, visible
from stored_weights import load_weights
from tiny_gpt2 import EOD, VOCAB_SIZE, make_gpt2, pretend_objective, save_gpt2, save_tokenizer_files
from torch import Tensor
from training import train_config
from transformers import GPT2LMHeadModel

from data_prep.shards import PADDING
from data_prep.tokenizers import load_tokenizer
from foreword.errors import CheckpointError, ConfigError, DataError, ForewordError
from foreword.files import sha256_of
from pipeline.commands.hugging_face import export as export_command
from pipeline.config.run import InitFrom
from pipeline.data.batch import make_batch
from pipeline.distributed.parallel import Parallel, initialize
from pipeline.model import GPT2
from pipeline.run.init_from import find_origin
from pipeline.weights.directory import WEIGHTS_NAME
from pipeline.weights.hugging_face import export_weights, import_weights
from pipeline.weights.pretrained import open_pretrained

TOKENS = np.random.default_rng(0).integers(0, VOCAB_SIZE, (2, 21))
PREFIX_LENGTHS = (0, 1, 9, 20)
# causal, one token, prefix and all prefix beside each other; and padding behind them
PACKED: list[Segments] = [[(0, 0), (6, 1), (7, 5), (14, 7)], [(0, 4), (9, 0), (15, PADDING)]]


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("hf") / "gpt2"
    save_gpt2(make_gpt2(), directory)
    return directory


@pytest.fixture(scope="module")
def imported(original: Path) -> Path:
    out = original.parent / "imported"
    import_weights(original, out)
    return out


@pytest.fixture(scope="module")
def ours(imported: Path) -> list[tuple[dict[int, Tensor], Tensor]]:
    """What `logits_of` gives: of one process, and of both of a tensor-parallel group."""
    return [logits_of(imported, 1), *run_distributed(2, logits_of, imported, 2)]


def logits_of(weights: Path, tensor_parallel_size: int) -> tuple[dict[int, Tensor], Tensor]:
    """Prefix length -> [B, S, V], each row read as one segment; and [B, S, V] of the rows as `PACKED` says."""
    parallel = initialize(tensor_parallel_size)
    model = open_pretrained(weights).load_model()
    logits = {prefix_len: read(model, [[(0, prefix_len)]] * len(TOKENS)) for prefix_len in PREFIX_LENGTHS}
    packed = read(model, PACKED)
    parallel.destroy()
    return logits, packed


@torch.no_grad()
def read(model: GPT2, rows: list[Segments]) -> Tensor:
    """[B, S, V]."""
    batch = make_batch(TOKENS, [np.array(row) for row in rows], np.arange(len(TOKENS)))
    hidden_TD = model.hidden(batch.tokens_BS, batch.position_ids_BS, model.backend.prepare(batch))
    return model.logits(hidden_TD).view(*batch.tokens_BS.shape, -1)


def assert_same_tensors(actual: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert actual.keys() == expected.keys()
    for name, tensor in expected.items():
        assert actual[name].dtype == torch.float32
        assert torch.equal(actual[name], tensor.float()), name


def test_logits_equal_transformers_at_every_tensor_parallel_size(
    original: Path, ours: list[tuple[dict[int, Tensor], Tensor]]
) -> None:
    """Causal by transformers' own mask; with a prefix by a mask given to it, [B, 1, S, S], added to the scores."""
    reference, tokens_BS = GPT2LMHeadModel.from_pretrained(original), torch.from_numpy(TOKENS[:, :-1])
    for prefix_len in PREFIX_LENGTHS:
        visible_SS = visible([(0, prefix_len)], tokens_BS.shape[1])
        mask_B1SS = torch.zeros(len(tokens_BS), 1, *visible_SS.shape).masked_fill(~visible_SS, -torch.inf)
        with torch.no_grad():
            expected = reference(tokens_BS, attention_mask=mask_B1SS if prefix_len else None).logits
        for logits, _ in ours:
            torch.testing.assert_close(logits[prefix_len], expected, rtol=1e-4, atol=1e-4)


def test_logits_of_packed_rows_equal_transformers(original: Path, ours: list[tuple[dict[int, Tensor], Tensor]]) -> None:
    """Documents side by side: transformers sees each by a mask, [B, 1, S, S], and by positions that begin anew."""
    sequence_length = TOKENS.shape[1] - 1
    visible_B1SS = torch.stack([visible(row, sequence_length) for row in PACKED])[:, None]
    starts = [[max(start for start, _ in row if start <= i) for i in range(sequence_length)] for row in PACKED]
    with torch.no_grad():
        expected = GPT2LMHeadModel.from_pretrained(original)(
            torch.from_numpy(TOKENS[:, :-1]),
            attention_mask=torch.zeros(visible_B1SS.shape).masked_fill(~visible_B1SS, -torch.inf),
            position_ids=torch.arange(sequence_length) - torch.tensor(starts),
        ).logits
    for _, logits in ours:
        torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4)


def test_import_then_export_gives_back_the_same_bits(original: Path, imported: Path, tmp_path: Path) -> None:
    export_weights(imported, tmp_path / "out")
    assert_same_tensors(load_file(tmp_path / "out" / "model.safetensors"), load_file(original / "model.safetensors"))
    for name in ("vocab.json", "merges.txt"):
        assert (tmp_path / "out" / name).read_bytes() == (original / name).read_bytes()


def test_transformers_loads_what_was_exported(original: Path, imported: Path, tmp_path: Path) -> None:
    export_weights(imported, tmp_path / "out")
    loaded, report = GPT2LMHeadModel.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    reference = GPT2LMHeadModel.from_pretrained(original)
    tokens = torch.from_numpy(TOKENS)
    with torch.no_grad():
        assert torch.equal(loaded.eval()(tokens).logits, reference.eval()(tokens).logits)
    assert loaded.config.eos_token_id == load_tokenizer(imported / "tokenizer").eod_id == VOCAB_SIZE - 1


def as_bin(directory: Path, tensors: dict[str, Tensor]) -> None:
    torch.save(tensors, directory / "pytorch_model.bin")


def as_parts(directory: Path, tensors: dict[str, Tensor]) -> None:
    _in_two_parts(tensors, directory, "model", "safetensors", save_file)


def as_bin_in_parts(directory: Path, tensors: dict[str, Tensor]) -> None:
    _in_two_parts(tensors, directory, "pytorch_model", "bin", torch.save)


def _in_two_parts(
    tensors: dict[str, Tensor], directory: Path, stem: str, suffix: str, save: Callable[[dict[str, Tensor], Path], None]
) -> None:
    names = list(tensors)
    parts = {f"{stem}-1.{suffix}": names[::2], f"{stem}-2.{suffix}": names[1::2]}
    for part, held in parts.items():
        save({name: tensors[name] for name in held}, directory / part)
    weight_map = {name: part for part, held in parts.items() for name in held}
    (directory / f"{stem}.{suffix}.index.json").write_text(json.dumps({"weight_map": weight_map}))


def as_gpt2_was_published(directory: Path, tensors: dict[str, Tensor]) -> None:
    """Names without a prefix, and causal masks among the weights."""
    old = {name.removeprefix("transformer."): tensor for name, tensor in tensors.items()}
    old |= {"h.0.attn.bias": torch.ones(1, 1, 24, 24), "h.1.attn.masked_bias": torch.tensor(-1e4)}
    as_bin(directory, old | {"lm_head.weight": old["wte.weight"]})


def as_dialogpt_was_published(directory: Path, tensors: dict[str, Tensor]) -> None:
    """The head, causal masks as bytes, and the format of files that PyTorch had before 1.6, which cannot be mapped."""
    masks = {f"transformer.h.{layer}.attn.bias": torch.ones(1, 1, 24, 24, dtype=torch.uint8) for layer in range(2)}
    old = tensors | masks | {"lm_head.weight": tensors["transformer.wte.weight"]}
    torch.save(old, directory / "pytorch_model.bin", _use_new_zipfile_serialization=False)


def in_half_precision(directory: Path, tensors: dict[str, Tensor]) -> None:
    save_file({name: tensor.half() for name, tensor in tensors.items()}, directory / "model.safetensors")


LAYOUTS = [
    as_bin,
    as_parts,
    as_bin_in_parts,
    as_gpt2_was_published,
    as_dialogpt_was_published,
    in_half_precision,
]


@pytest.mark.parametrize("write", LAYOUTS)
def test_every_layout_of_the_files_is_read(
    original: Path, tmp_path: Path, write: Callable[[Path, dict[str, Tensor]], None]
) -> None:
    tensors = load_file(original / "model.safetensors")
    directory = copy_without_weights(original, tmp_path / "gpt2")
    write(directory, tensors)
    import_weights(directory, tmp_path / "imported")
    export_weights(tmp_path / "imported", tmp_path / "out")
    if write is in_half_precision:
        tensors = {name: tensor.half() for name, tensor in tensors.items()}
    assert_same_tensors(load_file(tmp_path / "out" / "model.safetensors"), tensors)


def copy_without_weights(original: Path, directory: Path) -> Path:
    save_tokenizer_files(directory)
    (directory / "config.json").write_bytes((original / "config.json").read_bytes())
    return directory


def missing(tensors: dict[str, Tensor]) -> None:
    del tensors["transformer.h.1.mlp.c_fc.bias"]


def surplus(tensors: dict[str, Tensor]) -> None:
    tensors["transformer.h.2.ln_1.weight"] = torch.ones(32)


def transposed(tensors: dict[str, Tensor]) -> None:
    tensors["transformer.h.0.attn.c_attn.weight"] = tensors["transformer.h.0.attn.c_attn.weight"].T.contiguous()


def untied(tensors: dict[str, Tensor]) -> None:
    tensors["lm_head.weight"] = tensors["transformer.wte.weight"] + 1


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (missing, r"lacks h\.1\.mlp\.c_fc\.bias"),
        (surplus, r"has h\.2\.ln_1\.weight, which GPT-2 does not"),
        (transposed, r"h\.0\.attn\.c_attn\.weight has shape \(96, 32\), expected \(32, 96\)"),
        (untied, "only tied weights are supported"),
    ],
)
def test_tensors_that_are_not_those_of_the_config_are_named(
    original: Path, tmp_path: Path, spoil: Callable[[dict[str, Tensor]], None], message: str
) -> None:
    tensors = load_file(original / "model.safetensors")
    spoil(tensors)
    directory = copy_without_weights(original, tmp_path / "gpt2")
    save_file(tensors, directory / "model.safetensors")
    with pytest.raises(DataError, match=message):
        import_weights(directory, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"activation_function": "relu"}, ConfigError, "activation_function is 'relu'; only 'gelu_new' is supported"),
        ({"model_type": "llama"}, ConfigError, "model_type is 'llama'; only 'gpt2' is supported"),
        ({"n_inner": 7}, ConfigError, "n_inner is 7"),
        ({"n_head": 5}, ConfigError, "hidden_size 32 is not a multiple of num_attention_heads 5"),
        ({"vocab_size": 100}, ConfigError, "the tokenizer has 257 ids and the model 100"),
        ({"vocab_size": 385}, ConfigError, "the tokenizer has 257 ids and the model 385"),
        ({"eos_token_id": 7}, ConfigError, "the tokenizer ends documents with id 256, and the model, .* with 7"),
        ({"n_layer": None}, DataError, "lacks n_layer"),
        ({"n_embd": "wide"}, ConfigError, "hidden_size: Input should be a valid integer"),
        ({"vocab_size": "many"}, DataError, "vocab_size is 'many'"),
    ],
)
def test_a_config_that_this_model_does_not_compute_is_refused(
    original: Path, tmp_path: Path, change: dict[str, object], error: type[ForewordError], message: str
) -> None:
    directory = tmp_path / "gpt2"
    save_tokenizer_files(directory)
    settings = json.loads((original / "config.json").read_text()) | change
    settings = {name: value for name, value in settings.items() if name not in change or value is not None}
    (directory / "config.json").write_text(json.dumps(settings))
    with pytest.raises(error, match=message):
        import_weights(directory, tmp_path / "out")


def test_a_directory_without_weights_or_with_broken_ones_is_refused(original: Path, tmp_path: Path) -> None:
    directory = copy_without_weights(original, tmp_path / "gpt2")
    with pytest.raises(DataError, match=r"no model\.safetensors or pytorch_model\.bin"):
        import_weights(directory, tmp_path / "out")
    (directory / "model.safetensors.index.json").write_text("{}")
    with pytest.raises(DataError, match=r"index\.json: does not say which file holds which tensor"):
        import_weights(directory, tmp_path / "out")
    (directory / "model.safetensors.index.json").unlink()
    (directory / "pytorch_model.bin").write_bytes(b"not weights")
    with pytest.raises(DataError, match=r"pytorch_model\.bin: cannot be read as weights"):
        import_weights(directory, tmp_path / "out")
    (directory / "model.safetensors").write_bytes((original / "model.safetensors").read_bytes()[:-10])
    with pytest.raises(DataError, match=r"model\.safetensors: cannot be read as weights"):
        import_weights(directory, tmp_path / "out")
    with pytest.raises(DataError, match=r"config\.json: cannot be read"):
        import_weights(tmp_path / "nowhere", tmp_path / "out")


def test_a_directory_that_holds_something_is_not_written_over(imported: Path, tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("kept")
    with pytest.raises(ConfigError, match="not an empty directory"):
        export_weights(imported, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["precious"]


def test_truncated_weights_are_refused(imported: Path, tmp_path: Path) -> None:
    damaged = copy_tree(imported, tmp_path / "damaged")
    (damaged / WEIGHTS_NAME).write_bytes((damaged / WEIGHTS_NAME).read_bytes()[:-1])
    with pytest.raises(CheckpointError, match=r"weights\.safetensors: .* bytes where there were"):
        open_pretrained(damaged)


def test_a_tokenizer_that_was_exchanged_is_noticed(imported: Path, tmp_path: Path) -> None:
    changed = copy_tree(imported, tmp_path / "changed")
    vocab = changed / "tokenizer" / "vocab.json"
    ids = json.loads(vocab.read_text())
    ids["a"], ids["b"] = ids["b"], ids["a"]
    vocab.write_text(json.dumps(ids))
    with pytest.raises(CheckpointError, match="not the tokenizer that the model was trained with"):
        open_pretrained(changed).load_tokenizer()


def copy_tree(source: Path, target: Path) -> Path:
    for path in source.rglob("*"):
        if path.is_file():
            copied = target / path.relative_to(source)
            copied.parent.mkdir(parents=True, exist_ok=True)
            copied.write_bytes(path.read_bytes())
    return target


def test_the_tokenizer_comes_along(imported: Path, one_process: Parallel) -> None:
    tokenizer = open_pretrained(imported).load_tokenizer()
    assert tokenizer.decode(tokenizer.encode("Größe, 12 €")) == "Größe, 12 €"
    assert tokenizer.id_of(EOD) == tokenizer.eod_id


def pretending(imported: Path, directory: Path, objective: dict[str, float]) -> Path:
    """A copy of the weights that says it was trained on `objective`, and whose mask token is not nothing."""
    pretend_objective(copy_tree(imported, directory), objective)
    tensors = load_file(directory / WEIGHTS_NAME)
    tensors["wte.weight"][VOCAB_SIZE:] = 7.0
    save_file(tensors, directory / WEIGHTS_NAME)
    meta = json.loads((directory / "foreword.json").read_text())
    path = directory / WEIGHTS_NAME
    meta["files"][WEIGHTS_NAME] = {"size": path.stat().st_size, "sha256": sha256_of(path)}
    (directory / "foreword.json").write_text(json.dumps(meta))
    return directory


def exported_by_command(*arguments: object) -> str:
    """What it says."""
    return CliRunner().invoke(export_command, list(map(str, arguments)), catch_exceptions=False).stderr


def test_an_export_says_what_the_plain_class_does_otherwise_and_what_was_left_out(
    imported: Path, tmp_path: Path
) -> None:
    causal = exported_by_command(imported, tmp_path / "causal")
    assert "load it with GPT2LMHeadModel" in causal and "warning" not in causal
    assert not (tmp_path / "causal" / "modeling_foreword.py").exists()
    prefix = exported_by_command(pretending(imported, tmp_path / "p", {"prefix": 1.0}), tmp_path / "prefix")
    assert "load it with AutoModelForCausalLM, trust_remote_code=True" in prefix
    assert "reads its prompts causally" in prefix and "mask token" not in prefix
    masked = pretending(imported, tmp_path / "m", {"bidirectional": 1.0})
    assert "exported with --with-mask-token alone" in exported_by_command(masked, tmp_path / "without")
    assert "mask token" not in exported_by_command(masked, tmp_path / "with", "--with-mask-token")
    with pytest.raises(ConfigError, match="no mask token in these weights"):
        export_weights(imported, tmp_path / "nothing", with_mask_token=True)


def test_an_export_is_imported_again_as_what_it_was(imported: Path, tmp_path: Path) -> None:
    """Objective and mask token too, if that was exported; to the bit, and exported weights serve without import."""
    everything = {"causal": 1.0, "prefix": 2.0, "bidirectional": 1.0}
    trained = pretending(imported, tmp_path / "trained", everything)
    for options, last_row in (({"with_mask_token": True}, 7.0), ({}, 0.0)):
        out = tmp_path / f"out-{last_row}"
        export_weights(trained, out, **options)
        import_weights(out, tmp_path / f"again-{last_row}")
        for path in (out, tmp_path / f"again-{last_row}"):
            again = open_pretrained(path)
            assert again.objective == everything
            assert (again.vocab_size, again.tokenizer_sha256) == (
                VOCAB_SIZE,
                open_pretrained(imported).tokenizer_sha256,
            )
            assert again.mask_token_id == (VOCAB_SIZE if options else None)
            weights, expected = load_weights(again.path), load_weights(trained)
            assert (weights["wte.weight"][VOCAB_SIZE] == last_row).all()
            weights["wte.weight"][VOCAB_SIZE:] = expected["wte.weight"][VOCAB_SIZE:] = 0.0
            assert_same_tensors(weights, expected)


def test_notes_of_an_export_that_do_not_fit_it_are_refused(imported: Path, tmp_path: Path) -> None:
    export_weights(imported, tmp_path / "out")
    path = tmp_path / "out" / "config.json"
    settings = json.loads(path.read_text())
    for change, message in (
        ({"objective": "guess"}, r"foreword\.objective: .*an objective is one of"),
        ({"vocab_size": 999}, "foreword does not fit the vocab_size of 257"),
        ({"mask_token_id": 257}, "foreword does not fit the vocab_size of 257"),
    ):
        path.write_text(json.dumps(settings | {"foreword": settings["foreword"] | change}))
        with pytest.raises(DataError, match=message):
            open_pretrained(tmp_path / "out")


def test_parts_and_other_precisions_hold_the_same_weights(original: Path, imported: Path, tmp_path: Path) -> None:
    reference = load_file(original / "model.safetensors")
    export_weights(imported, tmp_path / "parts", part_bytes=10_000)
    assert len(list((tmp_path / "parts").glob("model-*-of-*.safetensors"))) > 3
    assert_same_tensors(GPT2LMHeadModel.from_pretrained(tmp_path / "parts").state_dict(), with_head(reference))
    for name, dtype in (("bf16", torch.bfloat16), ("fp16", torch.float16)):
        exported_by_command(imported, tmp_path / name, "--dtype", name)
        tensors = load_file(tmp_path / name / "model.safetensors")
        assert all(torch.equal(tensors[key], tensor.to(dtype)) for key, tensor in reference.items())
        assert GPT2LMHeadModel.from_pretrained(tmp_path / name, dtype="auto").dtype == dtype


def with_head(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return tensors | {"lm_head.weight": tensors["transformer.wte.weight"]}


def test_damaged_weights_are_not_exported(imported: Path, tmp_path: Path) -> None:
    damaged = copy_tree(imported, tmp_path / "damaged")
    content = bytearray((damaged / WEIGHTS_NAME).read_bytes())
    content[-1] ^= 1
    (damaged / WEIGHTS_NAME).write_bytes(content)
    with pytest.raises(CheckpointError, match="its SHA-256 is"):
        export_weights(damaged, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_run_does_not_begin_from_the_hugging_face_layout_but_is_told_how(original: Path, tmp_path: Path) -> None:
    init = InitFrom(path=original)
    config = train_config(tmp_path / "run", tmp_path / "corpus")
    with pytest.raises(ConfigError, match=r"is in the Hugging Face layout\n.*foreword import"):
        find_origin(init, config, None, None)
