"""Which of training's own completions the trackers show: a few of a step, and fewer steps as a run grows long."""

from __future__ import annotations

from workbench.tracking.reader import is_held_out
from workbench.tracking.sinks.sink import Row

PROMPTS, SAMPLES = 4, 4
"""How many prompts of a step are shown, the first recorded ones; and how many samples of each."""
CHARACTERS = 2000
"""How many characters of a text are shown. A longer text loses its middle, because answers stand at the end."""
_DENSE_STEPS = 32


def stride(step: int) -> int:
    """Steps until rollouts are shown again: 1 below 32, then 2 until 64, 4 until 128, ...

    So a run's first steps are all seen, and each doubling of its length adds 16 more.
    """
    return 1 << max(0, step.bit_length() - _DENSE_STEPS.bit_length() + 1)


class RolloutFilter:
    """Admits every held-out row and the rollouts that are shown. Asked row by row in the file's order, it decides the
    same whenever it is asked, so that a rebuild shows what a live tracker did."""

    def __init__(self) -> None:
        self._step: int | None = None
        self._next_step = 0
        self._samples: dict[object, int] = {}

    def __call__(self, completion: Row) -> bool:
        if is_held_out(completion):
            return True
        step = completion.get("step")
        if not isinstance(step, int):
            return False
        if step != self._step:
            if step < self._next_step:
                return False
            self._step, self._next_step, self._samples = step, step + stride(step), {}
        prompt = str(completion.get("prompt_id", completion.get("prompt")))
        if prompt not in self._samples and len(self._samples) >= PROMPTS:
            return False
        self._samples[prompt] = self._samples.get(prompt, 0) + 1
        return self._samples[prompt] <= SAMPLES


def shorten(text: str) -> str:
    """The text, or its first and last part around the number of characters left out."""
    if len(text) <= CHARACTERS:
        return text
    head, tail = CHARACTERS * 7 // 10, CHARACTERS * 3 // 10
    return f"{text[:head]} [... {len(text) - head - tail} characters ...] {text[-tail:]}"


def split_off(completions: list[Row]) -> tuple[list[Row], list[Row]]:
    """(held-out rows, rollouts of the last step among them, their texts shortened)."""
    rollouts = [row for row in completions if not is_held_out(row)]
    last = max((row["step"] for row in rollouts), default=0)
    texts = ("prompt", "completion")
    shown = [row | {name: shorten(str(row.get(name, ""))) for name in texts} for row in rollouts if row["step"] == last]
    return [row for row in completions if is_held_out(row)], shown
