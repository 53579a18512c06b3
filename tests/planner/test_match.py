"""Ranks that meet one budget of trainable parameters: counted as a trial counts, found with few counts."""

from __future__ import annotations

import pytest

from peftbench import suite
from peftbench.commands import matched_ranks
from peftbench.errors import UserError
from peftbench.planner import match, trainable_count
from peftbench.planner.predict import load_config
from peftbench.report import table
from peftbench.results.store import record_grid
from tests.support import trials
from tests.support.method_cells import attached
from tests.support.results_factory import make_result, store

HEAD = "base: nano\ntasks: [judge]\nseeds: 1\ntrain: {sequence_length: 64}\n"


def load(tmp_path, text):
    (tmp_path / "mine.yaml").write_text(HEAD + text)
    return suite.load(tmp_path / "mine.yaml")


def chosen(found):
    """Each cell's rank, by its name."""
    return {trial.cell: trial.rank for trial in suite.expand(found.suite, "cpu")}


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("full", {}),
        ("lora", {}),
        ("lora", {"dora": True}),
        ("adapter", {"kind": "parallel"}),
        ("prefix_tuning", {"reparameterization": "mlp", "hidden_size": 8}),
        ("prompt_tuning", {}),
        ("llama_adapter", {"gate": "per_head"}),
    ],
)
def test_the_counted_parameters_are_those_that_train(tiny, tmp_path, method, options):
    made = trials.trial(tiny, tmp_path, method, options=options)
    _, learner, _ = attached(tiny, method, "fp32", tmp_path, options=options)
    assert trainable_count.trainable(made, load_config(made.base, tiny)) == sum(p.numel() for p in learner.parameters)


@pytest.mark.parametrize(
    ("counts", "budget", "most", "rank"),
    [
        (lambda r: 7 * r, 70, 100, 10),
        (lambda r: 7 * r, 74, 100, 11),
        (lambda r: 7 * r, 73, 100, 10),
        (lambda r: 50 + 3 * r, 10, 100, 1),
        (lambda r: 5 * r, 1000, 40, 40),
        (lambda r: 9, 1000, 40, 1),
        (lambda r: r * r, 90, 1000, 9),
        (lambda r: 10 * min(r, 6), 10_000, 64, 6),
        (lambda r: 1000 // r, 120, 64, 8),
        (lambda r: 10 * (r // 4), 100, 1000, 40),
    ],
)
def test_the_nearest_rank_is_found_with_few_counts(counts, budget, most, rank):
    asked = set()

    def counted(r):
        asked.add(r)
        return counts(r)

    found = match.nearest_rank(counted, budget, most)
    assert abs(counts(found) - budget) == abs(counts(rank) - budget)
    assert found <= rank, "of equal counts the smallest rank"
    assert len(asked) <= 20


def test_each_method_gets_the_nearest_rank_and_methods_without_rank_are_unchanged(tmp_path):
    text = """\
match: {trainable_parameters: {method: lora, rank: 8}}
methods:
  base:
  full:
  prompt_tuning:
  adapter: {kind: [houlsby, pfeiffer], batch_size: [8, 16]}
  lora: [{precision: [fp32, nf4]}, {rank: 2}]
"""
    found = match.solve(load(tmp_path, text))
    assert found.budget == 81_920
    ranks = chosen(found)
    assert ranks["lora r=8 fp32"] == ranks["lora r=8 nf4"] == 8
    assert ranks["lora r=2 fp32"] == 2
    assert "adapter r=39 batch_size=8 fp32" in ranks
    assert "adapter r=79 kind=pfeiffer batch_size=16 fp32" in ranks
    printed = "\n".join(matched_ranks.lines(found))
    assert "adapter r=39 batch_size=8: 81,208 (-0.9 %)" in printed
    assert "not matched, full: 984,192 (it has no rank)" in printed
    assert "not matched, lora r=2: 20,480 (the suite gives its rank)" in printed
    assert "no rank that this base model allows comes within 20% of the budget: prompt_tuning r=192" in printed


@pytest.mark.spawns
def test_a_suite_is_sent_to_a_process_of_its_own(tmp_path, monkeypatch):
    made = load(tmp_path, "match: {trainable_parameters: 20000}\nmethods: {lora: }\n")
    monkeypatch.setattr(match, "solve", repr)  # solving would import torch there, which takes seconds
    assert match.apply(made) == repr(made)


def test_a_method_that_cannot_be_counted_is_unchanged_with_the_reason(tmp_path):
    text = "match: {trainable_parameters: 1000}\nmethods: {lora: {target_modules: [nowhere]}}\n"
    (found,) = match.solve(load(tmp_path, text)).found
    assert found.parameters is None
    assert "nowhere" in found.reason


@pytest.mark.parametrize(
    ("given", "part"),
    [
        ("{trainable_parameters: 0}", "trainable_parameters: given 0"),
        ("{trainable_parameters: many}", "allowed: a whole number, at least 1, or a mapping of method and rank"),
        ("{trainable_parameters: {method: lorra, rank: 8}}", "did you mean 'lora'"),
        ("{trainable_parameters: {method: full, rank: 8}}", "full has no rank"),
        ("{trainable_parameters: {method: lora}}", "the key 'rank' is missing"),
        ("{parameters: 8}", "parameters"),
        ("{trainable_parameters: 8}\nrank: 4", "match chooses the ranks, but the suite also gives rank"),
    ],
)
def test_a_wrong_parameter_budget_is_refused(tmp_path, given, part):
    with pytest.raises(UserError) as error:
        load(tmp_path, f"match: {given}\nmethods: [lora]\n")
    assert part in str(error.value)


def test_the_table_shows_how_far_each_cell_is_from_the_budget(tmp_path):
    rows = [
        make_result(trainable_parameters=990),
        make_result("prompt_tuning r=4 fp32", "prompt_tuning", rank=4, trainable_parameters=500),
        make_result("full fp32", "full", rank=None, trainable_parameters=262_144),
    ]
    folder = store(tmp_path / "r", *rows)
    record_grid(folder, [r.row.key for r in rows], "peftbench run mine", parameters=1000)
    printed = " ".join(table(folder).split())
    assert "Ranks were chosen for 1,000 trainable parameters: LoRA r=8 -1.0 %." in printed
    assert "More than 20% off: prompt tuning r=4 (0.5 times)." in printed
    assert "No rank to choose: full fine-tuning (262 times)." in printed


@pytest.mark.slow
def test_plan_prints_the_ranks_that_another_process_chose(tmp_path, capsys):
    from peftbench import cli

    (tmp_path / "mine.yaml").write_text(f"{HEAD}match: {{trainable_parameters: 81920}}\nmethods: [lora]\n")
    assert cli.main(["plan", str(tmp_path / "mine.yaml")]) == 0
    printed = capsys.readouterr().out
    assert "match: ranks for 81,920 trainable parameters: lora r=8: 81,920 (+0.0 %)" in printed
    assert "lora r=8 fp32" in printed


def test_a_budget_from_a_method_that_the_base_model_does_not_support_is_refused(tmp_path):
    text = "match: {trainable_parameters: {method: llama_adapter, rank: 8}}\n"
    text += "methods: {lora: , llama_adapter: {layers: 99}}\n"
    with pytest.raises(UserError, match=r"mine\.yaml: match\.trainable_parameters: llama_adapter cannot be counted"):
        match.solve(load(tmp_path, text))
