"""Scores of a known model on known texts: each metric equals the library's, and batch size changes nothing."""

from __future__ import annotations

import dataclasses
import json
import math

import pytest
import torch

from peftbench.errors import UserError
from peftbench.evaluation import decoding, metrics, passes, scoring
from peftbench.measure.clock import Clock
from peftbench.methods import METHODS
from peftbench.models.precision import PRECISIONS
from peftbench.records import Example, Task
from peftbench.records.task import HEADS
from peftbench.tasks import HEADLINES, answers, fewshot, lm_eval_export, read
from peftbench.training import loop
from tests.support import method_cells, trials
from tests.support.method_cells import TRAINED, attached, logits
from tests.support.sample import sample

EVALUATION = trials.Evaluation(4, 48, "test")


@pytest.fixture(scope="module")
def base(tiny):
    return method_cells.loaded(tiny, "base", "fp32")


def wrapped(base, evaluation=EVALUATION):
    return scoring.Harness(base.model, base.tokenizer, evaluation, PRECISIONS["fp32"])


def scored(base, task, examples, evaluation=EVALUATION):
    (score,), rows = scoring.evaluate(wrapped(base, evaluation), [task], {task.name: examples})
    return score, rows


@pytest.fixture
def saying(base, monkeypatch):
    """A function that scores a task as if the model generated the given texts."""

    def run(task, examples, texts):
        spoken = dict(zip([e.prompt for e in examples], texts, strict=True))
        monkeypatch.setattr(
            decoding,
            "answers",
            lambda _, asked, __: [decoding.Answer(spoken[r.args[0]], ended=True) for _, r in asked],
        )
        return scored(base, task, examples)

    return run


# answers


def test_a_parsed_answer_is_right_wrong_or_a_format_failure_and_the_text_is_stored(saying):
    targets = ["5 * 3 = 15\n#### 15", "#### 2,125", "#### 18", "so #### 18", "#### 7", "#### 9"]
    said = ["so #### 15", "2125", "18 dollars", "I know.", " it is 8", "9.\n\nQuestion: 7?"]
    examples = [Example(f"question {i}", target) for i, target in enumerate(targets)]
    score, rows = saying(Task("sums", "exact_match", answer_pattern="gsm8k"), examples, said)
    assert [row.outcome for row in rows] == [1, 1, 1, 0, 0, 1]
    assert [row.format_ok for row in rows] == [True, True, True, False, True, True]
    assert [row.prediction for row in rows] == [text.strip() for text in said]
    assert (score.value, score.metric, score.format_failures) == (4 / 6, "exact_match", 1)
    assert score.majority == 2 / 6, "of answers, not of texts"
    assert score.settings["parser"] == "gsm8k"


def test_without_a_pattern_a_comma_makes_another_answer(saying):
    score, _ = saying(Task("sums", "exact_match"), [Example("a", "2,125")], ["2125"])
    assert (score.value, score.format_failures) == (0, 0)


def test_a_target_without_an_answer_for_the_pattern_is_refused(tmp_path):
    task = dataclasses.replace(trials.tasks(tmp_path)[1], answer_pattern="number")
    with pytest.raises(UserError, match="finds no answer in the target of test example 0: 'blue'"):
        fewshot.scored(task, "test")


# stop strings and lengths


def test_an_answer_ends_only_at_the_tasks_stop_strings(base):
    examples = [Example(text, "x") for text in ("one two ?", "red green blue", "the sky is of")]
    task = Task("lines", "generation", max_new_tokens=12, stop=())
    free = [row.prediction for row in scored(base, task, examples)[1]]
    # half a character of several bytes would stop it too
    cut = next(c for text in free for c in text[1:] if c.isascii() and c.isalnum())
    score, rows = scored(base, dataclasses.replace(task, stop=(cut,)), examples)
    assert [row.prediction for row in rows] == [text.partition(cut)[0].strip() for text in free]
    assert [row.prediction for row in rows] != free
    assert (score.settings["stop"], score.settings["max_new_tokens"]) == ([cut], 12)


def test_the_settings_of_scoring_are_in_the_score(base):
    one = Example("one two ?", "red", ("red", "blue"))
    score, _ = scored(base, Task("c", "choice"), [one])
    assert score.settings.items() >= {"dtype": "float32", "batch_size": 4, "num_fewshot": 0, "ranked": "choice"}.items()
    model = scoring.Harness(base.model, base.tokenizer, EVALUATION, PRECISIONS["bf16"])
    assert model.dtype == "bfloat16"


# few-shot examples


def rows_of(*words):
    return [Example(f"the {word} ?", word) for word in words]


def test_shots_are_drawn_from_training_reproducibly_for_each_prompt():
    task = Task("t", "exact_match", num_fewshot=2)
    train_rows = rows_of(*"abcdefgh")
    found = fewshot.with_shots(task, rows_of("x", "y", "z"), train_rows)
    for e, asked in zip(found, "xyz", strict=True):
        *shots, last = e.prompt.split("\n\n")
        assert (last, e.target, len(set(shots))) == (f"the {asked} ?", asked, 2)
        assert all(shot in {f"{t.prompt} {t.target}" for t in train_rows} for shot in shots)
    assert len({e.prompt.rpartition("\n\n")[0] for e in found}) > 1
    assert fewshot.with_shots(task, rows_of("x"), train_rows) == found[:1]


def test_the_scored_prompt_is_never_among_its_shots():
    task = Task("t", "exact_match", num_fewshot=3)
    train_rows = rows_of(*"aaaabcd")
    for e in fewshot.with_shots(task, rows_of("a") * 5, train_rows):
        assert e.prompt.count("the a ?") == 1
    with pytest.raises(UserError, match="num_fewshot: given 3; allowed: at most 2"):
        fewshot.with_shots(task, rows_of("a"), rows_of(*"aabc"))


def test_shots_come_from_the_train_file_and_are_in_the_models_input(base, tmp_path):
    task = dataclasses.replace(trials.tasks(tmp_path)[0], num_fewshot=1, limit=2)
    examples = fewshot.scored(task, "test")
    _, rows = scored(base, task, examples)
    assert [row.prompt for row in rows] == [e.prompt for e in examples]
    assert all(row.prompt.count("the colour of") == 2 for row in rows)


# choices


def test_the_metrics_of_choices_equal_the_libraries_on_a_known_case():
    targets = ["a", "a", "a", "b", "b", "c"]
    found = metrics.classes(targets, ["a", "a", "b", "b", "c", "c"])
    # F1 of a: 2*1*(2/3)/(5/3) = .8; of b: precision 1/2, recall 1/2; of c: precision 1/2, recall 1
    assert found["f1_macro"] == pytest.approx((0.8 + 0.5 + 2 / 3) / 3)
    # R_K of Gorodkin 2004: (c s - sum p t) / sqrt((s^2 - sum p^2)(s^2 - sum t^2))
    assert found["matthews"] == pytest.approx((4 * 6 - 12) / math.sqrt((36 - 12) * (36 - 14)))
    assert metrics.classes(["a", "b"], ["a", "a"])["matthews"] == 0


def test_the_normalised_accuracy_is_per_byte_and_can_be_the_headline(base):
    choices = ("red", "the colour of the sky is green and blue")
    examples = [Example(f"one {word} ?", choices[1], choices) for word in ("two", "three", "red")]
    plain, plain_rows = scored(base, Task("c", "choice"), examples)
    norm, norm_rows = scored(base, Task("c", "choice", metric="accuracy_norm"), examples)
    assert (plain.metric, norm.metric) == ("accuracy", "accuracy_norm")
    assert (plain.value, norm.value) == (plain.metrics["accuracy"], plain.metrics["accuracy_norm"])
    for row in norm_rows:
        per_byte = [lp / len(c.encode()) for lp, c in zip(json.loads(row.choice_logprobs), choices, strict=True)]
        assert row.prediction == choices[per_byte.index(max(per_byte))]
        assert row.outcome == (row.prediction == row.target)
    assert [row.prediction for row in plain_rows] == ["red"] * 3, "the short one is likelier; else nothing is shown"
    assert norm.value > plain.value


def test_classes_are_scored_only_if_all_examples_have_the_same_choices(base):
    same = [Example("one ?", "red", ("red", "blue")), Example("two ?", "blue", ("blue", "red"))]
    assert {"f1_macro", "matthews"} <= set(scored(base, Task("c", "choice"), same)[0].metrics)
    other = [same[0], Example("two ?", "sky", ("sky", "grass"))]
    assert set(scored(base, Task("c", "choice"), other)[0].metrics) == {"accuracy", "accuracy_norm"}


def test_every_kind_has_a_headline_and_a_way_to_be_scored():
    assert set(HEADLINES) == {*scoring._KINDS, *HEADS}, "heads are scored by evaluation.whole_texts"
    assert {name for names in HEADLINES.values() for name in names if " " in name} == set()
    assert answers.NAMED


# texts


def direct(model, tokenizer, text):
    """The log-probability of a text after the beginning-of-text token in one forward pass, nats."""
    ids = [tokenizer.bos_token_id, *tokenizer.encode(text, add_special_tokens=False)]
    found = logits(model, "fp32", torch.tensor([ids])).float().log_softmax(-1)[0]
    return sum(float(found[i - 1, ids[i]]) for i in range(1, len(ids))), len(ids) - 1


TEXTS = ("the colour of the sky is blue", "один red", "grass")


def test_the_likelihood_of_texts_is_that_of_a_direct_forward_pass(base):
    task = Task("text", "language_modelling")
    score, rows = scored(base, task, [Example("", text) for text in TEXTS])
    found = [direct(base.model, base.tokenizer, text) for text in TEXTS]
    for row, text, (logprob, _) in zip(rows, TEXTS, found, strict=True):
        assert json.loads(row.choice_logprobs) == [pytest.approx(logprob, rel=1e-5)]
        bits = -logprob / math.log(2) / len(text.encode())
        assert row.outcome == pytest.approx(2**-bits)
        assert (row.prediction, row.format_ok, row.target) == ("", None, text)
    total, size = sum(lp for lp, _ in found), sum(len(text.encode()) for text in TEXTS)
    assert score.metric == "probability_per_byte"
    assert score.value == pytest.approx(sum(row.outcome for row in rows) / 3)
    assert score.metrics["bits_per_byte"] == pytest.approx(-total / math.log(2) / size, rel=1e-5)
    assert score.metrics["perplexity"] == pytest.approx(math.exp(-total / sum(n for _, n in found)), rel=1e-5)
    assert (score.chance, score.majority, score.format_failures, score.truncated_prompts) == (None, None, None, 0)
    _, theirs = scoring.run_harness(wrapped(base), task, [Example("", text) for text in TEXTS])
    assert theirs["bits_per_byte"] == pytest.approx(score.metrics["bits_per_byte"])


def test_a_long_text_is_scored_in_windows_each_token_once(base):
    text = " ".join(TEXTS[0] for _ in range(12))
    ids = [base.tokenizer.bos_token_id, *base.tokenizer.encode(text, add_special_tokens=False)]
    assert len(ids) > 2 * 16 + 1
    expected = 0.0
    for start in range(0, len(ids) - 1, 16):
        window = ids[start : start + 17]
        if len(window) < 17:  # the last window is filled from the left
            window = ids[-17:]
        found = logits(base.model, "fp32", torch.tensor([window])).float().log_softmax(-1)[0]
        new = len(ids[start + 1 : start + 17])
        expected += sum(float(found[i - 1, window[i]]) for i in range(17 - new, 17))
    task = Task("text", "language_modelling")
    (row,) = scored(base, task, [Example("", text)], trials.Evaluation(4, 16, "test"))[1]
    assert json.loads(row.choice_logprobs) == [pytest.approx(expected, rel=1e-5)]


def test_a_beginning_token_added_by_the_tokenizer_is_not_scored(tiny):
    from tokenizers.processors import TemplateProcessing

    base = method_cells.loaded(tiny, "base", "fp32")
    plain = scored(base, Task("text", "language_modelling"), [Example("", "red")])[1]
    base.tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    assert len(base.tokenizer.encode("red")) > len(base.tokenizer.encode("red", add_special_tokens=False))
    assert scored(base, Task("text", "language_modelling"), [Example("", "red")])[1] == plain


# batch size


def limited_to(rows, base, request, error=None):
    """Let the model run out of memory at more rows; return the list of the sizes of its passes."""
    sizes = []

    def small(_, __, inputs):
        sizes.append(len(inputs["input_ids"]))
        if sizes[-1] > rows:
            raise error or torch.OutOfMemoryError("CUDA out of memory")

    request.addfinalizer(base.model.register_forward_pre_hook(small, with_kwargs=True).remove)
    return sizes


def test_when_memory_runs_out_the_batch_is_halved_with_the_same_answers(base, request):
    examples = [Example(f"one {word} ?", "red", ("red", "blue", "green")) for word in ("two", "three", "four", "sky")]
    task = Task("c", "choice")
    expected = scored(base, task, examples)[1]
    model = wrapped(base, trials.Evaluation(None, 48, "test"))
    assert model.batch_size == 8192 // 48
    sizes = limited_to(3, base, request)
    (score,), rows = scoring.evaluate(model, [task], {"c": examples})
    assert [row.prediction for row in rows] == [row.prediction for row in expected]
    assert max(sizes) > score.settings["batch_size"] == 2
    with pytest.raises(torch.OutOfMemoryError):  # a size that is given is kept
        scoring.evaluate(wrapped(base, trials.Evaluation(12, 48, "test")), [task], {"c": examples})


def test_the_peak_of_batches_that_did_not_fit_is_not_reported(base, monkeypatch):
    """A batch that does not fit fills the GPU before it fails."""
    model, peak = wrapped(base, trials.Evaluation(None, 48, "test")), [0]
    model._device = torch.device("cuda")
    for name, value in {"max_memory_allocated": lambda: peak[0], "empty_cache": lambda: None}.items():
        monkeypatch.setattr(torch.cuda, name, value)
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda: peak.__setitem__(0, 0))

    def ask(requests):
        peak[0] = max(peak[0], 10 * min(len(requests), model.batch_size))
        if peak[0] > 500:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return requests

    first = model.batch_size
    model._fitting(ask, [*range(30)])
    assert (model.batch_size, model.fitted_peak_bytes, peak) == (first, 0, [300])
    model._fitting(ask, [*range(200)])
    assert (model.batch_size, model.fitted_peak_bytes, peak) == (first // 4, 300, [10 * (first // 4)])


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("out of memory"), ValueError("other")])
def test_out_of_memory_with_one_prompt_and_other_errors_are_raised(error, base, request):
    model = wrapped(base, trials.Evaluation(None, 48, "test"))
    limited_to(0, base, request, error)
    with pytest.raises(type(error)):
        scoring.evaluate(model, [Task("c", "choice")], {"c": [Example("a", "red", ("red", "blue"))]})


@pytest.mark.parametrize("name", sample(TRAINED, 2))
def test_scores_do_not_depend_on_the_batch_size_for_any_kind(name, tiny, tmp_path):
    precision = METHODS[name].default_precision
    found, learner, plan = attached(tiny, name, precision, tmp_path)
    loop.train(learner, plan, [], Clock(), lambda *_: None)
    learner.model.eval()
    choice, text, line = (dataclasses.replace(t, limit=7) for t in trials.tasks(tmp_path))
    modelled = Task("text", "language_modelling")
    examples = {t.name: read.examples(t, "test") for t in (choice, text, line)}
    examples["text"] = [Example("", text) for text in TEXTS]
    results = []
    for size in (1, 3, None):
        model = scoring.Harness(
            learner.model, found.tokenizer, trials.Evaluation(size, 48, "test"), PRECISIONS[precision]
        )
        with passes.split(found.model, "cpu") as times:
            results.append(scoring.evaluate(model, [choice, text, line, modelled], examples)[1])
    assert times.columns.evaluate_prefill_seconds > 0 < times.columns.evaluate_decode_seconds
    close = 1e-4 if precision == "fp32" else 0.1
    for one, *others in zip(*results, strict=True):
        for other in others:
            assert (one.task, one.index, one.prompt) == (other.task, other.index, other.prompt)
            if precision == "fp32":
                assert one.prediction == other.prediction
            if one.choice_logprobs:
                assert json.loads(one.choice_logprobs) == pytest.approx(json.loads(other.choice_logprobs), abs=close)


def test_the_exported_task_has_the_tasks_stop_strings():
    config = lm_eval_export.config(Task("t", "generation", stop=("\n\n", "Q:"), max_new_tokens=9), [Example("a", "b")])
    assert config["generation_kwargs"] == {"until": ["\n\n", "Q:"], "max_gen_toks": 9, "do_sample": False}
