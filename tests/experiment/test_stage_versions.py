"""The version of every stage that a run reads is in its identity, and decides whether it may be scored again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from workbench.experiment.definition.resolve import load_experiment
from workbench.experiment.identity import identify, measuring_stages
from workbench.experiment.running.scored import only_measures_differ
from workbench.experiment.stages.cache import VERSIONS

SORT = {"task": "sort", "digits": 3}
ROWS = {**SORT, "rows": 8}
COMPLETIONS = {"collect": {**SORT, "completions": 8}}
PAIRS = {"collect": {**SORT, "pairs": 8}}
ALL_OF_PAIRS = {"data", "collect", "ref_logprobs"}
STORED = {
    "trainer": "distill",
    "teacher": {"preset": "tiny"},
    "hyperparameters": {"steps": 2, "on_policy_share": 0.0, "teacher_logprobs": "stored"},
}
RUNS: dict[str, tuple[dict[str, Any], set[str]]] = {
    "task": ({"data": ROWS}, {"data"}),
    "completions": ({"data": COMPLETIONS}, {"data", "collect"}),
    "mix": ({"data": {"mix": [ROWS, ROWS | {"name": "b"}]}}, {"data"}),
    "completions in a mix": ({"data": {"mix": [COMPLETIONS, ROWS | {"name": "b"}]}}, {"data", "collect"}),
    "stored": (STORED | {"data": ROWS}, {"data", "teacher_logprobs"}),
    "stored completions": (STORED | {"data": COMPLETIONS}, {"data", "collect", "teacher_logprobs"}),
    "pairs": ({"trainer": "dpo", "data": PAIRS}, ALL_OF_PAIRS),
    "pairs taken apart": ({"trainer": "kto", "data": PAIRS}, {"data", "collect"}),
    "pairs in a mix": ({"trainer": "dpo", "data": {"mix": [PAIRS]}}, ALL_OF_PAIRS),
    "prompts": ({"trainer": "grpo", "data": ROWS}, {"data"}),
}
"""Definitions, and the stages that their weights depend on."""


@pytest.fixture
def identity(lab, define, monkeypatch) -> Callable[..., tuple[dict[str, Any], Any]]:
    """identity(definition, name=version) -> the fields under another version of one stage, and the run."""
    monkeypatch.chdir(lab)

    def of(definition: dict[str, Any], **versions: int) -> tuple[dict[str, Any], Any]:
        define("it", {"question": "q", "trainer": "sft", "model": {"preset": "tiny"}} | definition)
        [spec] = load_experiment("it").runs
        with monkeypatch.context() as changed:
            for name, version in versions.items():
                changed.setitem(VERSIONS, name, version)
            fields = identify(spec, lab / "runs", "float32").fields
        assert fields is not None
        return fields, spec

    return of


@pytest.mark.parametrize("name", RUNS)
def test_another_version_of_a_stage_that_weights_depend_on_makes_another_run(identity, name):
    definition, read = RUNS[name]
    before, spec = identity(definition)
    for stage, version in VERSIONS.items():
        after, _ = identity(definition, **{stage: version + 1})
        assert (after != before) == (stage in read), stage
        assert only_measures_differ(before, after, spec) == (stage not in read), stage


def test_every_stage_is_read_by_some_run():
    assert set().union(*(read for _, read in RUNS.values())) == set(VERSIONS)


@pytest.mark.parametrize("name", ["task", "completions", "completions in a mix", "stored"])
def test_stages_of_held_out_pairs_are_measured_by_alone(identity, lab, name):
    (lab / "pairs.jsonl").write_text('{"prompt": "a", "chosen": "b", "rejected": "c"}\n')
    definition, read = RUNS[name]
    plain, _ = identity(definition)
    before, spec = identity(definition | {"evaluate": {"pairs": "pairs.jsonl"}})
    assert only_measures_differ(plain, before, spec)
    for stage in {"collect", "ref_logprobs"} - read:
        after, _ = identity(definition | {"evaluate": {"pairs": "pairs.jsonl"}}, **{stage: VERSIONS[stage] + 1})
        assert after != before
        assert only_measures_differ(before, after, spec)


def test_a_reference_that_scores_collected_held_out_pairs_alone_is_measured_by(identity):
    """KTO's data has no reference's log-probabilities; runs from before its identity named those of held-out pairs are
    still valid."""
    data = {"collect": {**SORT, "pairs": 8, "held_out_pairs": 4}}
    definition = {"trainer": "kto", "data": data, "evaluate": {**SORT, "prompts": 4}}
    before, spec = identity(definition)
    assert measuring_stages(spec) == {"collect", "ref_logprobs"}
    assert set(before["stages"]) == {"data", "collect"}
    after, _ = identity(definition, ref_logprobs=VERSIONS["ref_logprobs"] + 1)
    assert after != before
    assert only_measures_differ(before, after, spec)


def test_runs_from_before_a_mix_named_what_it_collects_are_still_valid(identity):
    assert identity(RUNS["completions in a mix"][0])[0]["stages"] == {"data": VERSIONS["data"]}
