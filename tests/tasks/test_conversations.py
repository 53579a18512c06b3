"""Conversations in OpenAI's and ShareGPT's form: the last answer is the target."""

from __future__ import annotations

import json

import pytest

from peftbench import suite
from peftbench.errors import UserError
from peftbench.records import Example, Task
from peftbench.tasks import chat, conversations, read

TURNS = (("system", "be kind"), ("user", "hi"), ("assistant", "hello"), ("user", "why?"))
OPENAI = [{"role": role, "content": text} for role, text in (*TURNS, ("assistant", "so"))]
NAMES = {"system": "system", "user": "human", "assistant": "gpt"}
SHAREGPT = [{"from": NAMES[each["role"]], "value": each["content"]} for each in OPENAI]


@pytest.fixture
def reading(tmp_path):
    """Write records and return what a task with a ready template reads."""

    def of(block: str, *rows: dict) -> read.Reading:
        (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
        text = f"base: nano\nmethods: [lora]\ntasks:\n  m: {{{block}, train: a.jsonl, test: a.jsonl}}\n"
        (tmp_path / "s.yaml").write_text(text)
        return read.reading(suite.load(tmp_path / "s.yaml").tasks[0], "test")

    return of


def test_both_forms_give_the_same_example(reading):
    found = [
        reading("template: messages", {"messages": OPENAI}),
        reading("template: sharegpt", {"conversations": SHAREGPT}),
        reading("messages: talk, kind: generation", {"talk": OPENAI}),
    ]
    for each in found:
        (example,) = each.examples
        assert (example.turns, example.target) == (TURNS, "so")
        assert example.prompt == "System: be kind\nUser: hi\nAssistant: hello\nUser: why?\nAssistant:"
        assert each.notes[0].endswith("of 1 conversation, those with several answers (1) keep the last")


def test_what_follows_the_last_answer_is_left_out_with_a_note(reading):
    found = reading("template: messages", {"messages": [*OPENAI, {"role": "user", "content": "ok"}]})
    assert found.examples[0].turns == TURNS
    assert "messages after the last answer are left out (1 of 1 conversation)" in found.notes[1]


def test_text_in_parts_is_joined(reading):
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    messages = [{"role": "user", "content": parts}, {"role": "assistant", "content": "c"}]
    assert reading("template: messages", {"messages": messages}).examples[0].turns == (("user", "ab"),)


ASK = {"role": "user", "content": "x"}
ANSWER = {"role": "assistant", "content": "y"}


@pytest.mark.parametrize(
    ("row", "part"),
    [
        (
            {"messages": [ASK, {"role": "assistant", "content": None, "tool_calls": [{}]}]},
            "messages[1] has 'tool_calls'",
        ),
        (
            {"messages": [ASK, {**ANSWER, "reasoning_content": "hm"}]},
            "'reasoning_content', content that would be left out",
        ),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}, ANSWER]}, "type 'image_url'; only text"),
        ({"messages": [ASK, ANSWER, {"role": "tool", "content": "5"}]}, "messages[2] has the role 'tool'"),
        ({"messages": [ASK, ANSWER], "tools": [{}]}, "the field tools defines tools"),
        ({"messages": [ASK, ANSWER], "images": ["1.jpg"]}, "the field images belongs to the conversation"),
        ({"messages": [ASK, {**ANSWER, "weight": 0}]}, "has the weight 0"),
        ({"messages": [ASK]}, "no message of the assistant"),
        ({"messages": [ANSWER]}, "no message before it"),
        ({"messages": [ASK, {"role": "assistant", "content": None}]}, "messages[1].content is null"),
        ({"messages": ["x"]}, "messages[0] is no message: expected a mapping, got a text"),
        ({"messages": None}, "expected a list of messages, got null"),
        ({"messages": []}, "got an empty list"),
        ({"text": "x"}, "there is no field messages"),
        ({"messages": [ASK, {"role": "assistant", "content": "\ud83d"}]}, "half a surrogate pair"),
        ({"messages": [{"role": "user", "content": "\ud83d"}, ANSWER]}, "prompt: character"),
    ],
)
def test_what_is_more_than_text_is_refused_with_file_and_line(reading, row, part):
    with pytest.raises(UserError, match=r"task 'm': a\.jsonl, line 2 \(example 2\): ") as raised:
        reading("template: messages", {"messages": [ASK, ANSWER]}, row)
    assert part in str(raised.value)


@pytest.mark.parametrize(
    ("block", "part"),
    [
        ('template: messages, prompt: "{{ x }}"', "under chat: true the conversation is the prompt"),
        ("template: messages, num_fewshot: 2", "a conversation takes no few-shot examples"),
        ("messages: talk, kind: choice, choices: [a, b]", "this task's kind is choice"),
    ],
)
def test_keys_that_do_not_go_with_a_conversation_are_refused(reading, block, part):
    with pytest.raises(UserError, match=part):
        reading(block, {"messages": OPENAI})


def test_a_system_message_of_the_suite_is_for_conversations_without_one():
    task = Task("m", "generation", chat=True, system="own")
    plain = Example("p", "a")
    assert conversations.asked(task, plain) == [
        {"role": "system", "content": "own"},
        {"role": "user", "content": "p"},
    ]
    assert conversations.asked(task, Example("p", "a", turns=TURNS))[0] == {"role": "system", "content": "be kind"}
    assert conversations.asked(task, Example("p", "a", turns=TURNS[1:]))[0] == {"role": "system", "content": "own"}


def test_a_chat_template_writes_all_turns(reading):
    class Tokenizer:
        chat_template = "x"
        eos_token = "</s>"

        def get_chat_template(self) -> str:
            return self.chat_template

        def apply_chat_template(self, messages, add_generation_prompt=False, **_: object) -> str:
            text = "".join(f"<{m['role']}>{m['content']}</s>" for m in messages)
            return text + ("<assistant>" if add_generation_prompt else "")

    found = reading("template: messages", {"messages": OPENAI})
    task = Task("m", "generation", chat=True, files={}, messages="messages")
    (example,) = chat.apply(task, found.examples, Tokenizer())
    assert example.prompt == ("<system>be kind</s><user>hi</s><assistant>hello</s><user>why?</s><assistant>")
    assert example.target == "so"


def test_the_fingerprint_covers_the_turns(tmp_path):
    prints = set()
    for word in ("why?", "when?"):
        messages = [*OPENAI[:3], {"role": "user", "content": word}, OPENAI[4]]
        (tmp_path / "a.jsonl").write_text(json.dumps({"messages": messages}))
        files = {"test": str(tmp_path / "a.jsonl")}
        one = Task("m", "generation", files=files, messages="messages", prompt="same", target="{{ answer }}")
        prints.add(read.fingerprint([one]))
    assert len(prints) == 2
