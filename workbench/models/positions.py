"""How many tokens a text may have for a model; nothing here loads torch."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from workbench.errors import DataError
from workbench.models.llama_config import FAMILY_DEFAULTS
from workbench.models.tokenizer import read_json

NAMES = ("max_position_embeddings", "n_positions", "max_target_positions", "max_seq_len")
UNLIMITED = ("bloom", "falcon_mamba", "mamba", "mamba2", "recurrent_gemma", "rwkv", "xlnet", "xlstm")
"""Families without positions of their own: recurrent ones, and those whose attention only falls with distance."""
AFTER_PADDING = (
    "camembert",
    "data2vec-text",
    "roberta",
    "roberta-prelayernorm",
    "xlm-roberta",
    "xlm-roberta-xl",
    "xmod",
)
"""Families whose table begins with a row for each id up to the padding's."""
BY_LONGEST_ROW = ("dynamic", "longrope", "su")
"""Rotations that change for a whole batch once one of its rows is longer than the model was first trained on."""


@dataclass(frozen=True)
class Positions:
    """The most tokens that a text may have, and what says so."""

    most: int
    why: str = "max_position_embeddings"

    def check(self, where: str, tokens: int, remedy: str) -> None:
        """Raises DataError for a text of more tokens. where: the row; remedy: what makes it shorter."""
        if tokens > self.most:
            raise DataError(
                f"{where}: {tokens:,} tokens, and the model has positions for {self.most:,} ({self.why}); {remedy}"
            )


def model_positions(folder: Path) -> Positions | None:
    """The positions of the model in a folder; None where any length will do. Raises ModelError."""
    return find_positions(read_json(folder / "config.json"))


def find_positions(config: Mapping[str, Any]) -> Positions | None:
    """The positions of a model by its config.json, or by what its configuration writes there; None where any length
    will do."""
    if not any(name in config for name in NAMES) and isinstance(config.get("text_config"), Mapping):
        config = config["text_config"]
    kind = config.get("model_type")
    if kind in UNLIMITED or (kind == "falcon" and config.get("alibi")):
        return None
    name = next((name for name in NAMES if name in config), None)
    if name is None:
        name = next((name for name in NAMES if _default(str(kind), name) is not None), NAMES[0])
    most = config[name] if name in config else _default(str(kind), name)
    if type(most) is not int:
        return None
    if kind in AFTER_PADDING:
        padding = config.get("pad_token_id", 1)
        return Positions(most - 1 - (padding if isinstance(padding, int) else 0), f"{name}, less those of the padding")
    return _before_rotations_change(config, Positions(most, name))


def _before_rotations_change(config: Mapping[str, Any], found: Positions) -> Positions:
    """Texts longer than this would be rotated by the longest one beside them, so that a batch would change its rows."""
    rope = config.get("rope_scaling") or config.get("rope_parameters") or {}
    layers = [rope, *rope.values()] if isinstance(rope, Mapping) else []
    for part in layers:
        rope_type = part.get("rope_type", part.get("type")) if isinstance(part, Mapping) else None
        if rope_type in BY_LONGEST_ROW or (isinstance(part, Mapping) and "long_factor" in part):
            name = "original_max_position_embeddings"
            first = config.get(name) or part.get(name) or _default(str(config.get("model_type")), name)
            if rope_type != "dynamic" and type(first) is int and first < found.most:
                found = Positions(first, f"beyond, rope_type {rope_type} turns all rows of a batch by its longest")
    return found


@functools.lru_cache
def _default(kind: str, name: str) -> Any:
    """What transformers' class of a family has where its file leaves a field out."""
    if kind in FAMILY_DEFAULTS:
        return FAMILY_DEFAULTS[kind].get(name)
    try:
        import transformers

        return getattr(transformers.CONFIG_MAPPING[kind](), name, None)
    except Exception:  # an unknown family is refused where it is loaded
        return None
