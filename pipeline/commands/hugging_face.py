"""`foreword import` and `foreword export`: GPT-2 weights from and to the Hugging Face layout."""

from pathlib import Path

import click

from pipeline.config.train import PRECISIONS


@click.command(name="import")
@click.argument("hf_dir", type=click.Path(path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--tokenizer", "tokenizer_path", type=click.Path(path_type=Path), help="When it is not in HF_DIR.")
def import_(hf_dir: Path, out: Path, tokenizer_path: Path | None) -> None:
    """Turn GPT-2 or DialoGPT weights in HF_DIR into OUT, which `foreword train` starts from with init_from=OUT.

    HF_DIR is a directory in the Hugging Face layout: config.json, model.safetensors or pytorch_model.bin (whole or in
    parts), and the tokenizer. OUT/tokenizer is what the corpus has to be prepared with.
    """
    from foreword.console import say
    from pipeline.weights.hugging_face import import_weights

    meta = import_weights(hf_dir, out, tokenizer_path)
    shape = f"{meta.model.num_layers} layers, hidden size {meta.model.hidden_size}, {meta.vocab_size} tokens"
    say(f"imported into {out}: {shape}; train from it with init_from={out}, on a corpus with {out}/tokenizer")


@click.command()
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--dtype", type=click.Choice(PRECISIONS), default="fp32", show_default=True, help="Of the weights.")
@click.option("--part-mb", default=5000, show_default=True, type=click.IntRange(min=1), help="Of one weights file.")
@click.option("--with-mask-token", is_flag=True, help="Keep the mask token: the vocabulary ends with it.")
def export(checkpoint: Path, out: Path, dtype: str, part_mb: int, with_mask_token: bool) -> None:
    """Write CHECKPOINT as OUT, a directory for the transformers library.

    CHECKPOINT is a run, one of its checkpoints (of any topology), or imported weights. A causal model is one for
    GPT2LMHeadModel. One that was trained on prefixes or on masked tokens is for AutoModelForCausalLM with
    trust_remote_code=True: a small modeling file is written along. The tokenizer and a model card are, too.
    """
    from foreword.console import say, warn
    from pipeline.attention import COMPUTE_DTYPES
    from pipeline.weights.hugging_face import export_weights

    part_bytes = part_mb * 10**6
    exported = export_weights(
        checkpoint, out, dtype=COMPUTE_DTYPES[dtype], part_bytes=part_bytes, with_mask_token=with_mask_token
    )
    reads_prefixes = exported.pretrained.reads_prompts == "prefix"
    loader = "AutoModelForCausalLM, trust_remote_code=True" if exported.has_modeling_file else "GPT2LMHeadModel"
    say(f"exported to {out}: load it with {loader}")
    if reads_prefixes:
        warn("GPT2LMHeadModel loads this model too, and reads its prompts causally; it was trained on prefixes")
    if "bidirectional" in exported.pretrained.objective and exported.mask_token_id is None:
        warn("this model was trained on masked tokens too; its mask token is exported with --with-mask-token alone")
    if exported.tokenizer_problem:
        warn(f"{exported.tokenizer_problem}; its own file is in {out}")
