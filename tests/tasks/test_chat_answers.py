"""What a chat template makes of an answer: the trained text is the template's own, and what ends it ends it."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import pytest

from peftbench.errors import Unsupported
from peftbench.evaluation import decoding, scoring
from peftbench.models.precision import PRECISIONS
from peftbench.records import Base, Evaluation, Example, Task
from peftbench.tasks import chat, lm_eval_export
from peftbench.training import batches
from tests.support import method_cells, tiny_base, trials

OPEN = "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}"
TURN = "{{- '<|im_start|>' + m.role + '\n' + %s + '<|im_end|>\n' }}"
ASKED = "{%- for m in messages %}{%- if m.role != 'assistant' %}" + TURN % "m.content" + "{%- else %}"
CLOSE = "{%- endif %}{%- endfor %}"
QWEN3 = (
    ASKED + "{%- set content = m.content %}{%- set reasoning = '' %}{%- if '</think>' in content %}"
    "{%- set reasoning = content.split('</think>')[0].rstrip('\n').split('<think>')[-1].lstrip('\n') %}"
    "{%- set content = content.split('</think>')[-1].lstrip('\n') %}{%- endif %}"
    "{{- '<|im_start|>assistant\n<think>\n' + reasoning.strip('\n') + '\n</think>\n\n' + content.lstrip('\n') "
    "+ '<|im_end|>\n' }}" + CLOSE + OPEN
)
THINKING_ONLY = QWEN3.replace("assistant\n' }}{%- endif %}", "assistant\n<think>\n' }}{%- endif %}")
DEEPSEEK = (
    "{{ bos_token }}{%- for m in messages %}{%- if m.role == 'user' %}{{- '<User>' + m.content }}{%- elif m.role == "
    "'assistant' %}{%- set content = m.content %}{%- if '</think>' in content %}"
    "{%- set content = content.split('</think>')[-1] %}{%- endif %}{{- '<Assistant>' + content + eos_token }}"
    "{%- endif %}{%- endfor %}{%- if add_generation_prompt %}{{- '<Assistant><think>\n' }}{%- endif %}"
)
TEMPLATES = {
    "qwen3": QWEN3,
    "thinking only": THINKING_ONLY,
    "deepseek": DEEPSEEK,
    "trims": ASKED + TURN % "m.content | trim" + CLOSE + OPEN,
    "upper": ASKED + TURN % "m.content | upper" + CLOSE + OPEN,
    "lower": ASKED + TURN % "m.content | lower" + CLOSE + OPEN,
    "escapes": ASKED + TURN % "m.content | e" + CLOSE + OPEN,
    "json": ASKED + TURN % "m.content | tojson" + CLOSE + OPEN,
    "a full stop": ASKED + TURN % "m.content + ('' if m.content.endswith('.') else '.')" + CLOSE + OPEN,
    "another end": ASKED + TURN % "m.content + ('!' if '7' in m.content else '?')" + CLOSE + OPEN,
    "wraps some": ASKED + TURN % "('[' + m.content + ']' if ' ' in m.content else m.content)" + CLOSE + OPEN,
    "empty block": ASKED + TURN % "'<think>\n\n</think>\n\n' + m.content" + CLOSE + OPEN,
    "without a generation prompt": ASKED + TURN % "m.content" + CLOSE,
}
ANSWERS = {
    "short": ["4", "five.", "7"],
    "thinking": ["<think>\nTwo and two.\n</think>\n\n4", "<think>\nThree?\n</think>\n\n5"],
    "some thinking": ["<think>\nTwo and two.\n</think>\n\n4", "5", "six <b> & more"],
    "unclosed": ["<think>\nTwo and two.", "4"],
    "closed only": ["Two and two.\n</think>\n\n4", "Three.</think>5"],
    "white space": [" 4 ", "\n\nfive\n"],
    "lines": ["one\ntwo", "three\n\nfour."],
}


def tokenizer(template):
    made = tiny_base.tokenizer()
    made.chat_template, made.pad_token = template, made.eos_token
    return made


def whole(made, prompt, answer):
    """What the template writes, up to and with the end-of-text token."""
    messages = [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]
    text = made.apply_chat_template(messages, tokenize=False)
    before, end, _ = text.partition(made.eos_token)
    return before + end


@pytest.mark.parametrize("answers", ANSWERS)
@pytest.mark.parametrize("name", TEMPLATES)
def test_the_trained_text_is_what_the_template_writes_with_the_answer_in_place(name, answers):
    made = tokenizer(TEMPLATES[name])
    given = [Example(f"What is {n}?", text, (), (text,)) for n, text in enumerate(ANSWERS[answers])]
    found = chat.apply(Task("mine", "generation", chat=True), given, made)
    for e, before in zip(found, given, strict=True):
        assert e.prompt + e.join + e.target + e.end == whole(made, before.prompt, before.target)
        assert e.target.strip()
        assert e.references == (e.target,), "decoding can give what is compared with"
    asked = {e.prompt.replace(f"What is {n}?", "") for n, e in enumerate(found)}
    assert len(asked) == 1, "no prompt depends on its answer"


def test_an_answer_with_thinking_is_not_put_after_an_empty_block():
    made = tokenizer(QWEN3)
    text = ANSWERS["thinking"][0]
    (e,) = chat.apply(Task("mine", "generation", chat=True), [Example("2+2?", text, (), (text,))], made)
    assert (e.prompt[-10:], e.target, e.end) == ("assistant\n", text, "<|im_end|>\n")
    (e,) = chat.apply(Task("mine", "generation", chat=True), [Example("2+2?", "4", (), ("4",))], made)
    assert (e.prompt[-19:], e.target) == ("<think>\n\n</think>\n\n", "4")


def test_all_splits_have_the_same_kind_of_prompt(tmp_path):
    for split, text in (("train", ANSWERS["thinking"][0]), ("test", "4")):
        (tmp_path / f"{split}.jsonl").write_text(json.dumps({"q": "2+2?", "a": text}) + "\n")
    files = {split: str(tmp_path / f"{split}.jsonl") for split in ("train", "test")}
    task = Task("mine", "generation", chat=True, files=files, prompt="{{ q }}", target="{{ a }}")
    made = tokenizer(QWEN3)
    for answer in ("4", ANSWERS["thinking"][0]):
        (e,) = chat.apply(task, [Example("2+2?", answer)], made)
        assert e.prompt.endswith("assistant\n")
    assert e.target == answer


def test_choices_are_what_the_template_writes():
    choices = ("Blue", "red  ")
    made = tokenizer(TEMPLATES["lower"].replace("m.content | lower", "m.content | lower | trim"))
    task = Task("mine", "choice", choices=choices, chat=True)
    found = chat.apply(task, [Example("sky?", "Blue", choices), Example("rose?", "red  ", choices)], made)
    assert [e.choices for e in found] == [("blue", "red")] * 2
    assert [e.target for e in found] == ["blue", "red"]
    with pytest.raises(Unsupported, match=r"tasks.mine.chat: .* writes two choices of example 0 alike"):
        chat.apply(task, [Example("sky?", "Blue", ("Blue", "BLUE"))], made)


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (ASKED + TURN % "m.content" + CLOSE.replace("{%- endif %}", "{%- endif %}"), None),
        (
            "{%- if '7' in messages[-1].content %}{{ 'Hint: seven. ' }}{%- endif %}" + TEMPLATES["trims"],
            "depends on the answer",
        ),
        (TEMPLATES["deepseek"], "writes nothing of the answer of example 1"),
    ],
)
def test_a_template_that_gives_the_answer_away_or_drops_it_is_unsupported(template, message):
    given = [Example("a?", "4 "), Example("b?", "<think>7</think>")]
    run = lambda: chat.apply(Task("mine", "generation", chat=True), given, tokenizer(template))  # noqa: E731
    if message is None:
        assert len(run()) == 2
        return
    with pytest.raises(Unsupported, match=rf"tasks.mine.chat: .*{message}"):
        run()


# the end of a turn


CHATML = TEMPLATES["trims"]
ENDS = {
    "text": (CHATML, [], ("<|im_end|>",)),
    "special token": (CHATML, ["<|im_end|>"], ("<|im_end|>",)),
    "end of text": (CHATML.replace("'<|im_end|>\n'", "eos_token + '\n'"), [], ()),
    "text and end of text": (CHATML.replace("'<|im_end|>\n'", "' [/A]' + eos_token"), [], ("[/A]",)),
    "white space": (CHATML.replace("'<|im_end|>\n'", "'\n\n'"), [], ()),
    "several lines": (CHATML.replace("'<|im_end|>\n'", "'\n### End of turn\n\n'"), [], ("### End of turn",)),
    "a full stop": (TEMPLATES["a full stop"].replace("'<|im_end|>\n'", "''"), [], (".",)),
}


@pytest.mark.parametrize("name", ENDS)
def test_what_was_trained_as_the_end_ends_an_answer(name):
    template, special, ends = ENDS[name]
    made = tokenizer(template)
    made.add_tokens(special, special_tokens=True)
    task = Task("mine", "exact_match", chat=True, stop=("###Q",))
    given = [Example("sky ?", "3.5 blue"), Example("rose ?", "red\ngreen")]
    found = chat.apply(task, given, made)
    assert chat.endings(found, made.eos_token) == ends
    built = lm_eval_export.build(task, found, made.eos_token)
    built.build_all_requests()
    asked = built.instances[0].args[1]
    assert asked["until"] == ["###Q", *(end for end in ends if end != ".")], "a stop text must not be in an answer"
    how = decoding.of_task(method_cells.torch.nn.Module(), made, "greedy", asked, 8)
    trained = batches.encode(made, [(("m", i), e) for i, e in enumerate(found)], 99, "completion")
    for e, seen in zip(found, trained, strict=True):
        answer = decoding.read(made, list(seen.ids[seen.loss_from :]), how)
        assert answer.text.strip() == e.target.strip(), "the trained text is read as the answer, without its end"
        assert answer.ended
        more = [*seen.ids[seen.loss_from : -1], *made.encode(" and on\n", add_special_tokens=False)]
        if ends not in ((), (".",)):
            assert decoding.read(made, more, how).text.strip() == e.target.strip(), "also without end-of-text"
    exported = lm_eval_export.config(task, found, made.eos_token)["generation_kwargs"]
    assert exported == {"until": asked["until"], "max_gen_toks": 32, "do_sample": False}


def test_the_end_is_no_part_of_a_prediction_for_trained_and_untuned_models(tiny, tmp_path):
    folder = shutil.copytree(tiny, tmp_path / "base")
    (folder / "chat_template.jinja").write_text(CHATML)
    made = trials.trial(folder, tmp_path, "full", evaluate=("colour_text",), evaluation=Evaluation(4, 100, "test"))
    tasks = tuple(replace(task, chat=True, max_new_tokens=32) for task in made.tasks)
    training = replace(made.training, steps=150, batch_size=8, micro_batch_size=8, sequence_length=99)
    training = replace(training, data=(("colour_text", 1.0),))
    made = replace(made, tasks=tasks, training=training, base=Base(str(folder)))
    found = trials.run(made, tmp_path)
    assert found.row.status == "ok"
    assert found.scores[0].settings["stop"] == ["\n", "<|im_end|>"]
    assert all("<|im" not in row.prediction for row in found.examples)
    assert found.scores[0].value > 0.7
    untuned = replace(made, method="base", training=None, seed=None, options={}, rank=None)
    assert trials.run(untuned, tmp_path).scores[0].settings["stop"] == ["\n", "<|im_end|>"]


def test_known_ends_of_other_models_end_an_answer(tiny):
    base = method_cells.loaded(tiny, "base", "fp32")
    base.tokenizer.add_special_tokens({"additional_special_tokens": ["<|endoftext|>", "<|eot_id|>", "<|other|>"]})
    harness = scoring.Harness(base.model, base.tokenizer, Evaluation(4, 48, "test"), PRECISIONS["fp32"])
    how = harness.decoding_of({"until": ["\n"], "do_sample": False})
    known = [base.tokenizer.convert_tokens_to_ids(text) for text in ("<s>", "</s>", "<|endoftext|>", "<|eot_id|>")]
    assert how.ends == tuple(known)
    ids = base.tokenizer.encode("red<|endoftext|>Human: more", add_special_tokens=False)
    assert decoding.read(base.tokenizer, ids, how).text == "red"
