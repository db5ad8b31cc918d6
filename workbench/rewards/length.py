"""Rewards of a completion's length, linear in its tokens."""

from __future__ import annotations

from collections.abc import Sequence

from workbench.rewards.reward import Sample
from workbench.rewards.settings import LengthSettings

VERSION = 1


def length_reward(settings: LengthSettings, samples: Sequence[Sample]) -> list[float]:
    """Scores lengths: by the target, 0 to 1; or by DAPO's soft overlong punishment, -1 to 0."""
    if settings.target is not None:
        most = settings.maximum or 2 * settings.target
        return [_near(sample.num_tokens, settings.target, most) for sample in samples]
    assert settings.buffer is not None
    return [_overlong(s.num_tokens, settings.maximum or s.token_limit, settings.buffer) for s in samples]


def _near(length: int, target: int, most: int) -> float:
    """1 at the target, 0 at no tokens and from `most` on."""
    return length / target if length <= target else max(0.0, (most - length) / (most - target))


def _overlong(length: int, most: int, buffer: int) -> float:
    """arXiv 2503.14476, eq. 13: 0 up to most - buffer, then ((most - buffer) - length) / buffer, at least -1."""
    return max(-1.0, min(0.0, (most - buffer - length) / buffer))
