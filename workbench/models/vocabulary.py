"""New special tokens: in the tokenizer, and as rows of the embedding and the output head."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import torch

from workbench.errors import ModelError
from workbench.models.adapters import merged_tensors
from workbench.models.by_transformers import published_tensors
from workbench.models.load import load_model
from workbench.models.passes import input_embedding, output_head
from workbench.models.tokenizer import Tokenizer, read_json
from workbench.models.weights import write_model


def add_tokens(source: Path, folder: Path, tokens: Sequence[str]) -> None:
    """Write source's model to `folder` with the tokens added; tokens that it knows already stay as they are.

    Every row without a token before (some models keep spare ones) or without a row becomes the mean of the used rows,
    in float64: neither likely nor unlikely. Raises ModelError.
    """
    model = load_model(source)
    tokenizer = Tokenizer.load(source)
    embedding = input_embedding(model)
    if embedding is None:
        raise ModelError(f"{source}: add_tokens: this kind of model does not tell which layer is its embedding")
    rows = embedding.weight.shape[0]
    used = min(tokenizer.num_ids, rows)
    extended = tokenizer.with_special_tokens(tokens)
    wanted = max(rows, extended.num_ids)
    head = output_head(model)
    # What has a row for each token; a tied head is the embedding itself.
    tables = [embedding.weight, *(part for part in (head and head.weight, head and head.bias) if part is not None)]
    tensors = {}
    for name, weight in merged_tensors(model).items():
        is_table = any(weight is table for table in tables)
        tensors[name] = _with_mean_rows(weight.detach(), used, wanted) if is_table else weight
    write_model(published_tensors(model, tensors), folder, source, {"vocab_size": wanted})
    extended.save_backend(folder)
    _list_as_special(folder / "tokenizer_config.json", tokens)


def _with_mean_rows(table: torch.Tensor, used: int, wanted: int) -> torch.Tensor:
    mean = table[:used].double().mean(0).to(table.dtype)
    return torch.cat([table[:used], mean.expand(wanted - used, *mean.shape)])


def _list_as_special(path: Path, tokens: Sequence[str]) -> None:
    """Name the tokens in tokenizer_config.json too, so that transformers takes them as special."""
    config = read_json(path)
    known = config.get("extra_special_tokens") or []
    if isinstance(known, list):
        config["extra_special_tokens"] = [*known, *(token for token in tokens if token not in known)]
        path.write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
