"""The frozen base of all settings, canonical JSON, and the fingerprint made of it."""

from __future__ import annotations

import hashlib
import json
import math
import os
import unicodedata
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from workbench.errors import DefinitionError
from workbench.files import open_file

MAX_COUNT = 10**9
"""The largest count of rows, steps, tokens of a text and the like: a larger one is a slip, and would fill memory or
never end."""
PositiveInt = Annotated[int, Field(gt=0, le=MAX_COUNT)]
NonNegativeInt = Annotated[int, Field(ge=0, le=MAX_COUNT)]
AtOnce = Annotated[int, Field(gt=0, le=10**6)]
"""The largest count of what one step, or one completion, holds in memory."""
MAX_MADE = 10**7
"""The largest count of rows, pairs and prompts that are made here and held in memory meanwhile: some 10 GB."""
Made = Annotated[int, Field(gt=0, le=MAX_MADE)]
Seed = Annotated[int, Field(ge=0, lt=2**31)]
Seconds = Annotated[float, Field(gt=0, le=1e9)]
"""The longest wait, thirty years: the system refuses longer ones."""

MAX_PATH_BYTES, MAX_PART_BYTES = 4095, 255
"""The longest path, and the longest name in it, that Linux allows."""


def check_product(names: str, factors: tuple[int, ...], what: str) -> None:
    """Raises ValueError where settings that are each allowed ask together for more than MAX_COUNT of something."""
    if (product := math.prod(factors)) > MAX_COUNT:
        raise ValueError(f"{names}: found {product:,} {what}, allowed at most {MAX_COUNT:,}")


def check_path(text: str) -> str:
    """Returns the path as it was given. Raises ValueError for one that no file can have."""
    shown = repr(text if len(text) <= 60 else f"{text[:57]}...")
    if any(unicodedata.category(character) in ("Cc", "Cs") for character in text):
        raise ValueError(f"found {shown}, allowed a path of printable characters")
    if os.path.expanduser(text).startswith("~"):
        raise ValueError(f"found {shown}, but {text.split('/')[0]} is no user here, allowed a path")
    if len(os.fsencode(text)) > MAX_PATH_BYTES or any(
        len(os.fsencode(part)) > MAX_PART_BYTES for part in text.split("/")
    ):
        raise ValueError(
            f"found {shown} of {len(text):,} characters, allowed {MAX_PATH_BYTES:,} bytes, {MAX_PART_BYTES} a name"
        )
    return text


GivenPath = Annotated[str, Field(min_length=1), AfterValidator(check_path)]
"""A path that a user wrote, ~ not yet expanded."""


class Free:
    """The mark of a field that no number depends on, as in `Annotated[int, Free]`: it may change within a run, and
    counts in no fingerprint."""


class Added:
    """The mark of a field that came after runs had been made, as in `Annotated[float, Added]`: at its default it counts
    in no fingerprint, so that those runs are still valid."""


class Settings(BaseModel):
    """The base of all settings: frozen, and closed to unknown names. The docstring under a field becomes its
    description in the schema."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)

    def revised(self, **changes: Any) -> Self:
        """These settings with other values, checked as a whole. Raises DefinitionError where they do not go
        together."""
        said = {name: value for name, value in self if name in self.model_fields_set}
        try:
            return type(self).model_validate(said | changes)
        except ValidationError as error:
            told = [": ".join(map(str, (*each["loc"], each["msg"]))) for each in error.errors(include_url=False)]
            raise DefinitionError(told) from None

    def free_fields(self) -> set[str]:
        """The names of the fields that no number depends on, given the values of the others; and of those added later
        that are as if they were not there."""
        fields = type(self).model_fields.items()
        free = {name for name, field in fields if Free in field.metadata}
        return free | {
            name for name, field in fields if Added in field.metadata and getattr(self, name) == field.default
        }

    def decisive(self) -> dict[str, Any]:
        """The fields that numbers depend on, of these settings and of those within them, as JSON values."""
        return self.model_dump(mode="json", exclude=_free_within(self))


def _free_within(value: Any) -> dict[Any, Any]:
    """The places of the free fields in settings or in a sequence of settings, as pydantic's `exclude` wants them."""
    if isinstance(value, list | tuple):
        return {index: within for index, item in enumerate(value) if (within := _free_within(item))}
    if isinstance(value, Settings):
        below = {name: within for name, item in value if (within := _free_within(item))}
        return below | dict.fromkeys(value.free_fields(), True)
    return {}


def canonical_json(value: Any) -> str:
    """Writes a value as one text: sorted keys, no spaces, floats as their shortest exact form. Raises TypeError or
    ValueError for what has no stable text: sets, paths, objects, NaN, non-string keys.

    Refuses (TypeError, ValueError) what has no stable text: sets, paths, objects, NaN, non-string keys.
    """
    return json.dumps(_stable(value, "value"), sort_keys=True, separators=(",", ":"), allow_nan=False)


def _stable(value: Any, where: str) -> Any:
    if isinstance(value, Settings):
        value = value.model_dump()
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError(f"{where} is {value}: only finite numbers can be fingerprinted")
        return value + 0.0  # minus zero is zero
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                raise TypeError(f"{where} has the key {key!r}: only text keys can be fingerprinted")
        return {key: _stable(item, f"{where}.{key}") for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_stable(item, f"{where}[{index}]") for index, item in enumerate(value)]
    raise TypeError(f"{where} is a {type(value).__name__}: it has no stable text to fingerprint")


def fingerprint(value: Any) -> str:
    """Returns the first 16 hex digits of the SHA-256 of value's canonical JSON."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()[:16]


def file_sha256(path: Path) -> str:
    """Returns the SHA-256 of a file's bytes, in hex. Raises WorkbenchError where it is no regular file."""
    with open_file(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def files_fingerprint(folder: Path, names: list[str]) -> str:
    """Returns the fingerprint of the named files' contents; the place of the files does not count."""
    return fingerprint({name: file_sha256(folder / name) for name in names})
