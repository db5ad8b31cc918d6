"""A trainer's whole state to and from checkpoint tensors and JSON: what it is of, and a loop over its parts."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from workbench.errors import CheckpointError, MethodError
from workbench.trainer.checkpoint import Tensors
from workbench.trainer.records.surroundings import differences, surroundings_of
from workbench.trainer.settings import TrainerSettings

VERSION = 8


class Part(Protocol):
    """What has state: tensors and JSON values by name."""

    def state_dict(self) -> dict[str, Any]:
        """The state as it is now; every process must call it."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The mirror of state_dict."""


@dataclass(frozen=True)
class OwnState:
    """What a method keeps beside the parts, by its two hooks, as a part."""

    get: Callable[[], Mapping[str, Any] | None]
    load: Callable[[dict[str, Any]], None]

    def state_dict(self) -> dict[str, Any]:
        """What the hook gave. Raises MethodError where a checkpoint cannot hold it."""
        state = self.get()
        if state is not None and not isinstance(state, Mapping):
            raise self._refused(f"a {type(state).__name__}", "a dict or None")
        for name, value in (state or {}).items():
            if not isinstance(name, str) or not (isinstance(value, torch.Tensor) or _is_json(value)):
                raise self._refused(f"{name!r}: a {type(value).__name__}", "tensors and JSON values by name")
        return dict(state or {})

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Hands the state to the other hook, which refuses what it does not know."""
        self.load(state)

    def _refused(self, found: str, allowed: str) -> MethodError:
        return MethodError(f"_get_extra_checkpoint_state gave {found}; allowed {allowed}")


@dataclass(frozen=True)
class Origin:
    """What a checkpoint is of: where any of it differs, a run does not go on from it."""

    trainer: str
    settings: TrainerSettings
    precision: str
    device: torch.device
    loader: Any

    def record(self) -> dict[str, Any]:
        """JSON values for a checkpoint; every process must call it."""
        surroundings = surroundings_of(self.device, self.loader)
        return {
            "version": VERSION,
            "trainer": self.trainer,
            "settings": self._settings(),
            "surroundings": surroundings,
        }

    def refuse_other_settings(self, state: Mapping[str, Any]) -> None:
        """Raises CheckpointError where a checkpoint is of another trainer, or settings that decide numbers were
        others."""
        if state.get("version") != VERSION or state.get("trainer") != self.trainer:
            found = f"{state.get('trainer')} checkpoint version {state.get('version')}"
            raise CheckpointError(
                f"this is a {found}; {self.trainer} version {VERSION} is needed, and --inexact cannot stand in for it; "
                "run afresh (FRESH=1), or go on with the workbench that wrote it"
            )
        saved, own = state["settings"], self._settings()
        differing = sorted(name for name in saved.keys() | own.keys() if saved.get(name) != own.get(name))
        if differing:
            name = differing[0]
            raise CheckpointError(
                f"the checkpoint was written with {name} {saved.get(name)!r}, this run has {own.get(name)!r} "
                f"({len(differing)} settings differ); run afresh, or with the old settings"
            )

    def changed(self, state: Mapping[str, Any], *, inexact: bool) -> list[str]:
        """What of the surroundings is another now, in words. Raises CheckpointError where the run would not go on to
        the same bits, unless inexact."""
        changed = differences(state["surroundings"], surroundings_of(self.device, self.loader))
        # Another number of processes adds up in another order, which a user asks for by starting so many.
        refused = [text for text in changed if not text.startswith("processes ")]
        if refused and not inexact:
            raise CheckpointError(
                f"the checkpoint was written under {'; '.join(refused)}: the run would not go on to the same bits; "
                "restore what changed, run afresh (FRESH=1), or go on all the same with --inexact (make: INEXACT=1), "
                "which marks it"
            )
        if self.device.type == "cuda" and not self.settings.deterministic:
            changed.append("deterministic: false")
        return changed

    def _settings(self) -> dict[str, Any]:
        """The settings that numbers depend on, as JSON values, and what the run has resolved of them."""
        return self.settings.decisive() | {"precision": self.precision}


@dataclass(frozen=True)
class Snapshot:
    """All parts of a run, in the order in which a resume puts them back, and what the run is."""

    parts: Mapping[str, Part]
    origin: Origin

    def take(self) -> tuple[Tensors, dict[str, Any]]:
        """Everything that a resume needs: a group of tensors for each part that has some, and JSON values. Every
        process must call it."""
        tensors: Tensors = {}
        state = self.origin.record() | {"parts": {}}
        for name, part in self.parts.items():
            own = part.state_dict()
            tensors[name] = {key: value for key, value in own.items() if isinstance(value, torch.Tensor)}
            state["parts"][name] = {key: value for key, value in own.items() if key not in tensors[name]}
        return {name: group for name, group in tensors.items() if group}, state

    def restore(self, tensors: Tensors, state: Mapping[str, Any], *, inexact: bool) -> list[str]:
        """Put the parts where `take` found them. What of the surroundings is another now, in words: unless inexact,
        nothing is, else CheckpointError; and so where the checkpoint is of another run."""
        self.origin.refuse_other_settings(state)
        self._refuse_other_parts(state["parts"])
        changed = self.origin.changed(state, inexact=inexact)
        for name, part in self.parts.items():
            part.load_state_dict({**state["parts"][name], **tensors.get(name, {})})
        return changed

    def _refuse_other_parts(self, saved: Mapping[str, Any]) -> None:
        for name in sorted(saved.keys() ^ self.parts.keys()):
            found, own = ("state", "no such part") if name in saved else ("no state", "that part")
            raise CheckpointError(
                f"the checkpoint has {found} of the {name}, this run has {own}, and --inexact cannot stand in for it; "
                "run afresh (FRESH=1), or with the parts that it was written with"
            )


def _is_json(value: Any) -> bool:
    try:
        json.dumps(value)
    except (TypeError, ValueError):
        return False
    return True
