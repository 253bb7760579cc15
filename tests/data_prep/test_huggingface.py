"""Hugging Face datasets: directories, saved datasets and names on a hub, each row once and nothing downloaded twice."""

import contextlib
import functools
import hashlib
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hub_server import COMMIT, Hub, running
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from source_reading import read_documents, read_kept, read_texts

from foreword.errors import ConfigError, DataError, ForewordError

datasets = pytest.importorskip("datasets")
datasets.disable_progress_bars()

TEXTS = [f"document {number}, and what it says" for number in range(200)]


def write_jsonl(path, records):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(record) + "\n" for record in records))


def source(directory, **values):
    return {"kind": "huggingface", "dataset": str(directory), **values}


def test_a_directory_of_json_lines_is_read_file_by_file(tmp_path):
    for number in range(3):
        rows = [{"text": text, "id": 1} for text in TEXTS[number::3]]
        write_jsonl(tmp_path / f"data/train-{number:05d}-of-00003.jsonl", rows)
    write_jsonl(tmp_path / "data/test-00000-of-00001.jsonl", [{"text": "held out", "id": 2}])
    assert read_texts(**source(tmp_path)) == (TEXTS[0::3] + TEXTS[1::3] + TEXTS[2::3], {})
    assert read_texts(**source(tmp_path, split="test")) == (["held out"], {})


@pytest.mark.parametrize("slice_bytes", [500, 10**9])
def test_a_directory_of_parquet_files_is_read_in_slices(tmp_path, slice_bytes):
    pq.write_table(pa.table({"text": TEXTS, "n": range(200)}), tmp_path / "train.parquet", row_group_size=30)
    assert read_texts(slice_bytes=slice_bytes, **source(tmp_path)) == (TEXTS, {})


def test_a_subset_is_chosen_by_its_name(tmp_path):
    for name in ("one", "two"):
        write_jsonl(tmp_path / name / "a.jsonl", [{"text": name}])
    configs = "".join(f"- config_name: {name}\n  data_files: {name}/*.jsonl\n" for name in ("one", "two"))
    (tmp_path / "README.md").write_text(f"---\nconfigs:\n{configs}---\n")
    assert read_texts(**source(tmp_path, subset="two")) == (["two"], {})
    with pytest.raises(ConfigError, match=r"Available: \['one', 'two'\]"):
        read_texts(**source(tmp_path, subset="three"))
    with pytest.raises(ConfigError, match="one among the available configs"):
        read_texts(**source(tmp_path))


@pytest.mark.parametrize("splits", [False, True])
def test_a_saved_dataset_is_read_from_its_arrow_files(tmp_path, splits):
    saved = datasets.Dataset.from_dict({"text": TEXTS, "n": list(range(200))}, split="train")
    whole = datasets.DatasetDict({"train": saved.filter(lambda row: row["n"] >= 20), "test": saved.take(20)})
    if splits:
        whole.save_to_disk(tmp_path / "saved", num_shards={"train": 3, "test": 1})
    else:
        whole["train"].save_to_disk(tmp_path / "saved", num_shards=3)
    assert read_texts(**source(tmp_path / "saved")) == (TEXTS[20:], {})
    with pytest.raises(ConfigError, match="no split 'valid'; there are: train"):
        read_texts(**source(tmp_path / "saved", split="valid"))
    with pytest.raises(ConfigError, match="neither subsets nor revisions"):
        read_texts(**source(tmp_path / "saved", revision="main"))


def save(path, **columns):
    datasets.Dataset.from_dict(columns, split="train").save_to_disk(path)
    return source(path)


def test_fields_become_parts(tmp_path):
    chat = [[{"content": "a"}, {"content": "b"}], [{"content": "c"}, {"content": None}]]
    saved = save(tmp_path / "saved", prompt=["p", None], completion=["c", "d"], chat=chat)
    pair = {"policy": "field", "prefix_field": "prompt", "target_field": "completion"}
    turns = {"policy": "field", "turns_field": "chat", "turn_text_field": "content"}
    assert read_documents(prefix=pair, refuse=False, **saved) == ([["p", "c"]], {"null": 1})
    assert read_documents(prefix=turns, refuse=False, **saved) == ([["a", "b"]], {"null": 1})


def test_fields_are_kept(tmp_path):
    saved = save(tmp_path / "saved", text=["a", "b"], key=[7, 8], more=[{"x": 1}, None])
    write_jsonl(tmp_path / "files/a.jsonl", [{"text": "a", "key": 7, "more": 3}])
    wanted = {"id_field": "key", "keep_fields": ["more", "absent"]}
    assert read_kept(**saved, **wanted)[0] == [("7", '{"more":{"x":1}}'), ("8", '{"more":null}')]
    assert read_kept(**source(tmp_path / "files"), **wanted)[0] == [("7", '{"more":3}')]


def test_nulls_missing_fields_and_other_types_are_named_or_counted(tmp_path):
    saved = save(tmp_path / "saved", text=["a", None, "b"], n=[1, 2, 3])
    with pytest.raises(DataError, match=r"data-00000-of-00001\.arrow, row 1: the column 'text' is null"):
        read_texts(**saved)
    assert read_texts(refuse=False, **saved) == (["a", "b"], {"null": 1})
    assert read_texts(refuse=False, text_field="n", **saved) == ([], {"wrong_type": 3})
    with pytest.raises(DataError, match="no field 'body'; it has: n, text"):
        read_texts(text_field="body", **saved)
    write_jsonl(tmp_path / "files/a.jsonl", [{"text": "a"}, {"text": None}])
    with pytest.raises(DataError, match=r"a\.jsonl, row 1: the column 'text' is null"):
        read_texts(**source(tmp_path / "files"))
    assert read_texts(refuse=False, text_field="body", **source(tmp_path / "files")) == ([], {"missing_field": 2})


def test_invalid_utf8_is_named_or_counted(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(b'{"text": "a NUL \\u0000"}\n{"text": "\xff"}\n')
    with pytest.raises(DataError, match=r"a\.jsonl, row 1: the column 'text' is not valid UTF-8 at byte 0"):
        read_texts(**source(tmp_path))
    assert read_texts(refuse=False, **source(tmp_path)) == (["a NUL \0"], {"invalid_utf8": 1})


@pytest.mark.parametrize("content", [b'{"text": "a"}\n{"text":\n', b"no json"])
def test_a_file_that_the_library_cannot_parse_is_named_or_counted(tmp_path, content):
    (tmp_path / "a.jsonl").write_bytes(content)
    with pytest.raises(DataError, match=r"a\.jsonl, from row 0 on: cannot be parsed"):
        read_texts(**source(tmp_path))
    assert read_texts(refuse=False, **source(tmp_path))[1] == {"damaged_file": 1}


def test_what_is_no_dataset_is_an_error(tmp_path):
    with pytest.raises(ConfigError, match="doesn't contain any data files"):
        read_texts(**source(tmp_path))
    write_jsonl(tmp_path / "a.jsonl", [{"text": "a"}])
    with pytest.raises(ConfigError, match="no split 'valid'; there are: train"):
        read_texts(**source(tmp_path, split="valid"))


@functools.cache
def arrow_stream():
    file = io.BytesIO()
    table = pa.table({"text": ["some text", "Ünïcode", "", None, "x" * 50], "turns": [["a", "b"], [], None, ["c"], []]})
    with pa.ipc.new_stream(file, table.schema) as stream:
        for _ in range(3):
            stream.write_table(table)
    return file.getvalue()


@given(
    changes=st.lists(st.tuples(st.integers(0, 10**6), st.binary(min_size=1, max_size=6)), max_size=4),
    keep=st.floats(0.2, 1.0),
    prefix=st.sampled_from([{"policy": "none"}, {"policy": "field", "turns_field": "turns"}]),
)
@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_damaged_saved_dataset_is_an_error_of_ours_or_counted(tmp_path, changes, keep, prefix):
    saved = save(tmp_path / "saved", text=["a"], turns=[["a", "b"]]) if not (tmp_path / "saved").exists() else None
    saved = saved or source(tmp_path / "saved")
    content = bytearray(arrow_stream())
    for position, change in changes:
        content[position % len(content) : position % len(content) + len(change)] = change
    (tmp_path / "saved/data-00000-of-00001.arrow").write_bytes(content[: int(keep * len(content))])
    with contextlib.suppress(ForewordError):  # the library looks at the files before we do
        read_documents(refuse=False, prefix=prefix, **saved)


READ = """
import json, sys
from data_prep.sources import module_of
from foreword.errors import ForewordError
from source_reading import read_texts, source_of
answers = []
for values in json.loads(sys.argv[1]):
    try:
        module, settled = module_of("huggingface"), source_of(kind="huggingface", **values)
        files = [[file.path, file.size_bytes, module.sha256(file.path)] for file in module.list_files(settled)]
        read = read_texts(kind="huggingface", slice_bytes=2000, **values) if sys.argv[2] == "read" else []
        answers.append([files, *read])
    except ForewordError as error:
        answers.append([type(error).__name__, str(error)])
print(json.dumps(answers))
"""


def read_elsewhere(tmp_path, *sources, only_list=False, **environment):
    """List, hash and read in a fresh process, because the library looks at its environment when it is imported."""
    support = Path(__file__).parents[1] / "support"
    environment = {**os.environ, "HF_HOME": str(tmp_path / "cache"), "PYTHONPATH": str(support), **environment}
    command = [sys.executable, "-c", READ, json.dumps(sources), "list" if only_list else "read"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def parquet_bytes():
    file = io.BytesIO()
    pq.write_table(pa.table({"text": TEXTS}), file, row_group_size=40, compression="none")
    return file.getvalue()


def test_a_name_on_the_hub_is_read_at_one_commit(tmp_path):
    content = parquet_bytes()
    texts = {"dataset": "some/texts"}
    wrong = [{"dataset": "some/other"}, {"dataset": "some/texts", "revision": "v9"}]
    with running(Hub("some/texts", {"README.md": b"", "data/train-0.parquet": content})) as hub:
        (files, *read), *errors = read_elsewhere(tmp_path, texts, *wrong, HF_ENDPOINT=hub.url)
    digest = hashlib.sha256(content).hexdigest()
    assert files == [[f"hf://datasets/some/texts@{COMMIT}/data/train-0.parquet", len(content), digest]]
    assert read == [TEXTS, {}]
    assert [kind for kind, _ in errors] == ["ConfigError", "ConfigError"]
    assert "some/other" in errors[0][1]
    assert "v9" in errors[1][1]


def test_a_large_file_is_hashed_without_a_download(tmp_path):
    content = parquet_bytes()
    with running(Hub("some/texts", {"README.md": b"", "data/train-0.parquet": content})) as hub:
        (([(_, _, digest)],),) = read_elsewhere(
            tmp_path, {"dataset": "some/texts"}, only_list=True, HF_ENDPOINT=hub.url
        )
    assert digest == hashlib.sha256(content).hexdigest()
    assert [name for name, _, _ in hub.downloads if name.endswith(".parquet")] == []


def test_other_files_on_the_hub_are_streamed(tmp_path):
    content = {f"train-{name}.jsonl": json.dumps({"text": name}).encode() + b"\n" for name in "ab"}
    with running(Hub("some/lines", {"README.md": b"", **content})) as hub:
        ((files, texts, _),) = read_elsewhere(
            tmp_path, {"dataset": "some/lines", "revision": "main"}, HF_ENDPOINT=hub.url
        )
    assert [digest for _, _, digest in files] == [hashlib.sha256(lines).hexdigest() for lines in content.values()]
    assert texts == ["a", "b"]


def test_without_a_network_the_error_says_so(tmp_path):
    ((kind, message),) = read_elsewhere(tmp_path, {"dataset": "some/texts"}, HF_HUB_OFFLINE="1")
    assert kind == "MachineError"
    assert "some/texts: the hub cannot be reached" in message
    assert "give its directory" in message
