"""Data sets of several files: splits told by names, saved data sets, one clear line where the hub is out of reach."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from workbench.data.hub import dataset_identity, dataset_records, split_files
from workbench.data.reading import open_records
from workbench.data.settings import DatasetData
from workbench.errors import DataError


def _write(path: Path, *texts: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{json.dumps({'text': text})}\n" for text in texts))
    return path


def _texts(**settings) -> list[tuple[str, str]]:
    return [(record.where, record.fields["text"]) for record in open_records(DatasetData(**settings))]


def test_the_files_of_a_split_are_those_whose_name_or_folder_bears_it(tmp_path):
    train = _write(tmp_path / "data/train-00001.jsonl", "b"), _write(tmp_path / "data/train-00000.jsonl", "a")
    test = _write(tmp_path / "test/part.jsonl", "c")
    _write(tmp_path / "latest.jsonl", "not a test: the word is latest")
    assert split_files(tmp_path, "train") == [train[1], train[0]]
    assert split_files(tmp_path, "test") == [test]
    assert _texts(dataset=str(tmp_path)) == [(f"{train[1]}:1", "a"), (f"{train[0]}:1", "b")]
    with pytest.raises(DataError, match=r"found data/train-00000\.jsonl, .* for data\.split=validation, allowed files"):
        split_files(tmp_path, "validation")


def test_the_files_of_a_configuration_are_those_that_bear_its_name(tmp_path):
    main = _write(tmp_path / "main/train-0.jsonl", "a")
    _write(tmp_path / "socratic/train-0.jsonl", "b")
    assert _texts(dataset=str(tmp_path), config="main") == [(f"{main}:1", "a")]
    with pytest.raises(DataError, match=r"found no data file for data\.config=other"):
        _texts(dataset=str(tmp_path), config="other")


def test_a_folder_has_no_revision(tmp_path):
    _write(tmp_path / "train.jsonl", "a")
    with pytest.raises(DataError, match=r"data\.revision: found main, but .* is a folder"):
        _texts(dataset=str(tmp_path), revision="main")


def test_files_that_bear_no_split_are_all_train(tmp_path):
    files = [_write(tmp_path / name, "a") for name in ("a.jsonl", "b.jsonl")]
    assert split_files(tmp_path, "train") == files
    with pytest.raises(DataError, match=r"data\.split=test"):
        split_files(tmp_path, "test")


def test_rows_end_where_the_limit_is(tmp_path):
    _write(tmp_path / "a.jsonl", *"abcdef")
    assert [text for _, text in _texts(dataset=str(tmp_path), rows=2)] == ["a", "b"]


def test_an_empty_folder_says_what_it_should_hold(tmp_path):
    with pytest.raises(DataError, match=r"found no data file for data\.split=train, allowed files of \.jsonl"):
        split_files(tmp_path, "train")


def test_a_saved_data_set_is_read_with_its_splits(tmp_path):
    import datasets

    train, test = (datasets.Dataset.from_dict({"text": texts}) for texts in (["a", "b"], ["c"]))
    datasets.DatasetDict({"train": train, "test": test}).save_to_disk(str(tmp_path / "both"))
    train.save_to_disk(str(tmp_path / "one"))
    both, one = str(tmp_path / "both"), str(tmp_path / "one")
    assert _texts(dataset=both) == [(f"{both}:row 1", "a"), (f"{both}:row 2", "b")]
    assert _texts(dataset=both, split="test") == [(f"{both}:row 1", "c")]
    assert [text for _, text in _texts(dataset=one)] == ["a", "b"]
    with pytest.raises(DataError, match=r"found no split dev, allowed data\.split of test, train"):
        _texts(dataset=both, split="dev")


def test_the_identity_is_that_of_the_contents_and_not_of_the_place(tmp_path):
    for name, text in (("a", "x"), ("b", "x"), ("c", "y")):
        _write(tmp_path / name / "rows.jsonl", text)
    found = [dataset_identity(DatasetData(dataset=str(tmp_path / name))) for name in "abc"]
    assert found[0] == found[1] != found[2]


def test_a_whole_commit_is_its_own_revision_without_a_network():
    found = dataset_identity(DatasetData(dataset="owner/name", config="main", revision="a" * 40))
    assert found == {"dataset": "owner/name", "config": "main", "split": "train", "revision": "a" * 40}


@pytest.mark.parametrize(("name", "reason"), [
    ("../nowhere", "no such folder, and no name of the hub such as owner/name"),
    ("a/b/c", "no such folder, and no name of the hub such as owner/name"),
    ("", "should have at least 1 character"),
])  # fmt: skip
def test_a_name_that_is_neither_folder_nor_on_the_hub_is_refused(name, reason):
    with pytest.raises((DataError, ValueError), match=reason):
        list(dataset_records(DatasetData(dataset=name)))


def test_a_hub_name_out_of_reach_is_one_line_with_the_remedy(tmp_path):
    code = (
        "from workbench.data.hub import *\n"
        "for streaming in (False, True):\n"
        "    try: list(dataset_records(DatasetData(dataset='openai/gsm8k', config='main', streaming=streaming)))\n"
        "    except DataError as error: print(error)\n"
    )
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60)
    lines = done.stdout.splitlines()
    assert len(lines) == 2, done.stderr
    for line in lines:
        assert line.startswith("data.dataset: openai/gsm8k cannot be read (Couldn't reach 'openai/gsm8k' on the Hub")
        assert line.endswith("or set HF_HUB_OFFLINE=1 to use what was downloaded before")
