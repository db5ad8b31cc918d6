"""The data of an experiment on a terminal: learned tokens in colour, or between marks where there is none."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator
from itertools import groupby

from workbench.data.counts import Counts
from workbench.experiment.look.view import Section, ShownRow, Token
from workbench.tracking.terminal import say_marked, visible

LEARNED, DIM, END = "\x1b[30;42m", "\x1b[2m", "\x1b[0m"
OPEN, CLOSE = "⟦", "⟧"
BAR = 44


def print_sections(sections: Iterable[Section]) -> None:
    """Prints the sections on standard output; in colour on a terminal, unless NO_COLOR is set."""
    colour = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
    for section in sections:
        say_marked("\n".join(section_lines(section, colour=colour)) + "\n")


def section_lines(section: Section, *, colour: bool) -> Iterator[str]:
    """The whole account of one source."""
    yield visible(f"{section.title}: {section.source}")
    for name, value in facts(section):
        yield f"  {name:10}  {visible(value)}"
    for name, lines in listed(section.counts):
        yield f"  {name}"
        yield from (f"    {_plain(line)}" for line in lines)
    yield ""
    note = f", {section.form.length_note}" if section.form.length_note else ""
    yield f"  tokens a {section.form.unit}{note}"
    yield from _histogram(section)
    yield ""
    key = f"{LEARNED}learned{END}" if colour else f"{OPEN}learned{CLOSE}"
    key = "no token of a prompt is learned" if section.answered is not None else key
    yield f"  {first_rows(section)}, a token between two |, {key}"
    for row in section.rows:
        yield from _row(row, colour)


def facts(section: Section) -> Iterator[tuple[str, str]]:
    """What is told of a source in a few words, by name."""
    counts, lengths = section.counts, section.lengths
    yield from (("warning", text) for text in section.warnings)
    yield "format", section.format
    yield "used by", ", ".join(section.variants)
    yield section.unit, f"{counts.rows:,}"
    if section.share:
        yield "share", section.share
    yield "tokens", f"{counts.tokens:,}{f' ({section.form.tokens_note})' if section.form.tokens_note else ''}"
    if section.answered is None:
        yield "learned", f"{counts.learned:,} ({counts.learned / max(counts.tokens, 1):.0%})"
    else:
        yield "answers", f"{section.answered:,} of {counts.rows:,} prompts have one"
    if len(lengths):
        ordered = sorted(int(length) for length in lengths)
        middle, high = ordered[len(ordered) // 2], ordered[int(0.95 * (len(ordered) - 1))]
        yield "lengths", f"median {middle:,}, 95 % up to {high:,}, longest {ordered[-1]:,} tokens"
    sides = "".join(
        f"; {side}: {cut['tokens']:,} tokens of {cut['rows']:,} {section.unit}" for side, cut in counts.cut.items()
    )
    yield "truncated", f"{counts.truncated:,} to max_tokens {section.max_tokens:,}{sides}"
    yield "dropped", f"{counts.dropped:,}"
    yield "bad", f"{counts.bad:,}"
    if counts.repeated_folded:
        yield "repeated", counts.repeated_note() or ""
    yield from (("shared", text) for text in section.shared)
    if counts.unread:
        yield "unread", unread_in_words(counts) + ("; own rewards are given them" if section.form.is_sampled else "")


def unread_in_words(counts: Counts) -> str:
    """The fields that nothing reads, with the rows that have them."""
    return ", ".join(f"{_plain(name)} ({rows:,} row{'s' * (rows != 1)})" for name, rows in counts.unread.items())


def first_rows(section: Section) -> str:
    """What heads the rows that are shown."""
    number = len(section.rows)
    return f"the first {section.form.unit}" if number == 1 else f"the first {number} {section.unit}"


def listed(counts: Counts) -> Iterator[tuple[str, list[str]]]:
    """The first rows that something became of, by what became of them."""
    for name, lines, total in (
        ("bad rows", counts.bad_examples, counts.bad),
        ("dropped rows", counts.dropped_examples, counts.dropped),
        ("truncated rows", counts.truncated_examples, counts.truncated),
    ):
        if lines:
            more = [f"... and {total - len(lines):,} more"] if total > len(lines) else []
            yield name, [*lines, *more]


def _histogram(section: Section) -> Iterator[str]:
    found, limit = section.histogram, section.max_tokens
    most = max(max(found.counts), 1)
    wide = len(f"{found.edges[-1]:,}")
    for low, high, count in zip(found.edges, found.edges[1:], found.counts, strict=False):
        bar = "█" * round(BAR * count / most) or ("▏" if count else "")
        mark = f"  <- max_tokens {limit:,}" if low <= limit < high else ""
        yield f"    {low:>{wide},} to {high - 1:>{wide},}  {bar} {count:,}{mark}".rstrip()
    if limit >= found.edges[-1]:
        yield f"    max_tokens {limit:,} lies beyond"


def _row(row: ShownRow, colour: bool) -> Iterator[str]:
    where = visible(row.where)
    yield f"  {DIM}{where}{END}" if colour else f"  {where}"
    for name, tokens in row.parts:
        text = "".join(_run(list(run), learned, colour) for learned, run in groupby(tokens, lambda t: t.learned))
        head = f"{visible(name)}: " if name else ""
        yield from (f"    {line}" for line in f"{head}{text}".split("\n"))


def _run(tokens: list[Token], learned: bool, colour: bool) -> str:
    """Neighbours that are all learned, or all not. A colour is begun anew on every line, for pagers that end it."""
    bar = "|" if not colour else f"{DIM}|{END}{LEARNED if learned else ''}"
    text = bar.join(_plain(token.text, "↵\n") for token in tokens)
    if not learned:
        return f"{text}|" if not colour else f"{text}{bar}"
    if not colour:
        return f"{OPEN}{text}{CLOSE}"
    return LEARNED + text.replace("\n", f"{END}\n{LEARNED}") + END


def _plain(text: str, line_end: str = "↵") -> str:
    """No character of the data acts on the terminal."""
    shown = {"\n": line_end, "\t": "→"}
    return "".join(c if c.isprintable() else shown.get(c, "·") for c in text)
