"""Rows of a prompt and a labelled completion: how they are scored, and how completions change prompts.

A batch has the keys of batch_format.ROWS. Letters: B rows, L positions.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from workbench.models.outputs import forward_to_head
from workbench.objectives.logprobs import projected_logprobs
from workbench.objectives.masking import IGNORED
from workbench.trainer.loop.batches import Batch
from workbench.trainer.rows import learned, wanted_labels

Completion = tuple[list[int], list[int]]
"""Token ids from the first that is learned on, and their labels."""
Text = tuple[list[int], Completion]
"""Token ids of a prompt, and what follows it."""


def row_logprobs(model: torch.nn.Module, batch: Batch) -> torch.Tensor:
    """(B,) log-probability of each row's learned tokens, nats."""
    kept = learned(batch)
    outputs = forward_to_head(model, batch["input_ids"], batch.get("attention_mask"))
    found = projected_logprobs(
        outputs.hidden[:, :-1][kept], outputs.weight, wanted_labels(batch)[kept], bias=outputs.bias
    )
    return found.new_zeros(kept.shape).masked_scatter(kept, found).sum(1)


def texts_of(batch: Batch) -> list[Text]:
    """Each row's prompt and completion."""
    return [(ids[:first], (ids[first:], labels[first:])) for ids, labels, first in _rows(batch)]


def of_another_prompt(texts: Sequence[Text]) -> list[Completion]:
    """Gives each text a completion: that of the nearest text before it which has another prompt, where the last text
    stands before the first; or that of the text right before it, where all prompts are the same."""
    taken = []
    for place, (prompt, _) in enumerate(texts):
        before = (texts[place - back] for back in range(1, len(texts)))
        taken.append(next((text for text in before if text[0] != prompt), texts[place - 1]))
    return [completion for _, completion in taken]


def with_completions(batch: Batch, completions: Sequence[Completion], most: int | None = None) -> Batch:
    """The batch's prompts, each before another completion; padded on the right. most: tokens that a text may have,
    beyond which the completion is cut."""
    texts, labelled = [], []
    for (ids, _, first), (completion, labels) in zip(_rows(batch), completions, strict=True):
        texts.append((ids[:first] + completion)[:most])
        labelled.append(([IGNORED] * first + labels)[:most])
    width = max(map(len, texts))
    made = {
        "input_ids": [text + [0] * (width - len(text)) for text in texts],
        "labels": [labels + [IGNORED] * (width - len(labels)) for labels in labelled],
        "attention_mask": [[1] * len(text) + [0] * (width - len(text)) for text in texts],
    }
    device = batch["input_ids"].device
    return {name: torch.tensor(rows, dtype=torch.long, device=device) for name, rows in made.items()}


def _rows(batch: Batch) -> Iterator[tuple[list[int], list[int], int]]:
    """Token ids and labels of each row without its padding, and how many of them are the prompt."""
    real = batch.get("attention_mask", torch.ones_like(batch["input_ids"])).bool()
    flags = torch.nn.functional.pad(learned(batch), (1, 0))
    for ids, labels, kept, flag in zip(batch["input_ids"], batch["labels"], real, flags, strict=True):
        yield ids[kept].tolist(), labels[kept].tolist(), int(flag[kept].int().argmax())
