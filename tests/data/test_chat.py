"""Chat templates: what transformers writes, and each answer learned as the model would be asked for it."""

from __future__ import annotations

import json

import pytest

from tests.data.families import TEMPLATES, write_tokenizer
from workbench.data import sandbox
from workbench.data.chat import exchange_of, exchanges, opened_thought, render_chat
from workbench.data.formats import COMPLETION_FORMATS, Chat, Preference, Prompt, PromptCompletion, parse_example
from workbench.data.tokenise import encode_prompts, tokenise_pairs, tokenise_prompts, tokenise_rows
from workbench.errors import DataError, ModelError
from workbench.models.tokenizer import Tokenizer

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
MESSAGES = COMPLETION_FORMATS[0]
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
    chat = parse_example(MESSAGES, {"messages": messages, "tools": TOOLS})
    [expected], _ = render_jinja_template([messages], tools=TOOLS, chat_template=WRITES_ALL)
    assert render_chat(make_tokenizer(WRITES_ALL), chat.messages) == expected


@pytest.mark.parametrize("name", ["tools", "tool_calls", "thinking"])
def test_what_the_template_does_not_write_is_refused_by_name(make_tokenizer, chatml, name):
    turns = [{"role": "user", "content": "u"}, {"role": "assistant", "content": "a"}]
    row = {"messages": turns}
    (row if name == "tools" else turns[1])[name] = {"tools": TOOLS, "tool_calls": CALL, "thinking": "t"}[name]
    chat = parse_example(MESSAGES, row)
    with pytest.raises(ValueError, match=f"^has {name}, which the model's chat template does not write; "):
        render_chat(make_tokenizer(chatml), chat.messages)


def test_every_answer_is_rendered_with_its_end_behind_what_it_is_asked_with(make_tokenizer, chatml):
    tokenizer = make_tokenizer(chatml)
    first, second = exchanges(tokenizer, TURNS)
    assert [first.answer, second.answer] == ["yo<|im_end|>\n", "ok.\n<|im_end|>\n"]
    assert first.prompt == render_chat(tokenizer, TURNS[:2], generation_prompt=True)
    assert second.prompt + second.answer == render_chat(tokenizer, TURNS)


def test_what_follows_the_last_answer_is_left_out(make_tokenizer, chatml):
    assert exchanges(make_tokenizer(chatml), TURNS[:4]) == exchanges(make_tokenizer(chatml), TURNS[:3])


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
    asked, answer = [("user", "q")], [("assistant", " a im_end \n")]
    assert exchange_of(tokenizer, asked, answer).answer == " a im_end \n<|im_end|>\n"
    assert exchange_of(tokenizer, asked, answer, ended=False).answer == " a im_end \n"
    assert exchange_of(tokenizer, asked, [("assistant", "")], ended=False).answer == ""


def test_a_template_that_writes_contents_alone_takes_an_empty_answer(make_tokenizer):
    tokenizer = make_tokenizer("{% for m in messages %}{{ m.content }}{% endfor %}")
    pairs, counts = tokenise_pairs([Preference("q", "a", "")], tokenizer, 1000, as_chat=True)
    assert (len(pairs), counts.dropped) == (0, 1)


ASKED = (("user", "a"), ("assistant", "<think>\nhm\n</think>\n\nfine"), ("user", "b"), ("assistant", "so"))


def _learned(tokenizer, *examples):
    """(what is read before, what is learned) of every part that is learned."""
    rows, counts = tokenise_rows(examples, tokenizer, 10_000, as_chat=False, every_token=False)
    found = []
    for row in range(len(rows)):
        ids = rows.ids[row].tolist()
        flags = [False, *rows.labelled[rows.ids.offsets[row] : rows.ids.offsets[row + 1]].tolist(), False]
        starts = [i for i in range(len(ids)) if flags[i + 1] and not flags[i]]
        ends = [i for i in range(len(ids) + 1) if flags[i] and not flags[i + 1]]
        found += [(tokenizer.decode(ids[:a], False), tokenizer.decode(ids[a:b], False))
                  for a, b in zip(starts, ends, strict=True)]  # fmt: skip
    return found, counts


def test_qwen3s_thoughts_are_learned_where_the_model_would_have_them(tmp_path):
    """It leaves earlier thoughts out, and writes an empty one into an answer that has none."""
    tokenizer = Tokenizer.load(write_tokenizer(tmp_path, "byte level", template=TEMPLATES["qwen3"]))
    (first, second), counts = _learned(tokenizer, Chat(ASKED))
    assert first == (
        "<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\n",
        "<think>\nhm\n</think>\n\nfine<|im_end|>\n",
    )
    assert second == (
        "<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\nfine<|im_end|>\n<|im_start|>user\nb<|im_end|>\n"
        "<|im_start|>assistant\n",
        "<think>\n\n</think>\n\nso<|im_end|>\n",
    )
    assert (counts.rows, counts.divided) == (2, 1)
    assert counts.note() == (
        "1 conversation became several rows, for the chat template writes earlier turns otherwise before later ones"
    )


def test_r1s_answers_go_on_from_the_thought_that_its_question_opens(tmp_path):
    tokenizer = Tokenizer.load(write_tokenizer(tmp_path, "byte level", template=TEMPLATES["r1"]))
    found, _ = _learned(tokenizer, Chat(ASKED))
    assert found == [
        ("<s><|User|>a<|Assistant|><think>\n", "hm\n</think>\n\nfine</s>"),
        ("<s><|User|>a<|Assistant|>\n\nfine</s><|User|>b<|Assistant|><think>\n", "\n</think>\n\nso</s>"),
    ]


def test_a_thought_that_the_template_would_leave_out_is_learned(tmp_path):
    """R1's first template asked without opening a thought."""
    template = TEMPLATES["r1"].replace("<think>\\n'}}", "'}}")
    tokenizer = Tokenizer.load(write_tokenizer(tmp_path, "byte level", template=template))
    assert _learned(tokenizer, Chat(ASKED))[0][0] == ("<s><|User|>a<|Assistant|>", f"{ASKED[1][1]}</s>")


def test_only_what_a_template_marks_as_the_assistants_is_learned(make_tokenizer, chatml):
    marked = chatml.replace("{{'<|im_start|>'", "{% if message.role == 'assistant' %}{{ '<|im_start|>assistant\n' }}"
        "{% generation %}{{ message.content + '<|im_end|>' }}{% endgeneration %}{{ '\n' }}"
        "{% else %}{{'<|im_start|>'").replace("+ '\n'}}{% endfor %}", "+ '\n'}}{% endif %}{% endfor %}")  # fmt: skip
    found, _ = _learned(make_tokenizer(marked), Chat(tuple(TURNS)))
    assert [learned for _, learned in found] == ["yo<|im_end|>", "ok.\n<|im_end|>"]


def test_a_template_without_an_end_is_refused_with_the_remedy(make_tokenizer):
    tokenizer = make_tokenizer("{% for m in messages %}{{ m.role }}: {{ m.content }}\n\n{% endfor %}")
    with pytest.raises(ModelError) as error:
        _learned(tokenizer, Chat((("user", "a"), ("assistant", "b"))))
    [line] = str(error.value).splitlines()
    assert "the chat template ends an answer with 'b\\n\\n', in which there is no end of sequence" in line
    assert "tokenizer_config.json (eos_token), or make the end that it writes a token (model.add_tokens)" in line


def test_the_token_that_a_template_ends_an_answer_with_is_an_end(make_tokenizer, chatml):
    tokenizer = make_tokenizer(chatml)
    end = {"<|im_end|>": tokenizer.token_id("<|im_end|>")}
    for _, counts in (
        _learned(tokenizer, Chat(tuple(TURNS))),
        tokenise_pairs([Preference("q", "a", "b")], tokenizer, 99, as_chat=True),
        tokenise_prompts([Prompt("q")], tokenizer, 99, as_chat=True),
    ):
        assert counts.ends == end
        assert counts.remarks() == ["<|im_end|> ends an answer, and is taken for an end of sequence"]
    named = make_tokenizer(chatml, eos=("<eos>", "<|im_end|>"))
    assert _learned(named, Chat(tuple(TURNS)))[1].ends == {}


def test_the_date_is_the_same_on_every_day(make_tokenizer, chatml):
    tokenizer = make_tokenizer("{{ strftime_now('%d %b %Y %H:%M') }}" + chatml)
    assert render_chat(tokenizer, TURNS).startswith("26 Jul 2024 00:00<|im_start|>")
    _, counts = _learned(tokenizer, Chat(tuple(TURNS)))
    assert "the chat template writes a date: always 26 July 2024" in counts.remarks()
    assert f"{sandbox.DATE:%d %B %Y}" == "26 July 2024"


def test_a_templates_own_fault_is_never_told_as_the_rows(make_tokenizer, chatml):
    """Nor once a row: rows could not mend it."""
    rows = [Chat(tuple(TURNS)), Chat(tuple(TURNS))]
    for template in ("{{ nothing() }}", "{% if %}", "{{ raise_exception('never') }}", "{{ 'a' * 10 ** 12 }}"):
        with pytest.raises(ModelError) as error:
            tokenise_rows(rows, make_tokenizer(template), 99, as_chat=False, every_token=False)
        [line] = str(error.value).splitlines()
        assert "its chat template fails: " in line
        assert "bad_rows" not in line


def test_a_thought_is_open_only_at_the_very_end_of_a_prompt():
    assert opened_thought("q<|Assistant|><think>\n") == "<think>\n"
    assert opened_thought("put <think> before, </think> behind") == ""
    assert opened_thought("<think>a</think>") == ""


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


def test_json_in_a_template_is_not_escaped_for_html(make_tokenizer):
    tokenizer = make_tokenizer("{{ messages[0].content | tojson }}")
    assert render_chat(tokenizer, [("user", "<é>")]) == json.dumps("<é>", ensure_ascii=False)
