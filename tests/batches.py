"""Small ragged batches of every data form, and a tokenizer and a reward for trainers that sample completions."""

from __future__ import annotations

from typing import Any

from workbench.data.forms import DataForm

VOCABULARY = 17

Row = tuple[list[int], list[int], list[int]]
"""A prompt, a completion of it, and a worse completion."""


class Letters:
    """A stand-in for a tokenizer: token n is the n-th letter from `a` on, and `d` (3) ends a completion."""

    eos_ids = (3,)
    pad_id = 0

    def decode_batch(self, rows: list[list[int]], skip_special_tokens: bool = True) -> list[str]:
        """The text of each row."""
        return ["".join(chr(ord("a") + token) for token in row) for row in rows]


def share_of_late_letters(completions: list[str], **_: Any) -> list[float]:
    """A deterministic reward between 0 and 1 that differs between most completions, empty ones included."""
    return [sum(letter > "i" for letter in text) / (len(text) + 1) for text in completions]


def make_rows(num_rows: int, seed: int = 0) -> list[Row]:
    """Rows of 2 to 5 prompt tokens and completions of 1 to 6."""
    import torch

    generator = torch.Generator().manual_seed(seed)

    def draw(low: int, high: int) -> list[int]:
        length = int(torch.randint(low, high + 1, (1,), generator=generator))
        return torch.randint(1, VOCABULARY, (length,), generator=generator).tolist()

    return [(draw(2, 5), draw(1, 6), draw(1, 6)) for _ in range(num_rows)]


def collate(form: DataForm, rows: list[Row], *, left: bool = False, extra: int = 0) -> dict[str, Any]:
    """The rows as one batch of a data form, padded on the left or the right, `extra` tokens wider than need be. A batch
    of prompts holds completions that were sampled and scored elsewhere, padded as the trainers say."""
    return _COLLATE[form.name](rows, left, extra)


def prompt_batch(number: int, seed: int = 0, extra: int = 0) -> dict[str, Any]:
    """Prompts alone, as PromptSet gives them: the trainer samples the completions."""
    prompts = [prompt for prompt, _, _ in make_rows(number, seed)]
    ids, mask = _pad(prompts, left=True, extra=extra)
    return {
        "prompts": ids,
        "prompt_mask": mask,
        "texts": Letters().decode_batch(prompts),
        "answers": [None] * number,
        "prompt_ids": [f"{seed}-{index}" for index in range(number)],
    }


def _pad(rows: list[list[int]], left: bool, extra: int) -> tuple[Any, Any]:
    """Token ids (B, T), 0 where there is none, and the mask (B, T) of those there are."""
    import torch

    width = max((len(row) for row in rows), default=1) + extra
    ids, mask = torch.full((len(rows), width), 0), torch.zeros(len(rows), width, dtype=torch.bool)
    for index, row in enumerate(rows):
        place = slice(width - len(row), width) if left else slice(0, len(row))
        ids[index, place] = torch.tensor(row)
        mask[index, place] = True
    return ids, mask


def _texts(rows: list[Row], left: bool, extra: int, masks_prompt: bool) -> dict[str, Any]:
    ids, mask = _pad([prompt + completion for prompt, completion, _ in rows], left, extra)
    learned = [[int(not masks_prompt)] * len(prompt) + [1] * len(completion) for prompt, completion, _ in rows]
    labelled, _ = _pad(learned, left, extra)
    return {"input_ids": ids, "labels": ids.masked_fill(labelled == 0, -100), "attention_mask": mask}


def _pairs(rows: list[Row], left: bool, extra: int) -> dict[str, Any]:
    batch = {}
    for index, name in enumerate(("prompt", "chosen", "rejected")):
        ids, mask = _pad([row[index] for row in rows], left, extra)
        batch |= {f"{name}_input_ids": ids, f"{name}_attention_mask": mask}
    return batch


def _pairs_with_margins(rows: list[Row], left: bool, extra: int) -> dict[str, Any]:
    """Margins between 0 and 1.5."""
    import torch

    margins = torch.tensor([len(chosen) / 4 for _, chosen, _ in rows])
    return {**_pairs(rows, left, extra), "margins": margins}


def _labelled(rows: list[Row], left: bool, extra: int) -> dict[str, Any]:
    """Better and worse completions in turn."""
    import torch

    taken = [(row[0], row[1 + index % 2], []) for index, row in enumerate(rows)]
    return _texts(taken, left, extra, masks_prompt=True) | {"desirable": torch.arange(len(rows)) % 2 == 0}


def _scored_completions(rows: list[Row], left: bool, extra: int) -> dict[str, Any]:
    """Two completions of every other row's prompt (an odd last row stands alone)."""
    import torch

    prompts, prompt_mask = _pad([rows[i // 2 * 2][0] for i in range(len(rows))], True, extra)
    responses, response_mask = _pad([row[1] for row in rows], False, extra)
    return {
        "prompts": prompts,
        "prompt_mask": prompt_mask,
        "responses": responses,
        "response_mask": response_mask,
        "rewards": torch.tensor([i % 2 + 0.1 * len(row[1]) for i, row in enumerate(rows)]),
        "old_logprobs": torch.where(response_mask, -2.7 - 0.01 * responses, 0.0),
        "group_ids": torch.tensor([i // 2 for i in range(len(rows))]),
    }


_COLLATE = {
    "rows": lambda rows, left, extra: _texts(rows, left, extra, masks_prompt=True),
    "text": lambda rows, left, extra: _texts(rows, left, extra, masks_prompt=False),
    "pairs": _pairs,
    "unpaired": _labelled,
    "pairs_with_margins": _pairs_with_margins,
    "prompts": _scored_completions,
}
