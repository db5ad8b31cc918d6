"""Whether our own Llama is, of a folder, the model that transformers' class of its family would be; tried once.

T positions, V vocabulary.
"""

from __future__ import annotations

import functools
import importlib.metadata
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from workbench.config import fingerprint
from workbench.inputs import Inputs
from workbench.models.by_transformers import open_by_transformers
from workbench.models.cached_decoder import ModelDecoder
from workbench.models.llama import Llama
from workbench.models.llama_decoder import LlamaDecoder, LlamaWeights
from workbench.models.mode import evaluation_mode
from workbench.models.outputs import HeadInputs, forward_completions, forward_to_head
from workbench.models.passes import logits_of
from workbench.models.probe import short_texts
from workbench.models.verdict_cache import read_found, write_found
from workbench.models.weights import load_weights, stored_types
from workbench.own_code import hash_of

FAR = 1024
"""The farthest position that is tried: all rotations that our own forward takes are linear in the position, so that a
wrong angle shows there."""
NEW = 2
"""Tokens that a prompt is continued by."""
_TYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


def load_checked(
    model: Llama, raw: Mapping[str, Any], folder: Path, shapes: Mapping[str, tuple[int, ...]], inputs: Inputs
) -> str:
    """Loads the folder's weights into our own model, which has their type and nothing in it yet. Returns why it is not
    the model that transformers runs; nothing where it is. Raises ModelError where transformers cannot load the folder,
    DataError where it changed since `inputs` was taken.

    The finding is kept by config.json, the names, shapes and types of the files' tensors, the code of this folder and
    the versions of torch and transformers. Nothing else decides what a model computes of its weights: both sides copy
    the values of the tensors by name, and the numbers that are compared are those of other weights, made so that every
    part of the model shows in them. A second copy of a tied head is compared with the first at every load. So the
    seconds in which transformers is imported are paid once for each architecture, and not for each seed.
    """
    types = stored_types(folder)
    key = _key(raw, shapes, types, next(model.parameters()).dtype)
    found = read_found(key)
    if not isinstance(found, str):
        with torch.random.fork_rng(devices=[]):
            found = _difference(model, raw, folder, shapes, types)
        inputs.check()  # else it would be another model's
        write_found(key, found)
    elif not found:
        load_weights(model, folder)
    return found


def _key(raw: Mapping[str, Any], shapes: Mapping[str, Any], types: Mapping[str, Any], dtype: torch.dtype) -> str:
    versions = [torch.__version__, importlib.metadata.version("transformers"), _own_code()]
    return fingerprint(["own", raw, {name: list(shape) for name, shape in shapes.items()}, types, str(dtype), versions])


@functools.cache
def _own_code() -> str:
    return hash_of(Path(__file__).parent)


def _difference(
    model: Llama,
    raw: Mapping[str, Any],
    folder: Path,
    shapes: Mapping[str, tuple[int, ...]],
    types: Mapping[str, Mapping[str, str]],
) -> str:
    """Memory is taken for one model: transformers' has the files' pages, then the made weights that ours holds."""
    stored = Counter(kind for file in types.values() for kind in file.values()).most_common(1)[0][0]
    theirs, _ = open_by_transformers(folder, raw, shapes, _TYPES.get(stored, torch.float32))
    read = {name: tensor.detach() for name, tensor in theirs.named_parameters()}
    own = dict(model.named_parameters())
    if read.keys() != own.keys():
        names = sorted(read.keys() ^ own.keys())
        return f"transformers', for our own has other weights ({names[0]})"
    make_weights(model, model.config.rms_norm_eps)
    for name, parameter in theirs.named_parameters():
        parameter.data = own[name].data
    found = compare(model, theirs)
    load_weights(model, folder)
    for name, tensor in read.items():
        ours, other = own[name].data, tensor.to(own[name].dtype)
        if not torch.equal(ours, other) and not torch.allclose(ours, other, rtol=0, atol=0, equal_nan=True):
            return f"transformers', for our own reads a weight otherwise ({name})"
    return found


def make_weights(model: Llama, eps: float) -> None:
    """Weights of which every part moves the logits: attention looks at some tokens more than at others, norms and
    biases differ from one place to the next, and embeddings are so small that the norms' eps counts."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.normal_(1.0, 0.25, generator=generator)
            else:
                parameter.normal_(0.0, parameter.shape[-1] ** -0.5, generator=generator)
        embedding = model.get_input_embeddings().weight
        embedding.mul_((max(eps, 1e-12) * embedding.shape[-1]) ** 0.5)


def compare(own: Llama, theirs: Any) -> str:
    """The first way of ours that gives other numbers than transformers' forward of one text alone without a cache, for
    the line that training starts with; nothing where all give the same."""
    window = getattr(theirs.config, "sliding_window", None)
    if window is not None and window <= theirs.config.max_position_embeddings:
        return "transformers', for it limits attention to a window, and our own does not"
    half = next(own.parameters()).dtype in (torch.bfloat16, torch.float16)
    with torch.no_grad(), evaluation_mode(own), evaluation_mode(theirs):
        for way, found, expected in _ways(own, theirs):
            off, spread = (found - expected).float(), expected.float().std()
            # In half precision single numbers are rounded far from one another, and their mean distance is small.
            if not float(off.square().mean().sqrt() if half else off.abs().max()) <= (0.1 if half else 3e-4) * spread:
                return f"transformers', for our own gives other numbers ({way})"
    return ""


def _ways(own: Llama, theirs: Any) -> Iterator[tuple[str, Tensor, Tensor]]:
    """What each way gives, (.., V), and what it should."""
    texts, _ = short_texts(theirs.config, torch.device("cpu"))
    alone = [logits_of(theirs, text[None])[0] for text in texts]
    yield "one text", own(texts[0][None]).logits[0], alone[0]
    far = torch.arange(len(texts[0]))[None] + max(0, min(theirs.config.max_position_embeddings, FAR) - len(texts[0]))
    far[0, 0] = 0  # rotations show in distances alone
    yield (
        "far positions",
        own(texts[0][None], position_ids=far).logits,
        logits_of(theirs, texts[0][None], position_ids=far, attention_mask=_whole_mask(len(texts[0]))),
    )
    lengths = [len(text) for text in texts]
    for left in (False, True):
        mask = torch.tensor([_row(length, max(lengths), left) for length in lengths])
        ids = torch.zeros_like(mask).masked_scatter(mask.bool(), torch.cat(texts))
        found = _projected(forward_to_head(own, ids, mask))
        yield f"rows padded on the {'left' if left else 'right'}", found[mask.bool()], torch.cat(alone)
    yield "a mask", own(ids, attention_mask=mask).logits[mask.bool()], torch.cat(alone)  # with padding on the left
    positions = torch.cat([torch.arange(length) for length in lengths])[None]
    yield "packed texts", _projected(forward_to_head(own, torch.cat(texts)[None], None, positions)), torch.cat(alone)
    yield from _continued(own, theirs, texts[:2])


def _whole_mask(length: int) -> Tensor:
    return torch.ones(length, length, dtype=torch.bool).tril()[None, None]


def _row(length: int, width: int, left: bool) -> list[int]:
    return [0] * (width - length) + [1] * length if left else [1] * length + [0] * (width - length)


def _projected(found: HeadInputs) -> Tensor:
    assert found.weight is not None
    return torch.nn.functional.linear(found.hidden, found.weight, found.bias)


def _continued(own: Llama, theirs: Any, texts: Sequence[Tensor]) -> Iterator[tuple[str, Tensor, Tensor]]:
    """Two completions of each prompt: as they are learned from, and as each decoder samples them, one row dropped."""
    rows = [text for text in texts for _ in range(2)]
    new = torch.stack([texts[0].repeat(NEW)[row % 2 : row % 2 + NEW] for row in range(len(rows))])
    whole = [logits_of(theirs, torch.cat((text, new[row]))[None])[0] for row, text in enumerate(rows)]
    width, prompt_index = len(texts[0]), torch.arange(len(rows)) // 2
    mask = torch.tensor([_row(len(text), width, True) for text in texts])
    prompts = torch.zeros_like(mask).masked_scatter(mask.bool(), torch.cat(list(texts)))
    learned = forward_completions(own, prompts, mask, new, torch.ones_like(new), prompt_index)
    yield "completions", _projected(learned), torch.cat([logits[-NEW - 1 : -1] for logits in whole])
    decoders: dict[str, Any] = {
        "sampling": LlamaDecoder(LlamaWeights(own, 1), NEW),
        "sampling in steps of one shape": LlamaDecoder(LlamaWeights(own, 1), NEW, static=True),
        "sampling with the model's own cache": ModelDecoder(own, NEW),
    }
    for way, decoder in decoders.items():
        kept = torch.arange(len(rows))
        found = decoder.prefill([text.tolist() for text in texts], 2)
        for step in range(NEW + 1):
            yield way, found, torch.stack([whole[row][len(rows[row]) + step - 1] for row in kept.tolist()])
            if step == 1 and not getattr(decoder, "static", False):
                kept = kept[1:]
                decoder.select_rows(kept)
            if step < NEW:
                found = decoder.step(new[kept, step])
