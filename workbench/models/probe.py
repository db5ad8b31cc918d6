"""Which of our ways to run a model give what the model itself gives, found by trying them on a few short texts.

The measure is the model's own forward of one text alone, without padding and without a cache. A way that gives
something else is not taken: logits at every position instead of the product with the head, rows padded or alone instead
of packed, recomputation instead of a cache. What no way can mend is refused by name.
B rows, T positions, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from workbench.errors import ModelError
from workbench.models.cached_decoder import ModelDecoder
from workbench.models.llama import Llama
from workbench.models.mode import evaluation_mode
from workbench.models.passes import head_inputs, input_embedding, logits_of, output_head, unwrapped
from workbench.objectives.masking import packed_mask

VERSION = 2
"""Raised by hand where the same model could be given another verdict."""

LONGEST = 6
"""Tokens of the longest text that is tried; a cache is tried with NEW more."""
NEW = 3
_VERDICT = "probed_verdict"


@dataclass(frozen=True)
class Verdict:
    """Which ways to run a model are right."""

    states: bool
    """What the output head is given can be read: for a value head."""
    head: bool
    """Logits are the product of that with the head, and nothing else."""
    batch: bool
    """Rows beside one another, padded on the right, are as each alone."""
    packed: bool
    """Texts in one row stay apart under a mask and positions of ours."""
    cache: bool
    """Prompts of one length are continued with a cache, several completions each."""
    padded_cache: bool
    """Prompts of several lengths too, padded on the left."""
    forward: str = ""
    """Why transformers' class runs the model, where our own forward takes its family."""

    def slower_ways(self) -> dict[str, str]:
        """What is done instead of the fastest, for the line that training starts with."""
        said = {
            "forward": self.forward,
            "logits": "" if self.head else "at every position",
            "rows": "padded, not packed" if self.batch else "one at a time",
            "sampling": "prompts of one length together" if self.cache else "without a cache",
        }
        right = {"rows": self.packed, "sampling": self.padded_cache}
        return {name: text for name, text in said.items() if text and not right.get(name)}


OWN = Verdict(states=True, head=True, batch=True, packed=True, cache=True, padded_cache=True)
"""The verdict of our own Llama, which is held against transformers' class when a folder is loaded (own_check.py)."""
UNKNOWN = Verdict(states=False, head=False, batch=True, packed=False, cache=False, padded_cache=False)
"""The verdict of a module without a configuration: nothing says what tokens it takes."""


def verdict_of(model: torch.nn.Module) -> Verdict:
    """The model's verdict, found when it is first asked for; adapters, copies and wrappers share it. Raises
    ModelError."""
    inner = unwrapped(model)
    if isinstance(inner, Llama):
        return OWN
    if getattr(inner, "config", None) is None:
        return UNKNOWN
    found: Verdict | None = getattr(inner, _VERDICT, None)
    if found is None:
        found = probe(inner)
        remember(inner, found)
    return found


def remember(model: torch.nn.Module, verdict: Verdict) -> None:
    """Let the model keep its verdict."""
    vars(model)[_VERDICT] = verdict


def probe(model: torch.nn.Module) -> Verdict:
    """Try every way. Raises ModelError where the model is not one that can be trained to predict the next token."""
    device = next(model.parameters()).device
    devices = [device] if device.type == "cuda" else []
    versions = [parameter._version for parameter in model.parameters()]
    with (
        torch.random.fork_rng(devices=devices),
        torch.no_grad(),
        torch.autocast(device.type, enabled=False),
        evaluation_mode(model),
    ):
        torch.manual_seed(0)
        verdict = _Trials(model, *short_texts(model.config, device)).verdict()
    if versions != [parameter._version for parameter in model.parameters()]:
        remedy = "; set rescale_every: 0 in its config.json" if hasattr(model.config, "rescale_every") else ""
        raise ModelError(f"{_name(model)}: its forward changes its own weights, and those would be saved{remedy}")
    return verdict


class _Trials:
    """The ways, and the texts that they are tried on."""

    def __init__(self, model: torch.nn.Module, texts: list[torch.Tensor], other: int) -> None:
        """other: a token that is in none of the texts."""
        self._model, self._texts, self._other = model, texts, other
        dtype, device = next(model.parameters()).dtype, next(model.parameters()).device
        half = dtype in (torch.bfloat16, torch.float16)
        # Shares of the logits' spread. What is computed with the same shapes may differ by rounding alone.
        self._rounding = 64 * torch.finfo(dtype).eps
        self._close = 5e-2 if half else 3e-3 if device.type == "cuda" else 3e-4
        try:
            self._alone = [self._logits(text) for text in texts]
        except Exception as error:  # of whatever kind: the family asks for more than text
            raise ModelError(f"{_name(model)}: its forward of a text alone fails: {_first_line(error)}") from error
        self._spread = float(torch.cat(self._alone).float().std())

    def verdict(self) -> Verdict:
        """The verdict of the model. Raises ModelError where the model is refused."""
        self._refuse()
        sees = self._sees_context()
        states = self._works(self._states)
        cache = sees and self._works(lambda: self._continued([self._texts[0], self._texts[0].flip(0)]))
        return Verdict(
            states=states,
            head=states and self._works(self._is_product),
            batch=self._works(self._beside),
            packed=sees and self._works(self._packed),
            cache=cache,
            padded_cache=cache and self._works(lambda: self._continued(self._texts)),
        )

    def _refuse(self) -> None:
        name, text = _name(self._model), self._texts[0]
        if self._alone[0].ndim != 2 or len(self._alone[0]) != len(text):
            raise ModelError(f"{name}: its logits are not one row of numbers a token")
        if not all(bool(logits.isfinite().all()) for logits in self._alone):
            raise ModelError(f"{name}: its logits are not finite; its weights have diverged or are damaged")
        if not self._equal(self._logits(text), self._alone[0]):
            raise ModelError(f"{name}: two forwards of one text differ, with dropout off")
        if not self._equal(self._logits(self._changed(text, -1))[:-1], self._alone[0][:-1]):
            raise ModelError(f"{name}: not a causal language model: a token's logits depend on the tokens after it")
        if not self._near(self._logits(text[:-1]), self._alone[0][:-1]):
            raise ModelError(f"{name}: not a causal language model: a token's logits depend on the length of the text")

        embedding = input_embedding(self._model)
        if embedding is not None and embedding.weight.requires_grad:
            try:
                with torch.enable_grad():
                    torch.autograd.grad(self._logits(text).sum(), embedding.weight)
            except torch.OutOfMemoryError:
                raise
            except Exception as error:  # of whatever kind: the family was written to be sampled from alone
                raise ModelError(f"{name}: its forward has no gradient: {_first_line(error)}") from error

    def _sees_context(self) -> bool:
        """Whether a text's first token moves its last logits by so much that a lost context would be noticed."""
        moved = (self._logits(self._changed(self._texts[0], 0))[-1] - self._alone[0][-1]).abs().max()
        return float(moved) > 10 * self._close * self._spread

    def _states(self) -> bool:
        head = output_head(self._model)
        assert head is not None
        states = head_inputs(self._model, self._texts[0][None])
        return states.shape == (1, len(self._texts[0]), head.in_features)

    def _is_product(self) -> bool:
        """Whatever the head gave, however large, is what the model returns."""
        head = output_head(self._model)
        assert head is not None
        given: list[torch.Tensor] = []

        def replace(_: torch.nn.Module, inputs: tuple[torch.Tensor], output: torch.Tensor) -> torch.Tensor:
            product = torch.nn.functional.linear(inputs[0], head.weight, head.bias)
            assert self._equal(output, product)
            given.append(torch.linspace(-1e3, 1e3, output.numel(), device=output.device).view_as(output).to(output))
            return given[0]

        handle = head.register_forward_hook(replace)
        try:
            found = logits_of(self._model, self._texts[0][None])
        finally:
            handle.remove()
        return len(given) == 1 and torch.equal(found.to(given[0]), given[0])

    def _beside(self) -> bool:
        found = self._padded(self._texts)
        other = self._padded([self._texts[0], *(self._changed(text, 0) for text in self._texts[1:])])
        same = self._equal(found[0], other[0])
        return same and all(
            self._near(logits[: len(text)], alone)
            for logits, text, alone in zip(found, self._texts, self._alone, strict=True)
        )

    def _padded(self, texts: Sequence[torch.Tensor]) -> torch.Tensor:
        return logits_of(self._model, torch.nn.utils.rnn.pad_sequence(list(texts), batch_first=True))

    def _packed(self) -> bool:
        first, second, *_ = self._texts
        found, other = self._in_one_row(first, second), self._in_one_row(self._changed(first, 0), second)
        same = self._equal(found[len(first) :], other[len(first) :])
        return same and self._near(found, torch.cat((self._alone[0], self._alone[1])))

    def _in_one_row(self, *texts: torch.Tensor) -> torch.Tensor:
        positions = torch.cat([torch.arange(len(text), device=text.device) for text in texts])[None]
        return logits_of(
            self._model, torch.cat(texts)[None], attention_mask=packed_mask(positions), position_ids=positions
        )[0]

    def _continued(self, texts: Sequence[torch.Tensor]) -> bool:
        """Two completions of each prompt, of which one is dropped on the way."""
        decoder = ModelDecoder(self._model, NEW)
        rows = [text for text in texts for _ in range(2)]
        new = torch.stack([self._texts[0].repeat(NEW)[row % 2 : row % 2 + NEW] for row in range(len(rows))])
        kept = torch.arange(len(rows), device=new.device)
        found = decoder.prefill([text.tolist() for text in texts], 2)
        for step in range(NEW + 1):
            for place, row in enumerate(kept.tolist()):
                if not self._near(found[place], self._logits(torch.cat((rows[row], new[row, :step])))[-1]):
                    return False
            if step == 1:
                decoder.select_rows(kept[1:])
                kept = kept[1:]
            if step < NEW:
                found = decoder.step(new[kept, step])
        return True

    def _changed(self, text: torch.Tensor, place: int) -> torch.Tensor:
        text = text.clone()
        text[place] = self._other
        return text

    def _logits(self, text: torch.Tensor) -> torch.Tensor:
        return logits_of(self._model, text[None])[0]

    def _equal(self, found: torch.Tensor, expected: torch.Tensor) -> bool:
        scale = max(float(expected.abs().max()), self._spread_or_one())
        return float((found - expected).abs().max()) <= self._rounding * scale

    def _near(self, found: torch.Tensor, expected: torch.Tensor) -> bool:
        return float((found - expected).abs().max()) <= self._close * self._spread

    def _spread_or_one(self) -> float:
        return getattr(self, "_spread", 1.0)

    def _works(self, trial: Callable[[], bool]) -> bool:
        try:
            return trial()
        except torch.OutOfMemoryError:
            raise
        except Exception:  # of whatever kind: a family that cannot be called this way is not called this way
            return False


def short_texts(config: Any, device: torch.device) -> tuple[list[torch.Tensor], int]:
    """Three texts of ordinary tokens, the longest first, and a token that is in none of them."""
    known = config.get_text_config() if hasattr(config, "get_text_config") else config
    size = int(getattr(known, "vocab_size", None) or 1)
    fields = [*vars(config).items(), *vars(known).items()]
    special = {
        value for name, value in fields if name.endswith(("_token_id", "_token_index")) and isinstance(value, int)
    }
    ordinary = [token for token in range(min(size, 256)) if token not in special] or [0]
    room = getattr(known, "max_position_embeddings", None) or LONGEST + NEW
    longest = max(2, min(LONGEST, room - NEW)) if room > 0 else LONGEST
    generator = torch.Generator().manual_seed(0)
    lengths = (longest, max(1, longest - 2), max(1, longest // 3))
    places = [torch.randint(len(ordinary[:-1]) or 1, (length,), generator=generator).tolist() for length in lengths]
    return [torch.tensor([ordinary[place] for place in text], device=device) for text in places], ordinary[-1]


def _name(model: torch.nn.Module) -> str:
    return str(getattr(getattr(model, "config", None), "model_type", None) or type(model).__name__)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
