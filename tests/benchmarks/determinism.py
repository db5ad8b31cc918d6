"""What sums in one order cost on a GPU: steps of a model of SmolLM2-135M's shape, the two settings taking turns."""

from __future__ import annotations

import statistics
import time
from typing import Any

from tests.benchmarks.measure import BenchmarkError
from tests.benchmarks.page import Result, Table

SHAPE = {
    "model_type": "llama", "vocab_size": 49_152, "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30,
    "num_attention_heads": 9, "num_key_value_heads": 3, "max_position_embeddings": 8192, "rms_norm_eps": 1e-5,
    "rope_parameters": {"rope_type": "default", "rope_theta": 100_000.0}, "tie_word_embeddings": True,
}  # fmt: skip
PRECISIONS = ("bf16", "float32")
STEPS, TURNS = 10, 5


def run(*, quick: bool, repeats: int | None) -> Result:
    """quick: rows of 128 tokens, not 1,024."""
    import torch

    if not torch.cuda.is_available():
        raise BenchmarkError("determinism is measured on a GPU, and torch finds none here")
    length, rows, values = (128 if quick else 1024), [], {}
    for precision in PRECISIONS:
        sides = {deterministic: _trainer(torch, precision, deterministic, length) for deterministic in (True, False)}
        seconds: dict[bool, list[float]] = {True: [], False: []}
        for turn in range(1 + (repeats or TURNS)):
            for deterministic, trainer in sides.items():
                torch.use_deterministic_algorithms(deterministic)
                torch.cuda.synchronize()
                begun = time.perf_counter()
                for _ in range(STEPS):
                    trainer.train_step()
                torch.cuda.synchronize()
                if turn:  # the first one warms up
                    seconds[deterministic].append((time.perf_counter() - begun) / STEPS)
        one, any_order = (statistics.median(seconds[side]) for side in (True, False))
        values[precision] = {"one order": one, "any order": any_order, "ratio": one / any_order}
        rows.append([precision, f"{1e3 * one:.1f}", f"{1e3 * any_order:.1f}", f"{one / any_order:.2f}"])
    return Result(
        "determinism",
        goal="none: it is the price of an exact resume",
        reached=True,
        tables=[
            Table(
                f"SFT, 8 rows of {length} tokens a step, 135M parameters, {torch.cuda.get_device_name()}",
                ["precision", "deterministic: true (ms a step)", "false", "ratio"],
                rows,
            )
        ],
        values=values,
    )


def _trainer(torch: Any, precision: str, deterministic: bool, length: int) -> Any:
    from workbench.models.llama import Llama
    from workbench.models.llama_config import LlamaConfig
    from workbench.trainer import get_trainer_class

    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(1, SHAPE["vocab_size"], (8, length), generator=generator)
    batch = {"input_ids": ids, "labels": ids, "attention_mask": torch.ones_like(ids, dtype=torch.bool)}
    kind = get_trainer_class("sft")
    settings = kind.settings_class(
        steps=10**6, device="cuda", precision=precision, deterministic=deterministic, learning_rate=1e-4
    )
    return kind(Llama(LlamaConfig.from_dict(SHAPE)), None, [batch], settings=settings)
