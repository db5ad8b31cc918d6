"""The grid: what an axis's name stands for, and the points that arms and axes make."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from workbench.experiment.definition.files import SECTIONS
from workbench.experiment.definition.merge import KINDS, empties, merge_sections, nest
from workbench.experiment.definition.overrides import Override, file_safe, value_text
from workbench.experiment.definition.schema import Arm, hyperparameter_names
from workbench.experiment.definition.sections import unknown_hyperparameter
from workbench.experiment.definition.source import Node, describe, show
from workbench.experiment.definition.validate import Problems, suggest
from workbench.trainer.registry import get_settings_class, trainer_names
from workbench.trainer.settings import TrainerSettings

MAX_RUNS = 1_000
RUN_KEYS = ("start_from", "teacher")
TOP_KEYS = ("threads", *RUN_KEYS, *(name for name in SECTIONS if name != "hyperparameters"))
Classes = Mapping[str | None, type[TrainerSettings] | None]


@dataclass(frozen=True)
class Axis:
    """One axis of the grid: its name as written, the setting it stands for, its values."""

    name: str
    path: tuple[str, ...]
    values: tuple[Node, ...]


@dataclass(frozen=True)
class Point:
    """One variant before its settings are checked."""

    name: str
    arm: str | None
    values: dict[str, Any]
    tree: Node


def setting_path(key: str, node: Node, classes: Classes, problems: Problems) -> tuple[str, ...] | None:
    """The path of the setting that a key of the grid or of an override names: bare keys are hyperparameters."""
    first, *rest = key.split(".")
    known = [cls for cls in classes.values() if cls is not None]
    if key == "hyperparameters":
        problems.add(node, f"found {describe(node)}, allowed one of them at a time, such as steps=5")
        return None
    if rest:
        if first in (*SECTIONS, *RUN_KEYS) and first != "hyperparameters":
            return (first, *rest)
        if any(first in hyperparameter_names(cls) for cls in known):
            return ("hyperparameters", first, *rest)
        of_others = any(first in hyperparameter_names(get_settings_class(other)) for other in trainer_names())
        if of_others and len(known) == len(classes):
            problems.add(node, unknown_hyperparameter(first, known))
            return None
        if first != "hyperparameters":
            names = [*SECTIONS, *RUN_KEYS]
            problems.add(
                node, f"found an unknown section {show(first)}, allowed {', '.join(names)}{suggest(first, names)}"
            )
            return None
        if len(rest) > 1:
            return ("hyperparameters", *rest)
        first = rest[0]
    if any(first in hyperparameter_names(cls) for cls in known):
        return ("hyperparameters", first)
    if first in TOP_KEYS and not rest:
        return (first,)
    if len(known) < len(classes):
        return None  # an unknown trainer was reported: its names are not known either
    problems.add(node, unknown_hyperparameter(first, known))
    return None


def read_axes(sweep: Node | None, classes: Classes, overrides: list[Override], problems: Problems) -> list[Axis]:
    """The grid's axes; an override of a swept key replaces its values (a list gives several)."""
    grid = sweep.get("grid") if sweep is not None else None
    if grid is None or not isinstance(grid.value, dict):
        return []
    replaced = {override.key: override.value for override in overrides}
    axes: list[Axis] = []
    for name, written in grid.value.items():
        override = replaced.get(name.removeprefix("hyperparameters."))
        path = setting_path(name, written, classes, problems)
        values = _axis_values(written, override)
        if path is None or not values:
            continue
        twin = next((axis.name for axis in axes if axis.path == path), None)
        if twin is not None:
            problems.add(written, f"found the same setting as axis {twin}, allowed one axis for a setting")
            continue
        refuse_twins(values, problems)
        axes.append(Axis(name.removeprefix("hyperparameters."), path, values))
    return axes


def refuse_lost(overrides: list[Override], axes: list[Axis], problems: Problems) -> None:
    """Problems of overrides that have no effect beside an axis: of a field of what the axis replaces as a whole, or of
    a whole that lacks the field that the axis is of."""
    for override, axis in itertools.product(overrides, axes):
        keys = tuple(override.key.split("."))
        path = keys if keys[0] in (*SECTIONS, *RUN_KEYS) else ("hyperparameters", *keys)
        shared = min(len(path), len(axis.path))
        inside, around = len(path) > shared, len(axis.path) > shared
        whole = axis.values if inside else (override.value,)
        meet = path[:shared] == axis.path[:shared] and (inside or around)
        if meet and any(not isinstance(node.value, dict) for node in whole):
            found = f"found it beside the axis {axis.name}, which says otherwise"
            problems.add(override.value, f"{found}, allowed {axis.name}={show([n.plain() for n in axis.values])}")


def points(
    arms: Mapping[str | None, Node], axes: list[Axis], num_seeds: int, problems: Problems, sweep: Node | None
) -> Iterator[Point]:
    """Every arm at every point of the grid."""
    number = len(arms) * num_seeds
    for axis in axes:
        number *= len(axis.values)
    if number > MAX_RUNS and sweep is not None:
        problems.add(sweep.get("grid") or sweep, f"found {number:,} runs, allowed at most {MAX_RUNS:,}")
        return
    for (arm, base), values in itertools.product(arms.items(), itertools.product(*(axis.values for axis in axes))):
        tree = base
        for axis, node in zip(axes, values, strict=True):
            tree = replace(merge_sections(tree, nest(axis.path, node)), where=base.where, field=base.field)
        point = {axis.name: node.plain() for axis, node in zip(axes, values, strict=True)}
        yield Point(variant_name(arm, point), arm, point, tree)


def variant_name(arm: str | None, point: Mapping[str, Any]) -> str:
    """main, beta=0.1, or dpo,beta=0.1: file-safe."""
    axes = file_safe(dict(point)) if point else ""
    return ",".join(part for part in (arm, axes) if part) or "main"


def apply_overrides(
    arms: Mapping[str | None, Node], classes: Classes, overrides: list[Override], problems: Problems
) -> dict[str | None, Node]:
    """Each arm with the overrides laid over it; a bare hyperparameter goes to the arms whose trainer has it."""
    changed = dict(arms)
    # The trainer comes first, then what chooses a kind of data or model: these drop what was said for another.
    choosing = {f"{section}.{kind}" for section, kinds in KINDS.items() for kind in kinds}
    for override in sorted(overrides, key=lambda item: (item.key != "trainer", item.key not in choosing)):
        key = override.key
        path: tuple[str, ...] | None = (
            (key,) if key == "trainer" else setting_path(key, override.value, classes, problems)
        )
        for arm, tree in changed.items() if path else ():
            assert path is not None
            cls = classes.get(arm)
            if path[0] == "hyperparameters" and cls is not None and path[1] not in cls.model_fields:
                continue
            if _changes_nothing(tree.get(".".join(path)), override.value):
                allowed = "null to take it away, or what it should hold"
                problems.add(override.value, f"found an empty mapping, which changes nothing, allowed {allowed}")
            changed[arm] = replace(merge_sections(tree, nest(path, override.value)), where=tree.where, field=tree.field)
    return changed


def _changes_nothing(below: Node | None, over: Node) -> bool:
    """Whether an override is an empty mapping over one that it would leave as it is."""
    return over.value == {} and not empties(over) and below is not None and bool(below.value)


def arm_trees(root: Node) -> dict[str | None, Node]:
    """The settings of every arm, laid over those of the file; of the file alone where there is no arm."""
    shared = replace(root, value={key: item for key, item in root.value.items() if key in Arm.model_fields})
    arms = root.get("arms")
    if arms is None or not arms.value:
        return {None: shared}
    return {name: merge_sections(shared, arm) for name, arm in arms.value.items()}


def arm_classes(
    arms: Mapping[str | None, Node], overrides: list[Override]
) -> dict[str | None, type[TrainerSettings] | None]:
    """The settings class of every arm's trainer, None where it is unknown."""
    forced = next((item.value for item in overrides if item.key == "trainer"), None)
    found: dict[str | None, type[TrainerSettings] | None] = {}
    for name, tree in arms.items():
        trainer = forced or tree.get("trainer")
        known = trainer is not None and trainer.value in trainer_names()
        found[name] = get_settings_class(trainer.value) if known and trainer is not None else None
    return found


def _axis_values(written: Node, override: Node | None) -> tuple[Node, ...]:
    """The override's values in place of those written: a list gives several, unless each value is itself a list."""
    of_lists = isinstance(written.value, list) and any(isinstance(item.value, list) for item in written.value)
    node = override or written
    if not isinstance(node.value, list) or (of_lists and not any(isinstance(item.value, list) for item in node.value)):
        return (node,) if override is not None else ()
    return tuple(node.value)


def _as_floats(value: Any) -> Any:
    """The value with every number in it as a float: 1 and 1.0 are one."""
    if isinstance(value, dict):
        return {key: _as_floats(item) for key, item in sorted(value.items())}
    if isinstance(value, list):
        return [_as_floats(item) for item in value]
    return float(value) if isinstance(value, int) and not isinstance(value, bool) else value


def refuse_twins(values: Iterable[Node], problems: Problems) -> None:
    """Problems of values that are one setting written twice, such as 1 and 1.0."""
    seen: dict[str, Node] = {}
    for node in values:
        plain = node.plain()
        text = value_text(_as_floats(plain))
        if text in seen:
            problems.add(node, f"found {show(plain)} again, allowed each value once")
        seen[text] = node
