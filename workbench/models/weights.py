"""A folder's safetensors: read into a model, and written with the configuration and tokenizer that they go with."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from workbench.errors import ModelError
from workbench.files import check_file
from workbench.models.folder import INDEX, find_weights
from workbench.models.llama import Llama
from workbench.models.tokenizer import TOKENIZER_FILES, Tokenizer, read_json

EOS = "eos_token_id"
CONFIG_FILES = ("config.json", "generation_config.json")


def load_weights(model: Llama, folder: Path) -> None:
    """Copy the folder's weights into our own model. Raises ModelError where names or shapes are not its
    configuration's."""
    tensors: dict[str, torch.Tensor] = {}
    for name in find_weights(folder):
        tensors |= read_safetensors(folder / name)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if not tensors[name].is_floating_point():
                raise ModelError(f"{folder}: {name} is of {tensors[name].dtype}; a weight is of floating point")
            parameter.copy_(tensors[name])


def check_weights(folder: Path) -> dict[str, tuple[int, ...]]:
    """Shapes of all weights by name, from the files' headers alone. Raises ModelError where a file is torn, holds
    numbers that are no weights, or not what the index places there."""
    shapes: dict[str, tuple[int, ...]] = {}
    for name, wanted in find_weights(folder).items():
        header = read_header(folder / name)
        absent = sorted(set(wanted or ()) - header.keys())
        if absent:
            raise ModelError(f"{folder}: {INDEX} says that {absent[0]} is in {name}, which lacks it; copy both again")
        twice = sorted(header.keys() & shapes.keys())
        if twice:
            raise ModelError(f"{folder}: {twice[0]} stands in {name} and in another file; copy the folder again")
        shapes |= header
    return shapes


def check_places(shapes: Mapping[str, tuple[int, ...]], model: Llama, folder: Path) -> None:
    """Raises ModelError where the files' names or shapes are not those of our own model, which may be on the device
    meta."""
    own = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    missing = sorted(own.keys() - shapes.keys())
    if missing:
        raise ModelError(f"{folder}: {len(missing)} weights are missing, such as {missing[0]}")
    # Old files hold rotary tables, and some a copy of the tied head; any other weight says that the model is another.
    tied = {"lm_head.weight"} if model.config.tie_word_embeddings else set()
    unknown = sorted(name for name in shapes.keys() - own.keys() - tied if not name.endswith(".rotary_emb.inv_freq"))
    if unknown:
        raise ModelError(f"{folder}: config.json has no place for {len(unknown)} weights, such as {unknown[0]}")
    for name, wanted in own.items():
        if shapes[name] != wanted:
            raise ModelError(f"{folder}: {name} has shape {shapes[name]}; config.json asks for {wanted}")


def check_tied_weights(folder: Path, names: Iterable[str], head: str, embedding: str) -> None:
    """Raises ModelError where the files hold both of two weights that config.json ties, and they are not the same."""
    if not {head, embedding} <= set(names):
        return
    first, second = (read_tensor(folder, name) for name in (head, embedding))
    if first.shape != second.shape or not torch.equal(first, second):
        raise ModelError(
            f"{folder}: config.json ties {head} to {embedding} (tie_word_embeddings), and the file holds another "
            f"{head}; set tie_word_embeddings to false, or remove that weight"
        )


def write_tensors(tensors: Mapping[str, torch.Tensor], path: Path) -> None:
    """One safetensors file."""
    from safetensors.torch import save_file

    plain = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    save_file(plain, path, metadata={"format": "pt"})


def write_model(
    tensors: Mapping[str, torch.Tensor], folder: Path, source: Path, changes: Mapping[str, Any] | None = None
) -> None:
    """A whole model in a new folder: the tensors, and source's other files with `changes` laid over config.json."""
    folder.mkdir(parents=True, exist_ok=True)
    write_tensors(tensors, folder / "model.safetensors")
    copy_other_files(source, folder)
    config = read_json(folder / "config.json")
    # transformers loads in the precision named here: a source in bfloat16 would have our float32 rounded.
    config.pop("torch_dtype", None)
    dtype = next(value.dtype for value in tensors.values() if value.is_floating_point())
    config |= {"dtype": str(dtype).removeprefix("torch.")} | dict(changes or {})
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def name_ends(folder: Path, ends: Sequence[int]) -> None:
    """Have generation_config.json name these ids as ends of sequence: transformers and vLLM look for them there."""
    path = folder / "generation_config.json"
    config = read_json(path)
    named = _as_list(config.get(EOS)) or _as_list(read_json(folder / "config.json").get(EOS))
    if set(ends) <= set(named):
        return
    config[EOS] = list(dict.fromkeys([*named, *ends]))
    path.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [] if value is None else [value]


def copy_other_files(source: Path, folder: Path) -> None:
    """Configuration and tokenizer, as they are."""
    for name in (*CONFIG_FILES, *TOKENIZER_FILES):
        if (source / name).is_file():
            shutil.copyfile(source / name, folder / name)
    Tokenizer.load(source).save(folder)


def read_safetensors(path: Path) -> dict[str, torch.Tensor]:
    """One file's tensors. Raises ModelError where it is torn."""
    from safetensors.torch import load_file

    with _reading(path):
        return load_file(path)


def read_header(path: Path) -> dict[str, tuple[int, ...]]:
    """Shapes of one file's tensors, which are not read. Raises ModelError where it is torn, or holds no weights."""
    from safetensors import safe_open

    shapes = {}
    with _reading(path), safe_open(path, framework="pt") as file:
        for name in file.keys():  # noqa: SIM118 - it is no mapping
            part = file.get_slice(name)
            shapes[name] = tuple(part.get_shape())
    return shapes


def stored_types(folder: Path) -> dict[str, dict[str, str]]:
    """The type of each weight of a whole model, as safetensors names it, file by file. Raises ModelError where a file
    is torn."""
    from safetensors import safe_open

    types: dict[str, dict[str, str]] = {}
    for name in sorted(find_weights(folder)):
        with _reading(folder / name), safe_open(folder / name, framework="pt") as file:
            types[name] = {weight: file.get_slice(weight).get_dtype() for weight in sorted(file.keys())}
    return types


def read_tensor(folder: Path, name: str) -> torch.Tensor:
    """One weight of a whole model's files."""
    from safetensors import safe_open

    for file_name in find_weights(folder):
        with _reading(folder / file_name), safe_open(folder / file_name, framework="pt") as file:
            if name in file.keys():  # noqa: SIM118
                return file.get_tensor(name)
    raise KeyError(name)


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[None]:
    from safetensors import SafetensorError

    try:
        check_file(path)
        yield
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{path}: not readable as safetensors ({error}); copy or save it again") from error
