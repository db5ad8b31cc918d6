"""What a run learns from: the loader's batches one after another, and the updates that were made of them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from workbench.errors import CheckpointError
from workbench.trainer.loop.batches import Batch, batches_from
from workbench.trainer.loop.sources import ObservingLoader, Sources
from workbench.trainer.loop.updates import Updates
from workbench.trainer.machine import distributed


class Feed:
    """Batches are taken and made updates of, and then committed: all of that counts, or nothing does and the same
    batches are taken again."""

    def __init__(self, loader: Any, device: torch.device) -> None:
        self.loader = loader
        self.taken = 0
        """The loader's batches whose updates are committed."""
        self.updates = Updates()
        """What is still to be learned from, and the method's own state."""
        self.sources = Sources(loader)
        """The sources of its rows, where they are several."""
        self._device = device
        self._ahead = 0
        self._batches: Iterator[Any] | None = None
        self._was_read = False

    @property
    def number(self) -> int:
        """The number of the loader's batch that was taken last, counted from 1."""
        return self.taken + self._ahead

    def begin(self) -> None:
        """Take from behind the last batch that was committed."""
        if self._ahead:
            self.rewind()

    def next(self) -> Any:
        """One more of the loader's batches."""
        if self._batches is None:
            self._batches = batches_from(self.loader, self.number, read_before=self._was_read)
            self._was_read = True
        self._ahead += 1  # before it is asked for: what fails, or is interrupted, is taken again
        return next(self._batches)

    def commit(self, updates: Updates) -> None:
        """The updates that were made of all batches taken since `begin`."""
        self.updates, self.taken, self._ahead = updates.following(self.updates), self.number, 0
        if isinstance(self.loader, ObservingLoader):
            self.loader.observe(updates.earned)

    def drop_first(self, *, is_enough: bool = False) -> Updates:
        """Go on to the next of the updates, or where that is enough past all of them; as they were before."""
        before, self.updates = self.updates, self.updates.rest(is_enough=is_enough)
        return before

    @contextmanager
    def going_on(self) -> Iterator[None]:
        """A checkpoint that is loaded within takes back nothing of what was taken of the loader and observed by it; the
        updates that the checkpoint has left are dropped."""
        observing = self.loader if isinstance(self.loader, ObservingLoader) else None
        taken, observed = self.taken, observing.state_dict() if observing is not None else {}
        yield
        self.drop_first(is_enough=True)
        self.taken = taken
        if observing is not None:
            observing.load_state_dict(observed)

    def rewind(self) -> None:
        """Let go of the loader, and read it from the committed position when the next batch is asked for."""
        self._batches, self._ahead = None, 0

    def state_dict(self) -> dict[str, Any]:
        """Position and updates, so that a half-used rollout resumes exactly. Their batches are each process's own,
        and every process must call it; where there are none, there are none anywhere."""
        everyone = distributed.gather_objects([_on_cpu(batch) for batch in self.updates.batches])
        state: dict[str, Any] = {"taken": self.taken, "processes": len(everyone), "updates": self.updates.record()}
        for rank, batches in enumerate(everyone):
            for place, batch in enumerate(batches):
                state |= {f"{rank}.{place}.{key}": value for key, value in batch.items()}
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The mirror of state_dict. Raises CheckpointError where pending batches are of another number of processes."""
        tensors, processes = {k: v for k, v in state.items() if isinstance(v, torch.Tensor)}, state["processes"]
        if tensors and processes != distributed.get_world_size():
            raise CheckpointError(
                f"the checkpoint holds half-used batches of {processes} processes, this run has "
                f"{distributed.get_world_size()}; resume with as many, or from a checkpoint between batches"
            )
        self.rewind()
        self.taken = state["taken"]
        own: dict[int, Batch] = {}
        for name, value in tensors.items():
            rank, place, key = name.split(".", 2)
            if int(rank) == distributed.get_rank():
                own.setdefault(int(place), {})[key] = value.to(self._device)
        self.updates = Updates([own[place] for place in sorted(own)], **state["updates"])


def _on_cpu(batch: Batch) -> Batch:
    """A copy that shares no memory: batches may be views of one rollout, or one batch taken twice."""
    return {key: value.detach().cpu().clone() for key, value in batch.items()}
