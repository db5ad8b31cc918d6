"""Base -> SFT adapter -> DPO adapter: the reference is where DPO starts, never the bare base."""

from __future__ import annotations

import pytest
import torch

from workbench.models.adapters import add_lora
from workbench.models.load import load_model, save_model
from workbench.models.resolve import resolve_model_folder
from workbench.models.settings import LoraSettings, ModelSettings
from workbench.trainer import get_trainer_class
from workbench.trainer.pairs import completion_logprobs


@pytest.fixture
def train(collate, make_rows):
    """train(name, model, **lora) -> the trainer after four steps of a new adapter on the model."""

    def run(name, model, **lora):
        add_lora(model, LoraSettings(**{"rank": 4, "alpha": 8.0} | lora), seed=1)
        cls = get_trainer_class(name)
        settings = cls.settings_class(steps=4, learning_rate=0.02, precision="float32", device="cpu")
        trainer = cls(model, None, [collate(name, make_rows(4, seed=index)) for index in range(2)], settings=settings)
        trainer.train()
        return trainer

    return run


@pytest.fixture
def batch(collate, make_rows):
    return collate("dpo", make_rows(5, seed=9))


@torch.no_grad()
def sums(model, batch):
    return completion_logprobs(model.eval(), batch)[0]


@pytest.mark.parametrize("way", ["merged", "adapter", "model.adapter"])
def test_the_reference_of_dpo_is_the_sft_adapters_model(way, train, batch, tiny_folder, tmp_path):
    sft = train("sft", load_model(tiny_folder), save="merged" if way == "merged" else "adapter")
    start, base = sums(sft.model, batch), sums(load_model(tiny_folder), batch)
    assert (start - base).abs().max() > 0.1
    save_model(sft.model, tmp_path / "sft", tiny_folder)
    folder = tmp_path / "sft"
    if way == "model.adapter":
        folder = resolve_model_folder(ModelSettings(path=str(tiny_folder), adapter=str(folder)), tmp_path)
    dpo = train("dpo", load_model(folder))
    with dpo.reference.scoring() as reference:
        both = sums(reference, batch)
    torch.testing.assert_close(both, start, rtol=0, atol=1e-4)
    moved = sums(dpo.model, batch)
    assert (moved - start).abs().max() > 0.1
    save_model(dpo.model, tmp_path / "dpo", folder)
    torch.testing.assert_close(sums(load_model(tmp_path / "dpo"), batch), moved, rtol=0, atol=1e-4)
