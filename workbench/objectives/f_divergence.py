"""Divergences that may tie a policy to its reference in place of the reverse KL (f-DPO, Wang et al. 2023, arXiv
2309.16240): each gives f'(ratio), which takes the place of a completion's log ratio.

u = log policy − log reference of a completion, nats; ratio = e^u. An added constant has no effect on a difference of
two completions, so f'(1) = 0 in each.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from workbench.objectives.late_torch import torch
from workbench.objectives.options import Options

Score = Callable[["torch.Tensor", float], "torch.Tensor"]
"""fn(u, alpha) -> f'(e^u), of the shape of u."""
DIVERGENCES: Options[Score] = Options("divergence", off="reverse_kl")
LARGEST_EXPONENT = 80.0
"""Beyond it e^x is no float32; log ratios are cut there."""


@DIVERGENCES.option("forward_kl", "1 − e^−u", paper="Wang et al. 2023, arXiv 2309.16240, table 1")
def forward_kl(u: torch.Tensor, alpha: float) -> torch.Tensor:
    """The forward KL: a chosen completion that the policy hardly gives counts without bound."""
    return -torch.expm1((-u).clamp(max=LARGEST_EXPONENT))


@DIVERGENCES.option("jensen_shannon", "log 2 + log σ(u)", paper="Wang et al. 2023, arXiv 2309.16240, table 1")
def jensen_shannon(u: torch.Tensor, alpha: float) -> torch.Tensor:
    """The Jensen-Shannon divergence: a chosen completion gains at most log 2."""
    return math.log(2) + torch.nn.functional.logsigmoid(u)


@DIVERGENCES.option(
    "alpha",
    "(1 − e^−αu) / α, α = divergence_alpha",
    paper="Wang et al. 2023, arXiv 2309.16240, table 1",
    reads=("divergence_alpha",),
)
def alpha_divergence(u: torch.Tensor, alpha: float) -> torch.Tensor:
    """The alpha-divergence: near the reverse KL at 0, the forward KL at 1. TRL's coefficient is 1 − alpha of the paper,
    which we take."""
    return -torch.expm1((-alpha * u).clamp(max=LARGEST_EXPONENT)) / alpha
