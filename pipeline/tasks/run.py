"""Names of tasks -> their scores: those that are shipped here, those of a directory, and the harness's own by name."""

import difflib
import logging
import math
import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

from foreword.errors import ConfigError, DataError, ForewordError, MachineError

LOCAL_TASKS = Path(__file__).parent / "local"


def run_tasks(
    model: Any, tasks: Sequence[str], *, task_dir: Path | None, num_fewshot: int | None, limit: int | None, seed: int
) -> dict[str, Any]:
    """Ask a model.

    Args:
        model: a `ForewordLM`, or any model of the harness.
        tasks: their names.
        task_dir: a directory of task files in the harness's format, besides those that are shipped.
        num_fewshot: examples in each context; None leaves it to the task.
        limit: ask only the first so many items of each task.
        seed: of few-shot examples and intervals.

    Returns:
        Task -> metric -> value, with "samples", the number of items. Nothing where LOCAL_RANK is above 0: there the
        harness sums up nothing.

    Raises:
        ConfigError: there is no such task.
        DataError: a task's file or its items cannot be used.
        MachineError: the items of a task cannot be fetched.
    """
    from lm_eval import evaluator

    manager = _manager(tasks, task_dir)
    for switch in ("DISABLE_MULTIPROC", "LMEVAL_DISABLE_MULTIPROC"):  # of its bootstrap, which would fork this process
        os.environ.setdefault(switch, "1")
    evaluator.get_git_commit_hash = lambda: None  # outside of a repository git would complain on the terminal
    for name in ("lm_eval", "datasets"):
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        with redirect_stdout(sys.stderr):  # which it tells of its progress on
            results = evaluator.simple_evaluate(
                model,
                tasks=list(tasks),
                task_manager=manager,
                num_fewshot=num_fewshot,
                limit=limit,
                bootstrap_iters=1000,
                random_seed=seed,
                numpy_random_seed=seed,
                torch_random_seed=seed,
                fewshot_random_seed=seed,
                log_samples=False,
            )
    except ForewordError:
        raise
    except (ConnectionError, OSError) as error:
        raise MachineError(
            f"the items cannot be had: {_first_line(error)}",
            where=", ".join(tasks),
            remedy="the harness's own tasks need a network; those of --task-dir and the shipped ones do not",
        ) from None
    except Exception as error:  # the harness raises whatever its parts raise
        raise DataError(
            f"cannot be asked: {type(error).__name__}: {_first_line(error)}",
            where=", ".join(tasks),
            remedy="look at the task's file and its items",
        ) from error
    return {name: _plain(values) for name, values in results["results"].items()} if results else {}


def shipped_tasks() -> list[str]:
    """Names of the tasks in `local/`."""
    from lm_eval.tasks import TaskManager

    return TaskManager(include_path=str(LOCAL_TASKS), include_defaults=False).all_subtasks


def show(results: Mapping[str, Mapping[str, Any]]) -> str:
    """The scores for a person."""
    from rich.console import Console
    from rich.table import Table

    table = Table("task", "metric", box=None, pad_edge=False)
    for column in ("value", "standard error", "items"):
        table.add_column(column, justify="right")
    for task, values in results.items():
        shown = task
        for metric, value in values["metrics"].items():
            error = values["standard_errors"].get(metric)
            cells = (_number(value), "" if error is None else _number(error), f"{values['samples']:,}")
            table.add_row(shown, metric, *cells)
            shown = ""
    console = Console(width=100, color_system=None)
    with console.capture() as capture:
        console.print(table)
    return "\n".join(line.rstrip() for line in capture.get().splitlines())


def _manager(tasks: Sequence[str], task_dir: Path | None) -> Any:
    """The harness's index of tasks; its own thousands of files are only read when a name is not among the others."""
    from lm_eval.tasks import TaskManager

    if task_dir is not None:
        _require_readable(task_dir)
    places = [str(place) for place in (LOCAL_TASKS, task_dir) if place is not None]
    known: list[str] = []
    for include_defaults in (False, True):
        try:
            manager = TaskManager(include_path=places, include_defaults=include_defaults)
        except Exception as error:  # of YAML, or of Python beside it
            raise DataError(f"a task cannot be read: {_first_line(error)}", where=task_dir or LOCAL_TASKS) from None
        known = manager.all_tasks
        if all(task in known for task in tasks):
            return manager
    missing = next(task for task in tasks if task not in known)
    nearest = difflib.get_close_matches(missing, known, n=3)
    raise ConfigError(
        f"there is no task {missing!r}",
        where="--tasks",
        remedy=f"did you mean {', '.join(nearest)}?" if nearest else f"shipped here: {', '.join(shipped_tasks())}",
    )


def _require_readable(task_dir: Path) -> None:
    """Refuse a directory without task files, or with one that is not YAML: the harness would pass it over."""
    import yaml

    files = sorted([*task_dir.rglob("*.yaml"), *task_dir.rglob("*.yml")]) if task_dir.is_dir() else []
    if not files:
        raise ConfigError("no task file (*.yaml) in this directory", where=task_dir, remedy="see docs/evaluation.md")
    for path in files:
        try:
            node = yaml.compose(path.read_text(encoding="utf-8"))
        except yaml.YAMLError as error:
            mark = getattr(error, "problem_mark", None)
            where = f"{path}:{mark.line + 1}" if mark else path
            raise DataError(f"not valid YAML: {getattr(error, 'problem', error)}", where=where) from None
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"cannot be read: {error}", where=path) from None
        if not isinstance(node, yaml.MappingNode):
            raise DataError("a task file holds key: value lines", where=path, remedy="see docs/evaluation.md")


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """The harness names a metric "acc,none", and its standard error "acc_stderr,none"."""
    metrics: dict[str, float] = {}
    errors: dict[str, float] = {}
    for key, value in values.items():
        name, separator, filtered = key.partition(",")
        if not separator or not isinstance(value, int | float):
            continue
        name = name if filtered == "none" else f"{name} ({filtered})"
        of = errors if "_stderr" in name else metrics
        of[name.replace("_stderr", "")] = float(value)
    return {
        "metrics": {name: value for name, value in metrics.items() if math.isfinite(value)},
        "standard_errors": {name: value for name, value in errors.items() if math.isfinite(value)},
        "samples": values.get("sample_len"),
    }


def _number(value: float) -> str:
    return f"{value:.4f}" if abs(value) < 1e6 else f"{value:.3g}"


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
