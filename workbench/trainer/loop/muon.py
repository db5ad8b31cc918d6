"""Muon (Jordan 2024) on hidden matrices and AdamW on the rest, as one optimiser."""

from __future__ import annotations

from typing import Any

import torch


class MuonWithAdamW(torch.optim.Optimizer):
    """torch.optim.Muon and torch.optim.AdamW behind one face: one list of groups, one state, one step.

    The parts share their group dicts and their state with this object, so that a schedule, clipping, a GradScaler and a
    checkpoint see one optimiser.
    """

    def __init__(self, muon: torch.optim.Muon, adamw: torch.optim.AdamW) -> None:
        self._parts: tuple[torch.optim.Optimizer, ...] = (muon, adamw)
        super().__init__([*muon.param_groups, *adamw.param_groups], {})
        self._share()

    def _share(self) -> None:
        first = 0
        for part in self._parts:
            end = first + len(part.param_groups)
            part.param_groups, part.state, first = self.param_groups[first:end], self.state, end

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """One step of each part. A closure is refused: gradients are made once, before."""
        assert closure is None, "MuonWithAdamW takes no closure"
        for part in self._parts:
            part.step()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Loads state as torch does, which replaces groups and state: the parts are given the new ones."""
        super().load_state_dict(state_dict)
        self._share()
