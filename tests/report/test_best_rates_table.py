"""Learning rates that are an axis: what the report says of the best ones."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest

from peftbench.report.collect import collect
from peftbench.report.derived import rate_sweeps
from peftbench.report.notes import best_rates as notes
from peftbench.report.tables import best_rates
from tests.support.results_factory import make_result, store

RATES = {"full": (1e-5, 1e-4, 1e-3, 1e-2), "lora": (1e-4, 1e-3, 1e-2, 1e-1)}
BEST = {"full": 2e-4, "lora": 2e-3}


def trial(method, rate, seed, best, validated, status="ok"):
    size = [] if method == "full" else ["r=8"]
    cell = " ".join([method, *size, f"lr={rate}", "fp32"])
    train = {"steps": 3, "learning_rate": rate}
    settings = json.dumps({"method": method, "seed": seed, "train": train, "evaluate": ["judge"]})
    loss = 2 + 0.05 * math.log(rate / best) ** 2
    made = make_result(
        cell,
        method,
        rank=None if method == "full" else 8,
        seed=seed,
        status=status,
        scores={"judge": 1 - loss / 10},
        learning_rate=rate,
        settings_json=settings,
    )
    steps = tuple(replace(s, validation_loss=loss if s.step == 3 and validated else None) for s in made.steps)
    return replace(made, steps=steps)


def swept(folder, validated=True, best=BEST, seeds=3, **more):
    made = [
        trial(method, rate, seed, best[method] * (1.1 if seed == 1 and method == "lora" else 1), validated, **more)
        for method, rates in RATES.items()
        for rate in rates
        for seed in range(seeds)
    ]
    return collect(store(folder, *made, tasks=("judge",)))


@pytest.mark.parametrize(
    ("validated", "measure"), [(True, "the loss on validation"), (False, "1 minus the mean score")]
)
def test_the_ratio_of_best_rates_is_told_with_its_interval_and_what_it_is_the_best_of(tmp_path, validated, measure):
    results = swept(tmp_path / "r", validated)
    full, lora = rate_sweeps.sweeps(results)
    assert (full.title, lora.title) == ("full fine-tuning", "LoRA r=8")
    found = rate_sweeps.to_reference((full, lora), lora)
    assert found.ratio == pytest.approx(10 * 1.1 ** (1 / 3))
    assert found.low < found.ratio < found.high
    told = " ".join(notes.notes(results))
    assert "in multiples of full fine-tuning's (95 % over 3 seeds): LoRA r=8 10.3 (" in told
    assert f"the least of {measure}" in told
    rows = best_rates.table(results).rows
    assert [row.values[2].text for row in rows] == ["2.0e-04", "2.1e-03"]
    assert [row.values[3].text.partition(" ")[0] for row in rows] == ["–", "10.3"]


def test_an_edge_is_told_instead_of_a_ratio(tmp_path):
    results = swept(tmp_path / "r", best=BEST | {"lora": 10.0})
    told = " ".join(notes.notes(results))
    assert "at an edge of those tried, so that a better one may lie outside: LoRA r=8." in told
    assert "in multiples" not in told
    assert best_rates.table(results).rows[1].values[2].text == "1.0e-01 (edge)"


def test_rates_are_compared_with_the_one_full_fine_tuning_of_all_weights_of_their_base_model(tmp_path):
    full, lora = rate_sweeps.sweeps(swept(tmp_path / "r"))
    partial = replace(full, is_whole=False, losses=lora.losses)
    other = replace(full, base="other", losses=lora.losses)
    wanted = rate_sweeps.to_reference((full, lora), lora)
    assert wanted == rate_sweeps.to_reference((partial, other, full, lora), lora)
    assert rate_sweeps.to_reference((partial, other, lora), lora) is None
    assert rate_sweeps.to_reference((full, replace(full, title="batch 64"), lora), lora) is None, "which of two?"
    assert full.is_whole
    assert full.base == lora.base != ""


def test_a_ratio_without_an_interval_says_why(tmp_path):
    made = [
        trial(method, rate, seed, BEST[method], True, "diverged" if method == "lora" and rate > 1e-3 else "ok")
        for method, rates in RATES.items()
        for rate in rates
        for seed in range(3)
    ]
    told = " ".join(notes.notes(collect(store(tmp_path / "r", *made, tasks=("judge",)))))
    assert "LoRA r=8 5." in told
    assert "Ratio without an interval, as a best rate beside a failed trial" in told


def test_a_grid_without_a_sweep_has_neither_table_nor_note(tmp_path):
    made = [make_result(seed=seed, learning_rate=1e-3) for seed in range(3)]
    results = collect(store(tmp_path / "r", *made, tasks=("judge",)))
    assert best_rates.table(results) is None
    assert list(notes.notes(results)) == []


def test_failed_trials_are_rates_without_a_loss(tmp_path):
    results = swept(tmp_path / "r", status="diverged")
    assert all(sweep.best == () for sweep in rate_sweeps.sweeps(results))
    assert best_rates.table(results).rows[0].values[2].text == "–"
