"""W&B's own file of a run, <run folder>/run-<id>.wandb: whether it holds the run to its end.

W&B's service writes it in the background, and `finish` returns before the last block is on the disk. The format is
LevelDB's log (blocks of 32 KiB; chunks with a header of checksum, length and kind) behind a header of 7 bytes.
"""

from __future__ import annotations

import struct
import time
from pathlib import Path

BLOCK = 32768
FILE_HEADER = 7
CHUNK_HEADER = struct.Struct("<IHB")
FULL, FIRST, MIDDLE, LAST = 1, 2, 3, 4
POLL_SECONDS = 0.02


def wait_for_end(folder: Path, timeout_seconds: float) -> bool:
    """Wait until the folder's file ends with the record of the run's exit; whether it came to that in time."""
    deadline, seen = time.monotonic() + timeout_seconds, -1
    while True:
        for path in folder.glob("*.wandb"):
            size = path.stat().st_size
            if size != seen and holds_exit(path.read_bytes()):
                return True
            seen = size
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_SECONDS)


def holds_exit(data: bytes) -> bool:
    """Whether the last whole record is the run's exit."""
    from wandb.proto.wandb_internal_pb2 import Record  # type: ignore[attr-defined]

    record = last_record(data)
    if not record:
        return False
    return bool(Record.FromString(record).WhichOneof("record_type") == "exit")


def last_record(data: bytes) -> bytes:
    """The last record that is whole; empty where there is none."""
    place, last = FILE_HEADER, b""
    parts: list[bytes] = []
    while place + CHUNK_HEADER.size <= len(data):
        left = BLOCK - place % BLOCK
        if left < CHUNK_HEADER.size:  # too short for a header: padding
            place += left
            continue
        _, length, kind = CHUNK_HEADER.unpack_from(data, place)
        begin, end = place + CHUNK_HEADER.size, place + CHUNK_HEADER.size + length
        if end > len(data) or not FULL <= kind <= LAST:
            break
        parts = [data[begin:end]] if kind in (FULL, FIRST) else [*parts, data[begin:end]]
        if kind in (FULL, LAST):
            last = b"".join(parts)
        place = end
    return last
