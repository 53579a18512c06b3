"""The built-in tasks."""

import hashlib
import importlib
import json
import re
import subprocess
import sys
from dataclasses import asdict

import pytest

from peftbench.records import Example
from peftbench.tasks import DEFAULT_TEST_SEED, SPLITS, TASKS, TEST_SEEDS
from peftbench.tasks.builtin.draw import COUNTS, draw

PINNED = {
    "describe train": "0ab8d99eb3fe2fec3a8d4ca6b042ffbb2fc6f109df08ecdf5e942e94b7a508a3",
    "describe validation": "1e1c5b0c7035852f3d1f8382ab8c4cc882614260b346f60a4fa31204d5b123d3",
    "describe test": "7a54c190fd118966c48880bab5c2e2e08496af5ad3bd813b6b99edd061f7746c",
    "compute train": "d43cc7b9e38a6dc0f9027745a44675875b1d5e8b35885734a0dd139c0ff99151",
    "compute validation": "f8dfb7f076f4db43cb8712cde0aebf4643f54203053df0706dae328f4420f939",
    "compute test": "b19c25cbc377288535a89f3032e99789cdbe92b805952b0c0d025c0dbb641248",
    "judge train": "5869b66a7de19a372b71cef6b7fe06bc9dc2caa5e4ec509a6b1786497ec2f03e",
    "judge validation": "e7965d0d94c1c98985fccf53c3cf4e321cb7855ff42c1affcd6d7ade107c01b7",
    "judge test": "a6afd9d830bc29f35862fec59a66386087d5ef6cb76f420c2743e4d6df39cda0",
}


def examples(task, split, test_seed=DEFAULT_TEST_SEED):
    module, _, function = TASKS[task].examples.partition(":")
    return getattr(importlib.import_module(module), function)(split, test_seed)


LATER = ("turns", "join", "end", "content", "taught", "learned", "second")
"""Fields of examples added after the digests were pinned; built-in tasks do not set them."""


def digest(found):
    assert all(getattr(e, name) == getattr(Example, name) for e in found for name in LATER)
    plain = [{key: value for key, value in asdict(e).items() if key not in LATER} for e in found]
    return hashlib.sha256(json.dumps(plain).encode()).hexdigest()


each_task = pytest.mark.parametrize("task", TASKS)
each_split = pytest.mark.parametrize("split", SPLITS)


@each_task
@each_split
def test_a_split_has_its_count_of_distinct_prompts(task, split):
    prompts = [example.prompt for example in examples(task, split)]
    assert len(prompts) == len(set(prompts)) == COUNTS[split] >= 100


@each_task
def test_no_prompt_is_in_two_splits(task):
    prompts = [{example.prompt for example in examples(task, split)} for split in SPLITS]
    assert len(set.union(*prompts)) == sum(map(len, prompts))


@each_task
@each_split
def test_examples_are_the_same_on_every_call_and_machine(task, split):
    found = examples(task, split)
    assert found == examples(task, split)
    assert digest(found) == PINNED[f"{task} {split}"], "the examples changed: old results no longer compare"


@each_task
def test_the_test_sets_of_all_seeds_share_no_prompt_and_nothing_else_changes(task):
    sets = [{e.prompt for e in examples(task, "test", seed)} for seed in range(TEST_SEEDS)]
    assert len(set.union(*sets)) == sum(map(len, sets)) == TEST_SEEDS * COUNTS["test"]
    for split in ("train", "validation"):
        assert examples(task, split, 2) == examples(task, split)
        assert set.union(*sets).isdisjoint(e.prompt for e in examples(task, split))


def test_a_test_seed_beyond_the_last_is_refused():
    with pytest.raises(ValueError, match=r"test_seed 4; allowed: 0 to 3"):
        draw(lambda rng: None, "test", "describe", 4)


@each_task
@each_split
def test_examples_have_what_their_kind_needs(task, split):
    kind = TASKS[task].kind
    for example in examples(task, split):
        assert example.prompt == example.prompt.strip()
        assert example.target == example.target.strip()
        assert example.prompt
        assert example.target
        assert bool(example.choices) == (kind == "choice")
        assert bool(example.references) == (kind == "generation")
        if example.choices:
            assert example.target in example.choices
            assert len(set(example.choices)) == len(example.choices)
        if example.references:
            assert example.target in example.references
        for text in example.references:
            assert all(re.search(rf"\b{slot}\b", text) for slot in example.slots)


@each_task
def test_no_answer_is_much_more_common_than_others(task):
    found = examples(task, "train")
    answers = [example.target for example in found]
    assert max(map(answers.count, set(answers))) < 0.3 * len(found)


def test_an_unknown_split_is_refused_with_the_allowed_ones():
    with pytest.raises(ValueError, match="unknown split 'dev'; allowed: train, validation, test"):
        draw(lambda rng: None, "dev", "describe", 0)


def test_tasks_load_without_torch():
    code = "import sys; from peftbench.tasks.builtin import compute, describe, judge"
    code += "; assert not {'torch', 'transformers', 'numpy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
