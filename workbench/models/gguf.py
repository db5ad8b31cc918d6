"""GGUF files, dequantised once to a Hugging Face folder."""

from __future__ import annotations

from pathlib import Path

from workbench.errors import ModelError
from workbench.tracking.terminal import complain

VERSION = 1


def convert_gguf(file: Path, folder: Path) -> None:
    """Write the dequantised model and its tokenizer to `folder`; 15 seconds for 135M parameters. Raises ModelError."""
    complain(f"Converting {file.name} to safetensors (once) ...")
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    try:
        model = transformers.AutoModelForCausalLM.from_pretrained(
            file.parent, gguf_file=file.name, quantization_config=transformers.GgufConfig(dequantize=True)
        )
        tokenizer = transformers.AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    except ImportError as error:
        raise ModelError(f"{file}: reading GGUF needs the package gguf: install workbench[gguf]") from error
    except Exception as error:  # a damaged file fails anywhere in two libraries
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ModelError(f"{file}: not readable as GGUF ({first}); download it again, or name a folder") from error
    model.config.quantization_config = None
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
