"""Chat templates: what transformers writes, the assistant's part alone learned, nothing of a stranger's executed."""

from __future__ import annotations

import json
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workbench.data.chat import answer_segments, chat_segments, render_chat
from workbench.data.formats import Chat, Preference, PromptCompletion, parse_example
from workbench.data.tokenise import encode_prompts, tokenise_pairs, tokenise_rows
from workbench.errors import DataError

TURNS = [("system", "be brief"), ("user", "hi"), ("assistant", "yo"), ("user", "2?"), ("assistant", "ok.\n")]


def test_chatml_is_written_as_by_hand(make_tokenizer, chatml):
    tokenizer = make_tokenizer(chatml)
    assert render_chat(tokenizer, TURNS[1:3]) == "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\nyo<|im_end|>\n"
    assert render_chat(tokenizer, TURNS[1:2], generation_prompt=True).endswith("<|im_end|>\n<|im_start|>assistant\n")


FEATURES = {
    "chatml": None,
    "special tokens": "{{ bos_token }}{% for m in messages %}{{ m.content }}{{ eos_token }}{% endfor %}",
    "no tools": "{% if tools is not none %}tools{% endif %}{{ documents is none }}{{ messages[0]['content'] }}",
    "loop controls": "{% for m in messages %}{% if loop.index > 2 %}{% break %}{% endif %}{{ m.role }}{% endfor %}",
    "blocks trimmed": "{% for m in messages %}\n    {%- if true %}\n  {{ loop.last }}\n  {% endif %}\n{% endfor %}",
    "generation marks": "{% for m in messages %}{% generation %}{{ m['content'] }}{% endgeneration %}{% endfor %}",
    "json": "{{ messages | tojson }}{{ messages[0] | tojson(indent=2) }}{{ {'é': '<'} | tojson(ensure_ascii=true) }}",
    "namespace": "{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{% endfor %}{{ ns.n }}",
    "macro": "{% macro w(m) %}[{{ m.role ~ ':' + m.content | trim }}]{% endmacro %}{% for m in messages %}{{ w(m) }}"
    "{% endfor %}",
    "slices": "{% for m in messages[1:][::-1] %}{{ m.content.split('')[0] if false else m.content[:1] }}{% endfor %}",
}  # fmt: skip


@pytest.mark.parametrize("name", FEATURES)
@pytest.mark.parametrize("generation_prompt", [False, True])
def test_templates_are_rendered_as_transformers_does(make_tokenizer, chatml, name, generation_prompt):
    from transformers.utils.chat_template_utils import render_jinja_template

    template = FEATURES[name] or chatml
    messages = [{"role": role, "content": content} for role, content in TURNS]
    [expected], _ = render_jinja_template(
        [messages], chat_template=template, add_generation_prompt=generation_prompt,
        bos_token="<bos>", eos_token="<eos>", pad_token="<pad>",
    )  # fmt: skip
    assert render_chat(make_tokenizer(template, bos=True), TURNS, generation_prompt=generation_prompt) == expected


CALL = [{"type": "function", "function": {"name": "f", "arguments": {"a": 1}}}]
TOOLS = [{"type": "function", "function": {"name": "f", "description": "<d>", "parameters": {}}}]
WRITES_ALL = (
    "{% if tools %}{{ tools | tojson }}{% endif %}{% for m in messages %}{{ m.role }}:{{ m.content }}"
    "{% if m.thinking is defined %}<think>{{ m['thinking'] }}</think>{% endif %}"
    "{% for call in m.tool_calls or [] %}{{ call.function | tojson }}{% endfor %}{{ m.get('name', '') }};{% endfor %}"
)


def test_tools_calls_names_and_thoughts_are_written_as_transformers_writes_them(make_tokenizer, chatml):
    from transformers.utils.chat_template_utils import render_jinja_template

    messages = [
        {"role": "user", "content": "u"},
        {"role": "assistant", "content": None, "tool_calls": CALL, "thinking": "t"},
        {"role": "tool", "content": "1", "name": "f"},
        {"role": "assistant", "content": "a"},
    ]
    chat = parse_example("messages", {"messages": messages, "tools": TOOLS})
    [expected], _ = render_jinja_template([messages], tools=TOOLS, chat_template=WRITES_ALL)
    assert render_chat(make_tokenizer(WRITES_ALL), chat.messages) == expected


@pytest.mark.parametrize("name", ["tools", "tool_calls", "thinking"])
def test_what_the_template_does_not_write_is_refused_by_name(make_tokenizer, chatml, name):
    turns = [{"role": "user", "content": "u"}, {"role": "assistant", "content": "a"}]
    row = {"messages": turns}
    (row if name == "tools" else turns[1])[name] = {"tools": TOOLS, "tool_calls": CALL, "thinking": "t"}[name]
    chat = parse_example("messages", row)
    with pytest.raises(ValueError, match=f"^has {name}, which the model's chat template does not write; "):
        render_chat(make_tokenizer(chatml), chat.messages)


def test_the_assistants_turns_with_their_ends_are_learned(make_tokenizer, chatml):
    segments = chat_segments(make_tokenizer(chatml), TURNS)
    assert [text for text, learned in segments if learned] == ["yo<|im_end|>\n", "ok.\n<|im_end|>\n"]
    assert "".join(text for text, _ in segments) == render_chat(make_tokenizer(chatml), TURNS)


def test_what_follows_the_last_answer_is_left_out(make_tokenizer, chatml):
    assert chat_segments(make_tokenizer(chatml), TURNS[:4]) == chat_segments(make_tokenizer(chatml), TURNS[:3])


def test_ids_and_labels_are_those_of_transformers(make_tokenizer, chatml):
    """transformers marks the assistant's tokens itself where the template says {% generation %}."""
    import transformers

    tokenizer = make_tokenizer(chatml)
    marked = (
        "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}{% if m.role == 'assistant' %}"
        "{% generation %}{{ m.content + '<|im_end|>' + '\n' }}{% endgeneration %}"
        "{% else %}{{ m.content + '<|im_end|>' + '\n' }}{% endif %}{% endfor %}"
    )
    theirs = transformers.PreTrainedTokenizerFast(tokenizer_file=str(tokenizer._folder / "tokenizer.json"))
    messages = [{"role": role, "content": content} for role, content in TURNS]
    expected = theirs.apply_chat_template(
        messages, chat_template=marked, return_dict=True, return_assistant_tokens_mask=True
    )
    rows, counts = tokenise_rows([Chat(tuple(TURNS))], tokenizer, 1000, as_chat=False, every_token=False)
    assert rows.ids[0].tolist() == expected["input_ids"]
    assert rows.labelled.astype(int).tolist() == expected["assistant_masks"]
    assert counts.note() is None


def test_a_prompt_is_sampled_from_exactly_as_it_was_trained(make_tokenizer, chatml):
    tokenizer = make_tokenizer(chatml)
    rows, _ = tokenise_rows([PromptCompletion("2?", "4")], tokenizer, 1000, as_chat=True, every_token=False)
    [prompt] = encode_prompts(tokenizer, ["2?"], as_chat=True)
    assert rows.ids[0].tolist()[: len(prompt)] == prompt
    assert not rows.labelled[: len(prompt)].any()
    assert rows.labelled[len(prompt) :].all()
    assert tokenizer.decode(rows.ids[0].tolist()[len(prompt) :], skip_special_tokens=False) == "4<|im_end|>\n"


def test_a_pair_shares_its_prompt_and_parts_at_the_answer(make_tokenizer, chatml):
    tokenizer = make_tokenizer(chatml)
    pairs, _ = tokenise_pairs([Preference("2?", "4", "")], tokenizer, 1000, as_chat=True)
    texts = [
        tokenizer.decode(part[0].tolist(), skip_special_tokens=False)
        for part in (pairs.prompts, pairs.chosen, pairs.rejected)
    ]
    assert texts == ["<|im_start|>user\n2?<|im_end|>\n<|im_start|>assistant\n", "4<|im_end|>\n", "<|im_end|>\n"]


def test_an_answer_that_was_cut_is_not_ended(make_tokenizer, chatml):
    tokenizer = make_tokenizer(chatml)
    assert answer_segments(tokenizer, "q", " a \n", ended=True)[1] == " a \n<|im_end|>\n"
    assert answer_segments(tokenizer, "q", " a \n", ended=False)[1] == " a"


def test_a_template_that_writes_contents_alone_takes_an_empty_answer(make_tokenizer):
    tokenizer = make_tokenizer("{% for m in messages %}{{ m.content }}{% endfor %}")
    pairs, counts = tokenise_pairs([Preference("q", "a", "")], tokenizer, 1000, as_chat=True)
    assert (len(pairs), counts.dropped) == (0, 1)


def test_a_template_that_rewrites_earlier_turns_is_refused(make_tokenizer):
    last_only = "{% for m in messages %}{{ m.role }}:{{ m.content if loop.last else '' }};{% endfor %}"
    rows = [Chat((("user", "a"), ("assistant", "fine"))), Chat(tuple(TURNS))]
    with pytest.raises(DataError) as error:
        tokenise_rows(rows, make_tokenizer(last_only), 1000, as_chat=False, every_token=False)
    assert str(error.value) == (
        "row 1: the chat template rewrites earlier turns, so the assistant's part cannot be told apart\n"
        "row 2: the chat template rewrites earlier turns, so the assistant's part cannot be told apart\n"
        "mend the rows, or set data.bad_rows=skip to leave them out, counted"
    )


def test_a_model_without_a_template_says_what_to_use(tokenizer):
    with pytest.raises(DataError, match="the model has no chat template: use prompt and completion"):
        encode_prompts(tokenizer, ["a"], as_chat=True)


def test_a_row_that_the_template_refuses_is_named(make_tokenizer, chatml):
    refusing = "{% if messages[0].content == 'bad' %}{{ raise_exception('only\ngood ones') }}{% endif %}" + chatml
    tokenizer = make_tokenizer(refusing)
    calls = [
        lambda: tokenise_rows(
            [PromptCompletion("good", "a"), PromptCompletion("bad", "a")],
            tokenizer, 99, as_chat=True, every_token=False,
        ),
        lambda: tokenise_pairs(
            [Preference("good", "a", "b"), Preference("bad", "a", "b")], tokenizer, 99, as_chat=True
        ),
        lambda: encode_prompts(tokenizer, ["good", "bad"], as_chat=True),
    ]  # fmt: skip
    for call, what in zip(calls, ("row 2", "row 2", "prompt 2 ('bad')"), strict=True):
        with pytest.raises(DataError) as error:
            call()
        assert str(error.value).splitlines()[0] == f"{what}: the chat template refuses it: only"


HOSTILE = [
    ("{{ ''.__class__.__mro__ }}", "access to attribute '__class__' of 'str' object is unsafe."),
    ("{{ cycler.__init__.__globals__ }}", "access to attribute '__init__' of 'type' object is unsafe."),
    ("{{ raise_exception.__globals__['os'] }}", "access to attribute '__globals__' of 'function' object is unsafe."),
    ("{{ self.__init__.__globals__ }}", "access to attribute '__init__' of 'TemplateReference' object is unsafe."),
    ("{{ messages.append(1) }}", "access to attribute 'append' of 'list' object is unsafe."),
    ("{{ messages[0].update(role='x') }}", "access to attribute 'update' of 'dict' object is unsafe."),
    ("{{ '{0.__class__}'.format(messages) }}", "access to attribute 'format' of 'str' object is unsafe."),
    ("{{ ''.format_map({}) }}", "access to attribute 'format_map' of 'str' object is unsafe."),
    ("{% import 'os' as os %}", "no loader for this environment specified"),
    ("{% include '/etc/passwd' %}", "no loader for this environment specified"),
    ("{% extends '/etc/passwd' %}", "no loader for this environment specified"),
    ("{{ __import__('os').system('true') }}", "'__import__' is undefined"),
    ("{{ open('/etc/passwd').read() }}", "'open' is undefined"),
    ("{{ strftime_now('%Y') }}", "'strftime_now' is undefined"),
    ("{{ raise_exception('') }}", "TemplateError"),
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
    ("{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}", "it runs without end"),
    ("{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}",
     "it runs without end"),
    ("{% set n = namespace(s='a') %}{% for i in range(60) %}{% set n.s = n.s ~ n.s %}{% endfor %}",
     "it writes more than 10,000,000 characters"),
    ("{% for i in range(99999) %}{{ 'a' * 1000 }}{% endfor %}", "it writes more than 10,000,000 characters"),
    ("{{ 'a' * 10 ** 12 }}", "it writes more than 10,000,000 characters"),
    ("{{ 10 ** 12 * [0] }}", "it writes more than 10,000,000 characters"),
    ("{{ 'a'.ljust(10 ** 12) }}", "it writes more than 10,000,000 characters"),
    ("{{ 'a' | center(10 ** 12) }}", "it writes more than 10,000,000 characters"),
    ("{{ 'a\nb' | indent(width=10 ** 12) }}", "it writes more than 10,000,000 characters"),
    ("{{ '%999999999999d' % 1 }}", "it formats text with %, allowed ~"),
    ("{{ '%s' | format(1) }}", "No filter named 'format'."),
    ("{{ 9 ** 999999 }}", "a number in it is too large"),
    ("{% set n = namespace(x=2) %}{% for i in range(99) %}{% set n.x = n.x * n.x %}{% endfor %}",
     "a number in it is too large"),
]  # fmt: skip


@pytest.mark.parametrize(("template", "reason"), HOSTILE, ids=[template[:40] for template, _ in HOSTILE])
def test_a_hostile_template_is_refused_in_one_line(make_tokenizer, template, reason):
    begun = time.monotonic()
    with pytest.raises(ValueError) as error:
        render_chat(make_tokenizer(template), TURNS)
    assert str(error.value).partition(" (<template>, line")[0] == f"the chat template refuses it: {reason}"
    assert time.monotonic() - begun < 12


def test_a_template_has_its_whole_budget_for_each_rendering(make_tokenizer):
    tokenizer = make_tokenizer("{% for a in range(70000) %}{% endfor %}done")
    for _ in range(20):
        assert render_chat(tokenizer, TURNS) == "done"


@settings(max_examples=60, deadline=None, derandomize=True, database=None)
@given(st.text(st.sampled_from("{}%# mesagirolcnt.|()[]'0+*~-\n"), max_size=40))
def test_random_templates_give_text_or_a_refusal(make_tokenizer, template):
    try:
        text = render_chat(make_tokenizer(template), TURNS)
    except ValueError as error:
        text = str(error)
    assert isinstance(text, str)


def test_json_in_a_template_is_not_escaped_for_html(make_tokenizer):
    tokenizer = make_tokenizer("{{ messages[0].content | tojson }}")
    assert render_chat(tokenizer, [("user", "<é>")]) == json.dumps("<é>", ensure_ascii=False)
