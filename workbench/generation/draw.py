"""One token a row from logits, with randomness that belongs to the row: the batch it is drawn in does not matter.

A row's stream of uniform numbers is a hash of (its seed, the token's position), so no generator has a state that the
other rows could move. R rows, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from workbench.errors import NonFiniteError
from workbench.generation.sampling import SamplingSettings

MIN_TEMPERATURE = 1e-30
"""Below this temperature all but the likeliest token have no probability left, and float32 would divide by zero."""
FRACTION_BITS = 60
"""How many bits a probability has as a whole number. By how much a row's rounded ones exceed 1 fits into the bits
above."""
_GOLDEN = -7046029254386353131  # 2^64 / golden ratio, as a signed 64-bit number
_MIX = (-4658895280553007687, -7723592293110705685)


def mix(seeds: torch.Tensor, position: int | torch.Tensor) -> torch.Tensor:
    """Hash of (seed, position), int64 (the finaliser of SplitMix64, Steele et al. 2014). seeds: (R,) int64."""
    # The product is made of tensors: torch multiplies 64-bit numbers modulo 2^64, Python does not.
    value = seeds + (torch.as_tensor(position, device=seeds.device) + 1) * _GOLDEN
    value = (value ^ _shift(value, 30)) * _MIX[0]
    value = (value ^ _shift(value, 27)) * _MIX[1]
    return value ^ _shift(value, 31)


def uniforms(seeds: torch.Tensor, position: int) -> torch.Tensor:
    """(R,) float64 in (0, 1): each row's number for its token at `position`."""
    # The largest of them would be rounded to 1.
    return ((_shift(mix(seeds, position), 11).double() + 0.5) * 2.0**-53).clamp(max=1 - 2.0**-53)


@dataclass(frozen=True)
class Scored:
    """What is known of R tokens that were drawn, (R,) float32, nats.

    logprobs: of each token under the distribution it was drawn from. entropies: of the whole distribution at the
    sampling temperature, before top_k and top_p.
    """

    logprobs: torch.Tensor
    entropies: torch.Tensor


def draw(logits: torch.Tensor, settings: SamplingSettings | None, seeds: torch.Tensor, position: int) -> torch.Tensor:
    """Token ids (R,). logits: (R, V); settings None takes the likeliest token. Raises NonFiniteError where there is
    none."""
    if settings is None:
        _highest(logits)
        return logits.argmax(-1)
    return _inverse(_kept(_scaled(logits, settings), settings).softmax(-1), seeds, position)


def draw_scored(
    logits: torch.Tensor, settings: SamplingSettings, seeds: torch.Tensor, position: int
) -> tuple[torch.Tensor, Scored]:
    """The tokens of draw, and what is known of each."""
    scaled = _scaled(logits, settings)
    kept = _kept(scaled, settings)
    probabilities = kept.softmax(-1)
    tokens = _inverse(probabilities, seeds, position)
    logprobs = probabilities.gather(-1, tokens[:, None]).squeeze(-1).log()
    whole = probabilities if kept is scaled else scaled.softmax(-1)
    # The likeliest scaled logit is 0, so its probability is one over the sum: a logarithm a row, not one a token.
    mean = torch.linalg.vecdot(whole, scaled.clamp(min=torch.finfo(scaled.dtype).min))
    return tokens, Scored(logprobs, -whole.amax(-1).log() - mean)


def _scaled(logits: torch.Tensor, settings: SamplingSettings) -> torch.Tensor:
    # The highest is taken off first: divided by a small temperature, it would be infinite.
    return (logits.float() - _highest(logits)) / max(settings.temperature, MIN_TEMPERATURE)


def _highest(logits: torch.Tensor) -> torch.Tensor:
    highest = logits.amax(-1, keepdim=True).float()
    if not bool(highest.isfinite().all()):
        raise NonFiniteError("sampling: the model's logits are not finite; its weights have diverged or are damaged")
    return highest


def _inverse(probabilities: torch.Tensor, seeds: torch.Tensor, position: int) -> torch.Tensor:
    """The place at which the cumulative distribution (R, V) reaches each row's number."""
    cumulative = _cumulative(probabilities)
    threshold = uniforms(seeds, position)[:, None] * cumulative[:, -1:]
    return torch.searchsorted(cumulative, threshold).squeeze(-1).clamp(max=probabilities.shape[-1] - 1)


def _cumulative(probabilities: torch.Tensor) -> torch.Tensor:
    """Sums over the vocabulary (R, V) in float64, because sums in float32 drift. A GPU adds numbers in whatever order
    its blocks end; only whole numbers do not show it."""
    if probabilities.is_cuda:
        return (probabilities.double() * 2.0**FRACTION_BITS).long().cumsum(-1).double() * 2.0**-FRACTION_BITS
    return probabilities.double().cumsum(-1)


def _kept(logits: torch.Tensor, settings: SamplingSettings) -> torch.Tensor:
    """Logits with those that top_k and top_p leave out at minus infinity."""
    if settings.top_k and settings.top_k < logits.shape[-1]:
        least = logits.topk(settings.top_k, -1).values[:, -1:]
        logits = logits.masked_fill(logits < least, -torch.inf)
    if settings.top_p < 1.0:
        ordered, order = logits.sort(stable=True, dim=-1, descending=True)
        probabilities = ordered.softmax(-1)
        # A token is kept while those before it have not reached top_p: the first one always is.
        outside = (_cumulative(probabilities) - probabilities) >= settings.top_p
        logits = logits.masked_fill(outside.scatter(-1, order, outside), -torch.inf)
    return logits


def _shift(value: torch.Tensor, bits: int) -> torch.Tensor:
    """Logical shift to the right: torch's own keeps the sign."""
    return (value >> bits) & ((1 << (64 - bits)) - 1)
