"""A hand-written loop over transformers' Llama, as fast as a careful researcher writes it: no trainer around it.

python -m tests.benchmarks.sides.loop FOLDER. B rows, L positions, V vocabulary.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from torch.nn import functional

from tests.benchmarks.turns import Turns
from tests.benchmarks.workload import BETA, LEARNING_RATE, THREADS, Rows, Workload

IGNORED = -100


def load(folder: Path) -> Any:
    """In float32, attention by sdpa."""
    transformers.logging.disable_progress_bar()
    return transformers.AutoModelForCausalLM.from_pretrained(
        folder / "model", dtype=torch.float32, attn_implementation="sdpa"
    )


def autocast(workload: Workload) -> torch.autocast:
    """Of every forward."""
    return torch.autocast("cpu", dtype=torch.bfloat16, enabled=workload.precision == "bf16")


def train(model: Any, workload: Workload, turns: Turns, step_loss: Callable[[int], tuple[torch.Tensor, int]]) -> None:
    """step_loss: the loss of a step by its number, and its real tokens."""
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=0.0, fused=True)
    tokens, found = 0, []
    for step in itertools.count():
        turns.boundary(tokens, found)
        optimizer.zero_grad(set_to_none=True)
        with autocast(workload):
            loss, tokens = step_loss(step % workload.num_batches)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        found = [loss.item()]


def run_sft(workload: Workload, folder: Path, turns: Turns) -> None:
    """Cross-entropy on the flattened logits. Rows are padded on the right: causality hides that, no mask is needed."""
    rows, model = Rows.load(folder), load(folder)

    def step_loss(step: int) -> tuple[torch.Tensor, int]:
        texts = [torch.from_numpy(rows.text(row)).long() for row in rows.order[step * workload.rows :][: workload.rows]]
        ids = torch.nn.utils.rnn.pad_sequence(texts, batch_first=True)
        wanted = torch.nn.utils.rnn.pad_sequence([text[1:] for text in texts], True, IGNORED)
        logits = model(input_ids=ids, use_cache=False).logits[:, :-1]
        loss = functional.cross_entropy(logits.flatten(0, 1).float(), wanted.flatten(), ignore_index=IGNORED)
        return loss, sum(len(text) for text in texts)

    train(model, workload, turns, step_loss)


def run_dpo(workload: Workload, folder: Path, turns: Turns) -> None:
    """Both sides in one forward, the completions' positions alone projected, the reference scored before."""
    rows, model = Rows.load(folder), load(folder)

    def logprobs(step: int) -> torch.Tensor:
        """(2B,): summed over each completion, chosen above rejected."""
        chosen = rows.values[rows.order[step * workload.rows :][: workload.rows]]
        ids = torch.from_numpy(np.concatenate([chosen[:, 0], chosen[:, 1]])).long()
        completion = ids[:, workload.prompt :]
        logits = model(input_ids=ids, use_cache=False, logits_to_keep=completion.shape[1] + 1).logits[:, :-1]
        each = functional.cross_entropy(logits.flatten(0, 1).float(), completion.flatten(), reduction="none")
        return -each.view(completion.shape).sum(1)

    with torch.no_grad(), autocast(workload):
        reference = [logprobs(step) for step in range(workload.num_batches)]

    def step_loss(step: int) -> tuple[torch.Tensor, int]:
        chosen, rejected = (logprobs(step) - reference[step]).chunk(2)
        return -functional.logsigmoid(BETA * (chosen - rejected)).mean(), 2 * workload.rows * workload.length

    train(model, workload, turns, step_loss)


@torch.inference_mode()
def run_generate(workload: Workload, folder: Path, turns: Turns) -> None:
    """transformers' generate()."""
    rows, model = Rows.load(folder), load(folder).eval()
    vocabulary, limit = workload.shape.vocabulary, workload.length - workload.prompt
    ends = list(range(vocabulary - workload.num_ends, vocabulary))
    drawn: dict[str, Any] = {"do_sample": True, "top_k": 0, "top_p": 1.0, "eos_token_id": ends or None}
    drawn |= {"num_return_sequences": workload.group} if workload.group > 1 else {}
    # Nothing ends a greedy completion here: the configuration's own end would.
    drawn = drawn if ends or workload.group > 1 else {"do_sample": False, "eos_token_id": None}
    if not ends:
        model.generation_config.eos_token_id = None
    torch.manual_seed(0)
    tokens, found = 0, []
    for step in itertools.count():
        turns.boundary(tokens, found)
        chosen = np.arange(step * workload.rows, (step + 1) * workload.rows) % len(rows.values)
        ids = torch.from_numpy(rows.values[chosen]).long()
        with autocast(workload):
            generated = model.generate(
                ids, attention_mask=torch.ones_like(ids), max_new_tokens=limit, use_cache=True, pad_token_id=0, **drawn
            )[:, ids.shape[1] :]
        ended = torch.isin(generated, torch.tensor(ends))
        real = ended.cumsum(1) - ended.long() == 0
        tokens, found = int(real.sum()), generated[real].tolist()


RUN = {"sft": run_sft, "dpo": run_dpo, "generate": run_generate}

if __name__ == "__main__":
    torch.set_num_threads(THREADS)
    told, paced = Workload.load(Path(sys.argv[1])), Turns()
    paced.facts["versions"] = {module.__name__: module.__version__ for module in (torch, transformers)}
    RUN[told.kind](told, Path(sys.argv[1]), paced)
