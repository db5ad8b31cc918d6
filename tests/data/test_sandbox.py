"""Chat templates of strangers: nothing of them is run outside their sandbox, and none costs more than it may."""

from __future__ import annotations

import os
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workbench.data import template_process
from workbench.data.chat import render_chat
from workbench.errors import ModelError

TURNS = [("system", "be brief"), ("user", "hi"), ("assistant", "yo"), ("user", "2?"), ("assistant", "ok.\n")]


@pytest.fixture
def hurried(monkeypatch):
    """A limit of time that tests can wait for."""
    template_process.close()
    monkeypatch.setattr(template_process, "MAX_SECONDS", 0.5)
    yield
    template_process.close()


HOSTILE = [
    ("{{ ''.__class__.__mro__ }}", "access to attribute '__class__' of 'str' object is unsafe."),
    ("{{ cycler.__init__.__globals__ }}", "access to attribute '__init__' of 'type' object is unsafe."),
    ("{{ raise_exception.__globals__['os'] }}", "access to attribute '__globals__' of 'function' object is unsafe."),
    ("{{ self.__init__.__globals__ }}", "access to attribute '__init__' of 'TemplateReference' object is unsafe."),
    ("{{ messages.append(1) }}", "access to attribute 'append' of 'list' object is unsafe."),
    ("{{ messages[0].update(role='x') }}", "access to attribute 'update' of 'dict' object is unsafe."),
    ("{{ '{0.__class__.__mro__}'.format(messages) }}", "access to attribute '__class__' of 'list' object is unsafe."),
    ("{% import 'os' as os %}", "no loader for this environment specified"),
    ("{% include '/etc/passwd' %}", "no loader for this environment specified"),
    ("{% extends '/etc/passwd' %}", "no loader for this environment specified"),
    ("{{ __import__('os').system('true') }}", "'__import__' is undefined"),
    ("{{ open('/etc/passwd').read() }}", "'open' is undefined"),
    ("{{ raise_exception('') }}", "Refusal"),
    ("{{ raise_exception('x' * 999) }}", "x" * 200),
    ("{{ 1 / 0 }}", "division by zero"),
    ("{{ messages[9].content }}", "list object has no element 9"),
    ("{{ messages + 1 }}", 'can only concatenate list (not "int") to list'),
    ("{% if %}", "Expected an expression, got 'end of statement block'"),
    ("{% for m in messages %}", "Unexpected end of template. Jinja was looking for the following tags: 'endfor' or "
     "'else'. The innermost block that needs to be closed is 'for'."),
    ("{% for a in [1] %}" * 30 + "{% endfor %}" * 30, "too many statically nested blocks"),
    ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "maximum recursion depth exceeded"),
    ("{% for a in range(10 ** 6) %}{% endfor %}",
     "Range too big. The sandbox blocks ranges larger than MAX_RANGE (100000)."),
]  # fmt: skip
MEMORY = "it needs more than 512 MB"
COSTLY = [
    ("{% set n = namespace(s='a') %}{% for i in range(60) %}{% set n.s = n.s ~ n.s %}{% endfor %}", MEMORY),
    ("{% for i in range(99999) %}{{ 'a' * 1000 }}{% endfor %}", "it writes more than 10,000,000 characters"),
    ("{{ 'a' * 10 ** 12 }}", MEMORY),
    ("{{ 10 ** 12 * [0] }}", MEMORY),
    ("{{ 'a'.ljust(10 ** 12) }}", MEMORY),
    ("{{ 'a' | center(10 ** 12) }}", MEMORY),
    ("{{ 'a\nb' | indent(width=10 ** 12) }}", MEMORY),
    ("{{ '%999999999d' % 1 }}", MEMORY),
    ("{{ '%999999999d' | format(1) }}", MEMORY),
    ("{{ '{:999999999}'.format(1) }}", MEMORY),
    ("{{ [1] | tojson(indent=10 ** 9) }}", MEMORY),
    ("{{ ('a' * 10 ** 5).replace('a', 'b' * 10 ** 5) }}", MEMORY),
    ("{{ ('a' * 10 ** 5) | replace('a', 'b' * 10 ** 5) }}", MEMORY),
    ("{{ range(99999) | join('b' * 10 ** 5) }}", MEMORY),
    ("{{ ('b' * 10 ** 5).join('a' * 10 ** 5) }}", MEMORY),
    ("{{ '\t'.expandtabs(10 ** 9) }}", MEMORY),
    ("{{ (10 ** 9).to_bytes(10 ** 9, 'big') }}", MEMORY),
    ("{{ [1] | batch(10 ** 9, 0) | list }}", MEMORY),
    ("{{ [1] | slice(10 ** 9) | list }}", None),
    ("{{ ('a' * 10 ** 6) | wordwrap(1, wrapstring='b' * 10 ** 6) }}", None),
    ("{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}", None),
    ("{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}", None),
    ("{{ 9 ** (9 ** 9) }}", None),
    ("{% set n = namespace(x=2) %}{% for i in range(99) %}{% set n.x = n.x * n.x %}{% endfor %}", None),
    ("{% set n = namespace(s=[1]) %}{% for i in range(60) %}{% set n.s = [n.s, n.s] %}{% endfor %}{{ n.s == 1 }}"
     "{{ n.s | string | length }}", None),
    ("{% set n = namespace(a=[1], b=[1]) %}{% for i in range(60) %}{% set n.a = [n.a, n.a] %}"
     "{% set n.b = [n.b, n.b] %}{% endfor %}{{ n.a == n.b }}", None),
    ("{{ " + "(" * 9999 + "1" + ")" * 9999 + " }}", None),
]  # fmt: skip


@pytest.mark.parametrize(("template", "reason"), HOSTILE, ids=[template[:40] for template, _ in HOSTILE])
def test_a_hostile_template_is_refused_in_one_line(make_tokenizer, template, reason):
    with pytest.raises(ModelError) as error:
        render_chat(make_tokenizer(template), TURNS)
    [line] = str(error.value).splitlines()
    told = line.partition("its chat template fails: ")[2].rpartition("; mend the template, or use prompt")[0]
    assert told.partition(" (<template>, line")[0] == reason


@pytest.mark.parametrize(("template", "reason"), COSTLY, ids=[template[:40] for template, _ in COSTLY])
def test_a_template_that_costs_too_much_is_refused_in_one_line(make_tokenizer, hurried, template, reason):
    """Whichever filter, method, operator or loop costs it; None: it depends on the machine, which limit it meets."""
    begun = time.monotonic()
    with pytest.raises(ModelError) as error:
        render_chat(make_tokenizer(template), TURNS)
    [line] = str(error.value).splitlines()
    assert "its chat template fails: " in line
    assert reason is None or reason in line or "it runs for more than 0.5 seconds" in line
    assert time.monotonic() - begun < 10
    assert render_chat(make_tokenizer("{{ messages[0].role }}"), TURNS) == "system"


def test_what_templates_of_transformers_may_write_is_written(make_tokenizer):
    """The limits are of cost alone: no filter or operator is taken from the language."""
    template = (
        "{{ '%s %d' | format('a', 2) }}{{ '%03d' % 7 }}{{ '{}'.format(1) if false }}{{ 'b' | center(3) }}{{ 2 ** 70 }}"
    )
    assert render_chat(make_tokenizer(template), TURNS) == f"a 2007 b {2**70}"


def test_a_template_has_its_whole_budget_for_each_rendering(make_tokenizer):
    tokenizer = make_tokenizer("{% for a in range(70000) %}{% endfor %}done")
    for _ in range(20):
        assert render_chat(tokenizer, TURNS) == "done"


def test_a_process_that_is_gone_is_started_again_and_none_is_left(make_tokenizer):
    tokenizer = make_tokenizer("{{ messages[0].role }}")
    assert render_chat(tokenizer, TURNS) == "system"
    process = template_process._processes[os.getpid()]
    process.stdin.close()  # at which it ends by itself, as it does when nothing was asked of it for long
    process.wait()
    process.stdin = open(os.devnull, "wb")  # noqa: SIM115 - closed by the code under test
    assert render_chat(tokenizer, TURNS) == "system"
    process = template_process._processes[os.getpid()]
    assert template_process.close() == 0
    assert process.returncode == 0


TEXTS = st.sampled_from(["'a'", "'%9999999d'", "messages", "range(9999)", "[1, [2]]", "10 ** 8", "99", "{'k': 'v'}"])
FILTERS = (
    "batch", "center", "escape", "filesizeformat", "first", "float", "forceescape", "format", "groupby", "indent",
    "int", "items", "join", "last", "length", "list", "lower", "map", "max", "min", "pprint", "reject", "replace",
    "reverse", "round", "select", "slice", "sort", "string", "striptags", "sum", "title", "tojson", "trim", "truncate",
    "unique", "urlencode", "urlize", "wordcount", "wordwrap", "xmlattr",
)  # fmt: skip
METHODS = (
    "ljust",
    "rjust",
    "zfill",
    "center",
    "expandtabs",
    "replace",
    "join",
    "translate",
    "encode",
    "split",
    "count",
)


@st.composite
def costly_templates(draw):
    text = draw(TEXTS)
    for _ in range(draw(st.integers(1, 4))):
        arguments = ", ".join(draw(st.lists(TEXTS, max_size=2)))
        kind = draw(st.sampled_from(["filter", "method", "operator"]))
        if kind == "filter":
            text = f"({text}) | {draw(st.sampled_from(FILTERS))}({arguments})"
        elif kind == "method":
            text = f"({text}).{draw(st.sampled_from(METHODS))}({arguments})"
        else:
            text = f"({text}) {draw(st.sampled_from(['*', '**', '%', '~', '+', '==']))} ({draw(TEXTS)})"
    return "{{ " + text + " }}"


@settings(max_examples=60, deadline=None, derandomize=True, database=None)
@given(costly_templates())
def test_random_filters_methods_and_operators_give_text_or_one_line(make_tokenizer, template):
    begun = time.monotonic()
    try:
        told = render_chat(make_tokenizer(template), TURNS) and ""
    except ModelError as error:
        told = str(error)
    assert len(told.splitlines()) <= 1
    assert time.monotonic() - begun < 10


@settings(max_examples=60, deadline=None, derandomize=True, database=None)
@given(st.text(st.sampled_from("{}%# mesagirolcnt.|()[]'0+*~-\n"), max_size=40))
def test_random_templates_give_text_or_a_refusal(make_tokenizer, template):
    try:
        text = render_chat(make_tokenizer(template), TURNS)
    except ModelError as error:
        text = str(error)
    assert isinstance(text, str)
