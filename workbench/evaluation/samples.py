"""pass@k and majority@k of one prompt, from its K samples.

Their means over prompts are unbiased for any K >= k, because samples of a prompt are drawn independently.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence


def pass_at(k: int, num_right: int, num_samples: int) -> float:
    """1 - C(n - c, k) / C(n, k): the share of all choices of k of n samples, c of them right, with a right one (Chen
    2021, arXiv 2107.03374, equation 1)."""
    assert 1 <= k <= num_samples, "the settings allow no k above the number of samples"
    return 1.0 - math.comb(num_samples - num_right, k) / math.comb(num_samples, k)


def majority_at(k: int, votes: Sequence[int | None], right: Sequence[bool]) -> float:
    """How often the most frequent answer of k samples is right: the mean over the n // k blocks of k samples that
    follow one another as they were drawn.

    votes: one a sample, equal where the answers are; None votes for nothing, and a block without votes is wrong. Of
    answers that tie each counts its share. right: whether each sample is right; samples of one answer are mostly alike.
    """
    assert 1 <= k <= len(votes) == len(right)
    starts = range(0, len(votes) - k + 1, k)
    return math.fsum(_elected(votes[start : start + k], right[start : start + k]) for start in starts) / len(starts)


def _elected(votes: Sequence[int | None], right: Sequence[bool]) -> float:
    """The share of right samples among those whose answer has the most votes."""
    cast = [(vote, is_right) for vote, is_right in zip(votes, right, strict=True) if vote is not None]
    counts = Counter(vote for vote, _ in cast)
    most = max(counts.values(), default=0)
    elected = [is_right for vote, is_right in cast if counts[vote] == most]
    return sum(elected) / len(elected) if elected else 0.0
