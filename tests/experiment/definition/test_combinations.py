"""Odd values at any key, in the file and on the command line: lines or runs, never a traceback."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from workbench.errors import DefinitionError
from workbench.experiment.definition.explain import explain
from workbench.experiment.definition.resolve import load_experiment

SFT = {
    "question": "q",
    "trainer": "sft",
    "model": {"preset": "tiny"},
    "data": {"task": "sort", "rows": 128},
    "hyperparameters": {"steps": 10},
}
DPO = {
    "question": "q",
    "trainer": "dpo",
    "start_from": "sft_sort",
    "data": {"collect": {"task": "sort", "pairs": 5}},
    "hyperparameters": {"beta": 1},
    "sweep": {"grid": {"beta": [1, 2]}, "seeds": 2},
}
VALUES: list[Any] = [
    None,
    0,
    -1,
    1.5,
    True,
    "",
    "x",
    "a/b",
    "sft",
    "dpo",
    "sft_sort",
    "case",
    [],
    [1],
    [[1]],
    ["x", None],
]
VALUES += [
    {},
    {"a": 1},
    {"experiment": "sft_sort"},
    {"experiment": 3},
    {"path": "x"},
    {"task": "sort", "rows": 5},
    2**70,
]
VALUES += [{"collect": {"task": "sort", "pairs": 5}}, {"preset": "tiny"}, {"beta": [1, 2]}, {"steps": [1, 2]}, "match"]
VALUES += [
    {"threads": [0, "x", 2]},
    {"start_from": ["sft_sort", "nope", 3]},
    {"data": [{"task": "sort", "rows": 4}, 5]},
]
VALUES += [
    {"lora": [None, {}]},
    {"steps": 3},
    {"steps": {"x": 3}},
    {"grid": {"beta": [1, 2]}},
    {"seeds": 2},
    {"every": 3},
]
VALUES += [{"a": {"trainer": "dpo"}, "b": {}}, {"flops": 1e9}]
KEYS = [
    "question",
    "trainer",
    "start_from",
    "extends",
    "model",
    "lora",
    "data",
    "hyperparameters",
    "evaluate",
    "budget",
]
KEYS += ["threads", "track", "arms", "sweep", "bogus"]
OVERRIDES = [
    "beta",
    "steps",
    "seeds",
    "data.path",
    "data.collect.pairs",
    "evaluate.every",
    "sweep.grid.beta",
    "sweep.grid",
]
OVERRIDES += ["arms.a", "arms.a.threads", "hyperparameters.steps.x", "start_from.seed", "budget.flops", "a.b.c", *KEYS]


BLOCKS = [*range(10), *(pytest.param(block, marks=pytest.mark.slow) for block in range(10, 40))]


@pytest.mark.parametrize("block", BLOCKS)
def test_any_combination_is_lines_or_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "experiments"
    folder.mkdir()
    (folder / "sft_sort.yaml").write_text(json.dumps(SFT))
    source = random.Random(block)
    for _ in range(50):
        definition: dict[str, Any] = dict(source.choice([SFT, DPO]))
        for _ in range(source.choice([0, 1, 1, 2, 4])):
            definition[source.choice(KEYS)] = source.choice(VALUES)
        if source.random() < 0.3:
            definition["arms"] = {arm: {source.choice(KEYS): source.choice(VALUES)} for arm in "ab"}
        overrides = [
            f"{source.choice(OVERRIDES)}={json.dumps(source.choice(VALUES))}"
            for _ in range(source.choice([0, 0, 1, 2]))
        ]
        (folder / "case.yaml").write_text(json.dumps(definition))
        _lines_or_runs(overrides)


def _lines_or_runs(overrides: list[str]) -> None:
    try:
        experiment = load_experiment("case", overrides)
    except DefinitionError as error:
        lines = error.problems
        assert lines
        assert not any("\n" in line for line in lines)
        return
    keys = [run.key for run in experiment.runs]
    assert keys
    assert len(set(keys)) == len(keys)
    assert all(key.count("/") == 2 for key in keys)
    assert explain(experiment)
