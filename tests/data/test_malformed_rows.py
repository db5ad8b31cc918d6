"""Each row that cannot be used is named by its line, with what was found and what is allowed."""

from __future__ import annotations

import json

import pytest

from tests.data.rows import read_examples
from workbench.errors import DataError

REMEDY = "\nmend the rows, or set data.bad_rows=skip to leave them out, counted"
GOOD: dict[str, dict] = {
    "preference": {"prompt": "p", "chosen": "c", "rejected": "r"},
    "messages": {"messages": [{"role": "user", "content": "u"}, {"role": "assistant", "content": "a"}]},
    "prompt-completion": {"prompt": "p", "completion": "c"},
    "question-answer": {"question": "q", "answer": "a"},
    "text": {"text": "t"},
}
TEXT_FIELDS = [(kind, name) for kind, row in GOOD.items() if kind != "messages" for name in row]
MAY_BE_EMPTY = {("preference", "prompt"), ("preference", "rejected"), ("prompt-completion", "prompt")}
NO_TEXT = {
    "null": "null",
    "0": "int",
    "1.5": "float",
    "true": "bool",
    "[]": "list",
    '["t"]': "list",
    "{}": "dict",
    '{"text": "t"}': "dict",
}
EMPTY = ('""', '" "', '"\\n\\t "', '"\\u00a0"')
ROLES = "system, user, assistant, tool"


def _cases() -> list[tuple[str, bytes, str]]:
    """(kind of the row before, row, what is wrong with it)."""
    cases: list[tuple[str, str, str]] = []
    for kind, name in TEXT_FIELDS:
        rest = "".join(f', "{other}": "{other}"' for other in GOOD[kind] if other != name)
        cases += [
            (kind, f'{{"{name}": {value}{rest}}}', f"{name} is {found}, allowed text")
            for value, found in NO_TEXT.items()
            if not (name == "answer" and found in ("int", "float"))
        ]
        if (kind, name) not in MAY_BE_EMPTY:
            cases += [(kind, f'{{"{name}": {value}{rest}}}', f"{name} is empty, allowed text") for value in EMPTY]
        half = f"{name} holds half of a surrogate pair, allowed whole characters"
        cases += [(kind, f'{{"{name}": "{value}"{rest}}}', half) for value in ("\\ud83d", "a\\udc00b")]
        missing = f"has no {name}, though earlier rows are of the format {kind}"
        cases.append((kind, f'{{"other": 1{rest}}}', missing))
        twice = f"is not JSON (the key '{name}' stands twice)"
        cases.append((kind, f'{{"{name}": "a", "{name}": "b"{rest}}}', twice))
    return [(kind, row.encode(), reason) for kind, row, reason in cases + ROWS + MESSAGES] + BYTES


ROWS = [
    ("text", "null", "is NoneType, allowed a row of named fields"),
    ("text", "5", "is int, allowed a row of named fields"),
    ("text", "1.5", "is float, allowed a row of named fields"),
    ("text", "true", "is bool, allowed a row of named fields"),
    ("text", '"text"', "is str, allowed a row of named fields"),
    ("text", "[]", "is list, allowed a row of named fields"),
    ("text", '[{"text": "t"}]', "is list, allowed a row of named fields"),
    ("text", "{}", "has no text, though earlier rows are of the format text"),
    ("text", '{"Text": "t"}', "has no text, though earlier rows are of the format text"),
    ("text", '{"text ": "t"}', "has no text, though earlier rows are of the format text"),
    ("text", '{"prompt": "p", "completion": "c"}', "has no text, though earlier rows are of the format text"),
    ("messages", '{"text": "t"}', "has no messages, though earlier rows are of the format messages"),
    ("preference", '{"prompt": "p", "chosen": "same", "rejected": "same"}',
     "chosen and rejected are the same text, so there is nothing to prefer"),
    *(("preference", f'{{"prompt": "p", "chosen": "c", "rejected": "r", "{name}": {value}}}',
       f"{name} is {found}, allowed true or false")
      for name in ("chosen_ended", "rejected_ended")
      for value, found in {"null": "null", "1": "int", '"true"': "str", "[]": "list"}.items()),
    *(("preference", f'{{"prompt": "p", "chosen": "c", "rejected": "r", "{name}": {value}}}',
       f"is not JSON ({value} is no finite number)")
      for name in ("score", "chosen_score")
      for value in ("NaN", "Infinity", "-Infinity", "1e999", "-1e999")),
    ("preference", '{"prompt": "p", "chosen": "c", "rejected": "r", "score_chosen": "nan"}',
     "score_chosen is 'nan', allowed a finite number"),
    ("preference", '{"prompt": "p", "chosen": "c", "rejected": "r", "score_chosen": " -Inf "}',
     "score_chosen is ' -Inf ', allowed a finite number"),
    ("text", '{"text": "t", "score": 1e-400}', "is not JSON (1e-400 is so small that it would be read as 0)"),
    ("text", '{"text": "t", "score": NaN}', "is not JSON (NaN is no finite number)"),
    ("text", f'{{"text": {"1" * 5000}}}', "is not JSON (a number of 5,000 digits)"),
    ("text", '{"text": "t", "a": {"b": 1, "b": 2}}', "is not JSON (the key 'b' stands twice)"),
    ("text", '{"text": "t", "a\\u0007": 1, "a\\u0007": 2}', "is not JSON (the key 'a\\x07' stands twice)"),
    ("text", "[" * 100_000, "is not JSON (nested too deep)"),
    ("text", '{"text": ' * 100_000, "is not JSON (nested too deep)"),
    ("text", "[" * 100_000 + "]" * 100_000, "is not JSON (nested too deep)"),
    ("text", '{"text": "t"} {"text": "t"}', "is not JSON (Extra data at column 15)"),
    ("text", '{"text": "t"}]', "is not JSON (Extra data at column 14)"),
    ("text", "{'text': 't'}", "is not JSON (Expecting property name enclosed in double quotes at column 2)"),
    ("text", '{text: "t"}', "is not JSON (Expecting property name enclosed in double quotes at column 2)"),
    ("text", '{"text" "t"}', "is not JSON (Expecting ':' delimiter at column 9)"),
    ("text", '{"text": "t" "a": 1}', "is not JSON (Expecting ',' delimiter at column 14)"),
    ("text", '{"text": t}', "is not JSON (Expecting value at column 10)"),
    ("text", '{"text": None}', "is not JSON (Expecting value at column 10)"),
    ("text", '{"text": 01}', "is not JSON (Expecting ',' delimiter at column 11)"),
    ("text", '{"text": +1}', "is not JSON (Expecting value at column 10)"),
    ("text", '{"text": "\\x"}', "is not JSON (Invalid \\escape at column 11)"),
    ("text", '{"text": "\\u12"}', "is not JSON (Invalid \\uXXXX escape at column 12)"),
    ("text", '{"text": "a\tb"}', "is not JSON (Invalid control character at column 12)"),
    ("text", '{"text": "a\0b"}', "is not JSON (Invalid control character at column 12)"),
    ("text", '// {"text": "t"}', "is not JSON (Expecting value at column 1)"),
    ("text", "text", "is not JSON (Expecting value at column 1)"),
    ("text", "\ufeff" + '{"text": "t"}', "is not JSON (Unexpected UTF-8 BOM (decode using utf-8-sig) at column 1)"),
]  # fmt: skip


def _turns(*turns: str) -> str:
    return f'{{"messages": [{", ".join(turns)}]}}'


USER, ANSWER = '{"role": "user", "content": "u"}', '{"role": "assistant", "content": "a"}'
MESSAGES = [
    *(("messages", f'{{"messages": {value}}}', f"messages is {found}, allowed a list of turns")
      for value, found in (("null", "null"), ("0", "int"), ('"u"', "str"), ("{}", "dict"), ("[]", "empty"))),
    *(("messages", _turns(USER, turn, ANSWER), "messages[1] has no role and content")
      for turn in ("null", "0", '"a"', "[]", "{}", '{"role": "user"}', '{"content": "u"}', '{"from": "a"}')),
    *(("messages", _turns(f'{{"role": {role}, "content": "u"}}', ANSWER),
       f"messages[0].role is {found}, allowed {ROLES}")
      for role, found in {'"human"': "'human'", '"User"': "'User'", '"assistant "': "'assistant '", '""': "''",
                          "null": "None", "1": "1", "[]": "[]", '["user"]': "['user']", "{}": "{}",
                          '"\\u001b[31m"': "'\\x1b[31m'",
                          f'"{"x" * 99}"': f"'{'x' * 60}'"}.items()),
    *(("messages", _turns(USER, f'{{"role": "assistant", "content": {content}}}'),
       f"messages[1].content is {found}, allowed text") for content, found in NO_TEXT.items()),
    *(("messages", _turns(*turns), "messages has no assistant turn to learn from")
      for turns in ([USER], [USER, USER], [USER, '{"role": "assistant", "content": ""}'],
                    [USER, '{"role": "assistant", "content": " \\n"}'], ['{"role": "system", "content": "s"}'])),
    ("messages", _turns(USER, '{"role": "assistant", "content": "\\ud800"}'),
     "messages[1].content holds half of a surrogate pair, allowed whole characters"),
    ("messages", _turns('{"role": "user", "role": "user", "content": "u"}', ANSWER),
     "is not JSON (the key 'role' stands twice)"),
]  # fmt: skip
BYTES = [
    ("text", b'{"text": "\xff"}', "is not UTF-8"),
    ("text", b'{"text": "caf\xe9"}', "is not UTF-8"),  # Latin-1
    ("text", b'{"text": "\xed\xa0\x80"}', "is not UTF-8"),  # a surrogate
    ("text", b'{"text": "\xc0\xaf"}', "is not UTF-8"),  # an overlong form
    ("text", b'{"text": "\xf0\x9f\x98', "is not UTF-8"),  # cut within a character
    ("text", '{"text": "t"}'.encode("utf-16"), "is not UTF-8"),
    ("text", '"t"'.encode("utf-16-le"), "is not JSON (Invalid control character at column 2)"),
    ("text", b"\x1f\x8b\x08\x00", "is not UTF-8"),  # gzip
    ("text", b"\x00", "is not JSON (Expecting value at column 1)"),
    ("text", b"PAR1", "is not JSON (Expecting value at column 1)"),
]  # fmt: skip
CASES = _cases()


@pytest.mark.parametrize(("kind", "row", "reason"), CASES, ids=[f"{k}-{r[:40]!r}" for k, r, _ in CASES])
def test_a_bad_row_is_named_by_line_and_reason(tmp_path, kind, row, reason):
    path = tmp_path / "rows.jsonl"
    good = json.dumps(GOOD[kind]).encode()
    path.write_bytes(good + b"\n" + row + b"\n" + good + b"\n")
    with pytest.raises(DataError) as error:
        read_examples(path, form="pairs" if kind == "preference" else "rows")
    assert str(error.value) == f"{path}:2: {reason}{REMEDY}"
    examples, skipped = read_examples(path, form="pairs" if kind == "preference" else "rows", skip_bad=True)
    assert (len(examples), skipped) == (2, [f"{path}:2: {reason}"])


def test_there_are_two_hundred_bad_rows():
    assert len({(kind, row) for kind, row, _ in CASES}) >= 200


def test_a_row_torn_at_any_byte_is_no_row(tmp_path):
    path = tmp_path / "rows.jsonl"
    whole = '{"prompt": "pé", "completion": "c"}'.encode()
    for cut in range(1, len(whole)):
        path.write_bytes(b'{"prompt": "p", "completion": "c"}\n' + whole[:cut])
        with pytest.raises(DataError) as error:
            read_examples(path, form="rows")
        assert str(error.value).startswith(f"{path}:2: is not "), cut
        assert len(str(error.value).removesuffix(REMEDY).splitlines()) == 1
