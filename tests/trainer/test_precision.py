"""Autocast, the scaler of fp16, and the probe that chooses."""

from __future__ import annotations

import json

import pytest
import torch

from workbench.trainer.machine import precision as module
from workbench.trainer.machine.precision import Precision, measure_cpu_precision, resolve_precision

CPU = torch.device("cpu")


@pytest.fixture
def probe(monkeypatch, tmp_path):
    """probe(float32, bf16) -> the list of widths that are measured from now on, at those seconds."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    measured = []

    def at(float32, bf16):
        monkeypatch.setattr(
            module,
            "measure_cpu_precision",
            lambda width: (measured.append(width), {"float32": float32, "bf16": bf16})[1],
        )
        return measured

    return at


def test_a_named_precision_is_kept(small_llama):
    assert [resolve_precision(name, CPU, small_llama()) for name in ("float32", "bf16", "fp16")] == [
        "float32",
        "bf16",
        "fp16",
    ]


@pytest.mark.parametrize(("bf16", "expected"), [(0.5, "bf16"), (0.95, "float32"), (40.0, "float32")])
def test_fastest_takes_bf16_only_where_it_is_clearly_faster(probe, small_llama, bf16, expected):
    probe(1.0, bf16)
    assert resolve_precision("fastest", CPU, small_llama()) == expected


def test_the_probe_runs_once_for_a_machine_and_width(probe, small_llama, tmp_path):
    measured = probe(1.0, 0.5)
    for _ in range(2):
        resolve_precision("fastest", CPU, small_llama())
    assert measured == [24]
    resolve_precision("fastest", CPU, small_llama(intermediate_size=32))
    assert measured == [24, 32]
    assert len(json.loads((tmp_path / "workbench" / "precision.json").read_text())) == 2


def test_a_damaged_or_unwritable_cache_only_probes_again(probe, small_llama, tmp_path):
    measured = probe(1.0, 0.5)
    (tmp_path / "workbench").write_text("a file where the folder should be")
    assert resolve_precision("fastest", CPU, small_llama()) == "bf16"
    (tmp_path / "workbench").unlink()
    (tmp_path / "workbench").mkdir()
    (tmp_path / "workbench" / "precision.json").write_text("{torn")
    assert resolve_precision("fastest", CPU, small_llama()) == "bf16"
    assert len(measured) == 2


def test_the_probe_measures_both():
    assert all(seconds > 0 for seconds in measure_cpu_precision(8, rows=4, repeats=1).values())


def test_autocast_is_the_dtype_named():
    for name, dtype in (("bf16", torch.bfloat16), ("fp16", torch.float16), ("float32", torch.float32)):
        with Precision(name, CPU).autocast():
            assert torch.nn.functional.linear(torch.ones(2, 2), torch.ones(2, 2)).dtype == dtype


def overflow(precision, optimizer, parameter):
    precision.backward(parameter.sum())
    parameter.grad.fill_(torch.inf)
    precision.unscale(optimizer)
    precision.step(optimizer)


def test_an_overflow_skips_the_step_and_halves_the_scale_and_both_are_restored():
    parameter = torch.nn.Parameter(torch.ones(2))
    optimizer = torch.optim.AdamW([parameter], lr=0.1, fused=True)
    precision = Precision("fp16", CPU)
    overflow(precision, optimizer, parameter)
    assert parameter.tolist() == [1.0, 1.0]
    assert precision.state_dict()["scale"] == 2.0**15
    other = Precision("fp16", CPU)
    other.load_state_dict(precision.state_dict())
    assert other.state_dict() == precision.state_dict()


def test_an_overflow_that_no_scale_mends_is_no_longer_expected():
    parameter = torch.nn.Parameter(torch.ones(2))
    optimizer = torch.optim.AdamW([parameter], lr=0.1, fused=True)
    precision = Precision("fp16", CPU)
    for _ in range(17):
        assert precision.expects_overflow
        overflow(precision, optimizer, parameter)
    assert not precision.expects_overflow
    assert not Precision("bf16", CPU).expects_overflow


def test_fp16_trains_through_an_overflow_and_records_it(sft, tmp_path):
    from workbench.tracking.reader import read_rows

    trainer = sft(precision="fp16", steps=2, arguments={"output_dir": tmp_path})
    hook = trainer.model.model.norm.weight.register_hook(lambda gradient: gradient * torch.inf)
    trainer.optimizer.register_step_post_hook(lambda *_: hook.remove())
    before = [p.detach().clone() for p in trainer.model.parameters()]
    seen = []
    trainer.optimizer.register_step_post_hook(
        lambda *_: seen.append(all(torch.equal(a, b) for a, b in zip(before, trainer.model.parameters(), strict=True)))
    )
    trainer.train()
    assert seen == [True, False]
    assert [row.get("skipped") for row in read_rows(tmp_path / "metrics.jsonl")] == [None, 1.0, None]
