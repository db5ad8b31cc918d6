"""Models of other families: loaded by transformers, which must have found every weight and used every one."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch

from workbench.errors import ModelError
from workbench.models.weights import check_tied_weights

SLACK = 1 << 22
"""Numbers that a configuration may ask for beyond those of its files before it is refused without being built."""


def load_by_transformers(
    folder: Path, raw: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]], dtype: torch.dtype
) -> torch.nn.Module:
    """The model that transformers makes of a folder. Raises ModelError where a weight is missing, has no place or
    another shape: transformers itself would make random ones and go on."""
    model, info = open_by_transformers(folder, raw, shapes, dtype)
    for key, told in (
        ("missing_keys", "weights are missing"),
        ("unexpected_keys", "weights have no place in the model of config.json"),
        ("mismatched_keys", "weights have another shape than config.json asks for"),
        ("error_msgs", "weights could not be read"),
    ):
        names = sorted(name if isinstance(name, str) else str(name[0]) for name in info[key])
        if names:
            raise ModelError(f"{folder}: {len(names)} {told}, such as {names[0]}")
    # Where both weights of a tied pair are in the files and differ, transformers leaves them apart, with a warning.
    for one, other in model.get_expanded_tied_weights_keys(all_submodels=True).items():
        if one not in model.all_tied_weights_keys:
            check_tied_weights(folder, shapes, one, other)
            raise ModelError(f"{folder}: config.json ties {one} to {other}, and the files hold two that differ")
    for tensor in (*model.parameters(), *model.buffers()):
        # The loaded weights are the files' own pages: whoever wrote to the files would change a model that trains.
        tensor.data = tensor.data.clone()
    return model


def open_by_transformers(
    folder: Path, raw: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]], dtype: torch.dtype
) -> tuple[Any, dict[str, Any]]:
    """What transformers makes of a folder, and what it says of the weights; those that the files hold in `dtype` are
    the files' own pages. Raises ModelError."""
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    find = functools.partial(_found_by, folder, raw)
    config = find(transformers.AutoConfig.from_pretrained, folder, trust_remote_code=False, local_files_only=True)
    _refuse_giant(folder, config, shapes)
    model, info = find(
        transformers.AutoModelForCausalLM.from_pretrained,
        folder,
        dtype=dtype,
        trust_remote_code=False,
        use_safetensors=True,
        local_files_only=True,
        output_loading_info=True,
        ignore_mismatched_sizes=True,  # whoever asks refuses them by name
    )
    return model, info


def published_tensors(model: torch.nn.Module, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A model's tensors under the names and in the shapes that its family's folders have: transformers holds the
    experts of a mixture as one weight, and other tools do not."""
    if not hasattr(model, "_weight_conversions"):
        return dict(tensors)
    from transformers.core_model_loading import revert_weight_conversion

    return dict(revert_weight_conversion(cast(Any, model), dict(tensors)))


def _found_by(folder: Path, raw: Mapping[str, Any], call: Any, *arguments: Any, **options: Any) -> Any:
    """What transformers' call gives; whatever it fails with is of the folder, and told in one line."""
    try:
        return call(*arguments, **options)
    except Exception as error:  # checks of fields, layers built from them, files: they raise nearly every kind
        told = (str(error).strip().splitlines() or [""])[0][:300]
        code = "; the folder's own code (auto_map) is never run" if "auto_map" in raw else ""
        raise ModelError(f"{folder}: transformers cannot load it: {type(error).__name__}: {told}{code}") from error


def _refuse_giant(folder: Path, config: Any, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Raises ModelError for a configuration of far more numbers than the files hold, before memory is taken for
    them."""
    import transformers

    held = sum(torch.Size(shape).numel() for shape in shapes.values())
    try:
        with torch.random.fork_rng(devices=[]), torch.device("meta"):
            model = transformers.AutoModelForCausalLM.from_config(config, trust_remote_code=False)
        wanted = sum(tensor.numel() for tensor in (*model.parameters(), *model.buffers()))
    except Exception:  # transformers says what is wrong when it loads the folder
        return
    if wanted > 2 * held + SLACK:
        raise ModelError(f"{folder}: config.json asks for {wanted:,} numbers, and the files hold {held:,}")
