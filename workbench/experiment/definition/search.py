"""A definition's search: what each arm searches, and the settings of a trial laid over the arm."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from workbench.experiment.definition.grid import MAX_RUNS, Classes, Point, refuse_twins, setting_path, variant_name
from workbench.experiment.definition.merge import merge_sections, nest
from workbench.experiment.definition.overrides import Override
from workbench.experiment.definition.source import Node, show
from workbench.experiment.definition.validate import Problems, suggest, validate
from workbench.experiment.search.design import Setting, Space, size_of
from workbench.experiment.search.settings import Dimension, SearchSettings

PLACES = (0.0, 0.5, 1.0)
"""Where in a range a value is checked before anything is drawn: at both ends and between."""


@dataclass(frozen=True)
class SearchAxis:
    """A dimension of the space: the name that points give it, the setting it stands for, and how it was written."""

    name: str
    path: tuple[str, ...]
    node: Node
    dimension: Dimension

    def written(self, value: Any) -> Node:
        """A value of it, at the place where it was written, or the range that it lies in."""
        options = self.node.get("choice")
        for option in options.value if options is not None else ():
            if option.plain() == value:
                found: Node = option
                return found
        return replace(self.node, value=value)


@dataclass(frozen=True)
class DeclaredSearch:
    """A search as it was declared: its settings, and what each arm searches."""

    settings: SearchSettings
    axes: Mapping[str | None, Sequence[SearchAxis]]

    def space(self, arm: str | None) -> Space:
        """The dimensions of an arm's space by name."""
        return {axis.name: axis.dimension for axis in self.axes[arm]}

    def point(self, arm: str | None, base: Node, setting: Setting) -> Point:
        """The trial of an arm with this setting."""
        tree = base
        for axis in self.axes[arm]:
            laid = merge_sections(tree, nest(axis.path, axis.written(setting[axis.name])))
            tree = replace(laid, where=base.where, field=base.field)
        return Point(variant_name(arm, setting), arm, setting, tree)

    def corners(self, arms: Mapping[str | None, Node]) -> Iterator[Point]:
        """Settings by which each end of each range, and every choice, is checked; the other values are the first."""
        for arm, base in arms.items():
            space = self.space(arm)
            first = {name: dimension.at(0.0) for name, dimension in space.items()}
            for name, dimension in space.items():
                values = dimension.choice or [dimension.at(place) for place in PLACES]
                for value in values:
                    yield self.point(arm, base, first | {name: value})


def read_search(
    sweep: Node | None, classes: Classes, overrides: Sequence[Override], num_seeds: int, problems: Problems
) -> DeclaredSearch | None:
    """The search that the sweep declares; None without one, or where it is broken. An override of a searched key takes
    it out of the space."""
    node = sweep.get("search") if sweep is not None else None
    if sweep is None or node is None or node.value is None:
        return None
    before = len(problems.lines)
    grid = sweep.get("grid")
    if grid is not None and grid.value:
        problems.add(node, "found together with sweep.grid, allowed one of them")
    settings = validate(SearchSettings, node, problems)
    space = node.get("space")
    if settings is None or space is None or len(problems.lines) > before:
        return None
    fixed = {override.key for override in overrides}
    axes = {arm: _axes_of(arm, space, settings, classes, fixed, problems) for arm in classes}
    _refuse_unknown_arms(space, classes, problems)
    for dimension in space.value.values():
        if (choice := dimension.get("choice")) is not None and choice.value is not None:
            refuse_twins(choice.value, problems)
    found = DeclaredSearch(settings, axes)
    if len(problems.lines) == before:
        _check(found, node, num_seeds, problems)
    return found if len(problems.lines) == before else None


def _axes_of(
    arm: str | None, space: Node, settings: SearchSettings, classes: Classes, fixed: set[str], problems: Problems
) -> list[SearchAxis]:
    """What an arm searches: its own dimensions, and those of all arms that its trainer has and it says nothing of."""
    own = f"arms.{arm}."
    keys = sorted((key for key in space.value if not key.startswith("arms.") or key.startswith(own)), key=_is_shared)
    found: dict[tuple[str, ...], SearchAxis] = {}
    for key in keys:
        shared, node = _is_shared(key), space.value[key]
        name = key.removeprefix(own).removeprefix("hyperparameters.")
        path = setting_path(name, node, classes if shared else {arm: classes[arm]}, problems)
        cls = classes[arm]
        if path is None or name in fixed:
            continue
        if path[0] == "evaluate":
            problems.add(node, "found a setting of evaluate, allowed what is trained: all trials are measured alike")
        elif path[0] != "hyperparameters" or cls is None or path[1] in cls.model_fields:
            twin = found.get(path)
            if twin is None:
                found[path] = SearchAxis(name, path, node, settings.space[key])
            elif shared == _is_shared_node(twin.node):
                problems.add(node, f"found the same setting as {twin.name}, allowed one dimension for a setting")
    order = [key.removeprefix(own).removeprefix("hyperparameters.") for key in space.value]
    return sorted(found.values(), key=lambda axis: order.index(axis.name))


def _is_shared(key: str) -> bool:
    return not key.startswith("arms.")


def _is_shared_node(node: Node) -> bool:
    return _is_shared(node.field.partition("space.")[2])


def _refuse_unknown_arms(space: Node, classes: Classes, problems: Problems) -> None:
    arms = [arm for arm in classes if arm is not None]
    for key, node in space.value.items():
        arm, _, setting = key.removeprefix("arms.").partition(".")
        if not _is_shared(key) and (arm not in arms or not setting):
            allowed = f"arms.NAME.setting of {', '.join(arms) or 'a definition with arms'}"
            problems.add(node, f"found {show(key)}, allowed {allowed}{suggest(arm, arms)}")


def _check(search: DeclaredSearch, node: Node, num_seeds: int, problems: Problems) -> None:
    """What the settings alone do not tell: enough settings for the trials, no more runs than allowed, what the sampler
    needs."""
    settings = search.settings
    sizes = {arm: size_of(search.space(arm)) for arm in search.axes}
    if all(size == 1 for size in sizes.values()):
        problems.add(node, "found nothing to search, allowed one dimension at least that no override fixes")
        return
    trials = node.get("trials") or node
    for arm, size in sizes.items():
        if 1 < size < settings.trials:
            of = f" of arm {arm}" if arm else ""
            allowed = f"at most {size:.0f}, for the space{of} holds no more (sweep.grid tries them all)"
            problems.add(trials, f"found {settings.trials}, allowed {allowed}", f"{node.field}.trials")
    runs = len(sizes) * settings.trials * num_seeds
    if settings.confirm is not None:
        confirm = settings.confirm
        runs += len(sizes) * confirm.top * confirm.seeds
        if confirm.top > settings.trials:
            problems.add(
                node.get("confirm") or node, f"found the top {confirm.top} of {settings.trials} trials, allowed fewer"
            )
    if runs > MAX_RUNS:
        problems.add(trials, f"found {runs:,} runs, allowed at most {MAX_RUNS:,}")
    if settings.sampler == "tpe" and settings.halving is not None:
        problems.add(node.get("halving") or node, "found with tpe, allowed with random, sobol")
    if settings.sampler == "tpe" and importlib.util.find_spec("optuna") is None:
        found = "found tpe, which needs the package optuna (pip install 'optuna>=4.5,<6')"
        problems.add(node.get("sampler") or node, f"{found}, allowed without it random, sobol")
