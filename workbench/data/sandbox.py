"""Jinja templates of strangers, in a process of their own: jinja's sandbox bounds what they may reach, the system what
they may spend.

The process is this file, started with a limit of memory; a timer ends it where one rendering takes too long, whatever
the template is at: a loop, a filter, a comparison, a parse. It reads a JSON object a line and answers with one. It
stands alone: nothing of the workbench, no environment and no open file of its parent's is in it.
"""

from __future__ import annotations

import datetime
import functools
import json
import os
import resource
import secrets
import signal
import sys
from collections.abc import Callable
from typing import Any, NoReturn

import jinja2
import jinja2.ext
import jinja2.nodes
import jinja2.sandbox

MAX_CHARACTERS = 10_000_000
IDLE_SECONDS = 60
DATE = datetime.datetime(2024, 7, 26)
"""What strftime_now writes, whatever the day: a row's tokens do not depend on when they are made. It is the day that
Llama 3's templates write where there is no clock."""
_MARKS = tuple(f"\ufdd0{secrets.token_hex(8)}{end}\ufdd1" for end in "<>")


class Refusal(jinja2.TemplateError):
    """What a template says by raise_exception."""


class Overspent(Exception):
    """More than a template may write."""


def compile_template(template: str, on_date: Callable[[], None] = lambda: None) -> Callable[..., tuple[str, list[Any]]]:
    """render(**variables) -> text, and the (start, end) of what {% generation %} marks in it. Rendering raises
    Refusal, or whatever the template brings about. on_date: called where it asks for the date."""
    environment = _environment()

    def strftime_now(form: str) -> str:
        on_date()
        return DATE.strftime(form)

    environment.globals |= {"raise_exception": _raise_exception, "strftime_now": strftime_now}
    compiled = environment.from_string(template)

    def render(**variables: Any) -> tuple[str, list[Any]]:
        pieces, length = [], 0
        for piece in compiled.generate(**variables):
            length += len(piece)
            if length > MAX_CHARACTERS:
                raise Overspent(f"it writes more than {MAX_CHARACTERS:,} characters")
            pieces.append(piece)
        return _unmarked("".join(pieces))

    return render


def names_in(template: str) -> frozenset[str]:
    """Every name that a template may look up: of a variable, of an attribute, or a text in it that may be a key."""
    tree = _environment().parse(template)
    found = {node.name for node in tree.find_all(jinja2.nodes.Name)}
    found |= {node.attr for node in tree.find_all(jinja2.nodes.Getattr)}
    return frozenset(found | {node.value for node in tree.find_all(jinja2.nodes.Const) if isinstance(node.value, str)})


def _environment() -> jinja2.sandbox.ImmutableSandboxedEnvironment:
    """The environment that transformers' apply_chat_template renders in."""
    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols", _GenerationBlock]
    )
    environment.filters["tojson"] = _to_json
    return environment


class _GenerationBlock(jinja2.ext.Extension):
    """{% generation %}, by which some templates mark the assistant's part: its content between two marks."""

    tags = {"generation"}  # noqa: RUF012 - jinja's own declaration

    def parse(self, parser: Any) -> Any:
        next(parser.stream)
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        before, after = (jinja2.nodes.Output([jinja2.nodes.TemplateData(mark)]) for mark in _MARKS)
        return [before, *body, after]


def _unmarked(text: str) -> tuple[str, list[Any]]:
    """The text without its marks, and where they stood."""
    first, *parts = text.split(_MARKS[0])
    found = []
    for part in parts:
        inside, _, outside = part.partition(_MARKS[1])
        found.append((len(first), len(first) + len(inside)))
        first += inside + outside
    return first.replace(_MARKS[1], ""), found


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Writes JSON as transformers does; jinja's own filter would escape < and >."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise_exception(message: str) -> NoReturn:
    raise Refusal(message)


def _serve(seconds: float, megabytes: int) -> None:
    """Answer until the parent is gone, or asks nothing for a while."""
    resource.setrlimit(resource.RLIMIT_AS, (megabytes << 20, megabytes << 20))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    answers = os.fdopen(os.dup(1), "w", encoding="ascii")
    # Nothing that is rendered can be taken for an answer.
    os.dup2(2, 1)
    signal.signal(signal.SIGALRM, lambda *_: os._exit(0))
    signal.alarm(IDLE_SECONDS)
    for line in sys.stdin.buffer:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)  # which ends the process whatever it is at
        signal.setitimer(signal.ITIMER_REAL, seconds)
        try:
            text = json.dumps(_answer(json.loads(line)))
        except MemoryError:
            text = json.dumps({"overspent": f"it needs more than {megabytes} MB"})
        answers.write(f"{text}\n")
        answers.flush()
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, lambda *_: os._exit(0))
        signal.alarm(IDLE_SECONDS)


_dates: list[None] = []


@functools.lru_cache(maxsize=8)
def _compiled(template: str) -> Callable[..., tuple[str, list[Any]]]:
    return compile_template(template, lambda: _dates.append(None))


def _answer(asked: dict[str, Any]) -> dict[str, Any]:
    _dates.clear()
    try:
        text, marks = _compiled(asked["template"])(**asked["variables"])
        return {"text": text, "marks": marks, "dated": bool(_dates)}
    except MemoryError:
        raise
    except Overspent as error:
        return {"overspent": _told(error)}
    except Refusal as error:
        return {"refused": _told(error)}
    except RecursionError:
        # Python says at which kind of call the depth was exceeded, which differs from run to run.
        return {"failed": "maximum recursion depth exceeded"}
    except Exception as error:
        return {"failed": _told(error)}


def _told(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]


if __name__ == "__main__":
    _serve(float(sys.argv[1]), int(sys.argv[2]))
