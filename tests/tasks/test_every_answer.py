"""Training on every answer of a conversation: which tokens enter the loss, and which chat templates allow it."""

from __future__ import annotations

import json

import pytest

from peftbench import suite
from peftbench.errors import Unsupported, UserError
from peftbench.records import Task, Training
from peftbench.tasks import chat, read
from peftbench.training import batches, packing
from peftbench.training.encoded import encode
from tests.support import chat_templates
from tests.support.sample import sample
from tests.support.trials import TRAINING

TALK = [
    {"role": "user", "content": "is it red ?"},
    {"role": "assistant", "content": "yes, red 12"},
    {"role": "user", "content": "and green ?"},
    {"role": "assistant", "content": "no"},
    {"role": "user", "content": "the sky ?"},
    {"role": "assistant", "content": "blue and red"},
]
KEPT = {  # as Qwen2.5's, with marks; the header is not the assistant's words
    "marked": "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' }}{% if m['role'] == 'assistant' %}"
    "{% generation %}{{ m['content'] + '<|im_end|>' }}{% endgeneration %}{% else %}{{ m['content'] + '<|im_end|>' }}"
    "{% endif %}{{ '\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
}
CHANGED = {  # as Qwen3's: an empty block of thinking for the last answer only; as DeepSeek R1's: none in the history
    "a block for the last": "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' }}"
    "{% if m['role'] == 'assistant' and loop.last %}{{ '<think>\n\n</think>\n\n' }}{% endif %}"
    "{{ m['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}",
    "no thinking in the history": "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' }}"
    "{% if m['role'] == 'assistant' and not loop.last %}{{ m['content'].split('</think>')[-1].strip() }}"
    "{% else %}{{ m['content'] }}{% endif %}{{ '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}",
}


@pytest.fixture
def task(tmp_path):
    """Write conversations; return a task of them."""

    def of(*talks, train_on="every_answer", more="") -> Task:
        (tmp_path / "a.jsonl").write_text("\n".join(json.dumps({"messages": talk}) for talk in talks))
        block = f"{{template: messages, train: a.jsonl, test: a.jsonl, train_on: {train_on}{more}}}"
        (tmp_path / "s.yaml").write_text(f"base: nano\nmethods: [lora]\ntasks:\n  m: {block}\n")
        return suite.load(tmp_path / "s.yaml").tasks[0]

    return of


def encoded(made: Task, tokenizer, length=10**6, loss_on="completion"):
    examples = chat.apply(made, read.examples(made, "train"), tokenizer)
    return encode(tokenizer, [(("m", i), e) for i, e in enumerate(examples)], length, loss_on)


def cases():
    return [(name, kind) for name in (*chat_templates.TEMPLATES, *KEPT) for kind in chat_templates.TOKENIZERS]


@pytest.mark.parametrize(("name", "kind"), sample(cases(), 12))
def test_each_answer_is_trained_on_as_if_the_conversation_ended_with_it(task, name, kind):
    tokenizer = chat_templates.tokenizer(kind, {**chat_templates.TEMPLATES, **KEPT}[name])
    (whole,) = encoded(task(TALK), tokenizer)
    alone = [encoded(task(TALK[:end], train_on="last_answer"), tokenizer)[0] for end in (2, 4, 6)]
    assert len(whole.loss_spans) == 3
    assert whole.ids == alone[-1].ids
    assert whole.loss_spans[-1] == (alone[-1].loss_from, len(whole.ids)), "the last answer is trained on as without"
    for (first, end), one, said in zip(whole.earlier, alone, ("yes, red 12", "no"), strict=False):
        # two line feeds at a prompt's end may be one token, and two in the history, as in the last answer's prompt
        assert tokenizer.decode(list(whole.ids[:first])) == tokenizer.decode(list(one.ids[: one.loss_from]))
        learned = one.ids[one.loss_from :]
        assert whole.ids[first:end] == learned[: end - first]
        text = tokenizer.decode(list(whole.ids[first:end]))
        assert text.strip().startswith(said)
        assert len(text.strip()) > len(said), "the end of the turn is learned"
        assert "green" not in text
        assert "sky" not in text


def test_the_spans_are_labels_and_nothing_else_is(task):
    tokenizer = chat_templates.tokenizer("byte-level", chat_templates.TEMPLATES["chatml"])
    (one, other) = encoded(task(TALK, TALK[:4]), tokenizer)
    batch = batches.collate([one, other], 0)
    wanted = sum(end - first for e in (one, other) for first, end in e.loss_spans)
    assert batch.loss_tokens == wanted
    assert tokenizer.decode(batch.labels[1][batch.labels[1] != batches.IGNORED].tolist()) == (
        "yes, red 12<|im_end|>\nno<|im_end|>\n</s>"
    )
    packed = batches.pack([[other, one]], 0)
    assert packed.loss_tokens == wanted
    start = len(other.ids)
    assert packed.labels[0, start : start + len(one.ids)].tolist() == batch.labels[0, : len(one.ids)].tolist()
    (last,) = encoded(task(TALK, train_on="last_answer"), tokenizer)
    assert batches.fingerprint([[last]]) != batches.fingerprint([[one]])
    (everything,) = encoded(task(TALK), tokenizer, loss_on="all")
    assert (everything.loss_from, everything.earlier) == (1, ())


@pytest.mark.parametrize("kept", [1, 2, 9])
def test_a_cut_example_keeps_what_is_left_of_its_answers(task, kept):
    tokenizer = chat_templates.tokenizer("byte-level", chat_templates.TEMPLATES["chatml"])
    (whole,) = encoded(task(TALK), tokenizer)
    first, end = whole.earlier[1]
    (cut,) = encoded(task(TALK), tokenizer, length=len(whole.ids) - end + kept)
    size = end - first
    begins = max(1, kept - size)
    assert cut.earlier == (((begins, kept),) if kept > 1 else ())
    assert cut.ids[:kept] == whole.ids[end - kept : end]
    (gone,) = encoded(task(TALK), tokenizer, length=len(whole.ids) - whole.loss_from)
    assert gone.earlier == ()


def test_packed_examples_with_earlier_answers_train_in_the_forward_pass(task):
    tokenizer = chat_templates.tokenizer("byte-level", chat_templates.TEMPLATES["chatml"])
    made = encoded(task(TALK, TALK[:4]), tokenizer)
    training = Training(**{**vars(TRAINING), "packing": True, "sequence_length": 200, "micro_batch_size": 2})
    (rows,) = packing.forward_passes(made, training)
    assert batches.pack(rows, 0).loss_tokens == sum(end - first for e in made for first, end in e.loss_spans)


@pytest.mark.parametrize("name", CHANGED)
def test_a_template_that_rewrites_the_history_is_refused(task, name):
    talk = [dict(each) for each in TALK]
    if name == "no thinking in the history":
        talk[1]["content"] = "<think>hm</think>yes"
    tokenizer = chat_templates.tokenizer("byte-level", CHANGED[name])
    made = task(talk)
    with pytest.raises(Unsupported) as error:
        chat.apply(made, read.examples(made, "train"), tokenizer)
    assert "tasks.m.chat: the base's chat template writes an answer otherwise once messages follow it" in str(
        error.value
    )
    assert "(example 0, message 1): it cannot be trained on every answer; give train_on: last_answer" in str(
        error.value
    )
    last = task(talk, train_on="last_answer")
    chat.apply(last, read.examples(last, "train"), tokenizer)


def test_a_template_without_an_end_of_turns_is_refused(task):
    tokenizer = chat_templates.tokenizer("byte-level", "{% for m in messages %}{{ m['content'] }}{% endfor %}")
    made = task(TALK)
    with pytest.raises(Unsupported, match="writes no end behind an answer that messages follow"):
        chat.apply(made, read.examples(made, "train"), tokenizer)


def test_marks_of_the_template_narrow_what_is_trained_on(task):
    # the mark excludes the end of the turn, which an unmarked template would have trained
    template = KEPT["marked"].replace(
        " + '<|im_end|>' }}{% endgeneration %}", " }}{% endgeneration %}{{ '<|im_end|>' }}"
    )
    tokenizer = chat_templates.tokenizer("byte-level", template)
    (found,) = encoded(task(TALK), tokenizer)
    texts = [tokenizer.decode(list(found.ids[first:end])) for first, end in found.earlier]
    assert texts == ["yes, red 12", "no"]


def test_a_tokenizer_without_characters_is_refused(task, monkeypatch):
    tokenizer = chat_templates.tokenizer("byte-level", chat_templates.TEMPLATES["chatml"])
    monkeypatch.setattr(type(tokenizer), "is_fast", False)
    with pytest.raises(Unsupported, match="does not tell which characters a token stands for"):
        encoded(task(TALK), tokenizer)


def test_answers_of_weight_0_are_not_trained_on(task):
    talk = [dict(each) for each in TALK]
    talk[1]["weight"] = 0
    talk[3]["weight"] = 1
    assert read.examples(task(talk), "train")[0].taught == (3,)
    talk[5]["weight"] = 0
    (example,) = read.examples(task(talk), "train")
    assert (example.target, example.taught) == ("no", ()), "the last answer that may be trained on is the target"
    talk[3]["weight"] = 0
    for made in (task(talk), task(talk, train_on="last_answer")):
        with pytest.raises(UserError, match="the last answer, has the weight 0: it is not to be trained on"):
            read.examples(made, "train")
    talk[3]["weight"] = 0.5
    for made in (task(talk), task(talk, train_on="last_answer")):
        with pytest.raises(
            UserError, match=r"messages\[3\] has the weight 0.5; allowed: 0, not to be trained on, and 1"
        ):
            read.examples(made, "train")


def test_a_greeting_that_nothing_precedes_is_not_trained_on(task):
    talk = [{"role": "assistant", "content": "hello"}, *TALK[:4]]
    assert read.examples(task(talk), "train")[0].taught == (2,)


def test_what_is_trained_on_is_told_and_is_in_key_and_data(task):
    every, last = task(TALK), task(TALK, train_on="last_answer")
    assert (every.train_on, last.train_on) == ("every_answer", "last_answer")
    assert read.reading(every, "train").notes == (
        "task 'm': a.jsonl: 2 earlier answers of conversations are trained on, too",
    )
    assert "those with several answers (1) keep the last" in read.reading(last, "train").notes[0]
    assert read.fingerprint([every]) != read.fingerprint([last])
    scored = [read.examples(made, "test")[0] for made in (every, last)]
    assert {(e.prompt, e.target, e.turns) for e in scored} == {(scored[0].prompt, "blue and red", scored[0].turns)}


@pytest.mark.parametrize(
    ("block", "part"),
    [
        ("template: messages, train_on: every_answer, chat: false", "m.train_on: every_answer needs chat: true"),
        ("template: alpaca, train_on: every_answer", "m.train_on: only a conversation has several answers"),
        ("template: messages, train_on: all", "m.train_on: unknown train_on 'all'; allowed: every_answer, last_answer"),
    ],
)
def test_what_cannot_be_trained_on_so_is_refused(tmp_path, block, part):
    (tmp_path / "a.jsonl").write_text("{}")
    text = f"base: nano\nmethods: [lora]\ntasks:\n  m: {{{block}, train: a.jsonl, test: a.jsonl}}\n"
    (tmp_path / "s.yaml").write_text(text)
    with pytest.raises(UserError) as error:
        suite.load(tmp_path / "s.yaml")
    assert part in str(error.value)


def test_a_list_of_right_answers_keeps_those_that_are_there_twice(tmp_path):
    row = {"question": "q", "answer": "a", "references": ["b", "a", "b"]}
    (tmp_path / "a.jsonl").write_text(json.dumps(row))
    block = "kind: generation, prompt: '{{ question }}', target: '{{ [answer] + references }}'"
    text = f"base: nano\nmethods: [lora]\ntasks:\n  m: {{{block}, train: a.jsonl, test: a.jsonl}}\n"
    (tmp_path / "s.yaml").write_text(text)
    made = suite.load(tmp_path / "s.yaml").tasks[0]
    (example,) = read.examples(made, "train")
    assert (example.target, example.references) == ("a", ("a", "b", "a", "b"))
