"""A loader's batch held against the format that its trainer declares, made tensors where that is certain, and refused
by name where it is not."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from workbench.errors import DataError
from workbench.models.passes import config_field, input_embedding, unwrapped
from workbench.models.positions import Positions, find_positions
from workbench.objectives.masking import IGNORED
from workbench.trainer.batch_format import MEANINGFUL, BatchField, BatchFormat
from workbench.trainer.loop.batches import Batch

FIRST_BATCHES = 8
"""How many batches have their values looked at on a GPU, where reading a number waits for all that was asked before."""
LARGEST_LOGPROB = 1e-3
"""A log-probability is never above 0, but for rounding."""
_INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)


@dataclass
class BatchCheck:
    """Checks the batches of one trainer. Nothing of it is part of a checkpoint, for it changes no number."""

    trainer: str
    """The trainer's name, for messages."""
    format: BatchFormat
    vocabulary: int | None
    """Ids are below it; None: not known."""
    positions: Positions | None
    """How long a text may be; None: any length will do."""
    checked: int = 0
    unread: tuple[str, ...] = ()
    """Keys of the batches that nothing reads."""

    @classmethod
    def of(cls, trainer: str, batch_format: BatchFormat, *models: torch.nn.Module | None) -> BatchCheck:
        """Makes the check for the models that read the batches."""
        inner = [unwrapped(model) for model in models if model is not None]
        embeddings = [found for model in inner if (found := input_embedding(model)) is not None]
        config = config_field(inner[0], "config")
        fields = config.to_dict() if callable(getattr(config, "to_dict", None)) else None
        return cls(
            trainer,
            batch_format,
            min((embedding.num_embeddings for embedding in embeddings), default=None),
            find_positions(fields) if fields is not None else None,
        )

    def __call__(self, batch: Any, where: str, device: torch.device) -> Batch:
        """The batch with every field a tensor of its dtype on the device (or a list, where it is one). Raises
        DataError.

        where: which batch it is. Further keys that nothing reads are passed on where they are tensors of as many rows.
        """
        if not isinstance(batch, Mapping):
            raise self._refused(where, f"found {described(batch)}")
        self._refuse_keys(batch, where)
        values = {field.name: self._value(batch[field.name], field, where) for field in self._fields_of(batch)}
        self._check_shapes(values, where)
        self._pass_on(batch, values)
        self.checked += 1
        on_gpu = any(isinstance(value, torch.Tensor) and value.device.type != "cpu" for value in values.values())
        if not on_gpu or self.checked <= FIRST_BATCHES:
            self._check_values(values, where)
        return {name: self._placed(name, value, device) for name, value in values.items()}

    def _placed(self, name: str, value: Any, device: torch.device) -> Any:
        if not isinstance(value, torch.Tensor):
            return value
        is_mask = name in self.format.names and self.format[name].kind == "mask"
        return (value.bool() if is_mask and value.is_floating_point() else value).to(device)

    def _refused(self, where: str, found: str) -> DataError:
        return DataError(f"{where}: {found}; {self.trainer} takes {self.format.text}")

    def _fields_of(self, batch: Mapping[str, Any]) -> list[BatchField]:
        return [field for field in self.format.fields if batch.get(field.name) is not None]

    # Keys.

    def _refuse_keys(self, batch: Mapping[str, Any], where: str) -> None:
        there = {field.name for field in self._fields_of(batch)}
        others = [key for key in batch if key not in self.format.names]
        missing = [field.name for field in self.format.fields if not field.optional and field.name not in there]
        if missing:
            found = ", ".join(map(str, batch)) or "nothing"
            raise self._refused(where, f"found {found}; missing: {', '.join(missing)}")
        for key in others:
            meant = self.format.nearest(str(key), batch)
            if meant is not None:
                raise self._refused(where, f"found {key}, did you mean {meant}")
        for field in self.format.fields:
            if field.name in there and field.needs and field.needs not in there:
                raise self._refused(where, f"{field.name} without {field.needs}; allowed both, or neither")
        unread = [key for key in others if key in MEANINGFUL]
        if unread:
            raise self._refused(where, f"found {', '.join(unread)}, which {self.trainer} does not read")

    def _pass_on(self, batch: Mapping[str, Any], values: dict[str, Any]) -> None:
        others = [key for key in batch if key not in self.format.names]
        rows = len(next(iter(values.values())))
        for key in others:
            value = batch[key]
            if isinstance(value, torch.Tensor) and value.ndim and len(value) == rows:
                values[key] = value
        self.unread = tuple(dict.fromkeys((*self.unread, *map(str, others))))

    # One value.

    def _value(self, value: Any, field: BatchField, where: str) -> Any:
        if field.kind == "list":
            if isinstance(value, torch.Tensor | np.ndarray) and value.ndim == 1:
                return value.tolist()
            if not isinstance(value, list | tuple):
                raise self._refused(where, f"{field.name} is {described(value)}, allowed a list of B")
            return list(value)
        tensor = self._tensor(value, field, where)
        if field.kind == "mask":
            return tensor
        if field.kind in ("numbers", "logprobs"):
            if tensor.is_floating_point():
                return tensor
            if field.kind == "numbers" and not tensor.is_complex():
                return tensor.float()
            raise self._refused(where, f"{field.name} is {tensor.dtype}, allowed a float dtype")
        if tensor.dtype not in _INTEGERS:
            raise self._refused(where, f"{field.name} is {tensor.dtype}, allowed torch.int64")
        return tensor.long()

    def _tensor(self, value: Any, field: BatchField, where: str) -> torch.Tensor:
        if isinstance(value, torch.Tensor):
            return value
        what = described(value)
        if isinstance(value, np.ndarray) and value.dtype.kind in "biuf":
            return torch.from_numpy(np.array(value))
        if isinstance(value, list | tuple):
            problem = _problem_of_list(value)
            if problem is None:
                return torch.tensor(value)
            what = f"{what}, {problem}"
        raise self._refused(where, f"{field.name} is {what}; allowed a tensor {field.shape_text}")

    # Shapes.

    def _check_shapes(self, values: dict[str, Any], where: str) -> None:
        sizes: dict[str, tuple[int, str]] = {}
        for field in (self.format[name] for name in values):
            value = values[field.name]
            shape = (len(value),) if field.kind == "list" else tuple(value.shape)
            letters = next((letters for letters in field.shapes if len(letters) == len(shape)), None)
            if letters is None:
                hint = "; one row needs its own dimension B" if len(shape) < min(map(len, field.shapes)) else ""
                raise self._refused(where, f"{field.name} is {_shown(shape)}, allowed {field.shape_text}{hint}")
            for letter, size in zip(letters, shape, strict=True):
                known, other = sizes.setdefault(letter, (size, field.name))
                if known != size:
                    found = values[other]
                    theirs = (len(found),) if isinstance(found, list) else tuple(found.shape)
                    raise self._refused(where, f"{field.name} is {_shown(shape)}, {other} is {_shown(theirs)}")
            if 0 in shape:
                what = "there is no row" if not shape[0] else "there is no token"
                raise self._refused(where, f"{field.name} is {_shown(shape)}: {what}")

    # Values.

    def _check_values(self, values: dict[str, Any], where: str) -> None:
        for field in (self.format[name] for name in values if name in self.format.names):
            check = _VALUE_CHECKS.get(field.kind)
            problem = check(self, values[field.name], values.get(field.mask)) if check else None
            if problem:
                raise DataError(f"{where}: {field.name} {problem}")
        if "labels" in values and "input_ids" in values:
            self._check_labels(values, where)
        self._check_lengths(values, where)

    def _ids_problem(self, ids: torch.Tensor, mask: torch.Tensor | None) -> str | None:
        low, high = (int(end) for end in ids.aminmax())
        most = self.vocabulary if self.vocabulary is not None else high + 1
        if low >= 0 and high < most:
            return None
        wrong = (ids < 0) | (ids >= most)
        # Padding may be of any number.
        return self._beyond(ids, wrong if mask is None else wrong & (mask != 0))

    def _labels_problem(self, labels: torch.Tensor, mask: torch.Tensor | None) -> str | None:
        learned = labels != IGNORED
        most = self.vocabulary if self.vocabulary is not None else torch.iinfo(labels.dtype).max
        wrong = learned & ((labels < 0) | (labels >= most))
        if bool(wrong.any()):
            return self._beyond(labels, wrong)
        if mask is not None and bool((padding := learned & (mask == 0)).any()):
            row, place = padding.nonzero()[0].tolist()
            return (
                f"[{row}, {place}] is {int(labels[row, place])} where attention_mask is 0: padding would be learned; "
                f"set labels to {IGNORED} there (labels.masked_fill(attention_mask == 0, {IGNORED}))"
            )
        return None

    def _beyond(self, ids: torch.Tensor, wrong: torch.Tensor) -> str | None:
        if not bool(wrong.any()):
            return None
        row, place = wrong.nonzero()[0].tolist()
        allowed = "0 and above" if self.vocabulary is None else f"0 to {self.vocabulary - 1:,}, the model's vocabulary"
        return f"[{row}, {place}] is {int(ids[row, place])}; allowed {allowed}"

    def _mask_problem(self, mask: torch.Tensor, _: torch.Tensor | None) -> str | None:
        if mask.dtype == torch.bool:
            return None
        wrong = (mask != 0) & (mask != 1)
        return (
            f"holds {mask[wrong][0].item():g}; allowed 1 at real tokens and 0 elsewhere" if bool(wrong.any()) else None
        )

    def _positions_problem(self, positions: torch.Tensor, _: torch.Tensor | None) -> str | None:
        return "has a number below 0" if bool((positions < 0).any()) else None

    def _logprobs_problem(self, logprobs: torch.Tensor, _: torch.Tensor | None) -> str | None:
        wrong = ~(logprobs <= LARGEST_LOGPROB) | logprobs.isinf()
        found = logprobs[wrong]
        return f"holds {found[0].item():g}; allowed natural logarithms, at most 0 and finite" if len(found) else None

    def _check_labels(self, values: dict[str, Any], where: str) -> None:
        ids, labels = values["input_ids"], values["labels"]
        learned = labels != IGNORED
        learned[:, -1] = False  # what a label of the last place would be shifted from is not there
        if bool(((labels == ids) | ~learned).all()):
            return
        if bool(((labels[:, :-1] == ids[:, 1:]) | ~learned[:, :-1]).all()):
            raise DataError(
                f"{where}: labels are input_ids shifted by one place, and {self.trainer} shifts them itself; "
                "set labels to input_ids.clone(), with -100 where nothing is learned"
            )

    def _check_lengths(self, values: dict[str, Any], where: str) -> None:
        mask, positions = values.get("attention_mask"), values.get("position_ids")
        if mask is not None and positions is not None:
            real = mask != 0
            if not bool(((positions == real.cumsum(1) - 1) | ~real).all()):
                raise DataError(
                    f"{where}: position_ids are not those of attention_mask (0, 1, 2, ... at real tokens); allowed "
                    "position_ids alone, of packed rows, or attention_mask alone"
                )
        if self.positions is None:
            return
        for parts in self.format.texts:
            given = [name for name in parts if name in values]
            if sum(values[name].shape[1] for name in given) > self.positions.most:
                self._check_length(values, given, where)

    def _check_length(self, values: dict[str, Any], names: list[str], where: str) -> None:
        assert self.positions is not None
        total = torch.zeros(len(values[names[0]]), dtype=torch.int64)
        for name in names:
            mask = values.get(self.format[name].mask)
            ids = values[name]
            total += (torch.ones_like(ids) if mask is None else mask != 0).sum(1).cpu()
        if "position_ids" in values:
            total = values["position_ids"].amax(1).cpu() + 1
        row = int(total.argmax())
        self.positions.check(
            f"{where}: row {row}", int(total[row]), "cut the rows, or take a model with more positions"
        )


_VALUE_CHECKS: dict[str, Callable[[BatchCheck, Any, Any], str | None]] = {
    "ids": BatchCheck._ids_problem,
    "labels": BatchCheck._labels_problem,
    "mask": BatchCheck._mask_problem,
    "positions": BatchCheck._positions_problem,
    "logprobs": BatchCheck._logprobs_problem,
}


def described(value: Any) -> str:
    """What a value is, in words: "a list of 2 tensors"."""
    if isinstance(value, torch.Tensor):
        return f"a tensor {_shown(tuple(value.shape))} of {value.dtype}"
    if isinstance(value, np.ndarray):
        return f"an array {_shown(value.shape)} of {value.dtype}"
    if isinstance(value, list | tuple) and value:
        kinds = sorted({"text" if isinstance(item, str) else type(item).__name__.lower() for item in value})
        return f"a {type(value).__name__} of {len(value)} ({', '.join(kinds)})"
    if isinstance(value, str):
        return f"the text {value[:40]!r}"
    return "None" if value is None else f"of type {type(value).__name__}"


def _problem_of_list(value: list[Any] | tuple[Any, ...]) -> str | None:
    """Why a list cannot be made a tensor without guessing; None where it can."""
    if any(isinstance(item, str) for item in value):
        return "which must be tokenised first"
    if any(isinstance(item, torch.Tensor | np.ndarray) for item in value):
        return "which DataLoader's own collate makes of lists, rows and places exchanged; collate to tensors"
    if all(isinstance(item, list | tuple) for item in value):
        lengths = sorted({len(item) for item in value})
        if len(lengths) > 1:
            return f"rows of {', '.join(map(str, lengths[:4]))} tokens: pad them to one length, and give a mask"
        return next((problem for item in value if (problem := _problem_of_list(item)) is not None), None)
    return None if all(isinstance(item, bool | int | float | np.number) for item in value) else "which is no tensor"


def _shown(shape: tuple[int, ...]) -> str:
    """Writes a shape, such as "(4, 9)"."""
    return f"({', '.join(map(str, shape))})"
