"""What a row is, told by its fields: text, prompt and completion, preference, conversation, prompt alone; TRL's formats
and more.

A prompt, a completion and the sides of a preference are text or turns; text is written as it stands unless the data
asks for the chat template, turns always go through it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from workbench.data.checks import amount_of, answer_of, flag_of, is_not_finite, text_of
from workbench.data.conversations import (
    Turns,
    parse_sharegpt,
    parse_tools,
    parse_turns,
    require_answer,
    split_prompt,
    unlearned_turns,
)
from workbench.data.sources import shown

SIDES = ("chosen", "rejected")
ALPACA = "Below is an instruction that describes a task. Write a response that appropriately completes the request."
ALPACA_WITH_INPUT = (
    "Below is an instruction that describes a task, paired with an input that provides further context. "
    "Write a response that appropriately completes the request."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Row:
    where: str = field(default="", compare=False)
    """file:line that it was read from, where it was read from a file."""
    columns: Mapping[str, Any] | None = field(default=None, compare=False)
    """The row's own, for rewards that take them; kept where prompts are asked for."""
    difficulty: float | None = field(default=None, compare=False)
    """How hard the row is, where a curriculum names a column that says so."""


@dataclass(frozen=True, slots=True)
class Text(_Row):
    """Plain text, learned token by token."""

    text: str


@dataclass(frozen=True, slots=True)
class PromptCompletion(_Row):
    """A prompt and what should follow it. reference: what a verifier compares with, where it is not the completion."""

    prompt: str
    completion: str
    reference: str | None = None


@dataclass(frozen=True, slots=True)
class Preference(_Row):
    """A prompt with a better and a worse completion, all text or all turns; *_ended is False where sampling was cut
    before the end."""

    prompt: str | Turns
    chosen: str | Turns
    rejected: str | Turns
    chosen_ended: bool = True
    rejected_ended: bool = True
    margin: float | None = None
    """How much better the chosen completion is, where the data say so."""


@dataclass(frozen=True, slots=True)
class Chat(_Row):
    """Messages of (role, content); the assistant's turns are learned, but not those before the turn learn_from, nor
    those whose index is in unlearned. reference: what a verifier compares with, where it is not the last turn."""

    messages: Turns
    learn_from: int = 0
    unlearned: tuple[int, ...] = ()
    reference: str | None = None


@dataclass(frozen=True, slots=True)
class Prompt(_Row):
    """A prompt that a model completes itself, and the answer that its completions may be checked against."""

    prompt: str | Turns
    answer: str | None = None


@dataclass(frozen=True, slots=True)
class Judged(_Row):
    """An example of which something is said besides."""

    example: PromptCompletion | Chat


@dataclass(frozen=True, slots=True)
class Unpaired(Judged):
    """A completion that is wanted (label true) or not, as KTO takes it."""

    label: bool


Example = Text | PromptCompletion | Preference | Chat | Prompt | Judged


@dataclass(frozen=True)
class Format:
    """A way to write rows. parse_as_chat: where plain rows read otherwise when they go through the chat template."""

    name: str
    needed: frozenset[str]
    parse: Callable[[Mapping[str, Any]], Example]
    parse_as_chat: Callable[[Mapping[str, Any]], Example] | None = None
    also: frozenset[str] = frozenset()
    """Fields that are read where they are there."""
    is_meant: Callable[[Mapping[str, Any]], bool] | None = None
    """Whether the values are such as the format has, where other rows have fields of these names too."""
    alone: bool = False
    """Whether a row of it is of no other format, though it has their fields: what it has besides decides how they are
    learned."""

    @property
    def read(self) -> frozenset[str]:
        """Every field that is read."""
        return self.needed | self.also

    def holds(self, fields: Mapping[str, Any]) -> bool:
        """Whether a row with these fields is of this format."""
        return self.needed <= fields.keys() and (self.is_meant is None or self.is_meant(fields))


def parse_side(
    fields: Mapping[str, Any], side: str, *, as_chat: bool = False, where: str = ""
) -> PromptCompletion | Chat:
    """A side of a pair as a prompt and its completion. ValueError as parse_example."""
    pair = _led(_preference(fields), fields, as_chat)
    assert isinstance(pair, Preference), "a preference stays one"
    prompt, taken = pair.prompt, pair.chosen if side == "chosen" else pair.rejected
    if isinstance(prompt, tuple) and isinstance(taken, tuple):
        return Chat(prompt + taken, learn_from=len(prompt), reference=_answer(fields), where=where)
    assert isinstance(prompt, str), "a preference is all turns or all text"
    assert isinstance(taken, str), "a preference is all turns or all text"
    return PromptCompletion(prompt, text_of(taken, side), reference=_answer(fields), where=where)


def parse_example(known: Format, fields: Mapping[str, Any], *, as_chat: bool = False, where: str = "") -> Example:
    """The example that a row of this format holds. ValueError says which field is wrong and why."""
    missing = sorted(known.needed - fields.keys())
    if missing:
        raise ValueError(f"has no {missing[0]}, though earlier rows are of the format {known.name}")
    for name, value in fields.items():
        if "score" in name and is_not_finite(value):
            raise ValueError(f"{shown(name)[1:-1]} is {shown(value)}, allowed a finite number")
    example = (known.parse_as_chat or known.parse)(fields) if as_chat else known.parse(fields)
    return replace(_led(example, fields, as_chat), where=where)


def _led(example: Example, fields: Mapping[str, Any], as_chat: bool) -> Example:
    """The example with the row's tools and system message before its turns. Raises ValueError where they cannot be
    written."""
    if isinstance(example, Text):
        return example
    lead = parse_tools(fields.get("tools"))
    system = fields.get("system")
    if system not in (None, ""):
        lead += (("system", text_of(system, "system")),)
    if not lead:
        return example
    if isinstance(example, Judged):
        inner = _led(example.example, fields, as_chat)
        assert isinstance(inner, PromptCompletion | Chat), "an example keeps its kind, or becomes a chat"
        return replace(example, example=inner)
    if not as_chat and not isinstance(example, Chat) and isinstance(example.prompt, str):
        name = "tools" if lead[0][0] == "tools" else "system"
        raise ValueError(f"{name} is given, which a chat template writes: set data.chat_template=true, or use messages")
    return _with_lead(example, lead)


def _with_lead(
    example: PromptCompletion | Preference | Chat | Prompt, lead: Turns
) -> PromptCompletion | Preference | Chat | Prompt:
    if isinstance(example, Chat):
        turns = _after(lead, example.messages)
        moved = len(turns) - len(example.messages)
        unlearned = tuple(index + moved for index in example.unlearned)
        learn_from = example.learn_from and example.learn_from + moved
        return replace(example, messages=turns, learn_from=learn_from, unlearned=unlearned)
    prompt = example.prompt if isinstance(example.prompt, tuple) else (("user", example.prompt),)
    turns = _after(lead, prompt)
    if isinstance(example, Prompt):
        return Prompt(turns, example.answer)
    if isinstance(example, PromptCompletion):
        answer = ("assistant", example.completion)
        return Chat((*turns, answer), learn_from=len(turns), reference=example.reference)
    chosen, rejected = example.chosen, example.rejected
    if isinstance(chosen, tuple) and isinstance(rejected, tuple):
        return replace(example, prompt=turns)
    assert isinstance(chosen, str), "a preference is all turns or all text"
    assert isinstance(rejected, str), "a preference is all turns or all text"
    if not (example.chosen_ended and example.rejected_ended):
        raise ValueError("chosen_ended or rejected_ended is false beside system or tools, allowed without them")
    return replace(example, prompt=turns, chosen=(("assistant", chosen),), rejected=(("assistant", rejected),))


def _after(lead: Turns, turns: Turns) -> Turns:
    """The turns behind tools and system message, which they do not begin with another time."""
    if turns[0][0] == "system" and lead[-1][0] == "system":
        if turns[0][1] != lead[-1][1]:
            raise ValueError("the field system is not the system turn that the conversation begins with")
        return lead[:-1] + turns
    return lead + turns


def parse_completion(fields: Mapping[str, Any]) -> PromptCompletion | Chat:
    """A prompt and its completion, whatever else the row says."""
    prompt, completion, answer = fields["prompt"], fields["completion"], _answer(fields)
    if not (isinstance(prompt, list) and isinstance(completion, list)):
        text = text_of(completion, "completion")
        return PromptCompletion(text_of(prompt, "prompt", empty=True), text, reference=answer)
    before, after = parse_turns(prompt, "prompt"), parse_turns(completion, "completion")
    if before[-1][0] == "assistant":
        raise ValueError("the prompt ends with an assistant turn, allowed one that an assistant turn answers")
    unlearned_turns(prompt, before, "prompt")
    unlearned = unlearned_turns(completion, after, "completion")
    require_answer(after, "completion", unlearned)
    return Chat(before + after, len(before), tuple(len(before) + index for index in unlearned), answer)


def _answer(fields: Mapping[str, Any]) -> str | None:
    """The field answer, which a verifier compares with; a number as it is written."""
    return None if fields.get("answer") is None else answer_of(fields["answer"], "answer")


def _preference(fields: Mapping[str, Any]) -> Preference:
    ended = [flag_of(fields.get(name, True), name) for name in ("chosen_ended", "rejected_ended")]
    if isinstance(fields["chosen"], list) and isinstance(fields["rejected"], list):
        if not all(ended):
            raise ValueError("chosen_ended or rejected_ended is false, allowed where chosen and rejected are text")
        return _preference_of_turns(fields)
    chosen, rejected = text_of(fields["chosen"], "chosen"), text_of(fields["rejected"], "rejected", empty=True)
    if chosen == rejected:
        raise ValueError("chosen and rejected are the same text, so there is nothing to prefer")
    if "prompt" in fields:
        return Preference(text_of(fields["prompt"], "prompt", empty=True), chosen, rejected, *ended)
    if not rejected:
        raise ValueError("rejected is empty, allowed a whole text that begins with the prompt as chosen does")
    return Preference(*split_prompt(chosen, rejected), *ended)


def _preference_of_turns(fields: Mapping[str, Any]) -> Preference:
    chosen, rejected = parse_turns(fields["chosen"], "chosen"), parse_turns(fields["rejected"], "rejected")
    unlearned = {"chosen": unlearned_turns(fields["chosen"], chosen, "chosen")}
    unlearned["rejected"] = unlearned_turns(fields["rejected"], rejected, "rejected")
    before = 0
    if chosen == rejected:
        raise ValueError("chosen and rejected are the same turns, so there is nothing to prefer")
    # As in TRL, a prompt in text beside whole conversations repeats what they begin with.
    if isinstance(fields.get("prompt"), list):
        prompt = parse_turns(fields["prompt"], "prompt")
        unlearned_turns(fields["prompt"], prompt, "prompt")
    else:
        prompt, chosen, rejected = split_prompt(chosen, rejected)
        before = len(prompt)
        if not prompt:
            raise ValueError("chosen and rejected differ in their first turn, allowed ones that begin with the prompt")
    if prompt[-1][0] == "assistant":
        raise ValueError("the prompt ends with an assistant turn, allowed one that an assistant turn answers")
    for name, turns in (("chosen", chosen), ("rejected", rejected)):
        if turns[0][0] != "assistant":
            raise ValueError(f"{name} has a {turns[0][0]} turn after the prompt, allowed an assistant turn")
        if any(index >= before for index in unlearned[name]):
            raise ValueError(f"{name} has a turn of weight 0 or train false, allowed in rows of messages")
    require_answer(chosen, "chosen")
    return Preference(prompt, chosen, rejected)


def _with_margin(fields: Mapping[str, Any]) -> Preference:
    return replace(_preference(fields), margin=amount_of(fields["margin"], "margin"))


def _unpaired(fields: Mapping[str, Any]) -> Unpaired:
    """Later rows of a file may have another label than the first, which told the format."""
    label = _wanted(fields["label"])
    return Unpaired(parse_completion(fields), flag_of(fields["label"] if label is None else label, "label"))


def _wanted(label: Any) -> bool | None:
    """A label as true or false, also where a file writes it as 0 and 1 or as text; None where it is neither."""
    return {"0": False, "false": False, "1": True, "true": True}.get(str(label).strip().lower())


def _labelled(fields: Mapping[str, Any]) -> bool:
    """Whether the label is no topic or the like."""
    return _wanted(fields["label"]) is not None


def _messages(fields: Mapping[str, Any]) -> Chat:
    return _conversation(fields, "messages", parse_turns(fields["messages"], "messages"))


def _sharegpt(fields: Mapping[str, Any]) -> Chat:
    return _conversation(fields, "conversations", parse_sharegpt(fields["conversations"], "conversations"))


def _conversation(fields: Mapping[str, Any], name: str, turns: Turns) -> Chat:
    unlearned = unlearned_turns(fields[name], turns, name)
    require_answer(turns, name, unlearned)
    return Chat(turns, 0, unlearned, _answer(fields))


def _alpaca_fields(fields: Mapping[str, Any]) -> tuple[str, str, str]:
    context = fields.get("input")
    context = "" if context is None else text_of(context, "input", empty=True)
    return text_of(fields["instruction"], "instruction"), context, text_of(fields["output"], "output")


def _alpaca(fields: Mapping[str, Any]) -> PromptCompletion:
    """The prompt word by word as Stanford's Alpaca was trained on it; the answer follows its last colon at once."""
    instruction, context, output = _alpaca_fields(fields)
    head = f"{ALPACA_WITH_INPUT if context else ALPACA}\n\n### Instruction:\n{instruction}"
    return PromptCompletion(head + (f"\n\n### Input:\n{context}" if context else "") + "\n\n### Response:", output)


def _alpaca_as_chat(fields: Mapping[str, Any]) -> PromptCompletion:
    """A user's turn needs no frame: the instruction, and its input after an empty line."""
    instruction, context, output = _alpaca_fields(fields)
    return PromptCompletion(f"{instruction}\n\n{context}" if context else instruction, output)


def _question_answer(fields: Mapping[str, Any]) -> PromptCompletion:
    return PromptCompletion(text_of(fields["question"], "question"), answer_of(fields["answer"], "answer"))


def _prompt(fields: Mapping[str, Any]) -> Prompt:
    prompt, answer = fields["prompt"], _answer(fields)
    if not isinstance(prompt, list):
        return Prompt(text_of(prompt, "prompt"), answer)
    turns = parse_turns(prompt, "prompt")
    if turns[-1][0] == "assistant":
        raise ValueError("the prompt ends with an assistant turn, allowed one that an assistant turn answers")
    return Prompt(turns, answer)


def _text(fields: Mapping[str, Any]) -> Text:
    return Text(text_of(fields["text"], "text"))


LEAD = frozenset({"system", "tools"})
CHECKED = LEAD | {"answer"}
ENDED = LEAD | {"chosen_ended", "rejected_ended"}
PROMPT_ANSWER = Format("prompt-answer", frozenset({"prompt", "answer"}), _prompt, also=LEAD)
PROMPT_ONLY = Format("prompt-only", frozenset({"prompt"}), _prompt, also=CHECKED)
PREFERENCES = (
    Format("preference", frozenset({"prompt", "chosen", "rejected"}), _preference, also=ENDED),
    Format("preference with implicit prompt", frozenset({"chosen", "rejected"}), _preference, also=ENDED),
)
WITH_MARGINS = tuple(
    Format(f"{known.name}, with margin", known.needed | {"margin"}, _with_margin, also=ENDED) for known in PREFERENCES
)
UNPAIRED = Format(
    *("unpaired", frozenset({"prompt", "completion", "label"}), _unpaired), also=CHECKED, is_meant=_labelled, alone=True
)
TEXT = Format("text", frozenset({"text"}), _text)
COMPLETION_FORMATS = (
    Format("messages", frozenset({"messages"}), _messages, also=CHECKED),
    Format("prompt-completion", frozenset({"prompt", "completion"}), parse_completion, also=CHECKED),
    Format("question-answer", frozenset({"question", "answer"}), _question_answer, also=LEAD),
    Format("alpaca", frozenset({"instruction", "output"}), _alpaca, _alpaca_as_chat, LEAD | {"input"}),
    Format("sharegpt", frozenset({"conversations"}), _sharegpt, also=CHECKED),
)
ROW_FORMATS = (*COMPLETION_FORMATS, TEXT)
FORMATS = (PROMPT_ANSWER, *PREFERENCES, *WITH_MARGINS, UNPAIRED, *ROW_FORMATS, PROMPT_ONLY)
"""The formats that are known; a row that is of several is of the first, where none of them is asked for."""


def fields_of_formats(fields: Mapping[str, Any]) -> frozenset[str]:
    """The fields that some format would read of such a row: of one that a row also is, they say the same again."""
    return frozenset().union(*(known.read for known in FORMATS if known.needed <= fields.keys()))
