"""`foreword doctor`: what is found is what is there, and only what training needs is called missing."""

import subprocess
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from slurm import doctor


def test_a_machine_that_runs_these_tests_can_train() -> None:
    done = subprocess.run([sys.executable, "-m", "foreword", "doctor"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert done.stdout.rstrip().endswith("training here can work")
    assert done.stderr == ""


def test_every_declared_dependency_is_looked_at() -> None:
    names = {finding.name for finding in doctor.dependencies("foreword")}
    assert {"torch", "deepspeed", "megatron-core", "datasets", "sentencepiece", "wandb", "gigatoken"} <= names
    assert "pytest" not in names  # for developers only


@pytest.mark.parametrize("text", ["no-such-package>=1", "numpy>=999"])
def test_a_package_that_is_absent_or_out_of_range_is_missing_and_says_how_to_get_it(text: str) -> None:
    finding = doctor.dependency(Requirement(text))
    assert finding.status == "missing"
    assert finding.remedy == f"pip install '{text}'"


def test_a_missing_finding_means_that_training_cannot_work() -> None:
    findings = [doctor.Finding("a", "ok", "here"), doctor.Finding("b", "missing", "not here", "get it")]
    assert not doctor.can_train(findings)
    assert doctor.table(findings).splitlines()[-1] == "training here cannot work without: b"


def test_a_note_does_not_keep_from_training() -> None:
    assert doctor.can_train([doctor.Finding("a", "note", "none")])


def test_slurms_commands_are_found_on_the_path(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert next(doctor.slurm_clients()).status == "note"
    for name in doctor.SLURM_CLIENTS:
        (tmp_path / name).touch(0o755)
    assert next(doctor.slurm_clients()).status == "ok"


def test_the_key_of_weights_and_biases_is_found_and_never_shown(tmp_path: Path) -> None:
    assert doctor.wandb_key({}, tmp_path).status == "note"
    (tmp_path / ".netrc").write_text("machine api.wandb.ai login user password secret\n")
    (tmp_path / ".netrc").chmod(0o600)
    for finding in (doctor.wandb_key({}, tmp_path), doctor.wandb_key({"WANDB_API_KEY": "secret"}, tmp_path / "x")):
        assert finding.status == "ok"
        assert "secret" not in finding.found


def test_a_machine_without_shared_memory_cannot_train(tmp_path: Path) -> None:
    assert doctor.shared_memory(tmp_path / "shm").status == "missing"
