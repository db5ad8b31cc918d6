"""Numbers of config.json that no model of the folder's weights can have, refused before anything is built of them."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from workbench.errors import ModelError

LARGEST = 1 << 40
LARGEST_HEADER = 100 << 20
"""Bytes, as the library safetensors allows."""
LAYERS = ("num_hidden_layers", "num_layers", "n_layer", "n_layers", "decoder_layers", "encoder_layers")
WIDTHS = ("vocab_size", "hidden_size", "intermediate_size", "n_embd", "n_inner", "d_model", "head_dim", "ffn_dim")


def check_config(raw: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]], folder: Path) -> None:
    """Raises ModelError for whole numbers that the weights rule out: more layers than weights, a width or a count above
    all of their numbers, or any at which memory or time would end first."""
    numbers = sum(math.prod(shape) for shape in shapes.values())
    for name, value in _whole_numbers(raw):
        limit = LARGEST
        if name in LAYERS:
            limit = len(shapes)
        elif name in WIDTHS or name.startswith(("num_", "n_")):
            limit = max(numbers, 1 << 16)
        if abs(value) > limit:
            shown = value if abs(value) < 1 << 60 else f"a number of {len(str(abs(value))):,} digits"
            raise ModelError(f"{folder}/config.json: {name} is {shown}, more than its weights allow ({limit:,})")


def read_shapes(file: Path) -> dict[str, tuple[int, ...]]:
    """The shape of every weight that a safetensors file's header names; nothing is loaded. Raises ModelError."""
    try:
        with open(file, "rb") as opened:
            length = int.from_bytes(opened.read(8), "little")
            header = json.loads(opened.read(length)) if length <= LARGEST_HEADER else {}
        return {name: tuple(map(int, entry["shape"])) for name, entry in header.items() if name != "__metadata__"}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(f"{file}: its header cannot be read as safetensors") from error


def _whole_numbers(value: Any, name: str = "") -> Iterator[tuple[str, int]]:
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _whole_numbers(item, str(key))
    elif isinstance(value, list):
        for item in value:
            yield from _whole_numbers(item, name)
    elif isinstance(value, int) and not isinstance(value, bool):
        yield name, value
