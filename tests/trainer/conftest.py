"""An SFT trainer on a small model, with every setting open."""

from __future__ import annotations

import pytest


@pytest.fixture
def sft(small_llama, collate, make_rows):
    """sft(output_dir=..., model=..., **settings) -> an SFT trainer of four small batches on the CPU."""

    def make(*, batches=None, model=None, arguments=None, **settings):
        from workbench.trainer import SFTTrainer

        chosen = {"precision": "float32", "device": "cpu", "steps": 3, "checkpoint_seconds": 0.0} | settings
        return SFTTrainer(
            small_llama() if model is None else model,
            None,
            [collate("sft", make_rows(3, seed=index)) for index in range(4)] if batches is None else batches,
            settings=SFTTrainer.settings_class(**chosen),
            **(arguments or {}),
        )

    return make
