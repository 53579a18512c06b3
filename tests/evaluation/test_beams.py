"""Beam search is that of transformers under every method, with a cache and in batches."""

from __future__ import annotations

import dataclasses
import json
from itertools import pairwise

import pytest
import torch
from transformers import DynamicCache, GenerationConfig

from peftbench import suite
from peftbench.errors import UserError
from peftbench.evaluation import cached_steps, decoding, scoring
from peftbench.evaluation.answer_steps import OnceInAnswer
from peftbench.models.precision import PRECISIONS
from peftbench.records import Example, Task
from peftbench.runner import adapter_card
from peftbench.suite import smoke
from peftbench.tasks import lm_eval_export
from tests.support import method_cells, trials

EVALUATION = trials.Evaluation(8, 48, "test")
TASK = Task("lines", "generation", max_new_tokens=10, stop=("\n", "e"), num_beams=4, length_penalty=0.6)
WORDS = ("one two ?", "red two ?", "six two ?", "red green blue", "the sky is of", "yes no a b c d")
EXAMPLES = [Example(text, "x") for text in WORDS]


def harness_of(model, tokenizer, **evaluation):
    return scoring.Harness(model, tokenizer, dataclasses.replace(EVALUATION, **evaluation), PRECISIONS["fp32"])


def moved(tiny, method, tmp_path):
    """A method on the tiny base, each of its tensors moved, so that it matters."""
    base, learner, _ = method_cells.attached(tiny, method, "fp32", tmp_path)
    learner.model.eval()
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in learner.model.parameters():
            if parameter.requires_grad:
                parameter += 0.05 * torch.randn(parameter.shape, generator=generator)
    return base, learner.model


def answers(harness, task=TASK):
    (score,), rows = scoring.evaluate(harness, [task], {task.name: EXAMPLES})
    return [row.prediction for row in rows], score


def stock(model, tokenizer, task=TASK, cache=False):
    """What ``generate`` itself gives for one prompt at a time."""
    found = []
    ends = list(decoding.end_tokens(tokenizer, task.stop))
    how = decoding.Decoding({}, task.stop, tuple(ends), task.max_new_tokens)
    config = GenerationConfig(
        num_beams=task.num_beams,
        length_penalty=task.length_penalty,
        max_new_tokens=task.max_new_tokens,
        eos_token_id=ends,
        pad_token_id=tokenizer.pad_token_id,
        stop_strings=list(task.stop),
        use_cache=cache,
    )
    for example in EXAMPLES:
        ids = torch.tensor([tokenizer.encode(example.prompt)])
        with decoding.without_own(model), torch.no_grad():
            out = model.generate(
                input_ids=ids, attention_mask=torch.ones_like(ids), generation_config=config, tokenizer=tokenizer
            )
        found.append(decoding.read(tokenizer, out[0, ids.shape[1] :].tolist(), how).text.strip())
    return found


@pytest.mark.parametrize("method", ["base", "lora", "prompt_tuning", "prefix_tuning", "adapter", "llama_adapter"])
def test_beams_are_those_of_transformers_for_each_prompt_alone(tiny, tmp_path, method):
    if method == "base":
        base = method_cells.loaded(tiny, "base", "fp32")
        model = base.model.eval()
    else:
        base, model = moved(tiny, method, tmp_path)
    found, score = answers(harness_of(model, base.tokenizer))
    # peft's prefix tuning generates only from a cache; the cache's steps are checked against whole passes
    assert found == stock(model, base.tokenizer, cache=method == "prefix_tuning")
    assert cached_steps.why_not_beams(model, torch.arange(40, 52)[None], "float32", 0, 64) is None
    assert "decoded_without_cache" not in score.settings
    greedy = dataclasses.replace(TASK, num_beams=1, length_penalty=1.0)
    assert len(set(found)) > 1
    assert found != answers(harness_of(model, base.tokenizer), greedy)[0], "it is another search than the greedy one"
    assert answers(harness_of(model, base.tokenizer, batch_size=1))[0] == found, "scores do not depend on batches"


def test_beams_of_lora_are_those_of_the_merged_model(tiny, tmp_path):
    base, model = moved(tiny, "lora", tmp_path)
    found, _ = answers(harness_of(model, base.tokenizer))
    untuned = method_cells.loaded(tiny, "base", "fp32").model.eval()
    assert found != stock(untuned, base.tokenizer)
    assert found == stock(model.merge_and_unload(), base.tokenizer)


def test_the_search_is_stored_with_the_score(tiny):
    base = method_cells.loaded(tiny, "base", "fp32")
    task = dataclasses.replace(TASK, no_repeat_ngram_size=2)
    _, score = answers(harness_of(base.model.eval(), base.tokenizer), task)
    how = score.settings["decoding"]
    assert (how["num_beams"], how["length_penalty"]) == (4, 0.6)
    assert (how["no_repeat_ngram_size"], how["no_repeat_ngram_in"]) == (2, "answer")
    _, plain = answers(harness_of(base.model, base.tokenizer), dataclasses.replace(TASK, num_beams=1))
    assert plain.settings["decoding"] == {**decoding.GREEDY, "end_token_ids": [0, 1]}


@pytest.mark.parametrize("beams", [1, 3])
def test_no_sequence_of_tokens_occurs_twice_in_an_answer(tiny, monkeypatch, beams):
    base = method_cells.loaded(tiny, "base", "fp32")
    free = Task("lines", "generation", max_new_tokens=24, stop=("\n",), num_beams=beams)
    decoded = []
    read = decoding.read
    monkeypatch.setattr(
        decoding, "read", lambda tokenizer, ids, how: (decoded.append(ids), read(tokenizer, ids, how))[1]
    )

    def twice(task):
        decoded.clear()
        answers(harness_of(base.model.eval(), base.tokenizer), task)
        written = [[token for token in ids if token > 2] for ids in decoded]  # without what follows the end
        pairs = [list(pairwise(ids)) for ids in written]
        assert max(map(len, pairs)) > 15
        return sum(len(found) - len(set(found)) for found in pairs)

    assert twice(free) > 0, "without the rule this model repeats itself"
    assert twice(dataclasses.replace(free, no_repeat_ngram_size=2)) == 0


def test_the_prompts_sequences_may_be_repeated_once():
    prompt, scores = [5, 6, 7], torch.zeros(2, 9)
    ids = torch.tensor([[*prompt, 5, 6], [*prompt, 1, 5]])
    assert OnceInAnswer(3, 3)(ids, scores.clone()).isfinite().all(), "transformers itself would forbid 7 in the first"
    ids = torch.tensor([[*prompt, 5, 6, 5], [*prompt, 1, 2, 1]])
    banned = OnceInAnswer(2, 3)(ids, scores.clone()).isinf()
    assert banned.nonzero().tolist() == [[0, 6], [1, 2]]
    assert OnceInAnswer(1, 3)(torch.tensor([prompt, prompt]), scores.clone()).isfinite().all()


def test_a_larger_length_penalty_favours_longer_answers(tiny):
    base = method_cells.loaded(tiny, "base", "fp32")
    model = base.model.eval()

    def tokens(penalty):
        task = dataclasses.replace(TASK, length_penalty=penalty)
        return [len(base.tokenizer.encode(text)) for text in answers(harness_of(model, base.tokenizer), task)[0]]

    short, long = tokens(0.0), tokens(5.0)
    assert sum(short) < sum(long)
    assert all(one <= other for one, other in zip(short, long, strict=True))


@pytest.mark.parametrize("precision", ["bf16", "nf4"])
def test_a_sound_cache_is_used_in_reduced_precision(tiny, precision):
    base = method_cells.loaded(tiny, "base", precision)
    harness = scoring.Harness(base.model.eval(), base.tokenizer, EVALUATION, PRECISIONS[precision])
    assert harness.why_no_cache(torch.arange(40, 52)[None], beams=3) is None


def test_a_cache_that_beams_cannot_change_places_in_is_not_used(tiny, monkeypatch):
    base = method_cells.loaded(tiny, "base", "fp32")
    model = base.model.eval()
    right = answers(harness_of(model, base.tokenizer))[0]
    monkeypatch.setattr(DynamicCache, "reorder_cache", lambda self, beams: None)
    prompt = torch.arange(40, 52)[None]
    assert cached_steps.why_not(model, prompt, "float32", 0, 64) is None, "greedy decoding changes no places"
    found, score = answers(harness_of(model, base.tokenizer))
    assert "nats per token apart from a whole pass" in score.settings["decoded_without_cache"]
    assert found == right


def test_a_model_that_cannot_search_from_its_cache_does_without(tiny, monkeypatch):
    base = method_cells.loaded(tiny, "base", "fp32")

    def fails(self, beams):
        raise NotImplementedError("no reordering")

    right = answers(harness_of(base.model.eval(), base.tokenizer))[0]
    monkeypatch.setattr(DynamicCache, "reorder_cache", fails)
    found, score = answers(harness_of(base.model, base.tokenizer))
    assert score.settings["decoded_without_cache"] == (
        "the model does not search with beams from its cache: NotImplementedError: no reordering"
    )
    assert found == right


def test_beams_count_as_prompts_of_a_batch(tiny, monkeypatch):
    base = method_cells.loaded(tiny, "base", "fp32")
    harness = harness_of(base.model.eval(), base.tokenizer)
    assert harness.batch_size == 8
    sizes = []
    stock_batch = decoding._batch
    monkeypatch.setattr(
        decoding,
        "_batch",
        lambda h, how, prompts, seed: (sizes.append(len(prompts)), stock_batch(h, how, prompts, seed))[1],
    )
    alike = [Example("one two ?", "x")] * 5
    scoring.evaluate(harness, [TASK], {TASK.name: alike})
    assert sizes == [2, 2, 1]
    assert len(scoring.largest_batch(harness, TASK, alike)) == 2


SUITE = """base: nano
methods: [base]
tasks:
  describe: {{{task}}}
evaluate: {{generation: {source}}}
"""


def loaded(folder, task, source="greedy"):
    (folder / "x.yaml").write_text(SUITE.format(task=task, source=source))
    return suite.load(folder / "x.yaml")


@pytest.mark.parametrize(
    ("task", "source", "part"),
    [
        ("length_penalty: 0.9", "greedy", "length_penalty: given 0.9; it compares the answers of several beams"),
        ("length_penalty: 2, num_beams: 1", "greedy", "num_beams is 1: allowed with num_beams of at least 2"),
        ("num_beams: 0", "greedy", "describe.num_beams: given 0 (a whole number); allowed: a whole number, 1 to 1000"),
        ("num_beams: 2.5", "greedy", "describe.num_beams: given 2.5"),
        ("no_repeat_ngram_size: -1", "greedy", "allowed: a whole number, 0 to 1000"),
        ("num_beam: 3", "greedy", "did you mean 'num_beams'"),
        (
            "num_beams: 4",
            "base",
            "describe.num_beams: evaluate.generation: base takes the search from the base model's",
        ),
        ("no_repeat_ngram_size: 4", "base", "give either, or evaluate.generation: greedy"),
    ],
)
def test_a_search_that_means_nothing_is_refused(tmp_path, task, source, part):
    with pytest.raises(UserError) as error:
        loaded(tmp_path, task, source)
    assert part in str(error.value)


def test_only_decoded_answers_have_a_search(tmp_path):
    text = SUITE.replace("describe", "judge").format(task="num_beams: 4", source="greedy")
    (tmp_path / "x.yaml").write_text(text)
    with pytest.raises(UserError, match="only exact_match and generation decode text; this one's kind is choice"):
        suite.load(tmp_path / "x.yaml")


def test_the_search_is_in_the_key_and_in_smoke_mode(tmp_path):
    found = loaded(tmp_path, "num_beams: 4, length_penalty: 0.9, no_repeat_ngram_size: 4")
    (task,) = found.tasks
    assert (task.num_beams, task.length_penalty, task.no_repeat_ngram_size) == (4, 0.9, 4)
    assert smoke._task(task).num_beams == 4
    assert smoke._task(Task("other", "choice", num_beams=4)).num_beams == 1


def test_the_files_for_lm_eval_ask_for_beams_and_have_no_task_that_it_would_decode_otherwise(tiny, tmp_path):
    once = dataclasses.replace(TASK, name="once", no_repeat_ngram_size=4)
    made = trials.trial(tiny, tmp_path, "lora", tasks=(TASK, once), evaluate=("lines", "once"))
    assert adapter_card._exported(made) == [TASK]
    path = lm_eval_export.export(TASK, EXAMPLES, tmp_path)
    text = path.read_text()
    assert "num_beams: 4" in text
    assert "length_penalty: 0.6" in text
    plain = lm_eval_export.config(dataclasses.replace(TASK, num_beams=1), EXAMPLES)["generation_kwargs"]
    assert json.dumps(plain) == json.dumps({"until": ["\n", "e"], "max_gen_toks": 10, "do_sample": False})
