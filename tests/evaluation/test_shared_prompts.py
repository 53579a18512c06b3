"""Prompts that are run once for all of their choices give the log-probabilities of whole texts, or are not used."""

from __future__ import annotations

import dataclasses

import pytest
import torch
import transformers

from peftbench.evaluation import likelihood, passes, scoring, shared_prompts
from peftbench.measure.clock import Clock
from peftbench.measure.ledger import account
from peftbench.models.precision import PRECISIONS
from peftbench.records import Example, Task
from peftbench.training import loop
from tests.support import architectures, method_cells, tiny_base, trials
from tests.support.method_cells import attached
from tests.support.sample import sample
from tools.validation import matrix

CHOICES = ("red", "blue", "the colour of the sky", "a b c d", "red blue", "green grass is the", "yes", "no")
PROMPTS = ("what is the colour of sky ?", "one two one two is grass ?", "one two " * 5 + "?", "one two yes is leaf ?")
EXAMPLES = [Example(prompt, "red", CHOICES) for prompt in PROMPTS]
TASK = Task("colour", "choice")
CLOSE = {"fp32": 1e-5, "bf16": 0.06, "nf4": 0.06, "int8": 0.2}
"""Nats per token; 16 bits and LLM.int8 round differently in another batch."""
SAMPLE = [
    ("llama", "full", "fp32"),
    ("gpt2", "prompt_tuning", "fp32"),
    ("opt", "prefix_tuning", "fp32"),
    ("bloom", "lora", "fp32"),
    ("phi", "llama_adapter", "fp32"),
    ("falcon", "adapter", "fp32"),
    ("mixtral", "prefix_tuning", "fp32"),
    ("llama", "qlora", "nf4"),
    ("gpt2", "prefix_tuning", "nf4"),
    ("llama", "llama_adapter", "bf16"),
    ("gptj", "prompt_tuning", "bf16"),
    ("llama", "lora", "int8"),
]
ALL = [(family, name, "fp32") for family in architectures.CONFIGS for name in matrix.NAMES]
CELLS = SAMPLE + [pytest.param(*cell, marks=pytest.mark.slow) for cell in ALL if cell not in SAMPLE]
WINDOWED = {
    "mistral": "a layer attends to the last 16 tokens only",
    "gemma3": "a layer attends to the last 16 tokens only",
}


def wrapped(model, tokenizer, size=32, storage="fp32", length=64):
    return scoring.Harness(model, tokenizer, trials.Evaluation(size, length, "test"), PRECISIONS[storage], ["colour"])


def trained(folder, family, name, storage, **changes):
    base, learner, plan = attached(architectures.make(folder / "base", family, **changes), name, storage, folder)
    loop.train(learner, plan[:2], [], Clock(), lambda *_: None)
    return learner.model.eval(), base.tokenizer


def gap(harness, examples=EXAMPLES):
    """The largest difference to whole texts in nats per token; that greedy decoding agrees is asserted."""
    texts = [text for each in harness.choices(TASK, examples) for text in each]
    found = harness.log_probabilities(texts)
    texts = [text.cut(harness.max_length + 1) for text in texts]
    runs = likelihood.whole(harness._runner(), list(enumerate(texts)))
    expected = {index: answer for each in runs for index, answer in each.items()}
    assert [greedy for _, greedy in found] == [expected[i][1] for i in range(len(texts))]
    return max(abs(found[i][0] - expected[i][0]) / len(text.scored) for i, text in enumerate(texts))


@pytest.mark.parametrize(("family", "name", "storage"), sample(CELLS, 3))
def test_behind_a_shared_prompt_the_log_probabilities_are_those_of_whole_texts(family, name, storage, tmp_path):
    torch.set_num_threads(1)
    model, tokenizer = trained(tmp_path, family, name, storage)
    assert len({len(tokenizer.encode(prompt)) for prompt in PROMPTS}) > 2, "prompts of several lengths, or no trap"
    for size in (32, 3):  # prompts share a batch, or their choices are split over several
        harness = wrapped(model, tokenizer, size, storage)
        assert gap(harness) <= CLOSE[storage]
        if family not in WINDOWED:
            assert (harness.form.shared, harness.form.reason) == (True, None)


@pytest.mark.parametrize(("family", "name"), [("mistral", "lora"), ("gemma3", "prompt_tuning")])
def test_a_window_of_attention_that_is_narrower_than_a_text_runs_whole_texts(family, name, tmp_path):
    model, tokenizer = trained(tmp_path, family, name, "fp32")
    harness = wrapped(model, tokenizer)
    assert gap(harness) == 0
    assert (harness.form.shared, harness.form.reason) == (False, WINDOWED[family])


def test_a_window_that_is_wider_than_every_text_is_none(tmp_path):
    model, tokenizer = trained(tmp_path, "gemma3", "lora", "fp32", sliding_window=64)
    harness = wrapped(model, tokenizer)
    assert gap(harness) < 1e-5
    assert harness.form.shared


def test_a_recurrent_model_runs_whole_texts_and_says_why(tiny):
    settings = {"vocab_size": 320, "hidden_size": 64, "num_hidden_layers": 2, "state_size": 8, "pad_token_id": 1}
    model = transformers.MambaForCausalLM(transformers.MambaConfig(**settings)).eval()
    harness = wrapped(model, tiny_base.tokenizer())
    assert gap(harness) == 0
    assert "not keys and values" in harness.form.reason
    score, _ = scoring.evaluate(harness, [TASK], {"colour": EXAMPLES})
    assert score[0].settings["prompts"] == "run with each choice"
    assert score[0].settings["prompts_reason"] == harness.form.reason


@pytest.mark.parametrize("fault", ["positions", "error", "nan"])
def test_a_model_that_does_not_continue_from_a_cache_as_it_should_runs_whole_texts(fault, tiny, request):
    base = method_cells.loaded(tiny, "base", "fp32")

    def wrong(_, arguments, inputs):
        if inputs.get("past_key_values") is None:
            return None
        if fault == "error":
            raise ValueError("no cache here")
        start = inputs["past_key_values"].get_seq_length()
        positions = torch.arange(inputs["input_ids"].shape[1])[None] + start
        if fault == "positions":
            return arguments, inputs | {"position_ids": positions + 1}
        return arguments, inputs | {"attention_mask": torch.full((1, 1, 1, 1), torch.nan)}

    request.addfinalizer(base.model.register_forward_pre_hook(wrong, with_kwargs=True).remove)
    harness = wrapped(base.model, base.tokenizer)
    assert gap(harness) == 0
    assert not harness.form.shared
    words = "the model does not continue from a cache: " if fault == "error" else "log-probabilities differ by "
    assert harness.form.reason.startswith(words)


def test_a_check_that_runs_out_of_memory_runs_whole_texts_in_batches_of_the_same_size(tiny, monkeypatch):
    def none_left(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    base = method_cells.loaded(tiny, "base", "fp32")
    monkeypatch.setattr(shared_prompts, "_check_windows", none_left)
    harness = wrapped(base.model, base.tokenizer, None)
    size = harness.batch_size
    assert gap(harness) == 0
    assert harness.form.reason == "memory ran out in the check of the form in which they are run once"
    assert (harness.batch_size, harness.searches) == (size, True)


def test_the_forms_are_checked_once_and_apart_from_what_is_measured(tiny, monkeypatch):
    base = method_cells.loaded(tiny, "base", "fp32")
    asked, check = [], shared_prompts._difference
    monkeypatch.setattr(shared_prompts, "_difference", lambda *given: asked.append(given) or check(*given))
    harness = wrapped(base.model, base.tokenizer, 1)
    with passes.split(base.model, "cpu") as times:
        scoring.prove(harness, TASK, EXAMPLES)
    assert times.columns.evaluate_prefill_seconds == 0
    with account(base.model, False, {}) as counted:
        scoring.run_largest_batch(harness, TASK, EXAMPLES)
    first = counted.peak_bytes
    scoring.evaluate(harness, [TASK], {"colour": EXAMPLES})
    with account(base.model, False, {}) as counted:
        scoring.run_largest_batch(harness, TASK, EXAMPLES[:2])  # shorter prompts
    assert counted.peak_bytes < first
    assert len(asked) == 1


def test_texts_that_share_too_little_are_run_whole_without_a_reason(tiny):
    base = method_cells.loaded(tiny, "base", "fp32")
    harness = wrapped(base.model, base.tokenizer)
    assert gap(harness, [Example("a", "red", CHOICES[2:4])]) == 0
    assert gap(harness, [Example("one two three ?", "red", ("red",))]) == 0
    assert (harness.form.shared, harness.form.reason) == (False, None)


def test_prompts_that_are_truncated_by_different_amounts_are_not_shared_with_the_same_answers(tiny):
    base = method_cells.loaded(tiny, "base", "fp32")
    harness = wrapped(base.model, base.tokenizer, length=24)
    assert gap(harness, [*EXAMPLES, Example("one two " * 20 + "?", "red", CHOICES)]) < 1e-5
    assert harness.form.shared


def test_if_padding_changes_what_comes_before_it_only_texts_of_equal_length_share_a_batch(tiny, request):
    """Some families select what they attend to among all positions, those of the padding included."""
    base = method_cells.loaded(tiny, "base", "fp32")

    def looks_ahead(_, __, inputs, out):
        extra = (inputs["input_ids"] == 0).sum(1) * torch.arange(320)[:, None].sin() * 0.1
        return dataclasses.replace(out, logits=out.logits + extra.T[:, None])

    request.addfinalizer(base.model.register_forward_hook(looks_ahead, with_kwargs=True).remove)
    harness = wrapped(base.model, base.tokenizer)
    texts = [text for each in harness.choices(TASK, EXAMPLES) for text in each]
    alone = [next(likelihood.whole(harness._runner(), [(0, text)]))[0][0] for text in texts]
    score, _ = scoring.evaluate(harness, [TASK], {"colour": EXAMPLES})
    assert score[0].settings["batches"] == "texts of equal length"
    assert [logprob for logprob, _ in harness.log_probabilities(texts)] == pytest.approx(alone, abs=1e-4)


# what it costs


def tokens_of(model, run):
    """Run something and return the number of tokens in the model's forward passes, padding included."""
    sizes = []
    hook = model.register_forward_pre_hook(
        lambda _, __, inputs: sizes.append(inputs["input_ids"].numel()), with_kwargs=True
    )
    run()
    hook.remove()
    return sum(sizes)


def test_seventy_seven_choices_run_the_prompt_once(tiny):
    base = method_cells.loaded(tiny, "base", "fp32")
    choices = tuple(f"{a} {b}" for a in "abcdefghijk" for b in ("red", "blue", "sky", "sea", "one", "two", "yes"))
    assert len(choices) == 77
    examples = [Example("one two " * 10 + f"{word} ?", choices[0], choices) for word in ("red", "blue", "green grass")]
    harness = wrapped(base.model, base.tokenizer)
    texts = [text for each in harness.choices(TASK, examples) for text in each]
    often = tokens_of(base.model, lambda: list(likelihood.whole(harness._runner(), list(enumerate(texts)))))
    once = tokens_of(base.model, lambda: scoring.evaluate(harness, [TASK], {"colour": examples}))
    assert once < often / 3
    assert gap(harness, examples) < 1e-5


def test_whether_texts_may_be_padded_costs_one_row_of_the_shortest_and_one_of_the_longest(tiny):
    base = method_cells.loaded(tiny, "base", "fp32")
    texts = [likelihood.Text(tuple(range(3, 3 + length)), 1) for length in (9, 30, 12)]
    harness = wrapped(base.model, base.tokenizer)
    first, again = (tokens_of(base.model, lambda: harness.log_probabilities(texts)) for _ in range(2))
    assert first - again == (9 - 1) + (30 - 1)


def test_a_rest_of_a_single_token_is_prefill_and_not_decoding(tiny):
    base = method_cells.loaded(tiny, "base", "fp32")
    examples = [Example(prompt, "a", ("a", "b", "c")) for prompt in PROMPTS]
    with passes.split(base.model, "cpu") as times:
        harness = wrapped(base.model, base.tokenizer)
        scoring.evaluate(harness, [TASK], {"colour": examples})
    assert harness.form.shared
    assert times.columns.evaluate_prefill_seconds > 0 == times.columns.evaluate_decode_seconds


def test_evaluations_peak_is_measured_over_one_batch_and_not_over_all_choices(tiny):
    base = method_cells.loaded(tiny, "base", "fp32")
    harness = wrapped(base.model, base.tokenizer, size=4)
    examples = EXAMPLES * 10

    def peak(run):
        with account(base.model, False, {}) as counted:
            run()
        return sum(counted.peak.values())

    once = peak(lambda: scoring.run_largest_batch(harness, TASK, examples))
    assert once == peak(lambda: scoring.run_harness(harness, TASK, examples))
    one = tokens_of(base.model, lambda: scoring.run_largest_batch(harness, TASK, examples))
    every = tokens_of(base.model, lambda: scoring.run_harness(harness, TASK, examples))
    assert one < every / 4


def test_the_tolerance_is_stated_for_every_compute_dtype():
    assert set(likelihood.TOLERANCE) >= {p.autocast or p.weights for p in PRECISIONS.values()}


def test_texts_are_cut_on_the_left_and_keep_a_token_before_what_is_scored():
    text = likelihood.Text((1, 2, 3, 4, 5), 3, 0)
    assert text.cut(5) is text
    assert text.cut(3) == dataclasses.replace(text, ids=(3, 4, 5), start=1)
    assert text.cut(2) == dataclasses.replace(text, ids=(4, 5), start=1)
