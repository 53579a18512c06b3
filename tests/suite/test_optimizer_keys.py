"""What a suite may ask of an optimizer, and what it is told otherwise, before anything runs."""

from __future__ import annotations

import textwrap
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

import pytest

from peftbench import suite
from peftbench.errors import UserError
from peftbench.methods import METHODS, support
from peftbench.planner import levers
from peftbench.records import OPTIMIZERS
from peftbench.runner import prepare
from peftbench.runner.preflight import optimizers as preflight
from peftbench.suite import cell_check
from tests.support import trials


def expanded(folder: Path, method: str = "full", **train: object):
    """Return the trials of a suite with a method's training settings."""
    precision, devices = train.pop("precision", "fp32"), train.pop("devices", None)
    settings = ", ".join(f"{key}: {value}" for key, value in train.items())
    text = f"base: nano\ntasks: [compute]\nseeds: 1\ntrain: {{steps: 2, {settings}}}\nprecision: {precision}\n"
    text += f"methods: {{{method}: {{}}}}\n" + (f"devices: {{strategy: {devices}, count: 2}}\n" if devices else "")
    (folder / "x.yaml").write_text(text)
    return suite.expand(suite.load(folder / "x.yaml"), "cpu")


def test_every_optimizer_of_the_table_is_allowed_and_an_unknown_one_is_told_the_nearest(tmp_path):
    for name, record in OPTIMIZERS.items():
        more = {"clip_norm": "null"} if record.in_backward else {}
        more |= {"schedule": record.only_schedule[0]} if record.only_schedule[0] else {}
        (made,) = expanded(tmp_path, optimizer=name, **more)
        assert (made.training.optimizer, made.unsupported) == (name, None)
    with pytest.raises(UserError, match="'adamw_8bits'; did you mean 'adamw_8bit'"):
        expanded(tmp_path, optimizer="adamw_8bits")


def test_an_optimizer_without_its_package_is_refused_with_the_extra_to_install(tmp_path, monkeypatch):
    record = replace(OPTIMIZERS["lion"], package="no_such_package", extra="some")
    monkeypatch.setattr(cell_check, "OPTIMIZERS", MappingProxyType({**OPTIMIZERS, "lion": record}))
    with pytest.raises(UserError, match=r"optimizer: lion needs the package no_such_package.*'peftbench\[some\]'"):
        expanded(tmp_path, optimizer="lion")
    assert expanded(tmp_path, optimizer="adamw")


@pytest.mark.parametrize(
    ("train", "words"),
    [
        (
            {"optimizer": "[adamw, lomo]"},
            "lomo frees each gradient before the norm over all of them is known: write clip_norm: null",
        ),
        (
            {"optimizer": "[adamw, lomo]", "clip_norm": "null", "batch_size": 8, "micro_batch_size": 2},
            "lomo frees each gradient once it is used, so that none is added up over micro-batches: leave out "
            "micro_batch_size, or write 8, which is batch_size",
        ),
        (
            {"optimizer": "[adamw, schedule_free_adamw]"},
            "schedule_free_adamw needs schedule: constant, because its mean over the steps takes the place "
            "of a falling rate",
        ),
    ],
)
def test_settings_that_an_optimizer_excludes_make_its_cells_unsupported_and_no_others(train, words, tmp_path):
    assert [trial.unsupported for trial in expanded(tmp_path, **train)] == [None, words]


def test_optimizers_with_other_settings_stand_in_blocks_of_their_own(tmp_path):
    """As ``docs/optimizers.md`` has it."""
    document = (Path(__file__).parents[2] / "docs" / "optimizers.md").read_text()
    methods = textwrap.dedent(document.partition("```yaml\n")[2].partition("```")[0])
    (tmp_path / "x.yaml").write_text(f"base: nano\ntasks: [compute]\nseeds: 1\n{methods}")
    found = suite.expand(suite.load(tmp_path / "x.yaml"), "cpu")
    assert [(t.training.optimizer, t.training.clip_norm, t.unsupported) for t in found] == [
        ("adamw", 1.0, None),
        ("lomo", None, None),
    ]


def test_a_micro_batch_is_no_way_to_save_memory_where_the_optimizer_excludes_it(tmp_path):
    (lomo,) = expanded(tmp_path, optimizer="lomo", clip_norm="null", batch_size=4)
    (sgd,) = expanded(tmp_path, optimizer="sgd", batch_size=4)
    tried = []
    for one in (lomo, sgd):
        asked = []
        levers.nearest(one, lambda made, asked=asked: asked.append(made) or 2, 1)
        assert len(asked) > 1
        tried.append({made.training.micro_batch_size for made in asked})
    assert tried == [{4}, {1, 4}]


@pytest.mark.parametrize(
    ("method", "train", "words"),
    [
        ("lora", {"optimizer": "galore_adamw"}, "lora does not exist with optimizer galore_adamw, because it trains"),
        ("lora", {"optimizer": "lomo"}, "lora does not exist with optimizer lomo, because it trains whole models"),
        ("full", {"optimizer": "lomo", "clip_norm": "null", "precision": "fp16"}, "fp16 does not exist with optimizer"),
        (
            "full",
            {"optimizer": "lomo", "clip_norm": "null", "devices": "ddp"},
            "full fp32 does not run on ddpx2, because its optimizer lomo (torch) takes its steps in the backward pass",
        ),
        (
            "full",
            {"optimizer": "muon", "devices": "fsdp2"},
            "because its optimizer muon (torch) works on whole matrices",
        ),
    ],
)
def test_cells_that_cannot_exist_are_unsupported_with_their_reason(method, train, words, tmp_path):
    found = expanded(tmp_path, method, **train)
    assert len(found) == 1
    assert words in found[0].unsupported


def test_a_default_rate_with_an_optimizer_of_other_rates_is_told_before_the_run(tmp_path):
    assert preflight.notes(expanded(tmp_path, optimizer="adamw")) == ()
    (told,) = preflight.notes(expanded(tmp_path, optimizer="lion"))
    assert told.startswith("optimizer lion: the default learning rate is for AdamW; rates for lion are 3 to 10 times")
    assert preflight.notes(expanded(tmp_path, optimizer="lion", learning_rate=1e-4)) == ()
    every = expanded(tmp_path, optimizer="lion")
    assert told in prepare.check(every)
    assert told in prepare.prepare(every, tmp_path / "r", 1, "peftbench run x.yaml").notes


def test_a_search_around_a_default_rate_is_told_so_too_and_a_list_of_rates_is_not(tmp_path):
    def told(**train):
        (tmp_path / "x.yaml").write_text(
            "base: nano\ntasks: [compute, judge]\nseeds: 1\nmethods: {full: {}}\n"
            f"train: {{steps: 2, {', '.join(f'{key}: {value}' for key, value in train.items())}}}\n"
        )
        return preflight.notes(suite.expand(suite.load(tmp_path / "x.yaml"), "cpu"))

    (note,) = told(optimizer="sgd", learning_rate="search")
    assert "search tries 0.1 to 10 times the default, which is for AdamW; rates for sgd are on another" in note
    assert note.endswith("Give learning_rate: a list of rates, from which validation selects")
    assert told(optimizer="adamw", learning_rate="search") == ()
    assert told(optimizer="sgd", learning_rate="[1e-2, 1e-1]") == ()


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        (
            "peft_type: ADALORA, total_step: 9",
            "peft ADALORA does not exist with optimizer schedule_free_adamw, because",
        ),
        ("peft_type: ADAMSS, use_asa: true", "it prunes by weights and gradients after each step"),
        ("peft_type: ADAMSS", None),
        ("peft_type: VERA", None),
    ],
)
def test_a_mean_over_steps_is_not_scored_of_weights_that_are_taken_away_in_between(fields, words, tmp_path):
    text = "base: nano\ntasks: [compute]\nseeds: 1\ntrain: {steps: 2, learning_rate: 1e-3, schedule: constant, "
    text += f"optimizer: schedule_free_adamw}}\nmethods: {{peft: {{{fields}}}}}\n"
    (tmp_path / "x.yaml").write_text(text)
    (made,) = suite.expand(suite.load(tmp_path / "x.yaml"), "cpu")
    assert made.unsupported is None if words is None else words in made.unsupported


def test_a_mean_over_steps_is_not_scored_of_what_another_packages_method_changes_after_a_step():
    other = replace(METHODS["lora"], attach="elsewhere:attach", after_step="elsewhere:after")
    training = replace(trials.TRAINING, optimizer="schedule_free_adamw", schedule="constant")
    refused = support.refusal(other, "fp32", "cpu", training)
    assert refused is not None
    assert "its after_step may change weights" in refused.message
    assert support.refusal(METHODS["lora"], "fp32", "cpu", training) is None
    assert support.refusal(other, "fp32", "cpu", trials.TRAINING) is None
