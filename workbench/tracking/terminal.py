"""Text on its way to a terminal: without secrets, without characters that act on the terminal, and whether or not it is
read."""

from __future__ import annotations

import contextlib
import io
import os
import sys
import threading
import unicodedata
from collections.abc import Iterator
from typing import TextIO

from workbench.errors import StorageError
from workbench.redaction import redact

_ACTING = frozenset(("Cc", "Cf", "Cs", "Zl", "Zp"))
"""Categories of characters that move the cursor, colour, erase, reverse the order of others or cannot be written."""
_JOINING = frozenset("\u200c\u200d\u00ad")
"""The characters among those that scripts and emoji are spelt with, and that do nothing else."""
_KEPT = frozenset("\n\t")


def visible(text: str) -> str:
    """Text whose control characters, escape sequences and marks of direction are written out, such as \\x1b."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(_escaped(character) if _acts(character) else character for character in text)


def _acts(character: str) -> bool:
    return character not in _KEPT and unicodedata.category(character) in _ACTING and character not in _JOINING


def _escaped(character: str) -> str:
    return character.encode("unicode_escape", "backslashreplace").decode("ascii")


def say(text: object) -> None:
    """What a command was asked for, on standard output. Raises StorageError where that does not take it."""
    say_marked(visible(redact(str(text))))


def say_marked(text: str) -> None:
    """Says text as `say` does, where its escape sequences are this program's own and its other characters are
    visible."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        raise
    except OSError as error:
        raise StorageError(f"standard output: cannot be written: {error.strerror or error}") from error


def complain(text: object) -> None:
    """A line on standard error; where nobody takes it, the exit code tells."""
    with contextlib.suppress(OSError, ValueError):
        print(visible(redact(str(text))), file=sys.stderr, flush=True)


@contextlib.contextmanager
def told_when_slow(what: str, seconds: float = 1.5) -> Iterator[None]:
    """Says what is being done where it takes longer than that, once, on standard error."""
    timer = threading.Timer(seconds, complain, [f"{what} ..."])
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def open_streams() -> None:
    """Standard streams that can be written to, whatever this process was started with. One that is closed leads
    nowhere, so that no file of a run takes its number; what an encoding lacks is written as its escape."""
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free: this one
    sys.stdin = sys.stdin or open(0, closefd=False)  # noqa: SIM115
    sys.stdout = _stream(sys.stdout, 1)
    sys.stderr = _stream(sys.stderr, 2)


def _stream(stream: TextIO | None, number: int) -> TextIO:
    stream = stream or open(number, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    if isinstance(stream, io.TextIOWrapper):
        stream.reconfigure(errors="backslashreplace")
    return stream


def let_go(stream: TextIO | None) -> None:
    """What a stream still holds and does not take is lost without a word at the end of this process."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        descriptor = os.open(os.devnull, os.O_WRONLY)
        os.dup2(descriptor, stream.fileno())  # type: ignore[union-attr]
        os.close(descriptor)
