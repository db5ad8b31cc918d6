"""What there is to warn of in training data before a run is started: rows that are cut, answers that never end."""

from __future__ import annotations

from collections.abc import Iterator

from workbench.data.counts import Counts
from workbench.data.settings import ReadData
from workbench.experiment.definition.schema import RunSpec
from workbench.models.tokenizer import Tokenizer
from workbench.tracking.words import plural

NO_END = (
    "the model names no end of sequence, so no text or answer that it learns has one, and no completion ends before "
    "max_new_tokens: exact match is measured on answers with whatever follows them; name one that its vocabulary has, "
    "as eos_token in tokenizer_config.json or eos_token_id in config.json"
)
SOME_WITHOUT_END = (
    "some answers have no end of sequence, for the chat template writes none after them: the model does not learn to "
    "stop there; have the template write one"
)


def data_warnings(spec: RunSpec, counts: Counts, tokenizer: Tokenizer, *, rows: int | None = None) -> Iterator[str]:
    """Warnings about the training data. rows: how many there are, where the counts are of some of them."""
    yield from end_warnings(counts, tokenizer)
    if isinstance(spec.data, ReadData):
        yield from cut_warnings("training data", spec.data.max_tokens, counts, rows=rows)


def end_warnings(counts: Counts, tokenizer: Tokenizer) -> Iterator[str]:
    """Whether a model would not learn to stop, or could not be stopped."""
    if not tokenizer.eos_ids and not counts.ends:
        yield NO_END
    elif counts.endless:
        yield SOME_WITHOUT_END


def cut_warnings(what: str, max_tokens: int, counts: Counts, *, rows: int | None = None) -> Iterator[str]:
    """How many rows lose how much."""
    if not counts.truncated and not counts.dropped:
        return
    seen = counts.rows + counts.dropped
    of = f"{seen:,} rows" if rows is None or rows <= seen else f"{seen:,} rows looked at, of {rows:,},"
    lost = ", ".join(
        f"{plural(cut['rows'], 'row')} {'loses' if cut['rows'] == 1 else 'lose'} {plural(cut['tokens'], 'token')} of "
        f"the {side}" + ("" if side == "prompt" else ", its end among them")
        for side, cut in counts.cut.items()
    )
    parts = [
        f"{counts.truncated:,} of {of} {'is' if counts.truncated == 1 else 'are'} cut ({lost})",
        f"{counts.dropped:,} of {of} left out with nothing to learn from" if counts.dropped else "",
    ]
    told = "; ".join(part for part in parts[not counts.truncated :] if part)
    yield f"{what}: data.max_tokens is {max_tokens:,}: {told}; raise data.max_tokens to keep them whole"


def guessed_cut_warning(max_tokens: int, longer: int, seen: int, rows: int) -> str:
    """Warns of rows that are cut, where their tokens are guessed from characters."""
    of = f"{seen:,} rows" if rows <= seen else f"{seen:,} rows looked at, of {rows:,},"
    longer_ones = f"about {longer:,} of {of} {'is' if longer == 1 else 'are'} longer, and will be cut or left out"
    return f"training data: data.max_tokens is {max_tokens:,}: {longer_ones}; raise data.max_tokens to keep them whole"
