"""Held-out prompts that a run, or one that it begins from, also learned from: counted for its record and report."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from workbench.data import overlap
from workbench.data.formats import Example
from workbench.data.overlap import PromptHashes, hashes_of
from workbench.experiment.running.run_folder import RunFolder
from workbench.experiment.stages.cache import FOLDER
from workbench.tracking.reader import read_sealed

QUALIFIES = 0.01
"""The share of held-out prompts that were trained on above which a result is told with it."""
TRAINING, PROMPTS, PAIRS = "the training data", "held-out prompts", "held-out pairs"


@dataclass(frozen=True)
class Overlap:
    """The held-out prompts or pairs whose prompt was learned from: to the letter, and after case and white space are
    folded. None: the training data is no longer here to be asked."""

    held_out: str
    trained: str
    items: int
    exact: int | None
    folded: int | None

    @property
    def share(self) -> float:
        """The share of the items, after folding."""
        return (self.folded or 0) / max(self.items, 1)

    @property
    def text(self) -> str:
        """The overlap in words."""
        if self.folded is None:
            return f"whether the {self.held_out} stand in {self.trained} is not known: what it held is gone"
        exactly = (
            ""
            if self.exact == self.folded
            else f", {f'{self.exact:,}' if self.exact else 'none'} of them to the letter"
        )
        verb = "stands" if self.folded == 1 else "stand"
        share = f"{self.share:.1%}".replace(".0%", "%").replace("%", " %")
        return f"{self.folded:,} of {self.items:,} {self.held_out} ({share}) {verb} in {self.trained}{exactly}"


def overlaps(
    trained: Iterable[tuple[str, PromptHashes | None]], held_out: Iterable[tuple[str, PromptHashes]]
) -> list[Overlap]:
    """Each held-out set against each set that was learned from; those without a prompt in common are left out."""
    sets = list(held_out)
    found = []
    for where, hashes in trained:
        for what, own in sets:
            if not len(own):
                continue
            exact, folded = (None, None) if hashes is None else own.shared_with(hashes)
            if folded != 0:
                found.append(Overlap(what, where, len(own), exact, folded))
    return found


def overlaps_of_stages(
    held_out: Iterable[Example],
    pairs: Path | None,
    data: Iterable[Path],
    start: str | None,
    runs: Path,
    *,
    beside: str | None = None,
) -> list[Overlap]:
    """The overlaps of a run that is ready to train with its own training data and that of every run before it. pairs,
    data: the stages of its held-out pairs and of its sources. beside: the set's name where another decides."""
    sets = [(of_set(PROMPTS, beside), hashes_of(held_out))]
    if pairs is not None:
        sets.append((of_set(PAIRS, beside), PromptHashes.load(pairs / overlap.FILE)))
    return overlaps([(TRAINING, join_hashes(map(load_hashes, data))), *trained_before(start, runs)], sets)


def of_set(held_out: str, beside: str | None) -> str:
    """What is held out, with the name of its set where another one decides."""
    return held_out if beside is None else f"{held_out} of {beside}"


def trained_before(start: str | None, runs: Path) -> Iterator[tuple[str, PromptHashes | None]]:
    """What the runs of a chain of starts learned from, the nearest first; None where its stage is gone."""
    while start is not None:
        provenance = read_sealed(RunFolder(runs, start).path / "provenance.json") or {}
        stages = provenance.get("stages") or {}
        found = [stage for name, stage in stages.items() if name == "data" or name.startswith("data/")]
        folders = [next(iter(sorted((runs / FOLDER).glob(f"data-v*-{stage}"))), None) for stage in found]
        hashes = join_hashes(load_hashes(folder) if folder is not None else None for folder in folders or [None])
        yield f"{TRAINING} of {start}", hashes
        start = (provenance.get("start") or {}).get("folder")


def load_hashes(stage: Path) -> PromptHashes | None:
    """The hashes of a stage of token ids; None where it was made before they were kept."""
    path = stage / overlap.FILE
    return PromptHashes.load(path) if path.is_file() else None


def join_hashes(sets: Iterable[PromptHashes | None]) -> PromptHashes | None:
    """The hashes of all of them as one set's; None where those of one are not known."""
    found = list(sets)
    known = [hashes for hashes in found if hashes is not None]
    if len(known) < len(found):
        return None
    names = vars(known[0])
    return PromptHashes(**{name: np.concatenate([vars(hashes)[name] for hashes in known]) for name in names})


def record(found: Iterable[Overlap]) -> list[dict[str, Any]]:
    """What status.json holds: the numbers, and the words that a report says them in."""
    return [{**asdict(each), "share": each.share, "text": each.text} for each in found]


def notes(found: Iterable[Overlap]) -> list[str]:
    """The overlaps that no claim is qualified by, in words."""
    return [each.text for each in found if each.share <= QUALIFIES]
