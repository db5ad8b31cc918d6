"""Data sets: a folder of files, a folder that `datasets` saved, or one on the hub. No code of theirs ever runs.

`datasets` from version 4 on reads data alone: it has no loading scripts, and trust_remote_code is never passed.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from workbench.config import file_sha256
from workbench.data.settings import DatasetData
from workbench.data.sources import SUFFIXES, Record, read_records
from workbench.errors import DataError

COMMIT = re.compile("[0-9a-f]{40}")
HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")
SPLITS = {"train": ("train", "training"), "validation": ("validation", "valid", "val", "dev"), "test": ("test", "eval")}
SAVED, SAVED_SPLITS = "state.json", "dataset_dict.json"
HUB_SECONDS = 20
OFFLINE = (
    "without a network set data.path to a file or data.dataset to a folder, or set HF_HUB_OFFLINE=1 to use what was "
    "downloaded before"
)


def dataset_records(settings: DatasetData) -> Iterator[Record]:
    """Yields the rows of a data set in order. They are named file:line in a folder of files, and name:row N elsewhere.
    Raises DataError where it cannot be read."""
    folder = _local_folder(settings)
    if folder is not None and not _is_saved(folder):
        for path in split_files(folder, settings.split, settings.config):
            yield from read_records(path)
        return
    rows = _load_saved(folder, settings.split) if folder is not None else _load_from_hub(settings)
    number = 0
    iterator = iter(rows)
    while True:
        try:
            fields = next(iterator)
        except StopIteration:
            return
        except Exception as error:  # whatever a reader of images, a download or a damaged file raises
            raise _failed(settings.dataset, error) from error
        number += 1
        yield Record(f"{settings.dataset}:row {number}", dict(fields), typed=True)


def dataset_files(settings: DatasetData) -> list[Path]:
    """The data files of a folder of them, none of any other data set."""
    folder = _local_folder(settings)
    if folder is None or _is_saved(folder):
        return []
    return split_files(folder, settings.split, settings.config)


def saved_files(settings: DatasetData) -> list[Path]:
    """The files of the split of a folder that `datasets` saved, none of any other data set."""
    folder = _local_folder(settings)
    if folder is None or not _is_saved(folder):
        return []
    return sorted(path for path in _saved_split(folder, settings.split).glob("*") if path.is_file())


def dataset_identity(settings: DatasetData) -> dict[str, Any]:
    """What decides its rows: a folder's contents, or the commit on the hub, with the split and the configuration."""
    folder = _local_folder(settings)
    if folder is None:
        revision = hub_revision(settings.dataset, settings.config, settings.revision)
        return {"dataset": settings.dataset, "config": settings.config, "split": settings.split, "revision": revision}
    if _is_saved(folder):
        inside = _saved_split(folder, settings.split)
        return {"files": [file_sha256(path) for path in sorted(inside.glob("*.arrow"))], "split": settings.split}
    return {"files": [file_sha256(path) for path in split_files(folder, settings.split, settings.config)]}


def _local_folder(settings: DatasetData) -> Path | None:
    """The folder, None for a name on the hub. Raises DataError where the settings ask of a folder what it has not."""
    folder = find_folder(settings.dataset)
    if folder is not None and settings.revision is not None:
        raise DataError(f"data.revision: found {settings.revision}, but {folder} is a folder; leave it out")
    if folder is not None and settings.config is not None and _is_saved(folder):
        raise DataError(f"data.config: found {settings.config}, but {folder} was saved of one; leave it out")
    return folder


def find_folder(name: str) -> Path | None:
    """The local folder of that name, None for a name on the hub. Raises DataError where it is neither."""
    folder = Path(name).expanduser()
    if folder.is_dir():
        return folder
    if folder.is_file():
        raise DataError(f"data.dataset: found the file {name}, allowed a folder or a hub name; a file is data.path")
    if not HUB_NAME.fullmatch(name) or name.startswith("."):
        raise DataError(f"data.dataset: {name}: no such folder, and no name of the hub such as owner/name")
    return None


def split_files(folder: Path, split: str, config: str | None = None) -> list[Path]:
    """The data files of a folder that belong to a split, and to a configuration, by name. Raises DataError where none
    do.

    A file belongs to it when its name or a folder on the way bears the split as a word (data/test-00000.parquet);
    where no file bears any split, all are the split train. To a configuration belong those that bear all its words.
    """
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
    words = {path: _words(str(path.relative_to(folder))) for path in files}
    if config is not None:
        files = [path for path in files if _words(config) <= words[path]]
        if not files:
            raise DataError(f"{folder}: found no data file for data.config={config}, allowed a word of its names")
    wanted = set(SPLITS.get(split, (split.lower(),)))
    found = [path for path in files if words[path] & wanted]
    if found:
        return found
    known = {word for names in SPLITS.values() for word in names}
    if files and split == "train" and not any(words[path] & known for path in files):
        return files
    names = ", ".join(str(path.relative_to(folder)) for path in files[:6]) + (", ..." if len(files) > 6 else "")
    raise DataError(
        f"{folder}: found {names or 'no data file'} for data.split={split}, allowed files of {', '.join(SUFFIXES)} "
        "whose name or folder bears the split"
    )


def _words(name: str) -> set[str]:
    return set(re.split(r"[^a-z0-9]+", name.lower()))


@functools.lru_cache
def hub_revision(dataset: str, config: str | None, revision: str | None) -> str:
    """The commit that the name means, asked once: what is read is what bears its fingerprint. A whole commit is taken
    as it is."""
    if revision is not None and COMMIT.fullmatch(revision):
        return revision
    import datasets
    from huggingface_hub import HfApi
    from huggingface_hub.errors import OfflineModeIsEnabled

    try:
        found = HfApi().dataset_info(dataset, revision=revision, timeout=HUB_SECONDS).sha
    except OfflineModeIsEnabled:
        try:  # the copy in the cache bears its commit
            found = datasets.load_dataset_builder(dataset, config, revision=revision).hash
        except Exception as error:
            raise _failed(dataset, error) from error
    except Exception as error:  # connection, name, permission: huggingface_hub has a class for each
        raise _failed(dataset, error) from error
    if not found:
        raise DataError(f"data.dataset: the hub names no commit of {dataset}; set data.revision")
    return found


def _load_from_hub(settings: DatasetData) -> Any:
    revision = hub_revision(settings.dataset, settings.config, settings.revision)
    import datasets

    offline = datasets.config.HF_HUB_OFFLINE
    try:
        return datasets.load_dataset(
            settings.dataset,
            settings.config,
            split=settings.split,
            revision=settings.revision if offline else revision,
            streaming=settings.streaming,
        )
    except Exception as error:
        raise _failed(settings.dataset, error) from error


def _is_saved(folder: Path) -> bool:
    return (folder / SAVED).is_file() or (folder / SAVED_SPLITS).is_file()


def _saved_split(folder: Path, split: str) -> Path:
    """The folder that save_to_disk put the split in: the split's own within a dictionary of splits, else the folder
    itself."""
    if not (folder / SAVED_SPLITS).is_file():
        return folder
    if (folder / split / SAVED).is_file():
        return folder / split
    names = ", ".join(sorted(path.parent.name for path in folder.glob(f"*/{SAVED}")))
    raise DataError(f"{folder}: found no split {split}, allowed data.split of {names or '(none is there)'}")


def _load_saved(folder: Path, split: str) -> Any:
    inside = _saved_split(folder, split)
    import datasets

    try:
        return datasets.load_from_disk(str(inside))
    except Exception as error:
        raise _failed(str(inside), error) from error


def _failed(name: str, error: Exception) -> DataError:
    line = (str(error).strip().splitlines() or [type(error).__name__])[0]
    remedy = "" if Path(name).expanduser().exists() else f"; {OFFLINE}"
    return DataError(f"data.dataset: {name} cannot be read ({line[:200].rstrip('. ')}){remedy}")
