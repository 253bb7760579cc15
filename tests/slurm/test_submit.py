"""`foreword submit train`: nothing is written before it is checked, and what is submitted stays what it was."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from foreword.config import load_config
from pipeline.config.train import TrainConfig
from slurm.events import read_events

SBATCH = """#!/bin/bash
cp "$2" "$RECORD"
echo "4242;cluster"
"""


@pytest.fixture
def configs(tmp_path: Path, train_values: dict) -> tuple[Path, Path]:
    train, cluster = tmp_path / "train.yaml", tmp_path / "cluster.yaml"
    train.write_text(yaml.safe_dump(train_values))
    cluster.write_text("nodes: 2\ngpus_per_node: 4\ncpus_per_task: 8\ntime_limit: '12:00:00'\n")
    return train, cluster


def submit(
    configs: tuple[Path, Path], *more: str, path: str = "/usr/bin:/bin", **environment: str
) -> subprocess.CompletedProcess[str]:
    train, cluster = configs
    return subprocess.run(
        [sys.executable, "-m", "foreword", "submit", "train", str(train), "--cluster", str(cluster), *more],
        cwd=train.parent,
        env={"PATH": path, "PYTHONPATH": str(Path(__file__).parents[2])} | environment,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def sbatch(tmp_path: Path) -> dict[str, str]:
    """A PATH with an sbatch that keeps the script it is given as `record`."""
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "sbatch").write_text(SBATCH)
    (programs / "sbatch").chmod(0o755)
    return {"path": f"{programs}:/usr/bin:/bin", "RECORD": str(tmp_path / "record")}


def test_a_dry_run_prints_the_script_and_the_plan_and_changes_nothing(
    configs: tuple[Path, Path], tmp_path: Path
) -> None:
    before = sorted(tmp_path.rglob("*"))
    done = submit(configs, "--dry-run")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("#!/bin/bash\n")
    assert "8 = 2 node(s) x 4 GPU process(es)" in done.stderr
    assert sorted(tmp_path.rglob("*")) == before


def test_overrides_reach_the_run_and_the_cluster(configs: tuple[Path, Path]) -> None:
    done = submit(configs, "--dry-run", "cluster.nodes=4", "parallel.tensor_parallel_size=1")
    assert "#SBATCH --nodes=4\n" in done.stdout
    assert "tensor 1 x data 16" in done.stderr


def test_a_submission_prints_the_jobs_number_and_keeps_its_script(
    configs: tuple[Path, Path], tmp_path: Path, sbatch: dict[str, str]
) -> None:
    done = submit(configs, **sbatch)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "4242\n"
    (kept,) = (tmp_path / "run" / "slurm").glob("*.sbatch")
    assert kept.read_text() == (tmp_path / "record").read_text()


def test_the_job_trains_what_was_submitted_although_the_file_changes_later(
    configs: tuple[Path, Path], tmp_path: Path, sbatch: dict[str, str]
) -> None:
    submitted = load_config(configs[0], ["schedule.total_steps=7"], TrainConfig)
    assert submit(configs, "schedule.total_steps=7", **sbatch).returncode == 0
    configs[0].write_text("changed: afterwards")
    (resolved,) = (tmp_path / "run" / "slurm").glob("*.yaml")
    assert f" train {resolved} " in (tmp_path / "record").read_text()
    assert load_config(resolved, [], TrainConfig) == submitted


def test_without_sbatch_the_message_says_where_to_submit_from(configs: tuple[Path, Path], tmp_path: Path) -> None:
    done = submit(configs, path="/nowhere")
    assert done.returncode == 2
    assert "there is no sbatch on this machine" in done.stderr
    assert not (tmp_path / "run").exists()


def test_sbatchs_own_words_are_passed_on(configs: tuple[Path, Path], tmp_path: Path, sbatch: dict[str, str]) -> None:
    refusing = "#!/bin/bash\necho 'error: invalid partition specified: gpux' >&2\nexit 1\n"
    (tmp_path / "bin" / "sbatch").write_text(refusing)
    done = submit(configs, **sbatch)
    assert done.returncode == 2
    assert "invalid partition specified: gpux" in done.stderr
    assert "Traceback" not in done.stderr
    (refused,) = read_events(tmp_path / "run")
    assert (refused.event, refused.job_id, refused.kind) == ("refused", "", "train")
    assert "invalid partition specified: gpux" in refused.reason


def test_a_run_directory_that_cannot_be_written_is_named(configs: tuple[Path, Path], sbatch: dict[str, str]) -> None:
    done = submit(configs, f"run_dir={configs[0]}", **sbatch)
    assert done.returncode == 2
    assert "is not a directory" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_failed_check_writes_nothing(configs: tuple[Path, Path], tmp_path: Path, sbatch: dict[str, str]) -> None:
    done = submit(configs, "batch.global_batch_size=50", **sbatch)
    assert done.returncode == 2
    assert not (tmp_path / "run").exists()
    assert not (tmp_path / "record").exists()


def test_an_unknown_key_of_the_cluster_is_named_with_its_override(configs: tuple[Path, Path]) -> None:
    done = submit(configs, "--dry-run", "cluster.node=4")
    assert done.returncode == 2
    assert "did you mean 'nodes'?" in done.stderr
