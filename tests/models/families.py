"""Every family of causal language models that transformers knows, made tiny, and what the workbench does with it.

`python -m tests.models.families` writes the table of docs/models.md; names after it print their rows alone.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch

from workbench.errors import ModelError
from workbench.generation.generate import generate
from workbench.models.load import load_model
from workbench.models.outputs import forward_to_head
from workbench.models.presets import make_preset
from workbench.models.probe import verdict_of

DOCUMENT = Path(__file__).parents[2] / "docs" / "models.md"
START, END = "<!-- families: start -->", "<!-- families: end -->"
VOCABULARY = 98  # the character tokenizer's
MOST = 5_000_000
"""Parameters of what still counts as tiny."""

SIZES = (
    ("vocab_size|n_vocab|vocab_size_per_layer_input|n_words", VOCABULARY),
    (
        "hidden_size|d_model|n_embd|dim|n_embed|word_embed_proj_dim|embedding_size|emb_dim|hidden_dim|embedding_dim|"
        "dim_model|embed_dim|decoder_hidden_size|input_embedding_size|output_embedding_size|lru_width|"
        "attention_hidden_size|hidden_size_per_layer_input",
        32,
    ),
    ("(num_|n_)?(hidden_|decoder_|encoder_)?(layers?|blocks)|num_mem_blocks", 2),
    ("(num_|n_)?((decoder|encoder)_)?(attention_)?heads?", 4),
    ("num_key_value_heads|num_kv_heads|n_kv_heads|multi_query_group_num", 2),
    ("head_dim|attention_head_dim|kv_channels|d_kv|global_head_dim|swa_head_dim", 8),
    (
        "(moe_|shared_|shared_expert_|moe_shared_expert_|dense_|prefix_dense_|expert_)?intermediate_size|n_inner|"
        "((de|en)coder_)?ffn_dim|d_ff|d_inner|dim_ff|(ffn_hidden|feed_forward|expert_ffn_hidden)_size",
        32,
    ),
    ("num_experts|num_local_experts|n_routed_experts|moe_num_experts|num_routed_experts", 4),
    ("num_experts_per_tok|num_experts_per_token|moe_k|moe_top_k|top_k_experts|num_selected_experts", 2),
    ("n_group|topk_group", 1),
    ("(mamba_|ssm_)?(d_)?state(_size)?|mamba_d_state|ssm_state_size", 8),
    ("(mamba_)?chunk_size|linear_.*_head_dim|(qk_nope|v|qk_rope)_head_dim|index_head_dim", 8),
    ("q_lora_rank|kv_lora_rank|o_lora_rank|rotary_dim|mamba_head_dim|mamba_d_head", 8),
    ("max_position_embeddings|n_positions|n_ctx|max_seq_len|max_(target|source)_positions|seq_length", 64),
    ("sliding_window|window_size|attention_window_size", 8),
)
"""What numbers of a configuration become, by their names; a family's own below."""

HYBRID = {"layer_types": ["linear_attention", "full_attention"]}
MAMBA = {"mamba_d_head": 16, "mamba_n_heads": 4, "mamba_n_groups": 1, "mamba_d_state": 8, "mamba_chunk_size": 4}
LATENT = (
    *("axk1", "axk2", "deepseek_v2", "deepseek_v3", "deepseek_v32", "dots3_note_text"),
    *("glm4_moe_lite", "glm_moe_dsa", "longcat_flash", "minicpm3", "youtu"),
)
"""Attention from latent vectors: a key head for every head of queries."""
OWN_SIZES: dict[str, dict[str, Any]] = {
    **{kind: {"num_key_value_heads": 4} for kind in LATENT},
    "bailing_hybrid": HYBRID,
    "dots1": {"n_shared_experts": 1},
    "hunyuan_v1_dense": {"head_dim": 8},
    "hunyuan_v1_moe": {"head_dim": 8},
    "ministral": {"head_dim": 8},
    "nemotron": {"num_key_value_heads": 2, "head_dim": 8},
    "roc_bert": {"enable_pronunciation": False, "enable_shape": False},
    "rwkv": {"rescale_every": 0},
    "xmod": {"languages": ["en_XX"], "default_language": "en_XX"},
    "zaya": {"num_experts_per_tok": 1},
    "bamba": {**MAMBA, "attn_layer_indices": [1]},
    "cohere": {"logit_scale": 0.3},
    "falcon_h1": {**MAMBA, "mamba_d_ssm": 64, "lm_head_multiplier": 0.5},
    "gemma3_text": {"final_logit_softcapping": 3.0},
    "granite": {"logits_scaling": 4.0},
    "granitemoehybrid": {**MAMBA, "layer_types": ["mamba", "attention"]},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]]},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1},
    "lfm2": {"layer_types": ["conv", "full_attention"]},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"], "num_dense_layers": 1},
    "mamba2": {"num_heads": 4, "head_dim": 16, "n_groups": 1},
    "qwen3_5_moe_text": HYBRID,
    "qwen3_5_text": HYBRID,
    "qwen3_next": HYBRID,
    "qwen4_exp_text": HYBRID,
    "recurrent_gemma": {"num_hidden_layers": 3},
    "reformer": {"axial_pos_embds_dim": [8, 24], "axial_pos_shape": [8, 8]},
    "xlm": {"causal": True},
    "xlstm": {"num_heads": 4, "chunk_size": 64},
    "zamba": {"layers_block_type": ["mamba", "hybrid"]},
    "zamba2": {"layers_block_type": ["mamba", "hybrid"]},
}


def kinds() -> list[str]:
    """Model types for which transformers has a causal language model."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    return sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)


def tiny_config(kind: str) -> Any:
    """The family's own configuration with every size made small."""
    import transformers

    made = transformers.CONFIG_MAPPING[kind]
    changes: dict[str, Any] = {}
    fields = made().to_dict()
    for name, value in fields.items():
        if type(value) is int:
            changes.update((name, size) for pattern, size in SIZES if re.fullmatch(pattern, name))
        if name in ("pad_token_id", "bos_token_id", "eos_token_id") and value is not None:
            changes[name] = 0 if name == "pad_token_id" else 1
    if "is_decoder" in fields:
        changes["is_decoder"] = True
    return made(**(changes | OWN_SIZES.get(kind, {})))


def tiny_model(kind: str) -> torch.nn.Module:
    """At random weights, all of them far from 0. ValueError where it is not tiny."""
    import transformers

    transformers.logging.set_verbosity_error()
    config = tiny_config(kind)
    with torch.device("meta"):
        size = sum(p.numel() for p in transformers.AutoModelForCausalLM.from_config(config).parameters())
    if size > MOST:
        raise ValueError(f"still {size / 1e6:,.0f}M parameters")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = transformers.AutoModelForCausalLM.from_config(config).eval()
        for parameter in model.parameters():
            parameter.data.add_(torch.randn(parameter.shape) * 0.1)
    return model


ROWS = [[3, 5, 22, 7, 11, 9, 4, 40, 41, 3, 17, 90], [8, 6, 30, 2, 12, 13, 14], [31, 8]]


@torch.no_grad()
def check(kind: str, folder: Path) -> dict[str, str]:
    """The family's row of the table; AssertionError where a number is not that of transformers' own forward."""
    try:
        theirs = tiny_model(kind)
        alone = [theirs(torch.tensor([row])).logits[0] for row in ROWS]
    except Exception as error:
        lines = str(error).strip().splitlines() or [""]
        return {"family": kind, "remark": f"not made tiny here ({type(error).__name__}: {lines[-1].strip()[:100]})"}
    theirs.save_pretrained(folder)
    try:
        model = load_model(folder).eval()
    except ModelError as error:
        return {"family": kind, "remark": f"refused: {str(error).removeprefix(f'{folder}: ')[:160].strip()}"}
    spread = float(torch.cat(alone).std())
    for left in (False, True):
        check_rows(kind, model, alone, 1e-3 * spread, left)
    check_samples(kind, model, theirs, 1e-3 * spread)
    verdict, own = verdict_of(model), type(model).__name__ == "Llama"
    return {
        "family": kind,
        "forward": "own" if own else "transformers'",
        "head": "product" if verdict.head else "logits",
        "cache": ("yes" if verdict.padded_cache else "one length") if verdict.cache else "recomputed",
        "completions": "one prefill" if verdict.cache else "recomputed",
        "packing": "packed" if verdict.packed else "padded" if verdict.batch else "row by row",
        "FLOPs": flops_charged(model),
        "remark": "",
    }


def check_rows(kind: str, model: torch.nn.Module, alone: list[torch.Tensor], close: float, left: bool) -> None:
    """What losses are made of, on padded rows."""
    width = max(map(len, ROWS)) + 1
    ids, mask = (torch.zeros(len(ROWS), width, dtype=torch.long) for _ in range(2))
    places = [slice(width - len(row), width) if left else slice(0, len(row)) for row in ROWS]
    for index, (row, place) in enumerate(zip(ROWS, places, strict=True)):
        ids[index, place], mask[index, place] = torch.tensor(row), 1
    found = forward_to_head(model, ids, mask)
    logits = found.hidden
    if found.weight is not None:
        logits = torch.nn.functional.linear(logits, found.weight, found.bias)
    for index, (place, expected) in enumerate(zip(places, alone, strict=True)):
        difference = float((logits[index, place] - expected).abs().max())
        assert difference < close, f"{kind}: row {index}, padded {'left' if left else 'right'}: off by {difference}"


def check_samples(kind: str, model: torch.nn.Module, theirs: torch.nn.Module, close: float) -> None:
    """Greedy samples, one and four a prompt, take the likeliest tokens of the whole text without a cache."""
    for number in (1, 4):
        made = generate(model, ROWS, [0] * len(ROWS), settings=None, max_new_tokens=10, eos_ids=[], num_samples=number)
        for prompt, samples in zip(ROWS, made, strict=True):
            text = [*prompt, *samples[0].completion_ids]
            logits = theirs(torch.tensor([text])).logits[0, len(prompt) - 1 : -1]
            short = logits.max(-1).values - logits.gather(-1, torch.tensor(samples[0].completion_ids)[:, None])[:, 0]
            assert float(short.max()) < 10 * close, f"{kind}: {number} completions: off by {float(short.max())}"
            assert all(sample == samples[0] for sample in samples)


@torch.enable_grad()
def flops_charged(model: torch.nn.Module) -> str:
    """What an SFT step on rows of 8 tokens, one at a time, is charged beside what torch's counter finds of it."""
    from torch.utils.flop_counter import FlopCounterMode

    from workbench.models.counted import own_kernels
    from workbench.trainer import SFTTrainer

    ids = torch.arange(3, 11).repeat(2, 1)
    settings = SFTTrainer.settings_class(steps=1, device="cpu", precision="float32", micro_batch_rows=1)
    trainer = SFTTrainer(model, None, [{"input_ids": ids, "labels": ids}], settings=settings)
    if trainer.uncounted:
        return "not counted"
    with FlopCounterMode(display=False, custom_mapping=own_kernels()) as counter:
        trainer.train_step()
    share = trainer.costs.flops / counter.get_total_flops()
    return "as computed" if abs(share - 1) <= 0.05 else f"{100 * (share - 1):+.0f} %"


COLUMNS = ("family", "forward", "head", "cache", "completions", "packing", "FLOPs", "remark")


def table(rows: list[dict[str, str]]) -> str:
    """In Markdown."""
    lines = [COLUMNS, ["---"] * len(COLUMNS), *([row.get(name, "") for name in COLUMNS] for row in rows)]
    return "\n".join(f"| {' | '.join(cell.replace('|', '/') for cell in line)} |" for line in lines)


def rows_of(names: list[str]) -> list[dict[str, str]]:
    """Each family tried in a folder of its own."""
    found = []
    # With a cache of verdicts of its own, so that every family is probed.
    with tempfile.TemporaryDirectory() as scratch, patch.dict(os.environ, XDG_CACHE_HOME=scratch):
        make_preset("tiny", Path(scratch) / "tokenizer", 0)
        for name in names:
            folder = Path(scratch) / name
            folder.mkdir()
            for file in ("tokenizer.json", "tokenizer_config.json"):
                shutil.copyfile(Path(scratch) / "tokenizer" / file, folder / file)
            found.append(check(name, folder))
            shutil.rmtree(folder)
    return found


def written_lines() -> list[str]:
    """The lines of the table in the document."""
    return DOCUMENT.read_text(encoding="utf-8").split(START)[1].split(END)[0].strip().splitlines()[2:]


def written_rows() -> dict[str, str]:
    """Each family's line of the table in the document."""
    return {line.split("|")[1].strip(): line for line in written_lines()}


def main(names: list[str]) -> None:
    """Print the rows named, or write the table of all."""
    if names:
        for name in names:
            try:
                print(json.dumps(rows_of([name])[0]), flush=True)
            except Exception as error:
                print(name, "WRONG", type(error).__name__, error, flush=True)
        return
    text = DOCUMENT.read_text(encoding="utf-8")
    before, after = text.split(START)[0], text.split(END)[1]
    DOCUMENT.write_text(f"{before}{START}\n{table(rows_of(kinds()))}\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
