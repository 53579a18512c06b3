"""The documents' statements about the built-in base model are true of the committed results; each is a test.

The quickstart's learning rates were selected on validation, and its table is on a test set that was first read for it.
A second such test set has a table of its own. Every statement is tested on both.
"""

from __future__ import annotations

import importlib
import json
import math
import random
import re
import statistics
from itertools import combinations

import pytest

from peftbench import suite
from peftbench.methods import METHODS
from peftbench.report import page
from peftbench.report.collect import MEAN, collect
from peftbench.report.tables import comparison, writers
from peftbench.results.seeds import welch_interval
from peftbench.results.settings import settings_of
from peftbench.results.store import read
from peftbench.tasks import TASKS as BUILT_IN
from peftbench.tasks.builtin.draw import split_of
from tests.support.page_data import PageData
from tools.docs import findings, reference, tuning

TESTS = ("quickstart", "quickstart_again")
BASES = (*TESTS, "quickstart_avx2")
"""The last is of a base model that the same recipe made with other kernels; it has trials only."""
TASKS = ("describe", "compute", "judge")
SEVEN = ("full", "prompt_tuning", "prefix_tuning", "adapter", "llama_adapter", "lora", "qlora")


@pytest.fixture(scope="module", params=BASES)
def folder(request):
    return reference.RESULTS / request.param


@pytest.fixture(scope="module")
def results(folder):
    return collect(folder)


@pytest.fixture(scope="module")
def both():
    return [collect(reference.RESULTS / name) for name in TESTS]


def cells(results, method, precision="fp32"):
    found = [cell for cell in results.cells if (cell.method, cell.precision) == (method, precision)]
    assert found, f"no cell of {method} at {precision}"
    return found


def one(results, method, rank=None, precision="fp32"):
    (found,) = [cell for cell in cells(results, method, precision) if cell.rank == rank]
    return found


def score(cell, task=MEAN):
    return cell.mean(f"score_{task}")


def spread(cell, task=MEAN):
    return cell.summary.spreads[f"score_{task}"]


def best(results, method, precision="fp32"):
    return max(cells(results, method, precision), key=score)


def test_every_trial_ended_ok_with_three_seeds_of_all_seven_methods(results):
    assert {cell.method for cell in results.cells} == {"base", *SEVEN}
    assert set(results.trials["status"]) == {"ok"}
    assert all(len(cell.ok) == 3 for cell in results.tuned)


def test_the_untuned_base_is_near_chance_or_clearly_low_on_each_task(results):
    base, full = one(results, "base"), one(results, "full")
    chance = results.reference("chance", "judge")
    error = math.sqrt(chance * (1 - chance) / results.score_record("judge")["examples"])
    assert score(base, "judge") - chance < 2 * error
    assert score(base, "compute") < 0.05
    assert score(base, "describe") < score(full, "describe") / 2


def test_chance_and_majority_are_in_table_and_figures(results):
    table = writers.write(comparison.table(results), "text")
    assert re.search(r"^majority +– +4\.0 +\d\d\.0", table, re.M)
    assert re.search(r"^chance +– +– +25\.0", table, re.M)
    drawn = {each["task"]: each for each in PageData(page.html(results)).core["scores"]}
    assert drawn["judge"]["chance"] == 0.25
    assert drawn["judge"]["majority"] > 0.25
    assert results.reference("chance", "judge") == 0.25
    assert 0.25 <= results.reference("majority", "judge") < 0.4
    assert 0 < results.reference("majority", "compute") < 0.1


@pytest.mark.parametrize("method", SEVEN)
def test_each_method_is_above_the_base_beyond_its_interval_on_some_task(results, method):
    base = one(results, "base")
    reached = [
        (cell.name, task)
        for cell in results.tuned
        for task in TASKS
        if cell.method == method and spread(cell, task).mean - spread(cell, task).half_width > score(base, task)
    ]
    assert reached


def test_loras_best_rank_is_within_three_points_of_full_fine_tuning(results):
    assert score(best(results, "lora")) > score(best(results, "full")) - 0.03


def test_the_rank_sweep_shows_more_than_noise(results):
    low, high = one(results, "lora", 2), one(results, "lora", 32)
    found = {task: welch_interval(spread(low, task), spread(high, task)) for task in TASKS}
    assert any(difference > half_width for difference, half_width in found.values()), found


def test_prompt_tuning_is_not_the_best(results):
    prompt = best(results, "prompt_tuning")
    for method in ("full", "lora", "adapter"):
        difference, half_width = welch_interval(spread(prompt), spread(best(results, method)))
        assert difference > half_width, method


def test_qloras_base_weights_are_the_smallest_and_about_a_quarter_of_bf16s(results):
    qlora = one(results, "qlora", 8, "nf4")
    others = [cell for cell in results.tuned if cell.precision != "nf4"]
    assert all(qlora.mean("base_weights_bytes") < cell.mean("base_weights_bytes") for cell in others)
    bf16 = one(results, "lora", 8, "bf16").mean("base_weights_bytes")
    (dtypes,) = set(qlora.ok["loaded_dtypes"])
    quantized_share = float(dtypes.split("uint8 ")[1].split(",")[0])
    kept = (1 - quantized_share) * bf16  # norms, embeddings and head stay in bf16
    assert (qlora.mean("base_weights_bytes") - kept) / (bf16 - kept) == pytest.approx(0.26, abs=0.02)


def test_totals_compare_at_equal_targets_rank_and_checkpointing(results):
    def settings(cell):
        found = json.loads(cell.ok["settings_json"].iloc[0])
        return found["rank"], found["options"]["target_modules"], found["train"]["gradient_checkpointing"]

    assert settings(one(results, "qlora", 8, "nf4")) == settings(one(results, "lora", 8, "bf16"))


def test_activations_outweigh_weights_at_this_size_and_the_page_says_so(results):
    for cell in results.tuned:
        assert cell.mean("peak_activations_bytes") > cell.mean("base_weights_bytes"), cell.name
    text = " ".join(page.html(results).split())
    assert f"are larger than the base weights in {len(results.tuned)} of {len(results.tuned)} cells" in text


def test_a_lora_checkpoint_is_far_below_a_full_one(results):
    full = one(results, "full").mean("checkpoint_bytes")
    assert one(results, "lora", 8).mean("checkpoint_bytes") < full / 10
    assert one(results, "lora", 32).mean("checkpoint_bytes") < full / 2


def test_the_two_tables_differ_in_the_test_set_only(both):
    once, again = (
        [
            {k: v for k, v in settings_of(text).items() if not k.startswith("tasks.")}
            for text in results.trials["settings_json"]
        ]
        for results in both
    )
    assert once == again
    seeds = [
        {task["test_seed"] for text in results.trials["settings_json"] for task in json.loads(text)["tasks"]}
        for results in both
    ]
    assert seeds == [{1}, {2}]
    assert list(both[0].trials["batches_sha256"].dropna()) == list(both[1].trials["batches_sha256"].dropna())
    assert set(both[0].trials["data_sha256"]).isdisjoint(both[1].trials["data_sha256"])


def test_the_order_holds_on_the_second_test_set(both):
    """No two cells differ beyond noise on both test sets with opposite signs."""
    names = [cell.name for cell in both[0].tuned]
    assert names == [cell.name for cell in both[1].tuned]
    reversed_pairs = []
    for a, b in combinations(range(len(names)), 2):
        found = [welch_interval(spread(results.tuned[a]), spread(results.tuned[b])) for results in both]
        signs = [math.copysign(1, d) if abs(d) > half_width else 0 for d, half_width in found]
        reversed_pairs += [(names[a], names[b])] if signs[0] * signs[1] < 0 else []
    assert reversed_pairs == []
    ranks = [sorted(names, key=lambda name, r=r: score(next(c for c in r.tuned if c.name == name))) for r in both]
    moved = sum((ranks[0].index(name) - ranks[1].index(name)) ** 2 for name in names)
    n = len(names)
    assert 1 - 6 * moved / (n * (n * n - 1)) > 0.9  # Spearman's rank correlation


def test_rates_were_selected_on_validation_from_the_same_number_of_candidates():
    stored = collect(tuning.RESULTS)
    assert stored.left_out == 0
    used = [json.loads(text) for text in stored.trials["settings_json"]]
    assert {(one["evaluation"]["split"], one["seed"]) for one in used} == {("validation", 100)}
    assert {len(rates) for rates in tuning.means().values()} == {5}
    assert {method for method, _ in tuning.means()} == set(SEVEN)


@pytest.mark.parametrize("name", ["quickstart", "nano_grid"])
def test_every_rate_in_a_suite_is_the_one_that_tuning_selected(name):
    chosen = tuning.chosen()
    trials = suite.expand(suite.load(suite.find(name)), "cpu")
    trained = [t for t in trials if METHODS[t.method].trains and not t.unsupported]
    assert [t.cell for t in trained if t.training.learning_rate != chosen[t.method, t.rank]] == []


def first_test_set(task):
    """Return the prompts of the test set that was looked at while the tasks were made, before there were four."""
    make = importlib.import_module(BUILT_IN[task].examples.partition(":")[0])._example
    rng, found = random.Random(f"{task} test 0"), {}
    while len(found) < 100:
        prompt = make(rng).prompt
        if split_of(prompt)[0] == "test":
            found[prompt] = None
    return set(found)


def test_the_prompts_that_were_seen_before_change_no_mean_by_a_point(folder):
    stored = read(folder)
    if not len(stored.examples):
        pytest.skip("this result is kept without its examples")
    rows = stored.examples.merge(stored.trials[["key", "cell"]], on="key")
    seen = {task: first_test_set(task) for task in TASKS}
    old = [prompt in seen[task] for task, prompt in zip(rows["task"], rows["prompt"], strict=True)]
    shares = rows.assign(old=old).drop_duplicates(["task", "prompt"])["old"].mean()
    assert 0 < shares < 0.08
    means = [part.groupby(["cell", "task"])["outcome"].mean() for part in (rows, rows[[not o for o in old]])]
    by_cell = [mean.groupby("cell").mean() for mean in means]
    assert (by_cell[0] - by_cell[1]).abs().max() < 0.01


def test_no_other_suite_uses_the_tuning_seeds():
    def seeds(name):
        return set(suite.load(suite.find(name)).seeds)

    assert seeds("nano_tuning").isdisjoint(seeds("quickstart") | seeds("nano_grid"))


def test_the_grid_is_seven_methods_four_ranks_four_precisions_three_seeds():
    results = collect(findings.RESULTS)
    for method in SEVEN:
        assert len({c.rank for c in results.cells if c.method == method}) == (1 if method == "full" else 4), method
        assert {c.precision for c in results.cells if c.method == method} == {"fp32", "bf16", "int8", "nf4"}
    assert set(results.trials["status"]) == {"ok", "unsupported"}
    assert all(len(cell.ok) == 3 for cell in results.tuned)
    unsupported = {(c.method, c.precision) for c in results.cells if c.trouble == "unsupported"}
    assert unsupported == {("full", "int8"), ("full", "nf4"), *(("qlora", p) for p in ("fp32", "bf16", "int8"))}


def test_storage_precision_hardly_changes_scores_and_the_rank_changes_them_a_lot():
    found = findings.score_differences()
    assert sum(beyond for _, beyond, _ in found) < 0.15 * len(found)
    largest = max(abs(difference) for difference, _, _ in found)
    gains = findings.rank_gains()
    assert all(gains[method] > 2 * largest for method in ("adapter", "lora", "prompt_tuning"))
    by_width = {rank: cell.mean(findings.SCORE) for (m, rank, p), cell in findings.cells().items() if m == "adapter"}
    assert by_width[128] < by_width[64]


def test_bf16_saves_memory_at_this_size_and_narrower_storage_hardly_more():
    assert max(findings.ratios("peak_train_bytes", "bf16", "fp32")) < 0.9
    assert sum(ratio > 1 for ratio in findings.ratios("peak_train_bytes", "int8", "bf16")) > 12
    assert min(findings.ratios("peak_train_bytes", "nf4", "bf16")) > 0.8


def test_at_the_median_nothing_below_fp32_is_faster_on_this_cpu():
    for narrow in ("bf16", "int8", "nf4"):
        assert statistics.median(findings.ratios("tokens_per_second", narrow, "fp32")) < 1.02
