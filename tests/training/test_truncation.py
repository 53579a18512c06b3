"""What a truncated example loses is counted apart: the start of the prompt, the whole prompt, a part of the answer."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from peftbench import suite
from peftbench.evaluation import scoring
from peftbench.models.precision import PRECISIONS
from peftbench.records import Evaluation, Example, Task
from peftbench.runner import prepare
from peftbench.runner.preflight import speller, truncation
from peftbench.tasks import read
from peftbench.training import batches
from peftbench.training.encoded import encode, encode_texts, lost
from tests.support import encoders, method_cells, tiny_base, trials

PROMPT, ANSWER = "one two three four", "red green blue"


@pytest.mark.parametrize(
    ("cut", "prompt", "what"),
    [
        (0, 5, None),
        (-3, 5, None),
        (1, 5, "prompt_start"),
        (4, 5, "prompt_start"),
        (5, 5, "whole_prompt"),
        (6, 5, "answer_part"),
        (1, 0, "text_start"),
    ],
)
def test_what_is_lost_follows_from_how_much_is_cut(cut, prompt, what):
    assert lost(cut, prompt) == what


def sizes(tokenizer):
    """The tokens of the prompt, and of all with end-of-text."""
    ids = tokenizer.encode
    return len(ids(PROMPT)), len(ids(f"{PROMPT} {ANSWER}")) + 1


@pytest.mark.parametrize("loss_on", ["completion", "all"])
def test_training_examples_say_what_they_lost(loss_on):
    tokenizer = tiny_base.tokenizer()
    prompt, whole = sizes(tokenizer)
    pairs = [(("a", 0), Example(PROMPT, ANSWER)), (("a", 1), Example("", ANSWER, join=""))]
    expected = {whole: None, whole - 1: "prompt_start", whole - prompt: "whole_prompt", 2: "answer_part"}
    for length, what in expected.items():
        one, text = encode(tokenizer, pairs, length, loss_on)
        assert (one.lost, one.truncated, len(one.ids)) == (what, what is not None, min(length, whole))
        assert text.lost == (None if len(text.ids) < length or not text.truncated else "text_start")


def test_the_columns_count_each_kind_of_loss():
    tokenizer = tiny_base.tokenizer()
    prompt, whole = sizes(tokenizer)
    training = replace(trials.TRAINING, data=(("a", 1.0),), steps=2, batch_size=3, sequence_length=whole - prompt)
    examples = {"a": [Example(PROMPT, ANSWER), Example(PROMPT, f"{ANSWER} {ANSWER}"), Example("one", "red")]}
    drawn = batches.draw_batches(examples, training, tokenizer, 0)
    _, work, data = batches.columns(batches.Prepared(drawn, (), examples))
    seen = json.loads(data.data_seen_json)["a"]
    assert seen["lost"] == {"whole_prompt": 2, "answer_part": 2}
    assert seen["truncated"] == work.truncated_examples == 4


@pytest.mark.parametrize("kind", ["choice", "generation", "exact_match"])
def test_scored_prompts_say_whether_anything_was_left(tiny, kind):
    base = method_cells.loaded(tiny, "base", "fp32")
    choices = ("red", "green") if kind == "choice" else ()
    short, long = Example("one", "red", choices), Example("one " * 30, "red", choices)
    task = Task("a", kind, choices=choices, max_new_tokens=6)
    harness = scoring.Harness(base.model, base.tokenizer, Evaluation(4, 16, "test"), PRECISIONS["fp32"])
    (score,), _ = scoring.evaluate(harness, [task], {"a": [short, long]})
    assert (score.truncated_prompts, score.lost_prompts) == (1, 0)


# before a run


def notes(folder, rows, more="", kind="exact_match", **settings):
    for split in ("train", "test"):
        (folder / f"{split}.jsonl").write_text("".join(json.dumps({"q": q, "a": a}) + "\n" for q, a in rows))
    length, longest = settings.get("sequence_length", 16), settings.get("max_length", 16)
    (folder / "s.yaml").write_text(
        f"base: nano\nseeds: 1\nmethods: {{lora: {{rank: 4}}}}\ntrain: {{sequence_length: {length}, steps: 2}}\n"
        f"evaluate: {{max_length: {longest}}}\ntasks:\n  mine: {{kind: {kind}, train: train.jsonl, test: test.jsonl, "
        f"prompt: '{{{{ q }}}}', target: '{{{{ a }}}}', max_new_tokens: 4{more}}}\n"
    )
    found = suite.expand(suite.load(folder / "s.yaml"), "cpu")
    said = prepare.check(found)
    assert prepare.prepare(found, folder / "results", 1, "x").notes == said, "a plan and a run say the same"
    return [note for note in said if " exceed " in note]


def test_a_plan_says_how_many_examples_will_lose_what(tmp_path):
    rows = [("the sky", "red"), ("the sky is " * 9, "red"), ("the", "red green blue " * 9)]
    scored, trained = notes(tmp_path, rows)
    assert scored == (
        "task mine, test split: 1 of 3 examples exceed evaluate.max_length (16). This includes max_new_tokens (4) for "
        "the answer. They are cut on the left. 1 loses the start of the prompt"
    )
    assert trained.startswith("task mine, train split: 2 of 3 examples exceed sequence_length (16). They ")
    assert trained.endswith(
        "They are cut on the left. 1 loses the start of the prompt. 1 loses the prompt and a part of the answer"
    )
    assert notes(tmp_path, rows[:1]) == []


def test_few_shot_examples_and_choices_count(tmp_path):
    rows = [(f"the sky {word}", "red") for word in ("one", "two", "red", "blue")]
    assert notes(tmp_path, rows) == []
    (shot,) = notes(tmp_path, rows, ", num_fewshot: 3")
    assert "test split: 4 of 4 examples exceed evaluate.max_length" in shot
    found = notes(tmp_path, rows, ", choices: [red, 'green and blue and red and green']", "choice", max_length=9)
    assert found[0].startswith("task mine, test split: 4 of 4 examples exceed evaluate.max_length (9). They are")


def test_a_conversations_messages_are_counted_without_the_words_of_a_prompt(tiny):
    turns = (("user", "the sky"), ("assistant", "<think>one two three</think>red"), ("user", "the sky"))
    one = Example("User: the sky\nAssistant: red\nUser: the sky\nAssistant:", "<think>one two</think>red", turns=turns)
    file = speller.speller_of(tiny)
    words = len(tiny_base.tokenizer().encode("the skyredthe sky red")) + 1
    for chat in (True, False):
        task = Task("a", "generation", chat=chat)
        fits = [n for n in range(4, 99) if list(truncation._losses(task, "train", n, [one], file)) == [None]]
        assert (min(fits) == words) == chat
        assert min(fits) >= words


def test_what_a_plan_counts_is_what_a_trial_counts(tiny):
    tokenizer = method_cells.loaded(tiny, "base", "fp32").tokenizer
    examples = [Example(("the sky is " * n).rstrip(), ("red green " * (8 - n)).strip()) for n in range(8)]
    for length in (4, 8, 12, 24):
        pairs = [(("a", i), e) for i, e in enumerate(examples)]
        expected = [each.lost for each in encode(tokenizer, pairs, length, "all")]
        file = speller.speller_of(tiny)
        assert list(truncation._losses(Task("a", "exact_match"), "train", length, examples, file)) == expected


def test_a_pair_for_a_head_is_counted_with_the_special_tokens_around_and_between(tmp_path):
    made = encoders.tokenizer()
    made.save_pretrained(tmp_path)
    task = encoders.texts(tmp_path / "data", pairs=True)
    examples = read.examples(task, "train")[:6]
    for length in range(6, 16):
        cut = encode_texts(made, [(("texts", i), e) for i, e in enumerate(examples)], length, task)
        found = list(truncation._losses(task, "train", length, examples, speller.speller_of(tmp_path)))
        assert found == [e.lost for e in cut], length
