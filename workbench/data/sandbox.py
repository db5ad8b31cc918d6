"""Jinja templates of strangers: what they may reach is bounded by jinja's sandbox, what they may spend by a budget.

Loops and calls are steps; text and numbers that a template makes have a largest size, and rendering has a longest time,
which is looked at in each step.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NoReturn

import jinja2
import jinja2.ext
import jinja2.nodes
import jinja2.sandbox

MAX_STEPS = 300_000
MAX_CHARACTERS = 10_000_000
MAX_BITS = 1 << 12
MAX_SECONDS = 10.0


def compile_template(template: str) -> Callable[..., str]:
    """render(**variables) -> text. Rendering raises jinja2.TemplateError, or whatever the template brings about."""
    environment = _environment()
    compiled = environment.from_string(template)

    def render(**variables: Any) -> str:
        environment.start()
        pieces, length = [], 0
        for piece in compiled.generate(**variables):
            length += len(piece)
            environment.step(length)
            pieces.append(piece)
        return "".join(pieces)

    return render


def names_in(template: str) -> frozenset[str]:
    """Every name that a template may look up: of a variable, of an attribute, or a text in it that may be a key."""
    tree = _environment().parse(template)
    found = {node.name for node in tree.find_all(jinja2.nodes.Name)}
    found |= {node.attr for node in tree.find_all(jinja2.nodes.Getattr)}
    return frozenset(found | {node.value for node in tree.find_all(jinja2.nodes.Const) if isinstance(node.value, str)})


def _environment() -> _Environment:
    return _Environment(trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols", _GenerationBlock])


class _Environment(jinja2.sandbox.ImmutableSandboxedEnvironment):
    intercepted_binops = frozenset({"*", "**", "%", "+"})

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.filters |= {name: _narrow(self.filters[name]) for name in ("center", "indent")}
        self.filters |= {"tojson": _to_json, "_steps": self._steps, "_bounded": self._bounded}
        self.globals["raise_exception"] = _raise_exception
        # Text of any width out of a few characters, at one step.
        del self.filters["format"], self.globals["lipsum"]
        self.start()

    def start(self) -> None:
        """A new budget, for one rendering."""
        self._left, self._until = MAX_STEPS, time.monotonic() + MAX_SECONDS

    def step(self, characters: int = 0) -> None:
        """One step, in which that much text was made."""
        self._left -= 1
        if self._left < 0 or time.monotonic() > self._until:
            raise jinja2.TemplateRuntimeError("it runs without end")
        if characters > MAX_CHARACTERS:
            raise jinja2.TemplateRuntimeError(f"it writes more than {MAX_CHARACTERS:,} characters")

    def wrap_str_format(self, value: Any) -> None:
        """None: format is refused as an attribute, below."""

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        return not (isinstance(obj, str) and attr.startswith("format")) and super().is_safe_attribute(obj, attr, value)

    def call(self, /, *arguments: Any, **named: Any) -> Any:
        """Every call in a template comes here."""
        self.step()
        _check_widths(*arguments, *named.values())
        return self._bounded(super().call(*arguments, **named))

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        self.step()
        if operator == "*":
            for one, other in ((left, right), (right, left)):
                if isinstance(one, str | bytes | list | tuple) and isinstance(other, int):
                    self.step(len(one) * other)
        elif operator == "%" and isinstance(left, str):
            raise jinja2.sandbox.SecurityError("it formats text with %, allowed ~")
        elif operator == "**" and _bits(left, right) > MAX_BITS:
            raise jinja2.TemplateRuntimeError("a number in it is too large")
        return self._bounded(super().call_binop(context, operator, left, right))

    def _parse(self, source: str, name: str | None, filename: str | None) -> jinja2.nodes.Template:
        """The template with its loops, sums of text and assignments seen by the budget."""
        tree = super()._parse(source, name, filename)
        for loop in tree.find_all(jinja2.nodes.For):
            loop.iter = self._filtered("_steps", loop.iter)
        for assignment in tree.find_all(jinja2.nodes.Assign):
            assignment.node = self._filtered("_bounded", assignment.node)
        return tree

    def _filtered(self, name: str, node: jinja2.nodes.Node) -> jinja2.nodes.Expr:
        return jinja2.nodes.Filter(node, name, [], [], None, None, lineno=node.lineno, environment=self)

    def _steps(self, values: Iterable[Any]) -> Iterable[Any]:
        # As a list, for a loop's length and last are asked for; what has no length is refused by jinja as before.
        def counted() -> Iterator[Any]:
            for value in values:
                self.step()
                yield value

        return values if isinstance(values, jinja2.Undefined) else list(counted())

    def _bounded(self, value: Any) -> Any:
        if isinstance(value, str):
            self.step(len(value))
        elif isinstance(value, int) and value.bit_length() > MAX_BITS:
            raise jinja2.TemplateRuntimeError("a number in it is too large")
        return value


class _GenerationBlock(jinja2.ext.Extension):
    """{% generation %}, by which some templates mark the assistant's part: its content as it is."""

    tags = {"generation"}  # noqa: RUF012 - jinja's own declaration

    def parse(self, parser: Any) -> Any:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _check_widths(*arguments: Any) -> None:
    """ljust and its like make text as long as their argument."""
    if any(isinstance(argument, int) and argument > MAX_CHARACTERS for argument in arguments):
        raise jinja2.TemplateRuntimeError(f"it writes more than {MAX_CHARACTERS:,} characters")


def _bits(base: Any, exponent: Any) -> int:
    return base.bit_length() * exponent if isinstance(base, int) and isinstance(exponent, int) else 0


def _narrow(make: Callable[..., str]) -> Callable[..., str]:
    def bounded(*arguments: Any, **named: Any) -> str:
        _check_widths(*arguments, *named.values())
        return make(*arguments, **named)

    return bounded


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """As transformers has it: jinja's own would escape < and >."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise_exception(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)
