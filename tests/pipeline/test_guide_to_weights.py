"""The guide's pages about weights and generation: their files, commands and Python are typed, in their order.

In place of what takes long or a network stand a small model, few documents and few steps; see `stand_ins` and `EXTRA`.
"""

import json
import os
import re
import shlex
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from click.testing import CliRunner
from processes import run_distributed
from tiny_gpt2 import make_gpt2, pretend_objective, save_gpt2

from foreword.cli import foreword
from pipeline.weights.hf_directory import read_config
from pipeline.weights.pretrained import open_pretrained

GUIDE = Path(__file__).parents[2] / "docs"
FILE = re.compile(r"^```yaml\n# (\S+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
TYPED = re.compile(r"^ {4}((?:foreword|torchrun) [^\n]*)$|^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
JSON_LINE = re.compile(r"^ {4}(\{.*\})$", re.MULTILINE)
TORCHRUN = "torchrun --nproc-per-node 2 -m "
EXTRA = {
    "prep": ["workers=1"],
    "train": [
        *("schedule.total_steps=2", "schedule.warmup_steps=1", "logging.wandb.mode=disabled"),
        *("batch.global_batch_size=4", "batch.micro_batch_size=2"),
    ],
}


def page(name: str) -> str:
    return (GUIDE / f"{name}.md").read_text()


def stand_ins(root: Path) -> None:
    """What the pages take for given."""
    save_gpt2(make_gpt2(n_positions=1024), root / "models" / "DialoGPT-small")
    shape = read_config(root / "models" / "DialoGPT-small").model.model_dump()
    (root / "configs" / "model").mkdir(parents=True)
    (root / "configs" / "model" / "gpt2-124m.yaml").write_text(yaml.safe_dump({"model": shape}))
    dialogues = [{"turns": [f"What is {n} and {n}?", f"It is {2 * n}.", "Thank you."]} for n in range(400)]
    (root / "dialogues.jsonl").write_text("".join(json.dumps(dialogue) + "\n" for dialogue in dialogues))
    (root / "prompt.txt").write_text("In the beginning\n")
    (root / "prompts.jsonl").write_text("".join(line + "\n" for line in JSON_LINE.findall(page("generation"))))


def type_page(root: str, name: str) -> dict[str, str]:
    """Do what a page shows, but for what torchrun starts; returns each command's standard output."""
    os.chdir(root)
    for variable in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        del os.environ[variable]  # alone, as a person's shell is
    os.environ["HF_MODULES_CACHE"] = f"{root}/modules"
    text = page(name)
    for file_name, content in FILE.findall(text):
        Path(file_name).write_text(content)
    printed = {}
    for line, program in TYPED.findall(text):
        if program:
            values: dict[str, torch.Tensor] = {}
            exec(program, values)
            printed["python"] = f"{values['reply'].shape[1] - values['question']['input_ids'].shape[1]} new tokens"
        elif not line.startswith(TORCHRUN):
            printed[line] = typed(line)
    return printed


def typed(line: str) -> str:
    _, *words = shlex.split(line)
    result = CliRunner().invoke(foreword, [*words, *EXTRA.get(words[0], [])], catch_exceptions=False)
    assert result.exit_code == 0, (line, result.output)
    return result.stdout


def typed_in(root: str, line: str) -> str:
    os.chdir(root)
    return typed(line)


@pytest.mark.slow
def test_what_the_pages_about_weights_and_generation_show_can_be_done_in_their_order(tmp_path: Path) -> None:
    root = str(tmp_path)
    stand_ins(tmp_path)
    (weights,) = run_distributed(1, type_page, root, "weights", timeout_s=300)
    assert len(weights) >= 11
    assert open_pretrained(tmp_path / "adapted" / "run").reads_prompts == "prefix"
    assert 0 < int(weights["python"].split()[0]) <= 40
    assert (tmp_path / "exported" / "modeling_foreword.py").is_file()

    shutil.copytree(tmp_path / "imported", tmp_path / "filling" / "run")
    pretend_objective(tmp_path / "filling" / "run", {"prefix": 1.0, "bidirectional": 1.0})
    (generation,) = run_distributed(1, type_page, root, "generation", timeout_s=300)
    answers = [json.loads(line) for line in (tmp_path / "answers.jsonl").read_text().splitlines()]
    assert [answer["id"] for answer in answers] == [1, 2, 3]
    assert all(answer["generated_ids"] for answer in answers)
    filled = next(printed for line, printed in generation.items() if "--gap" in line)
    assert filled.startswith("The capital of France is ") and filled.endswith(", on the Seine.\n")

    (shared,) = (line for line, _ in TYPED.findall(page("generation")) if line.startswith(TORCHRUN))
    (alone,), together = (
        run_distributed(processes, typed_in, root, shared.removeprefix(TORCHRUN), timeout_s=300) for processes in (1, 2)
    )
    assert together == [alone, ""]
