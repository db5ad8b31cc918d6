"""The frozen model that a policy is compared with: one that was given, the adapter off, or a copy of the start."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator
from typing import Any

import torch

from workbench.models.adapters import adapters_off, has_adapter

COPIED = "copied_reference"

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


class FrozenReference:
    """What a trainer stays close to, and keeps over a resume.

    given: the caller's model, frozen here and moved to the device; None takes the policy's own start. A copy of that is
    made when it is first asked for, before any update; a resumed trainer copies its start again before the checkpoint's
    weights are loaded (load_state_dict). moves: whether `move` will change that copy, so that a checkpoint holds it.
    """

    _policy: torch.nn.Module

    def __init__(self, given: torch.nn.Module | None, device: torch.device, *, moves: bool = False) -> None:
        self.given = self.model = given
        self._copied, self._moves = False, moves
        if given is not None:
            given.to(device).eval().requires_grad_(False)

    def follow(self, policy: torch.nn.Module) -> None:
        """Take the policy, whose start is the reference where none was given."""
        self._policy = policy

    @contextlib.contextmanager
    def scoring(self) -> Iterator[torch.nn.Module]:
        """The reference, for as long as it scores; without gradients."""
        if self.model is None and not has_adapter(self._policy):
            self._copy()
        with torch.no_grad():
            if self.model is not None:
                yield self.model
                return
            with adapters_off(self._policy):
                yield self._policy

    @torch.no_grad()
    def move(self, weight: float) -> None:
        """Each weight of the copy becomes `weight` times the policy's and 1 - `weight` times its own."""
        assert self._moves, "a checkpoint must know that it moves"
        assert self._copied, "nothing but a copy has weights of its own; it was made when it scored"
        assert self.model is not None, "it was copied"
        for own, policy in zip(self.model.parameters(), self._policy.parameters(), strict=True):
            own.lerp_(policy.to(own.dtype), weight)

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint holds: whether the start was copied, and the weights of a copy that moves."""
        return {COPIED: self._copied, **self._moving_weights()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The mirror of state_dict, for a policy that still is as it was at the start; where the copy moves, also for
        one that has gone on from this checkpoint and goes back to it."""
        if self._moves and not state[COPIED]:
            self.model, self._copied = None, False
        if state[COPIED] and self.model is None:
            self._copy()
        with torch.no_grad():
            for name, own in self._moving_weights().items():
                own.copy_(state[name])

    def _moving_weights(self) -> dict[str, torch.Tensor]:
        """The weights of a copy that moves, by name."""
        if not self._moves or self.model is None:
            return {}
        return {f"weights.{name}": parameter for name, parameter in self.model.named_parameters()}

    def _copy(self) -> None:
        self.model = copy.deepcopy(self._policy).eval().requires_grad_(False)
        self._copied = True
