"""Whatever a definition file holds: a line that says what is wrong, and no traceback.

FAULT_EXAMPLES: how many are tried (`make faults` takes 10,000 with the data files').
"""

from __future__ import annotations

import copy
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from workbench.errors import WorkbenchError
from workbench.experiment.definition.resolve import load_experiment
from workbench.experiment.definition.schema import Definition

EXAMPLES = int(os.environ.get("FAULT_EXAMPLES", "150"))
GOOD: dict[str, Any] = {
    "question": "How well does it sort?",
    "trainer": "sft",
    "model": {"preset": "tiny"},
    "data": {"task": "sort", "rows": 128},
    "hyperparameters": {"steps": 10, "learning_rate": 1e-3},
    "evaluate": {"task": "sort", "prompts": 8},
    "sweep": {"grid": {"learning_rate": [1e-3, 1e-2]}, "seeds": 2},
}
SHIPPED = Path(__file__).parents[3] / "experiments"
GOODS: list[dict[str, Any]] = [GOOD, *(yaml.safe_load(path.read_text()) for path in sorted(SHIPPED.glob("*.yaml")))]
"""What is damaged: every shipped definition among it, so every trainer and section."""


def keys_of(value: Any) -> set[str]:
    if isinstance(value, list):
        return set().union(*map(keys_of, value))
    if not isinstance(value, dict):
        return set()
    return set(value) | set().union(*map(keys_of, value.values()))


INNER = sorted(set().union(*map(keys_of, GOODS)))
KEYS = st.one_of(
    st.sampled_from([*Definition.model_fields, *INNER]),
    st.text(max_size=6),
)
LEAVES = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=12), st.dates(),
    st.sampled_from(["sft", "dpo", "grpo", "tiny", "sort", "match", "../x", "/abs", "nan", "1e3", "!!x", ""]),
)  # fmt: skip
VALUES = st.recursive(
    LEAVES, lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(KEYS, inner, max_size=3)), max_leaves=6
)


@st.composite
def definitions(draw: st.DrawFn) -> dict[Any, Any]:
    """A good definition with a few of its values, or keys, replaced at any depth."""
    found = copy.deepcopy(draw(st.sampled_from(GOODS)))
    for _ in range(draw(st.integers(1, 3))):
        place: Any = found
        while True:
            key = draw(st.one_of(st.sampled_from(sorted(place, key=str)), KEYS)) if place else draw(KEYS)
            if isinstance(place.get(key), dict) and draw(st.booleans()):
                place = place[key]
                continue
            place[key] = draw(VALUES)
            break
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shipped definitions, for x.yaml to begin from."""
    return Path(shutil.copytree(SHIPPED, tmp_path_factory.mktemp("lab") / "experiments"))


def load(text: bytes, folder: Path) -> None:
    """It loads, or says in one line each what is wrong; nothing else."""
    (folder / "x.yaml").write_bytes(text)
    code, said = said_of(folder)
    assert code in (0, 2)
    assert bool(said.strip()) == bool(code)
    assert "Traceback" not in said


def said_of(folder: Path) -> tuple[int, str]:
    try:
        load_experiment("x", folder=folder)
    except WorkbenchError as error:
        return error.exit_code, str(error)
    return 0, ""


@given(definition=definitions())
@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
def test_a_definition_with_anything_in_its_places(definition: dict[Any, Any], folder: Path) -> None:
    load(yaml.safe_dump(definition, allow_unicode=True).encode("utf-8", "surrogatepass"), folder)


@given(
    text=st.one_of(
        st.binary(max_size=200), st.text(max_size=200).map(lambda text: text.encode("utf-8", "surrogatepass"))
    )
)
@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
def test_any_bytes(text: bytes, folder: Path) -> None:
    load(text, folder)


@given(good=st.sampled_from(GOODS), place=st.integers(0, 2000), byte=st.integers(0, 255), insert=st.booleans())
@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
def test_a_good_file_with_one_wrong_byte(
    good: dict[str, Any], place: int, byte: int, insert: bool, folder: Path
) -> None:
    text = bytearray(yaml.safe_dump(good).encode())
    place %= len(text)
    text[place : place + (not insert)] = bytes([byte])
    load(bytes(text), folder)
