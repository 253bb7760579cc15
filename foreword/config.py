"""YAML files with `extends:` and `key=value` overrides -> one validated pydantic model.

What comes in: a path, the overrides from the command line, and a model class. What goes out: an instance of the class.
Promise: an unknown key is refused with the nearest known one, and every error names the file, the line and the key.

A file's `extends:` is one path or a list of paths relative to the file; later entries win over earlier ones and the
file itself wins over all of them. Lists are replaced, mappings are merged.
"""

import difflib
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import BaseModel, ConfigDict, ValidationError

from foreword.errors import ConfigError

Model = TypeVar("Model", bound=BaseModel)

# text that every YAML reader takes for text once the dumper has quoted YAML's own words (yes, null, ...)
PLAIN_TEXT = re.compile(r"[A-Za-z_/][\w./ -]*", re.ASCII)


class Section(BaseModel):
    """Base of every configuration section: unknown keys are errors, numbers are finite and instances are immutable."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


def load_config(path: str | Path, overrides: Sequence[str], model: type[Model]) -> Model:
    """Read `path` with what it extends, apply `overrides` ("a.b=value"), and validate.

    An override's value is YAML; where YAML would read it as plain text, it is the text exactly as it was typed.

    Raises:
        ConfigError: no such file, not YAML, a circular `extends`, an unknown key or a value of the wrong type.
    """
    path = Path(path)
    layers: list[Path] = []
    merged = _load_with_extends(path, (), layers)
    for override in overrides:
        try:
            merged.merge_with_dotlist([_as_typed(override)])
        except (OmegaConfBaseException, yaml.YAMLError) as error:
            raise ConfigError(f"cannot apply the override: {str(error).splitlines()[0]}", where=override) from None
    return validate(to_plain(merged, path), model, layers, overrides)


def to_plain(config: DictConfig, path: Path) -> dict[str, Any]:
    """Resolve `${...}` interpolations into plain Python values."""
    try:
        return OmegaConf.to_container(config, resolve=True, throw_on_missing=True)  # type: ignore[return-value]
    except OmegaConfBaseException as error:
        raise ConfigError(str(error).splitlines()[0], where=path) from None


def validate(
    values: dict[str, Any], model: type[Model], layers: Sequence[Path] = (), overrides: Sequence[str] = ()
) -> Model:
    """Build `model` from plain `values`; `layers` and `overrides` only serve to say where a bad value came from."""
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise ConfigError("\n".join(_explain(item, model, layers, overrides) for item in error.errors())) from None


def dump_config(config: BaseModel) -> str:
    """The resolved configuration as YAML; reading it back gives an equal object."""
    return yaml.dump(
        config.model_dump(mode="json"), Dumper=_RoundTripDumper, sort_keys=False, allow_unicode=True, width=10**6
    )


class _RoundTripDumper(yaml.SafeDumper):
    """Writes text so that OmegaConf reads the same text: it takes more for numbers than YAML, and `${` for its own."""


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    escaped = re.sub(r"(\\*)\$\{", r"\1\1\\${", text)
    return dumper.represent_scalar("tag:yaml.org,2002:str", escaped, style=None if PLAIN_TEXT.fullmatch(text) else '"')


_RoundTripDumper.add_representer(str, _represent_text)


def _as_typed(override: str) -> str:
    """The override with its value quoted when YAML would fold, cut or refuse what is plain text."""
    key, separator, value = override.partition("=")
    if not separator or not key:
        raise ConfigError(
            f"{override!r} is not an override", remedy="write overrides as key=value, for example optimizer.lr=3e-4"
        )
    if value.startswith(("'", '"')):
        return override
    try:
        read = OmegaConf.to_container(OmegaConf.from_dotlist([f"value={value}"]), resolve=False)["value"]  # type: ignore
    except yaml.YAMLError:
        read = ""
    if isinstance(read, str) and read != value:
        return f"{key}={json.dumps(value)}"
    return override


def _load_with_extends(path: Path, above: tuple[Path, ...], layers: list[Path]) -> DictConfig:
    resolved = path.resolve()
    if resolved in above:
        raise ConfigError("`extends` goes round in a circle", where=path)
    try:
        text = path.read_text(encoding="utf-8")
        node = yaml.compose(text)
        if node is not None and not isinstance(node, yaml.MappingNode):
            raise ConfigError("a configuration file holds key: value lines", where=path)
        config = OmegaConf.create(text) if node is not None else OmegaConf.create({})
    except FileNotFoundError:
        raise ConfigError("no such configuration file", where=path, remedy=_nearest_file(path)) from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot be read: {error}", where=path) from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{path}:{mark.line + 1}" if mark else path
        raise ConfigError(f"not valid YAML: {getattr(error, 'problem', error)}", where=where) from None
    except OmegaConfBaseException as error:
        raise ConfigError(str(error).splitlines()[0], where=path) from None
    assert isinstance(config, DictConfig)  # its node is a mapping
    bases = config.pop("extends", [])
    bases = [bases] if isinstance(bases, str) else bases
    if not isinstance(bases, list | ListConfig) or not all(isinstance(base, str) for base in bases):
        line = _line_of(path, ("extends",))
        raise ConfigError("`extends` is the path of a file, or a list of such paths", where=f"{path}:{line}")
    merged = OmegaConf.create({})
    for base in bases:
        merged.merge_with(_load_with_extends(path.parent / base, (*above, resolved), layers))
    layers.append(path)
    try:
        merged.merge_with(config)
    except OmegaConfBaseException as error:
        raise ConfigError(f"does not fit what it extends: {str(error).splitlines()[0]}", where=path) from None
    return merged


def _explain(item: Any, model: type[BaseModel], layers: Sequence[Path], overrides: Sequence[str]) -> str:
    location = tuple(item["loc"])
    key = ".".join(str(part) for part in location) or "(top level)"
    where = _origin(location, layers, overrides)
    prefix = f"{where}: " if where else ""
    if item["type"] == "extra_forbidden":
        known = _known_keys(model, location[:-1])
        nearest = difflib.get_close_matches(str(location[-1]), known, n=1, cutoff=0.5)
        hint = f"did you mean {nearest[0]!r}?" if nearest else f"known keys here: {', '.join(sorted(known))}"
        return f"{prefix}unknown key {key!r}\n  -> {hint}"
    if item["type"] == "missing":
        return f"{prefix}missing key {key!r}\n  -> set it in the file or as {key}=... on the command line"
    message = item["msg"].removeprefix("Value error, ")
    given = "" if isinstance(item["input"], dict) else f", got {item['input']!r}"
    return f"{prefix}{key}: {message}{given}"


def _origin(location: tuple, layers: Sequence[Path], overrides: Sequence[str]) -> str | None:
    """Where a value was written: an override, or the last file and line that sets it or its nearest parent."""
    dotted = ".".join(str(part) for part in location)
    for override in reversed(overrides):
        key = override.partition("=")[0]
        if dotted == key or dotted.startswith(key + "."):
            return f"override {override!r}"
    for depth in range(len(location), 0, -1):
        for path in reversed(layers):
            line = _line_of(path, location[:depth])
            if line is not None:
                return f"{path}:{line}"
    return str(layers[-1]) if layers else None


def _line_of(path: Path, location: tuple) -> int | None:
    node = yaml.compose(path.read_text(encoding="utf-8"))
    line = None
    for part in location:
        if isinstance(node, yaml.MappingNode):
            found = next(((k, v) for k, v in node.value if k.value == str(part)), None)
            if found is None:
                return None
            line, node = found[0].start_mark.line + 1, found[1]
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
            node = node.value[part]
            line = node.start_mark.line + 1
        elif isinstance(part, str) and node is not None:
            continue  # a discriminated union's tag is part of pydantic's location but not of the file
        else:
            return None
    return line


def _known_keys(model: type[BaseModel], location: tuple) -> list[str]:
    """Field names of the (possibly nested, possibly union) model that `location` points at."""
    candidates: list[Any] = [model]
    for part in location:
        following: list[Any] = []
        for candidate in candidates:
            if isinstance(candidate, type) and issubclass(candidate, BaseModel) and part in candidate.model_fields:
                following += _models_in(candidate.model_fields[part].annotation)
            else:
                following.append(candidate)  # a list index or a union tag: stay with the models at hand
        candidates = following
    names = {name for candidate in candidates if hasattr(candidate, "model_fields") for name in candidate.model_fields}
    return sorted(names)


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for argument in get_args(annotation) for model in _models_in(argument)]


def _nearest_file(path: Path) -> str:
    siblings = [str(p) for p in path.parent.glob("*.y*ml")] if path.parent.is_dir() else []
    nearest = difflib.get_close_matches(str(path), siblings, n=1)
    return f"did you mean {nearest[0]}?" if nearest else "check the path"
