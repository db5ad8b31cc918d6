"""The held-out sets of a definition: one mapping, or a list of several with names, one of which decides."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from workbench.evaluation.settings import EvaluateSettings
from workbench.experiment.definition.source import Node, join_field
from workbench.experiment.definition.validate import Hint, Problems, validate

SOURCES = ("task", "path", "pairs", "split")
"""Fields that say what a set is of: one of them in the place of a list replaces it."""


def held_out_sets(node: Node, problems: Problems, hint: Hint) -> tuple[EvaluateSettings, ...]:
    """The sets, the deciding one first; empty after the problems of a broken one were added. hint: words the problem of
    an unknown key."""
    if not isinstance(node.value, list):
        alone = validate(EvaluateSettings, node, problems, hint)
        return () if alone is None else (alone,)
    if not node.value:
        problems.add(node, "found an empty list, allowed one set or more, such as [{name: sort, task: sort}]")
        return ()
    before = len(problems.lines)
    found = [validate(EvaluateSettings, item, problems, hint) for item in node.value]
    sets = [own for own in found if own is not None]
    if len(problems.lines) > before or len(sets) < len(found):
        return ()
    for problem_node, problem in _problems(node, sets):
        problems.add(problem_node, problem)
    if len(problems.lines) > before:
        return ()
    decides = next((index for index, own in enumerate(sets) if own.decides), 0)
    every = sets[decides].every
    ordered = [sets[decides], *(own for index, own in enumerate(sets) if index != decides)]
    return tuple(own.model_copy(update={"every": every}) for own in ordered)


def _problems(node: Node, sets: list[EvaluateSettings]) -> Iterator[tuple[Node, str]]:
    """What is wrong with sets that are each right alone."""
    decides = [index for index, own in enumerate(sets) if own.decides]
    first = sets[decides[0] if decides else 0]
    for index, own in enumerate(sets):
        item: Node = node.value[index]
        at = item.get("name") or item
        if own.name is None:
            yield item, "found no name, allowed one: the sets of a list are told apart by it"
        elif own.name in [other.name for other in sets[:index]]:
            yield at, f"found another set named {own.name}, allowed names that differ"
        if index in decides[1:]:
            yield item.get("decides") or item, f"found a second set that decides beside {first.name}, allowed one"
        if "every" in own.model_fields_set and own.every != first.every:
            yield (
                item.get("every") or item,
                f"found {own.every}, allowed {first.every}, as set {first.name} has, which decides: all are measured "
                "at the same steps",
            )


def merge_into_list(base: Node, over: Node) -> Node | None:
    """A mapping laid over a list of sets: an entry that bears a set's name goes to that set, each other one to every
    set. None where it says what is measured, and so replaces the list."""
    if any(name in over.value for name in SOURCES):
        return None
    sets = []
    for item in base.value:
        name = item.get("name")
        own = over.value.get(name.value) if name is not None else None
        if own is not None and not isinstance(own.value, dict):
            sets.append(own)  # which is no set, and is told as such
            continue
        shared = {key: node for key, node in over.value.items() if key not in names_of(base)}
        given = own.value if own is not None else {}
        sets.append(replace(item, value={**item.value, **shared, **given}) if isinstance(item.value, dict) else item)
    return replace(base, value=sets)


def names_of(node: Node) -> list[str]:
    """The names of the sets of a list, as far as they have one."""
    if not isinstance(node.value, list):
        return []
    return [str(name.value) for item in node.value if (name := item.get("name")) is not None]


def origins_of_sets(node: Node) -> dict[str, str]:
    """The place by dotted path of everything that a list of sets says, each set under its name."""
    found: dict[str, str] = {}
    for item in node.value:
        name = item.get("name")
        if name is not None and isinstance(item.value, dict):
            path = join_field(node.field, str(name.value))
            found |= {path: item.where} | {join_field(path, key): value.where for key, value in item.value.items()}
    return found
