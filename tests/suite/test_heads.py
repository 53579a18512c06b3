"""Suites with a task for a head: what they may say, what they mean, and what is refused with the way out."""

from __future__ import annotations

import dataclasses

import pytest
import yaml

from peftbench import suite
from peftbench.errors import UserError
from peftbench.runner.preflight import classes
from peftbench.suite import smoke
from peftbench.tasks import read

ROWS = "text\tother\tlabel\nit is good\ta\tyes\nit is bad\tb\tno\nit is fine\tc\tyes\nit is poor\td\tno\n"
TASK = {"kind": "classification", "train": "t.tsv", "test": "t.tsv", "prompt": "{{ text }}", "target": "{{ label }}"}


def write(folder, task=None, **more):
    (folder / "t.tsv").write_text(ROWS)
    content = {"base": "nano", "tasks": {"cola": {**TASK, **(task or {})}}, "methods": {"base": None, "lora": None}}
    (folder / "s.yaml").write_text(yaml.safe_dump(content | more))
    return folder / "s.yaml"


def trials(path):
    return suite.expand(suite.load(path), "cpu")


def test_a_task_for_a_head_measures_no_retention_and_no_generation_and_refuses_the_untuned_base(tmp_path):
    base, lora, *_ = trials(write(tmp_path))
    assert (lora.inference, lora.retention, lora.unsupported) == (False, None, None)
    assert "the head is random until it is trained" in base.unsupported
    assert lora.head.seed == lora.seed
    assert dataclasses.replace(lora, seed=5).head.seed == 5


def test_classes_come_from_labels_choices_or_the_training_examples(tmp_path):
    given = trials(write(tmp_path, {"labels": {"no": "bad", "yes": "good"}}))[1]
    assert given.tasks[0].choices == ("bad", "good")
    assert given.head.outputs == 2
    open_ones = trials(write(tmp_path))
    assert open_ones[1].head.outputs == 0
    (found, *_) = classes.resolved(open_ones[1:], read.examples)
    assert found.tasks[0].choices == ("no", "yes")
    assert found.head.outputs == 2


def test_pairs_enter_the_examples_and_their_fingerprint(tmp_path):
    one, pair = (trials(write(tmp_path, task))[1].tasks for task in ({}, {"prompt_pair": "{{ other }}"}))
    first = read.examples(pair[0], "test")[0]
    assert (first.prompt, first.second, first.content) == ("it is good", "a", "it is good\na")
    assert read.fingerprint(one) != read.fingerprint(pair)


@pytest.mark.parametrize(
    ("task", "more", "told"),
    [
        ({}, {"train": {"packing": True}}, "packing: a head reads one text per row"),
        ({}, {"train": {"loss_on": "all"}}, "a head has no loss on tokens"),
        ({}, {"train": {"logits": "chunked"}}, "logits: given chunked; a head gives one output per text"),
        ({"chat": True}, {}, "a head reads the text alone, not as a message of a chat"),
        ({"num_fewshot": 2}, {}, "without solved examples"),
        ({"max_new_tokens": 3}, {}, "nothing is decoded; this task's kind is classification"),
        ({"choices": ["yes", "yes"]}, {}, "at least two different classes, or none"),
        ({"metric": "rouge_l"}, {}, "accuracy, f1_macro, matthews"),
        ({"kind": "regression", "labels": {"a": "b"}}, {}, "a regression task has no classes"),
        ({"kind": "regression", "metric": "accuracy"}, {}, "pearson"),
        ({"kind": "choice", "choices": ["yes", "no"], "prompt_pair": "{{ other }}"}, {}, "read pairs of texts"),
        ({"train": None, "test": "t.tsv"}, {}, "needs a train file or split, for its head"),
        ({}, {"evaluate": {"retention": {"file": "t.tsv"}}}, "predicts no tokens"),
        ({}, {"evaluate": {"generation": "base"}}, "nothing is decoded"),
        ({}, {"evaluate": {"inference": True}}, "generates nothing"),
        ({"num_beams": 4}, {}, "num_beams"),
        ({"prompt_pair": ""}, {}, "no such key for single texts"),
        ({"kind": "classifikation"}, {}, "classification"),
    ],
)
def test_what_has_no_meaning_with_a_head_is_refused(task, more, told, tmp_path):
    with pytest.raises(UserError) as caught:
        trials(write(tmp_path, task, **more))
    assert told in str(caught.value)


def test_a_head_is_the_only_task_of_its_suite(tmp_path):
    both = {"cola": TASK, "other": {**TASK, "kind": "regression"}}
    with pytest.raises(UserError) as caught:
        trials(write(tmp_path, tasks=both))
    assert "so it is the only task of its suite; also given: other; give each task a suite of its own" in str(
        caught.value
    )


def test_answers_that_are_no_classes_or_numbers_are_told_with_their_place(tmp_path):
    path = write(tmp_path, {"test": "other.tsv"})
    (tmp_path / "other.tsv").write_text("text\tother\tlabel\na\tb\tyes\na\tb\tyess\n")
    with pytest.raises(UserError, match=r"test example 2: unknown class 'yess'.*did you mean 'yes'"):
        classes.resolved(trials(path)[1:], read.examples)
    (tmp_path / "other.tsv").write_text("text\tother\tlabel\na\tb\tyes\n")
    with pytest.raises(UserError, match=r"train example 1: target: given 'yes'; allowed for a regression: a number"):
        classes.resolved(trials(write(tmp_path, {"kind": "regression"}))[1:], read.examples)
    with pytest.raises(UserError, match="1 class"):
        classes.resolved(trials(write(tmp_path, {"target": "same"}))[1:], read.examples)


@pytest.mark.parametrize("kind", ["classification", "regression"])
def test_smoke_mode_puts_a_head_on_the_built_in_base(kind, tmp_path):
    task = {"kind": kind} | ({"target": "{{ 1 }}"} if kind == "regression" else {"metric": "matthews"})
    made = smoke.smoke(smoke.as_smoke_suite(suite.load(write(tmp_path, task))), "cpu").trials
    assert [trial.tasks[0].kind for trial in made] == [kind, kind]
    assert made[1].tasks[0].builtin == "judge"
    assert made[1].retention is None
    assert made[1].head.outputs == (4 if kind == "classification" else 1)


@pytest.mark.parametrize(
    ("task", "answers", "told"),
    [
        ({}, ("0", "", "1", "0"), "train example 2: it has no class; leave the example out"),
        ({}, ("1", "0", "1.0", "0"), "the classes '1' and '1.0', which differ only in how they are written"),
        ({}, ("Yes", "no", "yes", "no"), "the classes 'Yes' and 'yes'"),
        ({"choices": ["yes", "no"]}, ("yes", "yes", "yes", "yes"), "1 class"),
        ({"kind": "regression"}, ("1", "1.0", "1", "1"), "every train example has the answer 1.0"),
        ({"kind": "regression"}, ("1_000", "2", "3", "4"), "given '1_000'; allowed for a regression: a number"),
        ({"kind": "regression"}, ("1", "2", "nan", "3"), "given 'nan'"),
    ],
)
def test_answers_that_a_head_cannot_learn_are_told(task, answers, told, tmp_path):
    path = write(tmp_path, task)
    (tmp_path / "t.tsv").write_text("text\tother\tlabel\n" + "".join(f"a b\tc\t{a}\n" for a in answers))
    with pytest.raises(UserError) as caught:
        classes.resolved(trials(path)[1:], read.examples)
    assert told in str(caught.value)


def test_a_correlation_needs_scored_answers_that_differ(tmp_path):
    (tmp_path / "one.tsv").write_text("text\tother\tlabel\na\tb\tyes\nb\tb\tyes\n")
    found = trials(write(tmp_path, {"test": "one.tsv", "metric": "matthews"}))[1:]
    with pytest.raises(UserError, match=r"every test example has the answer 'yes', and a correlation \(matthews\)"):
        classes.resolved(found, read.examples)
    assert classes.resolved(trials(write(tmp_path, {"test": "one.tsv"}))[1:], read.examples), "accuracy has a meaning"


def test_choices_keep_classes_apart_that_are_written_alike(tmp_path):
    path = write(tmp_path, {"choices": ["US", "us"]})
    (tmp_path / "t.tsv").write_text("text\tother\tlabel\na\tb\tUS\nb\tb\tus\n")
    assert classes.resolved(trials(path)[1:], read.examples)[0].tasks[0].choices == ("US", "us")
