"""Whatever a data file holds: rows, or a line that names the row; never a traceback.

FAULT_EXAMPLES: how many are tried (`make faults` takes 10,000 with the definitions').
"""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.data.rows import read_examples
from workbench.errors import WorkbenchError

EXAMPLES = int(os.environ.get("FAULT_EXAMPLES", "150"))
NAMES = ("prompt", "completion", "chosen", "rejected", "text", "messages", "role", "content", "question", "answer")
FORMS = ("rows", "pairs", "unpaired", "prompts")
KEYS = st.one_of(st.sampled_from(NAMES), st.text(max_size=4))
LEAVES = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=10),
    st.sampled_from(["user", "assistant", "", " "]),
)  # fmt: skip
ROWS = st.recursive(
    LEAVES, lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(KEYS, inner, max_size=4)), max_leaves=8
)


def read(name: str, content: bytes) -> None:
    """Every kind of rows reads it, or says what is wrong with it; nothing else."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        path.write_bytes(content)
        for form in FORMS:
            code, said = said_of(path, form)
            assert code in (0, 2)
            assert bool(said.strip()) == bool(code)


def said_of(path: Path, form: Any) -> tuple[int, str]:
    try:
        read_examples(path, form=form)
    except WorkbenchError as error:
        return error.exit_code, str(error)
    return 0, ""


def dumps(row: Any) -> bytes:
    return json.dumps(row).encode("utf-8", "surrogatepass")


@given(rows=st.lists(ROWS, max_size=4))
@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
def test_any_rows(rows: list[Any]) -> None:
    read("x.jsonl", b"\n".join(dumps(row) for row in rows))


@pytest.mark.parametrize("name", ["x.jsonl", "x.json", "x.csv", "x.parquet"])
@given(content=st.binary(max_size=120))
@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
def test_any_bytes(name: str, content: bytes) -> None:
    read(name, content)


@given(place=st.integers(0, 200), byte=st.integers(0, 255), insert=st.booleans())
@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
def test_good_rows_with_one_wrong_byte(place: int, byte: int, insert: bool) -> None:
    good = bytearray(b"\n".join(dumps({"prompt": f"p{i}", "chosen": "c", "rejected": "r"}) for i in range(3)))
    place %= len(good)
    good[place : place + (not insert)] = bytes([byte])
    read("x.jsonl", bytes(good))
