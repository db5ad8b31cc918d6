"""Small real models, ragged batches for every trainer, tests in processes of their own, and tests that run alone."""

from __future__ import annotations

import contextlib
import fcntl
import multiprocessing
import os
import pickle
import socket
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

VOCABULARY = 17


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """A test marked `alone` waits for the tests of other workers (pytest -n) to end, and they for it."""
    with _room(alone=item.get_closest_marker("alone") is not None):
        return (yield)


@contextlib.contextmanager
def _room(alone: bool) -> Iterator[None]:
    """Nobody else's while alone, else shared. Whoever waits holds the door, so that those who share cannot pass it."""
    run = os.environ.get("PYTEST_XDIST_TESTRUNUID")
    if run is None:
        yield
        return
    folder = Path(tempfile.gettempdir())
    with open(folder / f"workbench-door-{run}", "w") as door, open(folder / f"workbench-room-{run}", "w") as room:
        fcntl.flock(door, fcntl.LOCK_EX)
        fcntl.flock(room, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
        fcntl.flock(door, fcntl.LOCK_UN)
        try:
            yield
        finally:
            # Not by closing: a process that the test left behind has these files open too.
            fcntl.flock(room, fcntl.LOCK_UN)


@pytest.fixture(scope="session")
def torch():
    """One thread: the tests share two cores, and numbers depend on the thread count."""
    import torch

    torch.set_num_threads(1)
    return torch


@pytest.fixture(scope="session")
def small_config() -> dict[str, Any]:
    """A Llama of two layers with grouped queries."""
    return {
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "vocab_size": VOCABULARY,
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 4,
        "max_position_embeddings": 128,
        "rms_norm_eps": 1e-6,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0},
        "tie_word_embeddings": True,
    }


@pytest.fixture(scope="session")
def small_llama(torch, small_config) -> Callable[..., Any]:
    """make(dtype="float32", seed=0, **config) -> our own Llama with weights large enough for gradients to matter."""

    def make(dtype: str = "float32", seed: int = 0, **changes: Any) -> Any:
        from workbench.models.llama import Llama
        from workbench.models.llama_config import LlamaConfig

        model = Llama(LlamaConfig.from_dict(small_config | changes)).to(getattr(torch, dtype))
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3 + (parameter.ndim == 1))
        return model

    return make


@pytest.fixture(scope="session")
def tiny_folder(torch, tmp_path_factory) -> Path:
    """The preset tiny as a Hugging Face folder."""
    from workbench.models.presets import make_preset

    folder = tmp_path_factory.mktemp("tiny") / "model"
    make_preset("tiny", folder, seed=0)
    return folder


Row = tuple[list[int], list[int], list[int]]
"""Prompt, completion, worse completion."""


def _pad(torch: Any, rows: list[list[int]], left: bool, extra: int, fill: int = 0) -> tuple[Any, Any]:
    width = max((len(row) for row in rows), default=1) + extra
    ids, mask = torch.full((len(rows), width), fill), torch.zeros(len(rows), width, dtype=torch.bool)
    for index, row in enumerate(rows):
        place = slice(width - len(row), width) if left else slice(0, len(row))
        ids[index, place] = torch.tensor(row)
        mask[index, place] = True
    return ids, mask


@pytest.fixture(scope="session")
def make_rows(torch) -> Callable[..., list[Row]]:
    """make(num_rows, seed=0) -> rows of 2 to 5 prompt tokens and completions of 1 to 6."""

    def make(num_rows: int, seed: int = 0) -> list[Row]:
        generator = torch.Generator().manual_seed(seed)

        def draw(low: int, high: int) -> list[int]:
            length = int(torch.randint(low, high + 1, (1,), generator=generator))
            return torch.randint(1, VOCABULARY, (length,), generator=generator).tolist()

        return [(draw(2, 5), draw(1, 6), draw(1, 6)) for _ in range(num_rows)]

    return make


@pytest.fixture(scope="session")
def collate(torch) -> Callable[..., dict[str, Any]]:
    """collate(trainer, rows, left=False, extra=0) -> its batch. A new trainer adds its own here."""

    def text_batch(rows: list[Row], left: bool, extra: int, masks_prompt: bool) -> dict[str, Any]:
        ids, mask = _pad(torch, [prompt + completion for prompt, completion, _ in rows], left, extra)
        learned = [[not masks_prompt] * len(p) + [True] * len(c) for p, c, _ in rows]
        labelled, _ = _pad(torch, [[int(x) for x in row] for row in learned], left, extra)
        return {"input_ids": ids, "labels": ids.masked_fill(labelled == 0, -100), "attention_mask": mask}

    def pair_batch(rows: list[Row], left: bool, extra: int) -> dict[str, Any]:
        batch = {}
        for index, name in enumerate(("prompt", "chosen", "rejected")):
            ids, mask = _pad(torch, [row[index] for row in rows], left, extra)
            batch |= {f"{name}_input_ids": ids, f"{name}_attention_mask": mask}
        return batch

    def scored_batch(rows: list[Row], extra: int) -> dict[str, Any]:
        """Two completions of every other row's prompt, scored and sampled elsewhere (an odd last row stands alone);
        prompts are always padded on the left, responses on the right."""
        prompts, prompt_mask = _pad(torch, [rows[i // 2 * 2][0] for i in range(len(rows))], True, extra)
        responses, response_mask = _pad(torch, [row[1] for row in rows], False, extra)
        return {
            "prompts": prompts,
            "prompt_mask": prompt_mask,
            "responses": responses,
            "response_mask": response_mask,
            "rewards": torch.tensor([i % 2 + 0.1 * len(row[1]) for i, row in enumerate(rows)]),
            "old_logprobs": torch.where(response_mask, -2.7 - 0.01 * responses, 0.0),
            "group_ids": torch.tensor([i // 2 for i in range(len(rows))]),
        }

    makers = {
        "sft": lambda rows, left, extra: text_batch(rows, left, extra, masks_prompt=True),
        "pretrain": lambda rows, left, extra: text_batch(rows, left, extra, masks_prompt=False),
        "dpo": pair_batch,
        **dict.fromkeys(("grpo", "ppo", "online_dpo"), lambda rows, left, extra: scored_batch(rows, extra)),
    }

    def make(trainer: str, rows: list[Row], *, left: bool = False, extra: int = 0) -> dict[str, Any]:
        assert trainer in makers, f"tests/conftest.py: collate has no batch for {trainer}; add one"
        return makers[trainer](rows, left, extra)

    return make


class Letters:
    """A stand-in for a tokenizer: token n is the n-th letter from `a` on, and `d` (3) ends a completion."""

    eos_ids = (3,)
    pad_id = 0

    def decode_batch(self, rows: list[list[int]], skip_special_tokens: bool = True) -> list[str]:
        return ["".join(chr(ord("a") + token) for token in row) for row in rows]


def share_of_late_letters(completions: list[str], **_: Any) -> list[float]:
    """A deterministic reward between 0 and 1 that differs between most completions, empty ones included."""
    return [sum(letter > "i" for letter in text) / (len(text) + 1) for text in completions]


@pytest.fixture(scope="session")
def rollout_arguments() -> dict[str, Any]:
    """What a trainer needs to judge completions of its own: a stand-in tokenizer and a deterministic reward."""
    return {"tokenizer": Letters(), "reward_fn": share_of_late_letters}


@pytest.fixture(scope="session")
def prompt_batch(torch, make_rows) -> Callable[..., dict[str, Any]]:
    """prompt_batch(number, seed=0) -> prompts alone, as PromptSet gives them."""

    def make(number: int, seed: int = 0, extra: int = 0) -> dict[str, Any]:
        prompts = [prompt for prompt, _, _ in make_rows(number, seed)]
        ids, mask = _pad(torch, prompts, True, extra)
        return {
            "prompts": ids,
            "prompt_mask": mask,
            "texts": Letters().decode_batch(prompts),
            "answers": [None] * number,
            "prompt_ids": [f"{seed}-{index}" for index in range(number)],
        }

    return make


@pytest.fixture(scope="session")
def rollout_trainer(small_llama, prompt_batch) -> Callable[..., Any]:
    """make(name, batches=..., model=..., reward_fn=..., lora=False, arguments={}, **settings) -> an online trainer on
    the CPU that samples completions of its own."""

    def make(
        name: str = "grpo",
        *,
        batches: Any = None,
        model: Any = None,
        reward_fn: Any = share_of_late_letters,
        lora: bool = False,
        arguments: dict[str, Any] | None = None,
        **settings: Any,
    ) -> Any:
        from workbench.models.adapters import add_lora
        from workbench.models.settings import LoraSettings
        from workbench.trainer import get_trainer_class

        trainer_class = get_trainer_class(name)
        model = small_llama() if model is None else model
        if lora:
            add_lora(model, LoraSettings(rank=2, alpha=4, dropout=0.25), seed=1)
        chosen = {
            "precision": "float32", "device": "cpu", "checkpoint_seconds": 0.0, "steps": 3, "learning_rate": 1e-3,
            "batch_prompts": 3, "group_size": 4, "max_new_tokens": 6,
        }  # fmt: skip
        return trainer_class(
            model,
            None,
            [prompt_batch(3, seed) for seed in range(4)] if batches is None else batches,
            settings=trainer_class.settings_class(**chosen | settings),
            **{"reward_fn": reward_fn, "tokenizer": Letters()} | (arguments or {}),
        )

    return make


@pytest.fixture(scope="session")
def in_processes(torch) -> Callable[..., list[Any]]:
    """run(number, function) -> function(rank) of each forked process; more than one find each other by torchrun's
    environment. A process that dies gives its exit code as an int (a signal as a negative one); one that raises fails
    the test."""
    # What an optimiser and an adapter import when they are first used, once and not in every process.
    import peft  # noqa: F401
    import torch._dynamo  # noqa: F401

    from workbench.trainer.distributed import leave_process_group

    def child(function: Callable[[int], Any], rank: int, world: int, port: int, sender: Any) -> None:
        if world > 1:
            os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world)}
            os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        sender.send_bytes(pickle.dumps(function(rank)))
        leave_process_group()

    def run(number: int, function: Callable[[int], Any]) -> list[Any]:
        context = multiprocessing.get_context("fork")
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        pipes = [context.Pipe(duplex=False) for _ in range(number)]
        processes = [
            context.Process(target=child, args=(function, rank, number, port, sender))
            for rank, (_, sender) in enumerate(pipes)
        ]
        for process in processes:
            process.start()
        results: list[Any] = []
        for process, (receiver, sender) in zip(processes, pipes, strict=True):
            sender.close()
            try:
                results.append(pickle.loads(receiver.recv_bytes()))
            except EOFError:
                process.join(60)
                assert process.exitcode != 1, "the process raised; its traceback is above"
                results.append(process.exitcode)
            process.join(60)
            receiver.close()
        return results

    return run
