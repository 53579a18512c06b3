"""What a dataset is, guessed from its columns: kind, templates, labels; and the question where it cannot be guessed."""

from __future__ import annotations

import jinja2
import pytest

from peftbench.errors import UserError
from peftbench.tasks import survey
from peftbench.tasks.recognize import Asked, recognize


def seen(rows, chat=False, **asked):
    return recognize(survey.columns(rows), chat, Asked(**asked))


def many(**columns):
    return [{name: value(n) for name, value in columns.items()} for n in range(60)]


def sentence(n):
    return f"a long enough sentence about thing number {n}"


MADE = {
    "label by its name": (many(text=sentence, label=lambda n: n % 3), "choice", "Text: {{ text }}\nLabel:"),
    "label by few values": (many(sentence=sentence, odd=lambda n: "yn"[n % 2]), "choice", "Sentence: {{ sentence }}"),
    "a pair of texts": (
        many(premise=sentence, hypothesis=sentence, label=lambda n: "abc"[n % 3]),
        "choice",
        "Premise: {{ premise }}\nHypothesis: {{ hypothesis }}\nLabel:",
    ),
    "a spaced name": (
        many(**{"Review Text": sentence, "label": lambda n: "ab"[n % 2]}),
        "choice",
        "{{ row['Review Text'] }}",
    ),
    "question and answer": (
        many(question=sentence, answer=sentence),
        "generation",
        "Question: {{ question }}\nAnswer:",
    ),
    "short answers": (many(question=sentence, answer=lambda n: f"{n} km"), "exact_match", "Question: {{ question }}"),
    "with a context": (
        many(id=str, title=lambda n: "ab"[n % 2], context=sentence, question=sentence, answer=sentence),
        "generation",
        "Context: {{ context }}\nQuestion: {{ question }}",
    ),
    "document and summary": (many(document=sentence, summary=sentence), "generation", "Document: {{ document }}"),
    "instructions with another answer": (
        many(instruction=sentence, completion=sentence),
        "generation",
        "{{ instruction }}\n\nResponse:",
    ),
}


@pytest.mark.parametrize(("rows", "kind", "prompt"), MADE.values(), ids=MADE)
def test_names_and_values_of_columns_say_what_the_task_is(rows, kind, prompt):
    found = seen(rows)
    assert found.kind == found.block["kind"] == kind
    assert prompt in found.block["prompt"]
    assert "chat" not in found.block
    assert seen(rows, chat=True).block["chat"] is True


KNOWN = {
    "alpaca": many(instruction=sentence, input=lambda n: "", output=sentence),
    "dolly": many(instruction=sentence, context=sentence, response=sentence, category=lambda n: "ab"[n % 2]),
    "gsm8k": many(question=sentence, answer=lambda n: f"so #### {n}"),
    "e2e": many(text=lambda n: f"facts {n}||sentence {n}"),
    "text": many(text=sentence),
    "messages": many(messages=lambda n: [{"role": "user", "content": "a"}]),
    "sharegpt": many(conversations=lambda n: [{"from": "human", "value": "a"}]),
}


@pytest.mark.parametrize(("name", "rows"), KNOWN.items(), ids=KNOWN)
def test_well_known_forms_get_their_template(name, rows):
    assert seen(rows).block["template"] == name


def test_a_chat_template_of_the_base_is_used_for_instructions_and_conversations():
    made = seen(KNOWN["alpaca"], chat=True).block
    assert (made["chat"], "template" in made) == (True, False)
    assert made["prompt"] == ("{{ instruction }}{% if row.get('input') %}\n\n{{ row.get('input') }}{% endif %}")
    assert seen(KNOWN["messages"], chat=True).block == {"template": "messages"}
    assert seen(KNOWN["messages"]).block == {"template": "messages", "chat": False}
    other = many(dialog=lambda n: [{"role": "user", "content": "a"}])
    assert seen(other, chat=True).block == {"kind": "generation", "messages": "dialog", "chat": True}


def test_what_cannot_be_guessed_is_a_question_with_its_options():
    with pytest.raises(UserError, match=r"--input foo --answer bar .*'foo' \(60 values, as 'a long"):
        seen(many(foo=sentence, bar=sentence))
    with pytest.raises(UserError, match=r"cannot be guessed"):
        seen(many(file=sentence, gpu=lambda n: "ab"[n % 2], torch=lambda n: "cd"[n % 2]))
    with pytest.raises(UserError, match=r"cannot be guessed"):
        seen(many(n=lambda n: n * 1.5))


def test_what_the_user_says_is_taken():
    rows = many(foo=sentence, bar=sentence, mark=lambda n: n % 4)
    assert seen(rows, inputs=("foo",), answer="bar").block["prompt"] == "Foo: {{ foo }}\nAnswer:"
    assert seen(rows, answer="mark").kind == "choice"
    assert seen(rows, inputs=("foo",), answer="bar", kind="exact_match").kind == "exact_match"
    assert seen(rows, inputs=("bar",), kind="language_modelling").block["target"] == "{{ bar }}"


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ({"answer": "baz"}, r"--answer: given 'baz', which is no column of the data; did you mean 'bar'\?"),
        ({"inputs": ("foo", "nope")}, r"--input: given 'nope', which is no column"),
        ({"inputs": ("foo",)}, r"give also the answer's column, as --answer NAME"),
        ({"answer": "bar", "kind": "choice"}, r"--kind choice: 'bar' has 300 values; allowed: a column of 2 to 200"),
    ],
)
def test_what_the_user_says_wrongly_is_refused(asked, told):
    rows = [{"foo": sentence(n), "bar": sentence(n), "mark": n % 4} for n in range(300)]
    with pytest.raises(UserError, match=told):
        seen(rows, **asked)


def test_what_was_left_open_is_said():
    found = seen(many(text=sentence, label=lambda n: n % 2, topic=lambda n: "abc"[n % 3]))
    assert any("'topic' could be labels too" in text for text in found.unsure)
    assert any("give each its word under labels" in text for text in found.unsure)


def test_a_file_without_a_header_is_noticed():
    assert survey.without_header([{"0": "1", "what is an atom": "who is it"}])
    assert survey.without_header([{"gj04": "gj04", "x": "a"}, {"gj04": "gj04", "x": "b"}])
    assert not survey.without_header([{"label": "0", "text": "what"}])


@pytest.mark.parametrize("value", [0, 0.0, 7, None])
def test_a_number_is_in_the_prompt_even_if_it_is_zero_and_only_some_records_have_it(value):
    rows = [{"n": n % 5, "text": sentence(n), "label": "ab"[n % 2]} for n in range(60)]
    rows[10] = {"n": value, "text": sentence(10), "label": "a"}
    rows[11] = {"text": sentence(11), "label": "b"}
    found = seen(rows, inputs=("n", "text"), answer="label")
    prompt = jinja2.Environment().from_string(found.block["prompt"])
    shown = "" if value is None else str(value)
    assert prompt.render(row=rows[10], **rows[10]).splitlines()[0].rstrip() == f"N: {shown}".rstrip()
    assert prompt.render(row=rows[11], **rows[11]).splitlines()[0].rstrip() == "N:"
