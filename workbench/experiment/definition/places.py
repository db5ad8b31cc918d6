"""Finds where in a definition a field of some name may stand, for a user who wrote it elsewhere."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any, get_args

from workbench.config import Settings
from workbench.experiment.definition.other_names import OURS, SECTIONS
from workbench.experiment.definition.schema import SECTION_CLASSES, WRITTEN_AS, StartFrom, Sweep
from workbench.trainer.registry import get_settings_class, trainer_names
from workbench.trainer.settings import Budget

MOST_PLACES = 3


def elsewhere(name: str, here: str = "") -> str:
    """ ", did you mean lora.save?" where fields of that name, or of ours for it, stand elsewhere than in the section
    `here`; else ''. A trainer's own fields stand for themselves."""
    places = _places().get(name, [])
    if name in SECTIONS:
        places = [SECTIONS[name]]
    elif name in WRITTEN_AS and here != "hyperparameters":
        places = [WRITTEN_AS[name]]
    elif not places and name in OURS:
        ours = OURS[name]
        places = [ours if "." in ours else f"hyperparameters.{ours}"]
    within = [place for place in places if here and place.startswith(f"{here}.")]
    places = [place for place in within or places if place != f"{here}.{name}"][:MOST_PLACES]
    if not places:
        return ""
    return f", did you mean {' or '.join([', '.join(places[:-1]), places[-1]] if places[1:] else places)}?"


def members(annotation: Any) -> list[type[Settings]]:
    """The settings classes of a union, annotated or not, but not those of a list's items."""
    if isinstance(annotation, type):
        return [annotation] if issubclass(annotation, Settings) else []
    if getattr(annotation, "__origin__", None) in (list, tuple, dict):
        return []
    return [cls for part in get_args(annotation) for cls in members(part)]


@functools.cache
def _places() -> dict[str, list[str]]:
    """Dotted paths by a field's name, the shallowest first."""
    found: dict[str, dict[str, None]] = {}
    sections: list[tuple[str, Any]] = [("hyperparameters", get_settings_class(name)) for name in trainer_names()]
    sections += [*SECTION_CLASSES.items(), ("budget", Budget), ("sweep", Sweep), ("start_from", StartFrom)]
    for section, annotation in sections:
        for cls in members(annotation):
            for path in _paths(cls, section):
                if (
                    path.removeprefix("hyperparameters.").split(".")[0] not in WRITTEN_AS
                    or section != "hyperparameters"
                ):
                    found.setdefault(path.rpartition(".")[2], {})[path] = None
    of_search = "sweep.search."  # its budget, seed and seeds have namesakes that are meant far more often
    kept = {name: [p for p in paths if not p.startswith(of_search)] or list(paths) for name, paths in found.items()}
    return {name: sorted(paths, key=lambda path: path.count(".")) for name, paths in kept.items()}


def _paths(cls: type[Settings], above: str) -> Iterator[str]:
    for name, field in cls.model_fields.items():
        path = f"{above}.{field.alias or name}"
        yield path
        for inner in members(field.annotation):
            yield from _paths(inner, path)
