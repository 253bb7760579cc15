"""The rendered training script: reviewed copies, shells that accept it, values that stay values."""

import pytest
from hypothesis import example, given, settings
from played_jobs import LINE, TRICKY_LINE, sbatch_values
from reviewed_scripts import assert_bash_parses, assert_reviewed, assert_shellcheck_finds_nothing
from training_scripts import CLUSTERS, render

from slurm.script import quote_for_sbatch


@pytest.mark.parametrize("name", CLUSTERS)
def test_the_script_is_the_reviewed_one(name: str) -> None:
    assert_reviewed(f"train_{name}", render(CLUSTERS[name]))


@pytest.mark.parametrize("name", CLUSTERS)
def test_bash_parses_the_script(name: str) -> None:
    assert_bash_parses(render(CLUSTERS[name]))


@pytest.mark.parametrize("name", CLUSTERS)
def test_shellcheck_finds_nothing(name: str) -> None:
    assert_shellcheck_finds_nothing(render(CLUSTERS[name]))


@given(value=LINE)
@example(value=TRICKY_LINE)
@settings(max_examples=25)
def test_values_on_sbatch_lines_are_what_sbatch_reads(value: str) -> None:
    changes = {"partition": value, "account": value, "qos": value, "sbatch_options": {"constraint": value, "nice": 5}}
    read = sbatch_values(render(CLUSTERS["cpu"].model_copy(update=changes)))
    assert {read[option] for option in ("partition", "account", "qos", "constraint")} == {value}
    assert read["nice"] == "5"


@pytest.mark.parametrize("value", ["two\nlines", "return\r", "nul\0", ""])
def test_what_an_sbatch_line_cannot_hold_is_refused(value: str) -> None:
    with pytest.raises(ValueError, match="must not"):
        quote_for_sbatch(value)


@pytest.mark.parametrize(
    ("value", "quoted"),
    [("gpu", "gpu"), ("a b", '"a b"'), ("it's", '"it\'s"'), ('"', '"\\""'), ("a\\b", '"a\\\\b"'), ("a;#b", '"a;#b"')],
)
def test_quoting_for_sbatch_lines(value: str, quoted: str) -> None:
    assert quote_for_sbatch(value) == quoted
