"""Tasks defined by lm-eval, from a YAML file with local data, and the errors if something is missing."""

from __future__ import annotations

import json
import math
import subprocess
import sys

import pytest
import torch
import yaml

from peftbench import suite
from peftbench.errors import UserError
from peftbench.evaluation import decoding, scoring
from peftbench.models.precision import PRECISIONS
from peftbench.records import Task
from peftbench.suite.trial_key import key
from peftbench.tasks import lm_eval_tasks, read
from tests.support import method_cells, trials
from tests.support.method_cells import logits
from tests.support.sample import sample

ROWS = [
    {"question": f"the colour of {thing} ?", "answer": colour, "options": ["red", "green", "blue"]}
    for thing, colour in trials.COLOURS.items()
]
SHARED = {
    "dataset_path": "json",
    "dataset_kwargs": {"data_files": {"train": "train.jsonl", "test": "test.jsonl"}},
    "training_split": "train",
    "fewshot_split": "train",
    "test_split": "test",
    "doc_to_text": "{{question}}",
    "metadata": {"version": 2.5},
}
TYPES = {
    "multiple_choice": {
        "doc_to_choice": "{{options}}",
        "doc_to_target": "{{options.index(answer)}}",
        "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}, {"metric": "mcc"}],
    },
    "generate_until": {
        "doc_to_target": "{{answer}}",
        "generation_kwargs": {"until": ["\n"], "max_gen_toks": 5, "do_sample": False},
        "metric_list": [{"metric": "bleu"}, {"metric": "exact_match"}],
        "filter_list": [
            {
                "name": "strict",
                "filter": [{"function": "regex", "regex_pattern": "^(red|blue)$"}, {"function": "take_first"}],
            },
            {"name": "loose", "filter": [{"function": "remove_whitespace"}, {"function": "take_first"}]},
        ],
    },
    "loglikelihood": {"doc_to_target": "{{answer}}", "metric_list": [{"metric": "perplexity"}, {"metric": "acc"}]},
    "loglikelihood_rolling": {
        "doc_to_text": "",
        "doc_to_target": "{{question}}",
        "metric_list": [{"metric": "word_perplexity"}, {"metric": "bits_per_byte"}],
    },
}


@pytest.fixture
def write(tmp_path):
    """A function that writes a task of an output type with its data, and returns the Task."""

    def task(kind, rows=ROWS, folder="here", settings=None, **changes):
        home = tmp_path / folder
        home.mkdir(exist_ok=True)
        train = [{**row, "question": f"what is {row['question']}"} for row in rows]
        for name, found in (("train", train), ("test", rows)):
            (home / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in found))
        config = {"task": "own", "output_type": kind, **SHARED, **TYPES[kind], **(settings or {})}
        (home / "own.yaml").write_text(yaml.safe_dump(config))
        lm_eval_tasks._loaded.cache_clear()
        return Task(
            "mine", "lm_eval", **{"lm_eval": str(home / "own.yaml"), "max_new_tokens": 0, "stop": (), **changes}
        )

    return task


@pytest.fixture(scope="module")
def base(tiny):
    return method_cells.loaded(tiny, "base", "fp32")


def scored(base, task):
    wrapped = scoring.Harness(base.model, base.tokenizer, trials.Evaluation(4, 48, "test"), PRECISIONS["fp32"])
    examples = read.examples(task, "test")
    (score,), rows = scoring.evaluate(wrapped, [task], {"mine": examples})
    return score, rows, examples


def direct(base, prompt, text):
    ids, whole = (base.tokenizer.encode(t) for t in (prompt, prompt + text))
    found = logits(base.model, "fp32", torch.tensor([whole])).float().log_softmax(-1)[0]
    return sum(float(found[i - 1, whole[i]]) for i in range(len(ids), len(whole)))


def test_choices_are_ranked_and_each_outcome_is_stored(base, write):
    score, rows, examples = scored(base, write("multiple_choice"))
    assert [(e.prompt, e.target) for e in examples] == [(row["question"], row["answer"]) for row in ROWS]
    for row, e in zip(rows, examples, strict=True):
        logprobs = [direct(base, e.prompt, f" {choice}") for choice in e.choices]
        assert json.loads(row.choice_logprobs) == pytest.approx(logprobs, abs=1e-4)
        assert row.prediction == e.choices[logprobs.index(max(logprobs))]
        assert (row.prompt, row.target, row.format_ok) == (e.prompt, e.target, None)
        assert row.outcome == (row.prediction == row.target)
    assert (score.metric, score.value) == ("acc", score.metrics["acc"])
    assert {"acc", "acc_norm", "f1_macro"} <= set(score.metrics)
    assert score.metrics["matthews"] == pytest.approx(score.metrics["mcc"])
    assert (score.chance, score.majority, score.format_failures) == (pytest.approx(1 / 3), 1 / 3, None)
    expected = {"lm_eval": "own.yaml", "version": 2.5, "output_type": "multiple_choice", "num_fewshot": 0}
    assert score.settings.items() >= expected.items()


def test_the_suite_can_select_another_headline_metric(base, write):
    score, rows, examples = scored(base, write("multiple_choice", metric="acc_norm"))
    assert (score.metric, score.value) == ("acc_norm", score.metrics["acc_norm"])
    for row, e in zip(rows, examples, strict=True):
        per_letter = [lp / len(c) for lp, c in zip(json.loads(row.choice_logprobs), e.choices, strict=True)]
        assert row.prediction == e.choices[per_letter.index(max(per_letter))]


def test_texts_are_decoded_parsed_and_stored_unparsed(base, write, monkeypatch):
    said = dict(zip([row["question"] for row in ROWS], [" blue", "grass", "red ", "", "green", "red"], strict=True))
    speak = lambda _, asked, __: [decoding.Answer(said[r.args[0]], ended=True) for _, r in asked]  # noqa: E731
    monkeypatch.setattr(decoding, "answers", speak)
    score, rows, _ = scored(base, write("generate_until"))
    assert score.metric == "exact_match,strict"
    assert [row.prediction for row in rows] == ["blue", "grass", "red", "", "green", "red"]
    assert [row.format_ok for row in rows] == [False, False, False, False, False, True], "the pattern is strict"
    assert (score.value, score.format_failures) == (1 / 6, 5)
    loose, rows, _ = scored(base, write("generate_until", metric="exact_match,loose"))
    assert [row.outcome for row in rows] == [1, 0, 0, 0, 1, 1]
    assert (loose.value, loose.format_failures) == (loose.metrics["exact_match,loose"], 1)
    assert loose.settings["generation"] == {"until": ["\n"], "max_gen_toks": 5, "do_sample": False}


def test_the_suite_can_set_length_and_stop_strings(write):
    task = write("generate_until", max_new_tokens=7, stop=("Q:",))
    kwargs = lm_eval_tasks.build(task).config.generation_kwargs
    assert kwargs == {"until": ["Q:"], "max_gen_toks": 7, "do_sample": False}
    assert lm_eval_tasks.stand_in(task).max_new_tokens == 7


def test_the_stand_in_for_memory_and_checks_has_the_beams_that_the_task_asks_for(base, write):
    beams = {"generation_kwargs": {"until": ["Q:"], "max_gen_toks": 3, "num_beams": 4}}
    task = write("generate_until", settings=beams)
    assert lm_eval_tasks.stand_in(task).num_beams == 4
    assert lm_eval_tasks.stand_in(write("generate_until")).num_beams == 1
    score, _, examples = scored(base, write("generate_until", settings=beams))
    assert score.settings["decoding"]["num_beams"] == 4
    wrapped = scoring.Harness(base.model, base.tokenizer, trials.Evaluation(8, 48, "test"), PRECISIONS["fp32"])
    assert len(scoring.largest_batch(wrapped, lm_eval_tasks.stand_in(task), examples * 4)) == 2, "of four beams each"


def test_a_continuation_is_right_if_it_is_the_most_likely(base, write):
    score, rows, examples = scored(base, write("loglikelihood"))
    assert score.metric == "acc"
    assert "perplexity" in score.metrics
    for row, e in zip(rows, examples, strict=True):
        assert json.loads(row.choice_logprobs) == [pytest.approx(direct(base, e.prompt, e.target), abs=1e-4)]
    assert (score.chance, score.majority) == (None, None)


def test_whole_texts_are_scored_per_byte(base, write):
    score, rows, examples = scored(base, write("loglikelihood_rolling"))
    assert score.metric == "probability_per_byte"
    assert [row.target for row in rows] == [e.target for e in examples] == [row["question"] for row in ROWS]
    total = sum(json.loads(row.choice_logprobs)[0] for row in rows)
    size = sum(len(row.target.encode()) for row in rows)
    assert score.metrics["bits_per_byte"] == pytest.approx(-total / size / math.log(2))


def test_shots_come_from_the_training_split_by_one_seed(base, write):
    task = write("multiple_choice", num_fewshot=2)
    first, again = read.examples(task, "test"), read.examples(task, "test")
    assert first == again
    assert all(e.prompt.count("what is the colour") == 2 for e in first)
    score, rows, _ = scored(base, task)
    assert [row.prompt for row in rows] == [e.prompt for e in first]
    assert (score.settings["num_fewshot"], score.settings["fewshot_split"]) == (2, "train")
    assert read.examples(write("multiple_choice", settings={"num_fewshot": 2}), "test") == first, "its own setting"


def test_a_limit_keeps_the_first_documents(base, write):
    score, _, examples = scored(base, write("multiple_choice", limit=2))
    assert (score.examples, len(examples)) == (2, 2)


def test_the_fingerprint_covers_documents_and_scoring_but_not_locations(write):
    plain = read.fingerprint([write("multiple_choice")])
    assert read.fingerprint([write("multiple_choice", folder="elsewhere")]) == plain
    found, others = (
        {plain},
        [
            ("multiple_choice", {"rows": ROWS[::-1]}),
            ("multiple_choice", {"num_fewshot": 1}),
            ("multiple_choice", {"limit": 3}),
            ("multiple_choice", {"settings": {"doc_to_text": "Q: {{question}}"}}),
            ("multiple_choice", {"settings": {"metadata": {"version": 3}}}),
            ("multiple_choice", {"settings": {"metric_list": [{"metric": "acc"}]}}),
            ("generate_until", {}),
        ],
    )
    for kind, changes in others:
        found.add(read.fingerprint([write(kind, **changes)]))
    assert len(found) == 1 + len(others)


def test_the_key_follows_the_content_not_the_file(tiny, tmp_path, write):
    def of(task):
        made = trials.trial(tiny, tmp_path, tasks=(*trials.tasks(tmp_path), task), evaluate=("colour", "mine"))
        return key(made, "b", read.fingerprint([task]))

    assert of(write("multiple_choice")) == of(write("multiple_choice", folder="elsewhere"))
    assert of(write("multiple_choice")) != of(write("multiple_choice", rows=ROWS[1:]))


@pytest.mark.parametrize("kind", sample(TYPES, 2))
def test_a_trial_scores_it_together_with_other_tasks(kind, tiny, tmp_path, write):
    import time

    from peftbench.runner import trial

    task = write(kind)
    tasks = trials.tasks(tmp_path)[:1]
    made = trials.trial(tiny, tmp_path, tasks=(*tasks, task), evaluate=("colour", "mine"), training={"steps": 1})
    result = trial.run(trials.job(made, tmp_path), time.perf_counter(), lambda _: None, lambda *_: None)
    assert (result.row.status, result.row.message) == ("ok", None)
    assert [s.task for s in result.scores] == ["colour", "mine"]
    assert json.loads(result.row.scores_json)["mine"]["settings"]["version"] == 2.5
    assert {row.task for row in result.examples} == {"colour", "mine"}
    assert str(tmp_path) not in result.row.settings_json + result.row.scores_json


# what is told


def refused(task, then=read.fingerprint):
    with pytest.raises(UserError) as told:
        then([task])
    return str(told.value)


def test_an_unknown_metric_is_reported_before_anything_runs(write):
    told = refused(write("multiple_choice", metric="acc_nrom"))
    assert "task 'mine': lm-eval's task 'own.yaml': unknown metric 'acc_nrom'; did you mean 'acc_norm'?" in told
    assert "allowed: acc, acc_norm, mcc" in told


def test_metrics_without_outcomes_per_example_cannot_be_the_headline(base, write):
    task = write("generate_until", settings={"metric_list": [{"metric": "bleu"}]})
    assert "has no metric with an outcome per example" in refused(task, lambda found: scored(base, *found))


def test_answers_beyond_the_maximum_length_are_refused(base, write):
    task = write("generate_until", max_new_tokens=48)
    with pytest.raises(UserError, match=r"decodes up to 48 tokens; allowed: less than evaluate.max_length \(48\)"):
        scoring.check_choices(base.tokenizer, task, read.examples(task, "test"), 48)


def test_missing_data_is_reported(write, tmp_path):
    task = write("multiple_choice")
    (tmp_path / "here" / "test.jsonl").unlink()
    assert "lm-eval's task 'own.yaml' or its data cannot be loaded (HF_HUB_OFFLINE is set): " in refused(task)
    task = write("multiple_choice", settings={"dataset_path": "nobody/nothing", "dataset_kwargs": {}})
    assert "cannot be loaded (HF_HUB_OFFLINE is set): Couldn't reach 'nobody/nothing'" in refused(task)


@pytest.mark.parametrize("text", ["task: [a", "5", "task: own\n", "group: g\ntask: [a, b]\n"])
def test_a_file_that_is_not_a_task_is_refused(text, tmp_path):
    (tmp_path / "no.yaml").write_text(text)
    task = Task("mine", "lm_eval", lm_eval=str(tmp_path / "no.yaml"))
    assert refused(task).startswith("task 'mine': lm-eval's task 'no.yaml'")


def test_a_name_in_lm_eval_is_found_and_a_wrong_one_is_refused():
    assert lm_eval_tasks._files()["hellaswag"].name == "hellaswag.yaml"
    assert len(lm_eval_tasks._files()) > 10_000
    assert refused(Task("mine", "lm_eval", lm_eval="hellaswg")).endswith("did you mean 'hellaswag'?")
    assert "a group is several" in refused(Task("mine", "lm_eval", lm_eval="mmlu"))


@pytest.mark.slow
def test_the_names_are_those_of_lm_evals_own_index():
    from lm_eval.tasks import TaskManager

    manager = TaskManager()
    assert lm_eval_tasks._files() == {name: manager.task_index[name].yaml_path for name in manager.all_subtasks}


def test_a_suite_with_such_a_task_loads_without_lm_eval(tmp_path):
    (tmp_path / "x.yaml").write_text("base: nano\nmethods: [base]\ntasks: {judge: {}, hellaswag: {lm_eval: true}}\n")
    code = (
        "import sys\nfrom pathlib import Path\nfrom peftbench import suite\n"
        f"assert len(suite.expand(suite.load(Path({str(tmp_path / 'x.yaml')!r})), 'cpu')) == 1\n"
        "assert 'lm_eval' not in sys.modules and 'datasets' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
    assert suite.load(tmp_path / "x.yaml").scored == ("judge", "hellaswag")
