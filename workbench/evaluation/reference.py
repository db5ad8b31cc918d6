"""The start that a policy is compared with: a frozen model of its own, or the policy with its adapter off."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import torch

from workbench.models.adapters import adapters_off

Reference = Callable[[torch.nn.Module], contextlib.AbstractContextManager[torch.nn.Module]]
"""Called with the policy; the context gives the model that stands for the start."""


def frozen_reference(model: torch.nn.Module) -> Reference:
    """A model kept beside the policy."""
    model.eval().requires_grad_(False)

    @contextlib.contextmanager
    def use(_policy: torch.nn.Module) -> Iterator[torch.nn.Module]:
        yield model

    return use


@contextlib.contextmanager
def adapter_off_reference(policy: torch.nn.Module) -> Iterator[torch.nn.Module]:
    """The policy itself, its adapter switched off."""
    with adapters_off(policy):
        yield policy
