"""White space between a chat template's prompt and its answer: training, ranking and decoding see the same tokens."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from tokenizers import processors

from peftbench.evaluation import generation, ranking, scoring
from peftbench.models.precision import PRECISIONS
from peftbench.records import Evaluation, Example, Task
from peftbench.tasks import chat, lm_eval_export, reach
from peftbench.training import encoded
from peftbench.training.encoded import encode
from tests.support import tiny_base
from tests.support.chat_templates import TEMPLATES, TOKENIZERS, tokenizer

CHOICES = ("red", "green", "a b")
EXAMPLES = [Example(f"the colour of {thing} ?", colour, CHOICES) for thing, colour in zip("abc", CHOICES, strict=True)]
TASK = Task("mine", "choice", choices=CHOICES, chat=True)


@pytest.fixture(scope="module")
def model(tiny):
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(tiny)


def harness(model, made):
    return scoring.Harness(model, made, Evaluation(4, 128, "test"), PRECISIONS["fp32"])


def trained(made, e):
    (found,) = encode(made, [(("mine", 0), e)], 500, "completion")
    return list(found.ids), found.loss_from


@pytest.fixture(params=TOKENIZERS)
def kind(request):
    return request.param


@pytest.mark.parametrize("name", TEMPLATES)
def test_the_answers_tokens_are_learned_ranked_and_decoded_behind_the_same_prompt(model, kind, name):
    made = tokenizer(kind, TEMPLATES[name])
    for e in chat.apply(TASK, EXAMPLES, made):
        ids, start = trained(made, e)
        assert made.decode(ids[start:]).replace(" ", "").startswith(e.target.replace(" ", "")), "the whole answer"
        assert ids[:start] == harness(model, made).tok_encode(e.prompt), "decoding starts where the prompt ends"
        (ended,) = ranking.texts(made, [e], True, 0)
        for choice, text in zip(e.choices, ended, strict=True):
            assert (list(text.ids), text.start) == trained(made, replace(e, target=choice))
        (open_,) = ranking.texts(made, [e], False, 0)
        for choice, text, full in zip(e.choices, open_, ended, strict=True):
            assert text.start == full.start
            assert made.decode(text.ids[text.start :]).strip() == choice


@pytest.mark.parametrize("name", TEMPLATES)
def test_targets_reach_counts_are_those_of_the_trained_tokens(kind, name):
    made = tokenizer(kind, TEMPLATES[name])
    task = replace(TASK, kind="exact_match", choices=())
    found = chat.apply(task, [replace(e, choices=()) for e in EXAMPLES], made)
    counted = reach.count(task, found, lm_eval_export.stops(task, found, made.eos_token), scoring._Speller(made))
    assert counted.unreachable == 0
    sizes = []
    for e in found:
        ids, start = trained(made, replace(e, end=""))
        sizes.append(len(ids) - start - 1)
    assert counted.longest_tokens == max(sizes)


@pytest.mark.parametrize("name", ["mistral v0.3", "llama 2", "vicuna", "mistral v0.1", "chatml"])
def test_lm_eval_is_asked_for_the_same_tokens(model, kind, name):
    made = tokenizer(kind, TEMPLATES[name])
    found = chat.apply(TASK, EXAMPLES, made)
    built = lm_eval_export.build(TASK, found, made.eos_token)
    built.build_all_requests()
    asked = [harness(model, made)._encode_pair(*request.args) for request in built.instances]
    texts = [text for each in ranking.texts(made, found, False, 0) for text in each]
    if name == "chatml":  # lm-eval counts the line feed, which is the same for all choices, to each choice
        assert [context + rest for context, rest in asked] == [list(text.ids) for text in texts]
        return
    assert asked == [(list(text.ids[: text.start]), list(text.ids[text.start :])) for text in texts]


def test_examples_with_different_spaces_are_exported_with_them():
    found = [replace(e, join=join) for e, join in zip(EXAMPLES, ("", " ", " "), strict=True)]
    built = lm_eval_export.build(TASK, found, "</s>")
    built.build_all_requests()
    assert [request.args for request in built.instances] == [
        (e.prompt, e.join + choice) for e in found for choice in CHOICES
    ]


def test_an_exported_chat_task_writes_the_space(tmp_path):
    made = tokenizer("byte-level", TEMPLATES["llama 2"])
    path = lm_eval_export.export(TASK, chat.apply(TASK, EXAMPLES, made), tmp_path, made.eos_token)
    assert "target_delimiter: ' '" in path.read_text()
    first = json.loads((tmp_path / "mine.jsonl").read_text().splitlines()[0])
    assert (first["prompt"][-7:], first["choices"]) == ("[/INST]", list(CHOICES))


def test_a_prompt_that_merges_with_one_choice_is_ranked_from_there_for_all():
    made = tiny_base.tokenizer()
    (texts,) = ranking.texts(made, [Example("the col", "our", ("our", "red"), join="")], False, 0)
    assert len({text.start for text in texts}) == 1
    assert len({text.ids[: text.start] for text in texts}) == 1


@pytest.mark.parametrize("kind", ["byte-level", "both"])
def test_two_line_feeds_before_an_answer_are_one_token_as_in_decoding(kind):
    made = tokenizer(kind, TEMPLATES["llama 3"])
    feeds = made.encode("\n\n", add_special_tokens=False)
    (e,) = chat.apply(TASK, EXAMPLES[:1], made)
    ids, start = trained(made, e)
    assert len(feeds) == 1
    assert ids[start - 1] == feeds[0]


def test_prompts_without_a_chat_template_keep_their_space_with_the_answer():
    made = tokenizer("byte-level", "")
    ids, start = trained(made, Example("the colour of sky ?", "red"))
    assert made.decode(ids[start:]) == " red</s>"


@pytest.mark.parametrize("adds", [False, True])
def test_inference_is_measured_on_the_tokens_of_scored_prompts(model, adds):
    made = tokenizer("byte-level", TEMPLATES["llama 2"])
    if adds:
        made.backend_tokenizer.post_processor = processors.TemplateProcessing(
            "<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 1)]
        )
    found = chat.apply(TASK, EXAMPLES[:1], made)
    measured = generation.prompts(made, [found], 128).ids
    assert measured[0].tolist() == harness(model, made).tok_encode(found[0].prompt)


def test_many_texts_are_tokenized_in_parts_as_at_once(monkeypatch):
    made = tokenizer("byte-level", "")
    texts = [("<s>one" if n % 3 == 0 else "one", f" two {n}") for n in range(10)]
    whole = encoded.tokens(made, texts, True)
    monkeypatch.setattr(encoded, "_AT_ONCE", 4)
    assert encoded.tokens(made, texts, True) == whole
    assert encoded.tokens(made, [], True) == []
