"""Pairs under a method that needs no reference: none is made or charged, and the held-out measure is everyone's."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from workbench.experiment.definition.resolve import load_experiment
from workbench.experiment.planning.duration import Durations
from workbench.experiment.planning.speed import Speed
from workbench.experiment.running.learned_rows import open_rows
from workbench.experiment.running.prepare import Preparer
from workbench.trainer.dpo_settings import DPOSettings

DEFINITION = {
    "question": "q", "trainer": "dpo", "model": {"preset": "tiny"}, "data": {"path": "pairs.jsonl"},
    "hyperparameters": {"steps": 2, "batch_pairs": 4, "precision": "float32"}, "evaluate": {"pairs": "pairs.jsonl"},
}  # fmt: skip


class FreeSettings(DPOSettings):
    """Pairs without a reference."""

    needs_reference = False


class Silent:
    def say(self, text: str) -> None: ...

    def progress(self, label: str, done: int, total: int) -> None: ...


@pytest.fixture
def spec(lab, define, monkeypatch, torch):
    """A run of DPO on eight pairs, which it is also measured on."""
    monkeypatch.chdir(lab)
    torch.set_num_threads(1)
    rows = ({"prompt": f"say {n}: ", "chosen": str(n), "rejected": "x"} for n in range(8))
    Path("pairs.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    define("own", DEFINITION)
    return load_experiment("own").runs[0]


def test_a_method_without_a_reference_is_charged_for_none_and_measured_against_the_start(spec):
    free_spec = replace(spec, hyperparameters=FreeSettings(**spec.hyperparameters.model_dump()))
    preparer = Preparer(Path("runs"), Silent(), 1)
    dpo, free = (preparer.prepare(own, "float32") for own in (spec, free_spec))
    assert set(dpo.inherited) == {"ref_logprobs"}
    assert (free.inherited, free.sources[0].reference) == ({}, None)
    assert free.held_out_reference == dpo.held_out_reference
    batches = [open_rows(prepared.sources[0]).batch(np.array([0])) for prepared in (dpo, free)]
    assert set(batches[0]) - set(batches[1]) == {"ref_chosen_logprobs", "ref_rejected_logprobs"}


def test_a_plan_takes_no_time_for_a_reference_that_is_not_needed(spec):
    free_spec = replace(spec, hyperparameters=FreeSettings(**spec.hyperparameters.model_dump()))
    dpo, free = (
        Durations({spec.key: own}, Path("runs"), {spec.key: Speed(1e9, "")}).shared(own) for own in (spec, free_spec)
    )
    assert dpo > free == 0.0
