"""The other processes of a job: one that died, raised or hangs ends the job in seconds, and is named.

Every process beats once a second in the job's key-value store, from a thread of its own, and reads the others' beats.
Without this a process whose peer is gone waits in a collective until the library's own limit, half an hour.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch

from workbench.errors import RankError

BEAT_SECONDS = 1.0
SILENCE_SECONDS = 10.0
"""Seconds without a beat after which a process counts as killed or stopped, or its machine as gone."""
STALL_SECONDS = 18.0
"""Seconds without progress while another process waits; more where the job has been slower before."""
STALL_FACTOR = 10.0
FIRST_STALL_SECONDS = 600.0
"""While the first steps are still to come: models compile and data is read."""
FIRST_MARKS = 8
GRACE_SECONDS = 4.0
"""Seconds for a process to say by itself what ended it, once another has failed."""


@dataclass
class _Peer:
    """What was last read of another process."""

    beat: int = -1
    seen_at: float = 0.0
    waits: float = 0.0
    failed: str = ""
    done: bool = False


class PeerWatch:
    """Watches over every other process of the job until it leaves. Its own thread ends this process with code 7."""

    def __init__(self, rank: int, world_size: int) -> None:
        """Every process of the job must make one; the environment is torchrun's."""
        self.rank, self.world_size = rank, world_size
        address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        # The thread has a connection of its own, because the main thread may be waiting on the job's.
        patience = timedelta(seconds=SILENCE_SECONDS)
        base = torch.distributed.TCPStore(
            address, port, world_size, is_master=False, timeout=patience, wait_for_workers=False
        )
        self._store = torch.distributed.PrefixStore("workbench/peers", base)
        self._peers = {other: _Peer(seen_at=time.monotonic()) for other in range(world_size) if other != rank}
        self._waiting_since: float | None = None
        self._marks, self._marked_at, self._longest = 0, time.monotonic(), 0.0
        self.on_end: Callable[[str], None] = lambda _: None
        """Is told the verdict, of another process or of this one, by which this process is ended."""
        self._beat, self._failed, self._left = 0, "", threading.Event()
        self._lock = threading.Lock()
        self._publish()
        self._thread = threading.Thread(target=self._run, name="peers", daemon=True)
        self._thread.start()

    # What the main thread tells.

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Around whatever waits for the other processes."""
        outermost = self._waiting_since is None
        if outermost:
            self._waiting_since = time.monotonic()
        try:
            yield
        finally:
            if outermost:
                self._waiting_since = None
                self.progress()

    def progress(self) -> None:
        """The main thread has come further."""
        now = time.monotonic()
        self._longest = max(self._longest, now - self._marked_at)
        self._marks, self._marked_at = self._marks + 1, now

    def fail(self, text: str) -> None:
        """This process ends with this error; the others are told, and given the time to hear it: the store may end
        with this process. The first error is what counts."""
        if self._failed:
            return
        self._failed = text or "unknown error"
        with contextlib.suppress(Exception):
            self._publish()
            time.sleep(2.5 * BEAT_SECONDS)

    def blame(self, error: BaseException) -> RankError | None:
        """Which process is to blame for a collective that failed here; None where every one answers."""
        deadline = time.monotonic() + SILENCE_SECONDS + GRACE_SECONDS
        while time.monotonic() < deadline:
            verdict = self._verdict(time.monotonic(), grace=0.0)
            if verdict:
                return RankError(verdict)
            time.sleep(BEAT_SECONDS / 4)
        return None

    def leave(self) -> None:
        """The job is over for this process: wait a moment for the others to say so too, so that none is missed."""
        if self._left.is_set():
            return
        self._left.set()
        with contextlib.suppress(Exception):
            self._thread.join(2 * BEAT_SECONDS)
            self._publish(done=True)
            keys = [f"done{rank}" for rank in range(self.world_size)]
            self._store.set(f"done{self.rank}", "1")
            self._store.wait(keys, timedelta(seconds=GRACE_SECONDS))

    # What its thread does.

    def _run(self) -> None:
        while not self._left.wait(BEAT_SECONDS):
            try:
                self._publish()
                for rank, peer in self._peers.items():
                    self._read(rank, peer)
            except Exception:
                # The store lives in the main process, or in torchrun, which ends this process itself.
                if not self._left.wait(GRACE_SECONDS) and not self._failed:
                    self._end("rank 0 does not answer: it was killed or stopped, or its machine is gone")
                return
            verdict = self._verdict(time.monotonic(), GRACE_SECONDS)
            if verdict and not self._failed and not self._left.is_set():
                self._end(verdict)

    def _publish(self, *, done: bool = False) -> None:
        with self._lock:
            self._beat += 1
            waits = 0.0 if self._waiting_since is None else time.monotonic() - self._waiting_since
            text = json.dumps({"beat": self._beat, "waits": waits, "failed": self._failed, "done": done})
            self._store.set(f"beat{self.rank}", text)

    def _read(self, rank: int, peer: _Peer) -> None:
        if not self._store.check([f"beat{rank}"]):
            return  # it has not come yet
        said: dict[str, Any] = json.loads(self._store.get(f"beat{rank}"))
        if said["beat"] != peer.beat:
            peer.beat, peer.seen_at = said["beat"], time.monotonic()
            peer.waits, peer.done = said["waits"], said["done"]
            if said["failed"] and not peer.failed:
                peer.failed = said["failed"]

    def _verdict(self, now: float, grace: float) -> str:
        """What is wrong with some process, in words; empty while nothing is."""
        for rank, peer in self._peers.items():
            if peer.failed and now - peer.seen_at >= grace:
                return f"rank {rank} failed: {peer.failed}"
            if peer.beat >= 0 and not peer.done and now - peer.seen_at > SILENCE_SECONDS:
                return f"rank {rank} does not answer: it was killed or stopped, or its machine is gone"
        limit = FIRST_STALL_SECONDS if self._marks < FIRST_MARKS else max(STALL_SECONDS, STALL_FACTOR * self._longest)
        waited_for = any(peer.waits > limit for peer in self._peers.values())
        if self._waiting_since is None and waited_for and now - self._marked_at > limit:
            return (
                f"rank {self.rank} has stalled: no progress for {now - self._marked_at:.0f} s while others wait for it"
            )
        return ""

    def _end(self, verdict: str) -> None:
        self.fail(verdict.removeprefix(f"rank {self.rank} has "))
        line = f"rank {self.rank} ends: {verdict}; start the job again to go on from its last checkpoint"
        print(line, file=sys.stderr, flush=True)
        with contextlib.suppress(Exception):  # the main thread may have said it, and be at its end
            self.on_end(verdict)
        os._exit(RankError.exit_code)
