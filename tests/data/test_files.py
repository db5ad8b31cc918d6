"""JSONL, JSON, CSV and Parquet read alike; a file that cannot be read says so in one line."""

from __future__ import annotations

import datetime
import json
import os
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.data.rows import read_examples
from workbench.data.bad_rows import BadRows
from workbench.data.formats import PromptCompletion, Text
from workbench.data.sources import read_records
from workbench.errors import DataError

ROWS = [
    {"prompt": "2+2=", "completion": "4"},
    {"prompt": "", "completion": 'two\nlines, "quoted"'},
    {"prompt": "é", "completion": " 🙂"},
]
EXAMPLES = [PromptCompletion(row["prompt"], row["completion"]) for row in ROWS]
CSV_ROWS = 'prompt,completion\n2+2=,4\n,"two\nlines, ""quoted"""\né, 🙂\n'


def _write(folder: Path, name: str) -> Path:
    path = folder / name
    if name.endswith(".parquet"):
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), path)
    elif name.endswith(".csv"):
        path.write_bytes(CSV_ROWS.encode())
    else:
        text = json.dumps(ROWS) if name.endswith(".json") else "".join(f"{json.dumps(row)}\n" for row in ROWS)
        path.write_bytes(text.encode())
    return path


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.csv", "a.parquet", "A.JSONL"])
def test_every_file_format_gives_the_same_examples(tmp_path, name):
    assert read_examples(_write(tmp_path, name), form="rows") == (EXAMPLES, [])


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.csv"])
@pytest.mark.parametrize("change", ["byte order mark", "carriage returns", "no last line end", "blank lines"])
def test_how_an_editor_saves_a_file_does_not_change_its_rows(tmp_path, name, change):
    path = _write(tmp_path, name)
    lines = path.read_bytes().replace(b'"two\nlines', b'"two lines').splitlines()
    if change == "byte order mark":
        path.write_bytes(b"\xef\xbb\xbf" + b"\n".join(lines) + b"\n")
    else:
        path.write_bytes(
            {"carriage returns": b"\r\n", "no last line end": b"\n", "blank lines": b"\n\n"}[change].join(lines)
        )
    examples, _ = read_examples(path, form="rows")
    assert examples[::2] == EXAMPLES[::2]
    assert len(examples) == 3


CSV_FILES = [
    ("", "{path}: no row in it can be used"),
    ("\n\n", "{path}: no row in it can be used"),
    ("prompt,completion\n", "{path}: no row in it can be used"),
    ("a\n", "{path}: no row in it can be used"),
    ("prompt,completion,prompt\na,b,c\n", "{path}:1: the column 'prompt' stands twice"),
    ('"prompt\na,b\n', "{path}:1: is not CSV (unexpected end of data)"),
    ('"prompt"x,completion\na,b\n', "{path}:1: is not CSV (',' expected after '\"')"),
    ("prompt,completion\na,b\nc\nd,e\n", "{path}:3: has 1 columns, the header has 2"),
    ("prompt,completion\na,b,c\n", "{path}:2: has 3 columns, the header has 2"),
    ('prompt,completion\n"a\nb",c\nd\n', "{path}:4: has 1 columns, the header has 2"),
    ('prompt,completion\n\n\n"a\n\nb"\n', "{path}:4: has 1 columns, the header has 2"),
    ('prompt,completion\na,"b"x\nc,d\n', "{path}:2: is not CSV (',' expected after '\"')"),
    ('prompt,completion\na,b\nc,"d\n', "{path}:3: is not CSV (unexpected end of data)"),
    ("prompt,completion\na,\n", "{path}:2: completion is empty, allowed text"),
    (b"prompt,completion\na,b\n\xff,c\n", "{path}:3: is not UTF-8"),
    (b"prompt,completion\na,caf\xe9\nc,d\n", "{path}:2: is not UTF-8"),
    ("prompt,chosen,rejected,score\np,c,r,1\n",
     "{path}:2: found preference rows, this needs rows of text; prompt, completion; messages; "
     "columns: {{completion: chosen}} takes one side of pairs"),
]  # fmt: skip


@pytest.mark.parametrize(("content", "message"), CSV_FILES, ids=range(len(CSV_FILES)))
def test_a_bad_csv_file_is_named_by_the_line_its_row_begins_on(tmp_path, content, message):
    path = tmp_path / "rows.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(DataError) as error:
        read_examples(path, form="rows")
    assert str(error.value).splitlines()[0] == message.format(path=path)


def test_a_bad_csv_row_spoils_no_other(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_bytes(b'prompt,completion\na,"b"x\nc,d\n\xff,e\nf,g,h\ni,j\n')
    examples, skipped = read_examples(path, form="rows", skip_bad=True)
    assert examples == [PromptCompletion("c", "d"), PromptCompletion("i", "j")]
    assert [line.removeprefix(f"{path}:")[:1] for line in skipped] == ["2", "4", "5"]


NO_FORMAT = (
    "{{path}}:1: columns: found {}, which is no format; name them as data.columns={{{}}}; the formats have "
    "messages; completion, prompt; answer, question; instruction, output; conversations; text"
)
JSON_FILES = [
    ("a.json", b"", "{path}: is not JSON (Expecting value at column 1); a file of one row a line ends in .jsonl"),
    ("a.json", b"[", "{path}: is not JSON (Expecting value at column 2); a file of one row a line ends in .jsonl"),
    ("a.json", b'{"text": "a"}\n{"text": "b"}\n',
     "{path}: is not JSON (Extra data at line 2, column 1); a file of one row a line ends in .jsonl"),
    ("a.json", b'[{"text": "a"},\n{"text" "b"}]',
     "{path}: is not JSON (Expecting ':' delimiter at line 2, column 9); a file of one row a line ends in .jsonl"),
    ("a.json", b"\xff", "{path}: is not UTF-8; a file of one row a line ends in .jsonl"),
    ("a.json", b"[" * 100_000, "{path}: is not JSON (nested too deep); a file of one row a line ends in .jsonl"),
    ("a.json", b'{"text": "a"}', "{path}: found dict, allowed a list of rows"),
    ("a.json", b"null", "{path}: found NoneType, allowed a list of rows"),
    ("a.json", b"[]", "{path}: no row in it can be used"),
    ("a.json", b'[{"text": "a"}, 5]',
     "{path}:row 2: is int, allowed a row of named fields\n"
     "mend the rows, or set data.bad_rows=skip to leave them out, counted"),
    ("a.jsonl", b"", "{path}: no row in it can be used"),
    ("a.jsonl", b"\n \n\t\r\n", "{path}: no row in it can be used"),
    ("a.jsonl", b"{}", NO_FORMAT.format("(none)", "prompt: ..., completion: ...")),
    ("a.jsonl", b'{"Text": "a"}', NO_FORMAT.format("Text", "text: Text")),
    ("a.jsonl", b'{"problem": "a", "Answer": 1}',
     NO_FORMAT.format("problem, Answer", "prompt: problem, completion: Answer")),
    ("a.jsonl", b'{"a\\n\\u001b[1m": 1}', NO_FORMAT.format("a\\n\\x1b[1m", "prompt: ..., completion: ...")),
    ("a.jsonl", json.dumps({f"f{i}": i for i in range(99)}).encode(),
     NO_FORMAT.format("f0, f1, f2, f3, f4, f5, f6, f7, ...", "prompt: ..., completion: ...")),
    ("a.jsonl", b'{"prompt": "p", "chosen": "c", "rejected": "r"}',
     "{path}:1: found preference rows, this needs rows of text; prompt, completion; messages; "
     "columns: {completion: chosen} takes one side of pairs"),
    ("a.txt", b"text", "{path}: found .txt, allowed .jsonl, .json, .parquet, .csv"),
    ("a", b"text", "{path}: found no ending, allowed .jsonl, .json, .parquet, .csv"),
    ("a.jsonl.gz", b"text", "{path}: found .gz, allowed .jsonl, .json, .parquet, .csv"),
    ("a.parquet", b"", "{path}: is not Parquet (Parquet file size is 0 bytes)"),
    ("a.parquet", b"PAR1", "{path}: is not Parquet (Parquet file size is 4 bytes, smaller than the minimum file footer"
     " (8 bytes))"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "content", "message"), JSON_FILES, ids=range(len(JSON_FILES)))
def test_a_bad_file_is_named_with_what_is_allowed(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(DataError) as error:
        read_examples(path, form="rows")
    assert str(error.value) == message.replace("{path}", str(path))


@pytest.mark.parametrize("name", ["missing.jsonl", "folder.jsonl", f"{'x' * 300}.jsonl", "a\0b.jsonl"])
def test_a_path_without_a_file_is_a_data_error(tmp_path, name):
    if name == "folder.jsonl":
        (tmp_path / name).mkdir()
    with pytest.raises(DataError, match=r"no such file|cannot be read"):
        read_examples(tmp_path / name, form="rows")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_permission_is_a_data_error(tmp_path):
    path = _write(tmp_path, "a.jsonl")
    path.chmod(0)
    with pytest.raises(DataError, match=r"a\.jsonl: cannot be read \(Permission denied\)"):
        read_examples(path, form="rows")


def _parquet(path: Path, **columns: pyarrow.Array) -> Path:
    pyarrow.parquet.write_table(pyarrow.table(columns), path)
    return path


def _reasons(path: Path, *, form: str = "rows") -> list[str]:
    return [line.removeprefix(f"{path}:") for line in read_examples(path, form=form, skip_bad=True)[1]]


def test_parquet_rows_with_nulls_and_other_types_are_named(tmp_path):
    path = _parquet(tmp_path / "a.parquet", text=pyarrow.array(["a", None, "", "d"]))
    assert _reasons(path) == ["row 2: text is null, allowed text", "row 3: text is empty, allowed text"]
    path = _parquet(tmp_path / "b.parquet", text=pyarrow.array([b"a"]))
    with pytest.raises(DataError, match="row 1: text is bytes, allowed text"):
        read_examples(path, form="rows")


def test_a_parquet_score_that_is_not_a_number_is_named(tmp_path):
    texts = {name: pyarrow.array([name] * 3) for name in ("prompt", "chosen", "rejected")}
    path = _parquet(tmp_path / "a.parquet", **texts, score=pyarrow.array([1.0, float("nan"), None]))
    assert _reasons(path, form="pairs") == ["row 2: score is nan, allowed a finite number"]


def test_parquet_text_that_is_not_utf8_spoils_its_row_alone(tmp_path):
    raw = pyarrow.array([b"a", b"\xff", b"c"]).cast(pyarrow.string(), safe=False)
    assert _reasons(_parquet(tmp_path / "a.parquet", text=raw)) == ["row 2: is not UTF-8"]


def test_a_parquet_time_beyond_pythons_spoils_its_row_alone(tmp_path):
    times = pyarrow.array([0, 2**62, 1], pyarrow.timestamp("ms"))
    path = _parquet(tmp_path / "a.parquet", text=pyarrow.array(["a", "b", "c"]), time=times)
    [reason] = _reasons(path)
    assert reason.startswith("row 2: has a value that cannot be read (")


def test_a_parquet_column_twice_is_refused(tmp_path):
    table = pyarrow.table([pyarrow.array(["a"]), pyarrow.array(["b"])], names=["text", "text"])
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(DataError, match=r"a\.parquet: the column 'text' stands twice"):
        read_examples(tmp_path / "a.parquet", form="rows")


def test_parquet_chats_and_unused_columns_are_read(tmp_path):
    turns = [{"role": "user", "content": "u"}, {"role": "assistant", "content": "a"}]
    rows = [{"messages": turns, "when": datetime.datetime(2024, 1, 1), "n": None}]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "a.parquet")
    [example] = read_examples(tmp_path / "a.parquet", form="rows")[0]
    assert example.messages == (("user", "u"), ("assistant", "a"))


def test_parquet_rows_are_numbered_over_its_batches(tmp_path):
    path = _parquet(tmp_path / "a.parquet", text=pyarrow.array(["a"] * 1024 + [""] + ["b"]))
    assert _reasons(path) == ["row 1025: text is empty, allowed text"]


def test_a_parquet_file_with_any_byte_changed_reads_or_is_a_data_error(tmp_path):
    whole = _write(tmp_path, "a.parquet").read_bytes()
    for place in range(0, len(whole), 5):
        damaged = bytearray(whole)
        damaged[place] ^= 0xFF
        for content in (bytes(damaged), whole[:place]):
            _only_data_errors(tmp_path, ".parquet", content)


def test_rows_that_are_bad_in_one_way_are_one_line_with_their_number_and_some_places(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "a"}\n' + "null\n" * 1_025 + '5\n{"text": 7}\n{"text": 8}\n')
    with pytest.raises(DataError) as error:
        read_examples(path, form="rows")
    assert str(error.value).splitlines()[:3] == [
        f"{path}:2: is NoneType, allowed a row of named fields; 1,024 more like it, at 3, 4, 5, 6, 7, ...",
        f"{path}:1027: is int, allowed a row of named fields",
        f"{path}:1028: text is int, allowed text; 1 more like it, at 1029",
    ]


def test_the_first_twenty_kinds_of_bad_rows_are_shown_and_the_rest_counted():
    bad = BadRows()
    for row in range(1_025):
        bad.add(f"f:{row}", f"has {row % 25 * 'x'}")
    with pytest.raises(DataError) as error:
        bad.check()
    lines = str(error.value).splitlines()
    assert len(lines) == 22
    assert lines[20] == "... and 205 more bad rows"


def test_a_file_of_bad_rows_alone_has_nothing_to_skip_to(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text("null\n5\n")
    with pytest.raises(DataError) as error:
        read_examples(path, form="rows", skip_bad=True)
    first = f"{path}:1: is NoneType, allowed a row of named fields"
    assert str(error.value) == f"{path}: no row in it can be used; the first: {first}"


def test_a_bad_first_row_does_not_decide_the_kind(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"a": 1}\n{"text": "t"}\n')
    assert read_examples(path, form="rows", skip_bad=True)[0] == [Text("t")]


def test_pairs_are_wanted_where_pairs_are_needed(tmp_path):
    with pytest.raises(DataError, match="found prompt-completion rows, this needs rows of prompt, chosen, rejected"):
        read_examples(_write(tmp_path, "a.jsonl"), form="pairs")


def test_long_lines_and_long_csv_fields_are_rows(tmp_path):
    text = "x" * 2_000_000
    (tmp_path / "a.jsonl").write_text(json.dumps({"text": text}))
    (tmp_path / "a.csv").write_text(f"text\n{text}\n")
    for name in ("a.jsonl", "a.csv"):
        assert read_examples(tmp_path / name, form="rows") == ([Text(text)], [])


def test_many_fields_with_a_key_twice_are_refused_at_once(tmp_path):
    fields = ", ".join(f'"f{i}": 1' for i in range(200_000))
    (tmp_path / "a.jsonl").write_text(f'{{{fields}, "f199999": 1}}')
    [record] = read_records(tmp_path / "a.jsonl")
    assert record.problem == "is not JSON (the key 'f199999' stands twice)"


def _only_data_errors(folder: Path, suffix: str, content: bytes) -> None:
    path = folder / f"fuzz{suffix}"
    path.write_bytes(content)
    for form in ("rows", "pairs"):
        for skip_bad in (False, True):
            examples, lines = [], []
            try:
                examples, lines = read_examples(path, form=form, skip_bad=skip_bad)
            except DataError as error:
                lines = str(error).split("\n")
            assert bool(examples) != any(line.startswith(f"{path}:") for line in lines) or skip_bad
            assert all(line.isprintable() for line in lines)


FUZZ = settings(
    max_examples=100, deadline=None, derandomize=True, database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)  # fmt: skip
JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["text", "prompt", "completion", "chosen", "rejected", "messages", "role", "content", "score"]
            ),
            inner | st.sampled_from(["user", "assistant", "a", ""]),
            max_size=4,
        )
    ),
    max_leaves=12,
)


@FUZZ
@given(content=st.binary(max_size=60), suffix=st.sampled_from([".jsonl", ".json", ".csv", ".parquet"]))
def test_random_bytes_give_nothing_but_data_errors(tmp_path, content, suffix):
    _only_data_errors(tmp_path, suffix, content)


@FUZZ
@given(rows=st.lists(JSON_VALUES, max_size=4))
def test_random_json_gives_nothing_but_data_errors(tmp_path, rows):
    _only_data_errors(tmp_path, ".json", json.dumps(rows).encode())
    _only_data_errors(tmp_path, ".jsonl", "\n".join(json.dumps(row) for row in rows).encode())


@FUZZ
@given(text=st.text(st.sampled_from('prompt,completion"\n\r x\0'), max_size=60))
def test_random_csv_gives_nothing_but_data_errors(tmp_path, text):
    _only_data_errors(tmp_path, ".csv", b"prompt,completion\n" + text.encode())


def test_a_call_read_from_typed_columns_has_its_own_arguments_alone(tmp_path):
    import pyarrow
    import pyarrow.parquet

    def row(name, argument):
        tool = {"type": "function", "function": {"name": name, "parameters": {"properties": {argument: {"type": "t"}}}}}
        call = {"type": "function", "function": {"name": name, "arguments": {argument: 1}}}
        turns = [
            {"role": "user", "content": "u"},
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "content": "1"},
            {"role": "assistant", "content": "a"},
        ]
        return {"messages": turns, "tools": [tool]}

    rows = [row("f", "a"), row("g", "b")]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "a.parquet")
    (tmp_path / "a.jsonl").write_text("".join(f"{json.dumps(fields)}\n" for fields in rows))
    read, expected = (read_examples(tmp_path / name, form="rows")[0] for name in ("a.parquet", "a.jsonl"))
    assert read == expected
