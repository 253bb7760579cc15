"""What is known of a model and its run -> README.md for its directory, as model hubs show it.

No path is in it, because it is made to be published; and no licence, which is its author's to choose.
"""

from pathlib import PurePath
from typing import Any

import jinja2
import yaml

from pipeline.config.objective import describe_objectives
from pipeline.weights.hf_directory import ExportNotes
from pipeline.weights.pretrained import Pretrained

# of a run's configuration: what is about the place where it ran, and not about the model
_LEFT_OUT = ("run_dir", "logging", "checkpoint")


def model_card(
    pretrained: Pretrained,
    notes: ExportNotes,
    *,
    name: str,
    num_parameters: int,
    has_modeling_file: bool,
    tokenizer_problem: str | None,
) -> str:
    """The text of README.md.

    Args:
        pretrained: what was exported.
        notes: what config.json says beyond GPT2Config.
        name: of the model, for people.
        num_parameters: with the embedding, once.
        has_modeling_file: whether modeling_foreword.py is there.
        tokenizer_problem: why transformers cannot load the tokenizer, where that is so.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("pipeline.weights"),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    checkpoint = pretrained.checkpoint
    return environment.get_template("README.md.j2").render(
        name=name,
        model=pretrained.config,
        num_parameters=num_parameters,
        notes=notes,
        objective=describe_objectives(pretrained.objective),
        masked_tokens="bidirectional" in pretrained.objective,
        has_modeling_file=has_modeling_file,
        tokenizer_problem=tokenizer_problem,
        checkpoint=checkpoint,
        origin=None if checkpoint is None or checkpoint.origin is None else PurePath(checkpoint.origin.path).name,
        config=None if checkpoint is None else yaml.safe_dump(_without_places(checkpoint.config), sort_keys=False),
    )


def _without_places(config: dict[str, Any]) -> dict[str, Any]:
    """A run's configuration, of whose paths the last part is left."""
    kept = {key: value for key, value in config.items() if key not in _LEFT_OUT}
    data = dict(kept.get("data", {}))
    if data.get("corpus"):
        data["corpus"] = PurePath(data["corpus"]).name
    data["corpora"] = {n: c | {"path": PurePath(c["path"]).name} for n, c in data.get("corpora", {}).items()}
    init = kept.get("init_from")
    kept["init_from"] = init | {"path": PurePath(init["path"]).name} if init else init
    return kept | {"data": data}
