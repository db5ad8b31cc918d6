"""How settings are laid over one another: a file over the one it extends, an arm over the file, a point over both."""

from __future__ import annotations

from dataclasses import replace

from workbench.experiment.definition.held_out_sets import merge_into_list
from workbench.experiment.definition.source import Node, join_field

REPLACED_WITH_TRAINER = ("hyperparameters", "data", "teacher")
# A section holds one of these keys; naming another drops it.
KINDS = {
    "data": ("task", "path", "dataset", "collect", "mix"),
    "model": ("preset", "path", "name"),
    "teacher": ("experiment", "preset", "path", "name"),
    "evaluate": ("task", "path", "split"),
}

NAMES_A_RUN = ("start_from", "teacher")

LENGTHS = frozenset({"steps", "epochs"})
"""Hyperparameters that say how long to train: the one said last counts."""

FREE_KEYS = ("arms", "columns", "grid", "gym_config", "loss", "model_from", "space")
"""Fields that are mappings whose keys whoever writes them chooses."""


def merge_sections(base: Node, over: Node) -> Node:
    """over's settings laid over base's (whole definitions or arms).

    Naming another trainer drops base's hyperparameters, data and teacher; start_from and model drop each other; data of
    another kind or task, another kind of model, another start_from and another teacher replace the whole section. Over
    a list of held-out sets a mapping changes the sets, by name or all of them (held_out_sets.py).
    """
    kept = dict(base.value)
    trainer, other = kept.get("trainer"), over.value.get("trainer")
    if trainer is not None and other is not None and trainer.value is not None and trainer.value != other.value:
        given = kept.get("data")
        for name in REPLACED_WITH_TRAINER:
            kept.pop(name, None)
        if given is not None and given.value is not None:
            kept["data"] = Node(None, other.where, "trainer")  # no data, and why
    for name, excluded in (("start_from", "model"), ("model", "start_from")):
        if name in over.value and over.value[name].value is not None:
            kept.pop(excluded, None)
    for name, item in over.value.items():
        below = kept.get(name)
        kept[name] = item if below is None else _merge_section(name, below, item)
    return replace(over, value=kept)


def merge(base: Node, over: Node) -> Node:
    """over laid over base: mappings key by key, all else replaced; {} empties a mapping whose keys are free."""
    if not (isinstance(base.value, dict) and isinstance(over.value, dict)) or empties(over):
        return over
    merged = {key: item for key, item in base.value.items() if not _says_otherwise(over, key, item)}
    for key, item in over.value.items():
        merged[key] = merge(merged[key], item) if key in merged else item
    return replace(over, value=merged)


def _says_otherwise(over: Node, key: str, below: Node) -> bool:
    """Whether over says the length of training the other way. What is said in one place, by axes of the grid or on the
    command line, stands: beside the other it is a mistake, which is told."""
    if over.field.rpartition(".")[2] != "hyperparameters" or key not in LENGTHS:
        return False
    (other,) = LENGTHS - {key}
    given = over.value.get(other)
    of_file = not below.is_override and not below.field.startswith("sweep")
    return given is not None and given.value is not None and key not in over.value and of_file


def empties(over: Node) -> bool:
    """Whether over takes all entries of the mapping below it away."""
    return over.value == {} and over.field.rpartition(".")[2] in FREE_KEYS


def nest(path: tuple[str, ...], node: Node) -> Node:
    """A tree that holds node at path."""
    fields = [""]
    for key in path:
        fields.append(join_field(fields[-1], key))
    for depth in range(len(path) - 1, -1, -1):
        node = Node({path[depth]: node}, node.where, fields[depth])
    return node


def _merge_section(name: str, base: Node, over: Node) -> Node:
    if name == "arms" and isinstance(base.value, dict) and isinstance(over.value, dict) and over.value:
        arms = dict(base.value)
        for arm, item in over.value.items():
            both = arm in arms and isinstance(arms[arm].value, dict) and isinstance(item.value, dict)
            arms[arm] = merge_sections(arms[arm], item) if both else item
        return replace(over, value=arms)
    if name in NAMES_A_RUN and isinstance(base.value, str):
        base = replace(base, value={"experiment": base})
    if name == "evaluate" and isinstance(base.value, list) and isinstance(over.value, dict):
        return merge_into_list(base, over) or over
    if not (isinstance(base.value, dict) and isinstance(over.value, dict)):
        return over
    if name in NAMES_A_RUN and "experiment" in over.value:
        return over
    kinds = [kind for kind in KINDS.get(name, ()) if kind in over.value]
    if kinds and not any(kind in base.value for kind in kinds):
        if name != "evaluate":
            return over
        base = replace(base, value={key: item for key, item in base.value.items() if key not in KINDS[name]})
    if name == "data" and _other_task(base, over):
        return over
    if name == "data":
        over = _with_sources(base, over)
    return merge(base, over)


def _with_sources(base: Node, over: Node) -> Node:
    """data laid over a mix that names sources by their places, {mix: {0: {path: ...}}}, with a whole list of sources in
    the place of these; as it is where a place does not exist."""
    sources, changed = base.get("mix"), over.get("mix")
    if sources is None or changed is None or not isinstance(sources.value, list) or not isinstance(changed.value, dict):
        return over
    items = dict(enumerate(sources.value))
    given = {int(place): item for place, item in changed.value.items() if str(place).isdecimal()}
    if len(given) < len(changed.value) or not given.keys() <= items.keys():
        return over
    items |= {place: _merge_section("data", items[place], item) for place, item in given.items()}
    return replace(over, value=over.value | {"mix": replace(sources, value=list(items.values()))})


def _other_task(base: Node, over: Node) -> bool:
    before, after = base.get("task"), over.get("task")
    return before is not None and after is not None and before.value != after.value
