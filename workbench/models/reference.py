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
        self._averages: dict[str, torch.Tensor] = {}
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
        """Each weight of the copy becomes `weight` times the policy's and 1 - `weight` times its own.

        That average is kept in float32 or wider, as that of the trainer's ema_decay is: in bf16 a small weight would
        round away, and the reference never move.
        """
        assert self._moves, "a checkpoint must know that it moves"
        assert self._copied, "nothing but a copy has weights of its own; it was made when it scored"
        assert self.model is not None, "it was copied"
        parameters = zip(self._averages.values(), self.model.parameters(), self._policy.parameters(), strict=True)
        for average, own, policy in parameters:
            own.copy_(average.lerp_(policy.to(average.dtype), weight))

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint holds: whether the start was copied, and the weights of a copy that moves."""
        return {COPIED: self._copied, **self._averages}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The mirror of state_dict, for a policy that still is as it was at the start; where the copy moves, also for
        one that has gone on from this checkpoint and goes back to it."""
        if self._moves and not state[COPIED]:
            self.model, self._copied, self._averages = None, False, {}
        if state[COPIED] and self.model is None:
            self._copy()
        if self._averages:
            assert self.model is not None, "averages are of a copy"
            for (name, average), own in zip(self._averages.items(), self.model.parameters(), strict=True):
                own.data.copy_(average.copy_(state[name]))

    def _copy(self) -> None:
        self.model = copy.deepcopy(self._policy).eval().requires_grad_(False)
        self._copied = True
        if self._moves:
            self._averages = {f"weights.{name}": _wide(own) for name, own in self.model.named_parameters()}


def _wide(parameter: torch.nn.Parameter) -> torch.Tensor:
    """The parameter's weights in float32 or wider: where it has them so, its own."""
    return parameter.detach().to(torch.promote_types(parameter.dtype, torch.float32))
