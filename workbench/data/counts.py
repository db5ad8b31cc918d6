"""What became of the rows on their way to token ids."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from workbench.tracking.words import plural

DATE = "26 July 2024"
"""The date that templates are given, which is sandbox.DATE."""
MAX_LISTED = 20
MAX_PLACES = 200


@dataclass
class Counts:
    """What is counted of one tokenised set: plain values, stored beside it."""

    rows: int = 0
    """Rows kept."""
    tokens: int = 0
    """Tokens of the rows kept."""
    learned: int = 0
    """Tokens that are learned, among those; in pairs, the tokens of both completions."""
    truncated: int = 0
    """Rows kept that lost tokens."""
    tokens_lost: int = 0
    """Tokens that they lost."""
    cut: dict[str, dict[str, int]] = field(default_factory=dict)
    """{rows, tokens} lost by side: prompt, completion, text, conversation, chosen or rejected completion."""
    truncated_examples: list[str] = field(default_factory=list)
    """The first few of them, file:line and what they lost."""
    dropped: int = 0
    """Rows left out because nothing to learn from was left after truncation; pairs whose sides are the same then."""
    dropped_examples: list[str] = field(default_factory=list)
    """The first few of them, file:line and reason."""
    bad: int = 0
    """Rows left out because they were not valid."""
    bad_examples: list[str] = field(default_factory=list)
    """The first few of them, file:line and reason."""
    unread: dict[str, int] = field(default_factory=dict)
    """Rows by each of their fields that has a value there and that nothing reads."""
    repeated: int = 0
    """Rows whose prompt is that of a row before."""
    repeated_folded: int = 0
    """Rows whose prompt is that of a row before, after case and white space are folded."""
    places: list[str] = field(default_factory=list)
    """The places that the first rows kept come from."""
    spanned: int = 0
    """Prompts and answers between which a token of the whole text would lie: it is divided there."""
    chats: int = 0
    """Examples that went through the chat template."""
    divided: int = 0
    """Conversations that became a row for every answer, or for some."""
    ends: dict[str, int] = field(default_factory=dict)
    """Tokens, and their ids, that end an answer in the template and that the model's files do not name as an end."""
    dated: bool = False
    """Whether the chat template writes the date."""
    endless: bool = False
    """Whether texts or answers lack an end of sequence."""

    def keep(self, where: str) -> None:
        """One more row is kept."""
        self.rows += 1
        if len(self.places) < MAX_PLACES:
            self.places.append(where)

    def drop(self, where: str, reason: str) -> None:
        """One more row has nothing left to learn from."""
        self.dropped += 1
        if len(self.dropped_examples) < MAX_LISTED:
            self.dropped_examples.append(f"{where}: {reason}")

    def truncate(self, where: str, lost: Mapping[str, int]) -> None:
        """A row that is kept lost so many tokens by side; nothing where all are 0."""
        sides = {side: tokens for side, tokens in lost.items() if tokens > 0}
        if not sides:
            return
        self.truncated += 1
        self.tokens_lost += sum(sides.values())
        for side, tokens in sides.items():
            total = self.cut.setdefault(side, {"rows": 0, "tokens": 0})
            total["rows"] += 1
            total["tokens"] += tokens
        if len(self.truncated_examples) < MAX_LISTED:
            told = ", ".join(f"{plural(tokens, 'token')} of the {side}" for side, tokens in sides.items())
            self.truncated_examples.append(f"{where}: lost {told}")

    def repeated_note(self) -> str | None:
        """One sentence of the prompts that stand in several rows, None where each stands in one."""
        if not self.repeated_folded:
            return None
        exactly = "" if self.repeated == self.repeated_folded else f" ({self.repeated:,} to the letter)"
        of = "row has" if self.repeated_folded == 1 else "rows have"
        return f"{self.repeated_folded:,} {of} the prompt of a row before{exactly}"

    def note(self) -> str | None:
        """One sentence for a report, None when every row went in whole."""
        sides = ", ".join(
            f"{plural(cut['tokens'], 'token')} of {plural(cut['rows'], side)}" for side, cut in self.cut.items()
        )
        parts = [
            f"{number:,} {what}"
            for number, what in (
                (self.truncated, f"truncated ({sides} lost)" if sides else "truncated"),
                (self.dropped, "dropped with nothing left to learn from"),
                (self.bad, "skipped as invalid"),
            )
            if number
        ]
        told = [f"{plural(self.rows, 'row')} used; {', '.join(parts)}"] if parts else []
        if self.spanned:
            told.append(
                f"{plural(self.spanned, 'time')} a token would span the end of the prompt, and is divided there"
            )
        if self.divided:
            told.append(
                f"{plural(self.divided, 'conversation')} became several rows, for the chat template writes "
                "earlier turns otherwise before later ones"
            )
        return "; ".join(told) or None

    def remarks(self) -> list[str]:
        """What else a report says of how the rows were written."""
        told = [f"{token} ends an answer, and is taken for an end of sequence" for token in self.ends]
        if self.dated:
            told.append(f"the chat template writes a date: always {DATE}")
        return told
