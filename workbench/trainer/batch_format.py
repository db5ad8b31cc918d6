"""What a trainer's batches hold, said once: the check, its messages, the docstrings, `workbench explain <trainer>` and
the table of docs/python.md are all made of this. Nothing here loads torch.

Letters of shapes: B rows; L, P, C, R and T positions, of each letter one number a batch.
"""

from __future__ import annotations

import difflib
import textwrap
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal

from workbench.data import forms
from workbench.data.forms import DataForm

Kind = Literal["ids", "labels", "mask", "positions", "numbers", "logprobs", "groups", "list"]
KINDS: dict[Kind, str] = {
    "ids": "int64",
    "labels": "int64",
    "mask": "bool, or 0 and 1",
    "positions": "int64",
    "numbers": "float",
    "logprobs": "float",
    "groups": "int64",
    "list": "list",
}
"""The dtype of each kind, in words."""
MEANINGFUL = (
    *("weight", "weights", "sample_weight", "sample_weights", "loss_weight", "loss_weights", "token_weights"),
    *("mask", "loss_mask", "label_mask", "labels_mask", "completion_mask", "assistant_mask", "assistant_masks"),
    *("advantages", "pixel_values", "inputs_embeds", "decoder_input_ids", "position_ids", "labels", "rewards"),
)
"""Keys without which another thing would be learned; where a format does not have them they are refused."""


@dataclass(frozen=True)
class BatchField:
    """One key of a batch."""

    name: str
    shape: str
    """Letters, such as "B L"; several shapes are parted by a bar: "B L|B". Of a list its length, "B"."""
    kind: Kind
    about: str
    """What it holds, in words."""
    optional: bool = False
    needs: str = ""
    """A key that must be there with it."""
    mask: str = ""
    """The key of the mask that tells its real tokens from padding."""

    @property
    def shapes(self) -> tuple[tuple[str, ...], ...]:
        """The letters of each shape that is allowed."""
        return tuple(tuple(shape.split()) for shape in self.shape.split("|"))

    @property
    def shape_text(self) -> str:
        """The shape in words, such as "(B, L)" or "(B, T) or (B)"."""
        return " or ".join(f"({', '.join(shape)})" for shape in self.shapes)

    def __str__(self) -> str:
        return f"{self.name} {self.shape_text}"


@dataclass(frozen=True)
class BatchFormat:
    """The keys of a batch, which is a dict of tensors (and of lists, where a field is one) with B rows."""

    fields: tuple[BatchField, ...]
    texts: tuple[tuple[str, ...], ...] = ()
    """Which keys' tokens stand behind one another in a text, for its length."""
    data_form: DataForm | None = None
    """What a row of it is, where settings do not say; None: they must."""

    def __getitem__(self, name: str) -> BatchField:
        return next(field for field in self.fields if field.name == name)

    @property
    def names(self) -> tuple[str, ...]:
        """Every key, the optional ones too."""
        return tuple(field.name for field in self.fields)

    def and_also(self, *fields: BatchField, data_form: DataForm | None = None) -> BatchFormat:
        """This format with further keys, or with some said anew: for a trainer that builds on another. data_form: of
        rows that have these keys, where it is another."""
        new = {field.name for field in fields}
        kept = (field for field in self.fields if field.name not in new)
        return replace(self, fields=(*kept, *fields), data_form=data_form or self.data_form)

    @property
    def text(self) -> str:
        """The format in one line, for messages."""
        needed = ", ".join(str(field) for field in self.fields if not field.optional)
        others = ", ".join(str(field) for field in self.fields if field.optional)
        return f"a dict of {needed}" + (f"; optional: {others}" if others else "")

    @property
    def described(self) -> str:
        """The format with a line for each key."""
        return "\n".join(["The batch is a dict of:", *(f"    {line}" for line in self.lines())])

    def lines(self) -> list[str]:
        """One for each key: name, shape, dtype, meaning."""
        return [
            f"{field}, {KINDS[field.kind]}{', optional' if field.optional else ''}: {field.about}"
            for field in self.fields
        ]

    def nearest(self, key: str, there: Iterable[str]) -> str | None:
        """The key that another may stand for by mistake: one that is not there, and is spelt much like it."""
        missing = [name for name in self.names if name not in set(there)]
        found = difflib.get_close_matches(key, missing, n=1, cutoff=0.8)
        return found[0] if found else None


def with_batch(doc: str | None, batch: BatchFormat) -> str:
    """A docstring, and behind it the format."""
    return f"{textwrap.dedent(doc or '').strip()}\n\n{batch.described}\n"


def table(formats: dict[str, BatchFormat]) -> str:
    """Markdown: the keys by trainer. Trainers of one format stand together."""
    by_format: dict[BatchFormat, list[str]] = {}
    for name, batch in formats.items():
        by_format.setdefault(batch, []).append(name)
    lines = ["| trainer | key | shape | dtype | what it holds |", "|---|---|---|---|---|"]
    for batch, names in by_format.items():
        for index, field in enumerate(batch.fields):
            trainers = ", ".join(f"`{name}`" for name in names) if index == 0 else ""
            about = f"{'optional: ' if field.optional else ''}{field.about}"
            lines.append(f"| {trainers} | `{field.name}` | {field.shape_text} | {KINDS[field.kind]} | {about} |")
    return "\n".join(lines) + "\n"


OF_SOURCES = (
    BatchField("source_ids", "B", "groups", "which of several sources a row is of, from 0 on", optional=True),
    BatchField(
        "loss_weight", "B", "numbers", "what the row's loss is multiplied by", optional=True, needs="source_ids"
    ),
)
"""What batches of any format have besides, where their rows are of several sources."""
ROWS = BatchFormat(
    (
        BatchField("input_ids", "B L", "ids", "token ids", mask="attention_mask"),
        BatchField(
            *("labels", "B L", "labels", "input_ids again, not shifted; -100 where nothing is learned"),
            mask="attention_mask",
        ),
        BatchField("attention_mask", "B L", "mask", "1 at real tokens, 0 at padding", optional=True),
        BatchField("position_ids", "B L", "positions", "of packed rows: 0 where a text begins", optional=True),
        *OF_SOURCES,
    ),
    texts=(("input_ids",),),
    data_form=forms.ROWS,
)
UNPAIRED = ROWS.and_also(
    BatchField("desirable", "B", "mask", "1 where the completion is wanted, 0 where it is not"),
    data_form=forms.UNPAIRED,
)
PAIRS = BatchFormat(
    (
        BatchField("prompt_input_ids", "B P", "ids", "the prompts", mask="prompt_attention_mask"),
        BatchField("prompt_attention_mask", "B P", "mask", "1 at real tokens, 0 at padding"),
        BatchField(
            "chosen_input_ids", "B C", "ids", "the better completion, without the prompt", mask="chosen_attention_mask"
        ),
        BatchField("chosen_attention_mask", "B C", "mask", "1 at real tokens, 0 at padding"),
        BatchField(
            "rejected_input_ids",
            "B R",
            "ids",
            "the worse completion, without the prompt",
            mask="rejected_attention_mask",
        ),
        BatchField("rejected_attention_mask", "B R", "mask", "1 at real tokens, 0 at padding"),
        BatchField(
            *("ref_chosen_logprobs", "B C", "logprobs", "under the reference, of each token"),
            optional=True,
            needs="ref_rejected_logprobs",
        ),
        BatchField(
            *("ref_rejected_logprobs", "B R", "logprobs", "under the reference, of each token"),
            optional=True,
            needs="ref_chosen_logprobs",
        ),
        BatchField("pair_weights", "B", "numbers", "how much a pair counts; 1 where absent", optional=True),
        *OF_SOURCES,
    ),
    texts=(("prompt_input_ids", "chosen_input_ids"), ("prompt_input_ids", "rejected_input_ids")),
    data_form=forms.PAIRS,
)
PROMPTS = BatchFormat(
    (
        BatchField("prompts", "B P", "ids", "the prompts, padded on the left", mask="prompt_mask"),
        BatchField("prompt_mask", "B P", "mask", "1 at real tokens; absent: all are", optional=True),
        BatchField("texts", "B", "list", "the prompts as text; decoded where absent", optional=True),
        BatchField("answers", "B", "list", "what rewards compare with", optional=True),
        BatchField("prompt_ids", "B", "list", "names of the prompts, for completions.jsonl", optional=True),
        BatchField("columns", "B", "list", "further keywords for rewards, a dict a row", optional=True),
        BatchField("messages", "B", "list", "the conversation that a prompt is", optional=True),
        *OF_SOURCES,
        BatchField(
            *(
                "row_ids",
                "B",
                "groups",
                "which row of the data a prompt is, for a loader that draws by what was earned",
            ),
            optional=True,
        ),
        BatchField(
            *("responses", "B T", "ids", "completions made elsewhere, without the prompt"),
            optional=True,
            needs="rewards",
            mask="response_mask",
        ),
        BatchField("rewards", "B", "numbers", "what each completion earned", optional=True, needs="responses"),
        BatchField(
            "response_mask", "B T", "mask", "1 at real tokens; absent: all are", optional=True, needs="responses"
        ),
        BatchField(
            *("old_logprobs", "B T|B", "logprobs", "under the policy that sampled: of each token, or their sum"),
            optional=True,
            needs="responses",
        ),
        BatchField(
            *("ref_logprobs", "B T", "logprobs", "under the reference, of each token"), optional=True, needs="responses"
        ),
        BatchField(
            *("group_ids", "B", "groups", "equal where completions are compared; absent: where prompts are equal"),
            optional=True,
            needs="responses",
        ),
        BatchField(
            "ended", "B", "mask", "0 where the completion was cut; absent: none was", optional=True, needs="responses"
        ),
    ),
    texts=(("prompts", "responses"),),
    data_form=forms.PROMPTS,
)
