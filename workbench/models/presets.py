"""Small Llamas with a tokenizer of characters or bytes, saved as Hugging Face folders without transformers."""

from __future__ import annotations

import json
import string
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.models.byte_tokenizer import NUM_BYTES, make_byte_tokenizer

if TYPE_CHECKING:
    import tokenizers
    import torch

# hidden_size, num_hidden_layers, num_attention_heads, intermediate_size, vocab_size (0: the characters'), tied
_SHAPES = {
    "tiny": (64, 2, 4, 256, 0, True),
    "mini": (128, 4, 4, 512, 0, True),
    "bytes": (128, 4, 4, 512, 2 + NUM_BYTES, True),
    "bench": (256, 4, 4, 1024, 512, False),
}
SPECIAL_TOKENS = ("<pad>", "<eos>")
CHARACTERS = "\n" + "".join(sorted(string.digits + string.ascii_letters + string.punctuation + " "))


def preset_config(preset: str) -> dict[str, Any]:
    """The config.json of a preset."""
    hidden, layers, heads, intermediate, vocabulary, tied = _SHAPES[preset]
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": vocabulary or len(SPECIAL_TOKENS) + len(CHARACTERS),
        "hidden_size": hidden,
        "intermediate_size": intermediate,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": heads,
        "head_dim": hidden // heads,
        "max_position_embeddings": 2048,
        "rms_norm_eps": 1e-6,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0},
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": tied,
        "pad_token_id": 0,
        "bos_token_id": None,
        "eos_token_id": 1,
        "initializer_range": 0.02,
        "dtype": "float32",
    }


def make_preset(preset: str, folder: Path, seed: int) -> None:
    """Write a preset with weights drawn from `seed` to `folder`: config, safetensors, tokenizer."""
    from safetensors.torch import save_file

    from workbench.models.llama import Llama
    from workbench.models.llama_config import LlamaConfig

    folder.mkdir(parents=True, exist_ok=True)
    config = preset_config(preset)
    model = Llama(LlamaConfig.from_dict(config))
    _initialise(model, config["initializer_range"], seed)
    tensors = {name: parameter.detach() for name, parameter in model.named_parameters()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    _write_json(folder / "config.json", config)
    _write_json(folder / "generation_config.json", {"eos_token_id": 1, "pad_token_id": 0})
    _write_tokenizer(preset_tokenizer(preset), folder)


def preset_tokenizer(preset: str) -> tokenizers.Tokenizer:
    """The tokenizer that a preset is written with."""
    from tokenizers import AddedToken

    tokenizer = make_byte_tokenizer(SPECIAL_TOKENS) if preset == "bytes" else _character_tokenizer()
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS])
    return tokenizer


def _initialise(model: torch.nn.Module, deviation: float, seed: int) -> None:
    """Matrices normal, norms one (transformers' rule for Llama)."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim >= 2:
                parameter.normal_(0.0, deviation, generator=generator)


def _character_tokenizer() -> tokenizers.Tokenizer:
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

    tokens = [*SPECIAL_TOKENS, *CHARACTERS]
    # There is no unknown token: a character without a token is an error, not a hole in the data.
    tokenizer = Tokenizer(models.WordLevel({token: index for index, token in enumerate(tokens)}, unk_token="<none>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    tokenizer.decoder = decoders.Fuse()
    return tokenizer


def _write_tokenizer(tokenizer: tokenizers.Tokenizer, folder: Path) -> None:
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "pad_token": "<pad>", "eos_token": "<eos>"}
    _write_json(folder / "tokenizer_config.json", settings | {"clean_up_tokenization_spaces": False})


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
