"""Whether a run does harm: the one judgement that the terminal, `status` and the report show of it."""

from __future__ import annotations

import math
import statistics
from typing import Any

RISEN = 2.0
"""Times the lowest that it was, and one unit more: a held-out loss there is over-fitted or diverged. A nat a token more
makes every learned token e times less likely; the factor leaves losses alone that are large from the start."""
FALLEN = 0.05
"""The share of the highest exact match there was that is left where a policy has come apart. The shipped sweep over
beta ends, at its loosest, with 8 % of its start's in one seed of three, which its report is about."""
FEWEST_RIGHT = 6
"""Held-out prompts that must have gone wrong: so many in one direction by chance have p = 0.03 (exact McNemar)."""
EXPLODED = 5.0
"""Nats of eval/kl_start for each token of a completion: the start would write it e^5 = 150 times less often, token by
token. In the shipped sweep over beta it is at most 0.65."""
WINDOW = 5
"""Steps over which training losses are averaged, at the beginning and now."""
TRAINING_RISEN = 3.0
"""Times the first steps' training loss, and one unit more. DPO at beta 10 rises from 0.7 to 2.3, and comes back."""
STILL = 10
"""Steps of one and the same training loss, to the last digit, after which nothing can be being learned."""
MOVING = ("eval/loss", "eval/kl_start", "eval/pair_margin")
"""Held-out measures that move, if only in their last digits, with any change of the weights."""
MATCHES = {"eval/exact_match_greedy": "greedy exact match", "eval/exact_match_sampled": "sampled exact match"}
REMEDY = "lower learning_rate, take fewer steps, or set early_stopping"


class Health:
    """Sees every recorded row. A harm is told when it begins to stand, and again only after it has passed."""

    def __init__(self, *, judges: bool, judges_loss: bool) -> None:
        """judges: whether at all: a range test raises its learning rate until it diverges. judges_loss: whether a lower
        loss is a better one; of trainers that complete prompts themselves it is not."""
        self._judges, self._judges_loss = judges, judges_loss
        self._state: dict[str, Any] = {"first": [], "last": [], "best": {}, "start": None, "standing": {}}

    def anew(self) -> Health:
        """One of the same kind that has seen nothing yet."""
        return Health(judges=self._judges, judges_loss=self._judges_loss)

    @property
    def standing(self) -> list[str]:
        """The harms that stand now."""
        return list(self._state["standing"].values())

    def state_dict(self) -> dict[str, Any]:
        """JSON values for a checkpoint."""
        return self._state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The mirror of state_dict."""
        self._state = state

    def observe(self, row: dict[str, Any], *, is_last: bool) -> list[str]:
        """The harms that this row shows and the one before it did not."""
        if not self._judges:
            return []
        found: dict[str, str | None] = {}
        if self._judges_loss and "loss" in row:
            found |= self._training_loss(row["loss"])
        if any(name.startswith("eval/") for name in row):
            found |= self._held_out(row, is_last)
        standing: dict[str, str] = self._state["standing"]
        new = [text for name, text in found.items() if text and name not in standing]
        for name, text in found.items():
            if text:
                standing[name] = text
            else:
                standing.pop(name, None)
        return new

    def _training_loss(self, loss: float) -> dict[str, str | None]:
        first, last = self._state["first"], self._state["last"]
        if len(first) < WINDOW:
            first.append(loss)
        last[:] = [*last, loss][-STILL:]
        still = len(last) == STILL and len(set(last)) == 1
        harms: dict[str, str | None] = {
            "still": f"training loss has been {loss:.6g} for {STILL} steps, to the last digit: nothing is learned; "
            "raise learning_rate, or look at the data"
            if still
            else None
        }
        if len(last) >= STILL:
            before, now = statistics.fmean(first), statistics.fmean(last[-WINDOW:])
            harms["training loss"] = (
                f"training loss is {now:,.4g} over the last {WINDOW} steps, {before:,.4g} over the first {WINDOW}: "
                f"training has diverged; {REMEDY}"
                if _is_above(now, before, TRAINING_RISEN)
                else None
            )
        return harms

    def _held_out(self, row: dict[str, Any], is_last: bool) -> dict[str, str | None]:
        harms: dict[str, str | None] = {}
        start = self._state["start"]
        if start is None:
            self._state["start"] = {name: row[name] for name in MOVING if name in row}
        if self._judges_loss and "eval/loss" in row:
            now, (best, at) = row["eval/loss"], self._best("eval/loss", row, highest=False)
            harms["held-out loss"] = (
                f"held-out loss is {now:,.4g}, and was {best:,.4g} at step {at}: training has diverged or over-fits; "
                f"{REMEDY}"
                if _is_above(now, best, RISEN) or not math.isfinite(now)
                else None
            )
        for name, words in MATCHES.items():
            if name in row:
                now, (best, at) = row[name], self._best(name, row, highest=True)
                fallen = (best - now) * row.get("eval/num_prompts", 0.0) >= FEWEST_RIGHT - 0.5
                harms[words] = (
                    f"held-out {words} is {now:.3g}, and was {best:.3g} at step {at}; {REMEDY}"
                    if fallen and now <= FALLEN * best
                    else None
                )
        if "eval/kl_start" in row and row.get("eval/completion_tokens"):
            divergence, tokens = row["eval/kl_start"], row["eval/completion_tokens"]
            harms["KL"] = (
                f"the policy is {divergence:,.4g} nats a completion from its start, {divergence / tokens:,.3g} for "
                f"each of its tokens: it has left the start behind; {REMEDY}, or raise beta"
                if not divergence <= EXPLODED * tokens
                else None
            )
        if is_last and start and all(row.get(name) == value for name, value in start.items()):
            measures = ", ".join(f"{name} {value:.6g}" for name, value in start.items())
            harms["unmoved"] = (
                f"{measures}, as at the start to the last digit: no weight has moved; raise learning_rate"
            )
        return harms

    def _best(self, name: str, row: dict[str, Any], *, highest: bool) -> tuple[float, int]:
        """The best value so far, this row's included, and its step."""
        now, known = row[name], self._state["best"].get(name)
        if known is None or (now > known[0] if highest else now < known[0]):
            self._state["best"][name] = [now, row["step"]]
        value, step = self._state["best"][name]
        return value, step


def _is_above(now: float, before: float, factor: float) -> bool:
    """Whether it is factor times what it was and one unit more, in whichever direction from 0 it was."""
    return now > before + max(1.0, (factor - 1.0) * abs(before))
