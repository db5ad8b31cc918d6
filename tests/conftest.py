"""Small real models, batches and trainers, and tests in processes of their own."""

from __future__ import annotations

import fcntl
import functools
import gc
import multiprocessing
import os
import pickle
import socket
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests import batches
from tests.batches import VOCABULARY

pytest_plugins = ["tests.order", "tests.seconds"]


def pytest_collection_finish() -> None:
    """What was loaded is no garbage: to look through it takes half a second each time, and every fork would copy it."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def torch():
    """One thread: the tests share two cores, and numbers depend on the thread count."""
    import torch

    torch.set_num_threads(1)
    return torch


@pytest.fixture(scope="session")
def once(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, Callable[[Path], Any]], Any]:
    """once(name, make) -> what make(folder) gave the first of all workers (pytest -n) that asked; the others wait."""
    own = tmp_path_factory.getbasetemp()
    shared = own.parent if "PYTEST_XDIST_WORKER" in os.environ else own

    def get(name: str, make: Callable[[Path], Any]) -> Any:
        made = shared / f"{name}.pickle"
        with open(shared / f"{name}.lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not made.exists():
                made.write_bytes(pickle.dumps(make(tmp_path_factory.mktemp(name))))
        return pickle.loads(made.read_bytes())

    return get


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
def bigram_model(torch) -> Callable[[Sequence[Sequence[float]]], Any]:
    """make(probabilities) -> a real Llama whose next token depends on the last one alone, as the rows (V, V) say.

    One layer whose attention and MLP are zero; one-hot embeddings, which the norm scales by sqrt(V); the head holds the
    logarithms of the probabilities over sqrt(V).
    """

    def make(probabilities: Sequence[Sequence[float]]) -> Any:
        from workbench.models.llama import Llama
        from workbench.models.llama_config import LlamaConfig

        size = len(probabilities)
        config = {
            "model_type": "llama", "vocab_size": size, "hidden_size": size, "intermediate_size": 2,
            "num_hidden_layers": 1, "num_attention_heads": 1, "num_key_value_heads": 1, "head_dim": 2,
            "max_position_embeddings": 64, "rms_norm_eps": 1e-12, "tie_word_embeddings": False,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0},
        }  # fmt: skip
        model = Llama(LlamaConfig.from_dict(config))
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.fill_(1.0 if parameter.ndim == 1 else 0.0)
            model.model.embed_tokens.weight.copy_(torch.eye(size))
            model.lm_head.weight.copy_(torch.tensor(probabilities).log().clamp(min=-200.0).T / size**0.5)
        return model

    return make


@pytest.fixture(scope="session")
def tiny_folder(torch, tmp_path_factory) -> Path:
    """The preset tiny as a Hugging Face folder."""
    from workbench.models.presets import make_preset

    folder = tmp_path_factory.mktemp("tiny") / "model"
    make_preset("tiny", folder, seed=0)
    return folder


@pytest.fixture(scope="session")
def make_rows(torch) -> Callable[..., list[batches.Row]]:
    """make(num_rows, seed=0) -> rows of 2 to 5 prompt tokens and completions of 1 to 6."""
    return batches.make_rows


@pytest.fixture(scope="session")
def collate(torch) -> Callable[..., dict[str, Any]]:
    """collate(trainer, rows, left=False, extra=0) -> a batch of the form that the trainer learns from."""
    from workbench.trainer.registry import get_settings_class

    def make(trainer: str, rows: list[batches.Row], **padding: Any) -> dict[str, Any]:
        return batches.collate(get_settings_class(trainer).data_form, rows, **padding)

    return make


@pytest.fixture(scope="session")
def prompt_batch(torch) -> Callable[..., dict[str, Any]]:
    """prompt_batch(number, seed=0) -> prompts alone, as PromptSet gives them."""
    return batches.prompt_batch


@pytest.fixture(scope="session")
def rollout_arguments() -> dict[str, Any]:
    """What a trainer needs to judge completions of its own: a stand-in tokenizer and a deterministic reward."""
    return {"tokenizer": batches.Letters(), "reward_fn": batches.share_of_late_letters}


@pytest.fixture(scope="session")
def make_trainer(small_llama) -> Iterator[Callable[..., Any]]:
    """make(variant, folder=None, ...) -> a trainer of the table, as tests.trainers.make_trainer says."""
    from tests import trainers

    with trainers.counted_once():
        yield functools.partial(trainers.make_trainer, make_model=small_llama)


@pytest.fixture(scope="session")
def sft(make_trainer) -> Callable[..., Any]:
    """sft(batches=..., model=..., arguments={}, **settings) -> an SFT trainer of three steps without held-out rows."""

    def make(arguments: dict[str, Any] | None = None, **more: Any) -> Any:
        return make_trainer("sft", arguments={"val_loader": None} | (arguments or {}), **{"steps": 3} | more)

    return make


@pytest.fixture(scope="session")
def rollout_trainer(make_trainer) -> Callable[..., Any]:
    """make(name, batches=..., model=..., reward_fn=..., arguments={}, **settings) -> an online trainer of three steps
    that samples completions of its own, without held-out prompts; it keeps what it made (tests.trainers.Watched)."""
    from tests.trainers import Variant, Watched

    size = {"steps": 3, "learning_rate": 1e-3, "batch_prompts": 3, "group_size": 4, "max_new_tokens": 6}

    def make(
        name: str = "grpo",
        *,
        reward_fn: Any = batches.share_of_late_letters,
        arguments: dict[str, Any] | None = None,
        **more: Any,
    ) -> Any:
        given = {"val_loader": None, "reward_fn": reward_fn} | (arguments or {})
        return make_trainer(Variant(name, samples=True), arguments=given, **{"mixin": Watched} | size | more)

    return make


@pytest.fixture(scope="session")
def in_processes(torch) -> Callable[..., list[Any]]:
    """run(number, function) -> function(rank) of each forked process; more than one find each other by torchrun's
    environment. A process that dies gives its exit code as an int (a signal as a negative one); one that raises fails
    the test."""
    # What an optimiser and an adapter import when they are first used, once and not in every process.
    import peft  # noqa: F401
    import torch._dynamo  # noqa: F401

    gc.freeze()
    from workbench.trainer.machine.distributed import leave_process_group

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
