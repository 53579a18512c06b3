"""The answer of a folder: its words, its record, its column in the tables, and the command that prints it."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
from pathlib import Path

import pytest

import peftbench
from peftbench import cli
from peftbench.report import answer as report
from peftbench.report import table
from peftbench.report.collect import collect
from peftbench.report.derived.answer import Costs, answer
from peftbench.report.derived.inference import Ratio
from peftbench.report.derived.significance import significance
from peftbench.report.notes.answer import beside, lines, points, sentences
from peftbench.report.payload.attempt import Pieces
from peftbench.report.payload.columns import columns
from peftbench.report.payload.questions import costs
from peftbench.results.answer.decision import Question
from tests.support.answer_cases import folder, trials
from tests.support.results_factory import make_result, store
from tools.docs import reference

BASE = trials("base fp32", [0.3])
BEST = trials("full fp32", [0.9, 0.9, 0.9], peak_train_bytes=8 * 2**30, train_seconds=100.0)
SMALL = trials("lora r=8 fp32", [0.9, 0.9, 0.9], peak_train_bytes=3 * 2**30, train_seconds=80.0)
FAST = trials("adapter r=8 fp32", [0.9, 0.9, 0.9], peak_train_bytes=4 * 2**30, train_seconds=60.0)
BAD = trials("prompt_tuning r=20 fp32", [0.5, 0.5, 0.5], peak_train_bytes=2**30, train_seconds=50.0)
BUSY = {"train_waiting_seconds": 60.0, "threads": 2}


def told(place: Path, **question: object) -> list[str]:
    return list(lines(answer(collect(place), Question(**question))))  # type: ignore[arg-type]


@pytest.fixture
def clear(tmp_path) -> Path:
    return folder(tmp_path / "clear", BASE, BEST, SMALL, FAST, BAD)


def test_the_cheapest_cell_is_named_with_what_it_costs(clear):
    found = told(clear)
    assert found[0].startswith("Take LoRA r=8: of the 3 cells that are known to lie within 2 points of the best,")
    text = " ".join(found)
    assert "it needs the least memory (3.0 GiB)." in text
    assert "Score 90.0" in text
    assert "Peak 3.0 GiB, training 80.0 s, checkpoint" in text
    assert "By time it is bottleneck adapter r=8: 60.0 s, 4.0 GiB." in text


def test_every_answer_has_at_most_eight_lines_of_a_hundred_columns_and_ninety_words(clear):
    for question in ({}, {"within": 5.5}, {"budget_bytes": 2**31}, {"budget_bytes": 1}, {"task": "judge"}):
        found = answer(collect(clear), Question(**question))  # type: ignore[arg-type]
        assert 1 <= len(lines(found)) <= 8
        assert max(map(len, lines(found))) <= 100
        assert len(" ".join(sentences(found)).split()) <= 90


def test_a_budget_says_what_it_costs_in_points(clear, tmp_path):
    better = trials("qlora r=64 nf4", [0.91, 0.91, 0.91], peak_train_bytes=9 * 2**30)
    place = folder(tmp_path / "better", BASE, better, SMALL, BAD)
    text = " ".join(told(place, within=4, budget_bytes=4 * 2**30))
    assert text.startswith("Take LoRA r=8: the only cell trained within 4.0 GiB that is known to lie within 4 poin")
    assert "The best of all, QLoRA r=64, is not within the budget: the best that is, LoRA r=8, loses 1" in text
    none = " ".join(told(clear, budget_bytes=2**30))
    assert none.startswith("No cell trained within 1.0 GiB is known to lie within 2 points of the best, ")
    assert "The best that is, prompt tuning r=20 (50.0), loses 40 points [3" in none
    assert told(clear, budget_bytes=5) == [
        "No cell trained within 5 B: the smallest peak is 1.0 GiB (prompt tuning r=20)."
    ]


def test_times_of_a_busy_machine_are_never_used(tmp_path):
    rows = {"train_seconds": 60.0, **BUSY, "peak_train_bytes": 4 * 2**30}
    quick = trials("adapter r=8 fp32", [0.9, 0.9, 0.9], **rows)
    place = folder(tmp_path / "busy", BASE, BEST, SMALL, quick)
    found = answer(collect(place))
    assert found.decision.by_time is None
    assert found.costs["adapter r=8 fp32"].train_seconds is None
    text = " ".join(lines(found))
    assert "Times are not compared: 3 of 3 trials ran on a busy machine" in text
    assert "60.0 s" not in text
    some = folder(tmp_path / "some", BASE, SMALL, [*quick[:2], *FAST[2:]])
    seconds = answer(collect(some)).costs["adapter r=8 fp32"].train_seconds
    assert seconds == 60.0, "of the one trial that had the machine to itself"
    every = folder(tmp_path / "every", BASE, quick)
    assert "a time budget needs times that were not measured on a busy machine" in told(every, time_seconds=90.0)[0]


def test_predicted_memory_is_never_used(tmp_path):
    guessed = trials("ia3 fp32", [0.9, 0.9, 0.9], peak_train_bytes=None, predicted_train_bytes=5)
    found = answer(collect(folder(tmp_path / "predicted", BASE, BEST, guessed)))
    assert found.decision.by_memory == "full fp32"
    assert found.costs["ia3 fp32"].peak_train_bytes is None
    assert "Memory was not measured for ia3 fp32." in " ".join(lines(found))
    neither = folder(tmp_path / "neither", BASE, guessed)
    assert "is known to lie within 2 points" in " ".join(told(neither)) or "only cell" in " ".join(told(neither))


def test_a_cell_whose_memory_or_time_is_not_known_is_named_where_a_budget_excludes_it(tmp_path):
    free = trials("ia3 fp32", [0.9, 0.9, 0.9], peak_train_bytes=None, train_seconds=None)
    place = folder(tmp_path / "unknown", BASE, BEST, free)
    unknown = "Not judged by memory, which is not known: ia3 fp32."
    first, second, *_ = told(place, budget_bytes=2**20)
    assert first.startswith("No cell is known to have trained within 1.0 MiB: the smallest peak is")
    assert second == unknown
    assert unknown in told(place, budget_bytes=2**40)
    assert told(place, budget_bytes=2**20, time_seconds=0.001)[0].startswith("No cell is known to have trained within")
    slow = folder(tmp_path / "slow", BASE, BEST, trials("ia3 fp32", [0.9, 0.9, 0.9], peak_train_bytes=None))
    assert told(slow, budget_bytes=2**40, time_seconds=0.001)[0].startswith("No cell trained within 1.0 TiB and 0.00 s")
    best = folder(tmp_path / "best", BASE, trials("ia3 fp32", [0.9, 0.9, 0.9], peak_train_bytes=None), BAD)
    within = " ".join(told(best, budget_bytes=2**40, within=50.0))
    assert "The best of all, ia3 fp32, is not known to be within the budget: the best that is, prompt " in within
    timed = told(place, time_seconds=0.001)
    assert "Not judged by time, which was not measured on an idle machine: ia3 fp32." in timed
    assert not [text for text in told(place) if "Not judged" in text]


def test_a_number_that_is_not_one_is_no_cost(tmp_path):
    place = folder(tmp_path / "nan", BASE, BEST, trials("lora r=8 fp32", [0.9, 0.9, 0.9], train_seconds=float("nan")))
    record = peftbench.answer(place)
    (cell,) = (one for one in record["cells"] if one["cell"] == "lora r=8 fp32")
    assert cell["train_seconds"] is None
    assert record["cell_by_time"] is None
    assert "NaN" not in json.dumps(record)


def test_what_does_not_beat_the_majority_or_the_base_is_refused(tmp_path):
    """The ten-step runs of a small suite: the best cell scores what the majority answer does, 28 %."""
    low = [trials(cell, [0.28, 0.275, 0.28]) for cell in ("full fp32", "lora r=8 fp32")]
    found = told(folder(tmp_path / "majority", trials("base fp32", [0.1]), *low))
    assert found[0].startswith(
        "No answer: nothing is better than the majority answer beyond noise (best: full fine-tuning, 27"
    )
    found = told(folder(tmp_path / "base", trials("base fp32", [0.28]), *low))
    assert "nothing is better than the untuned base model beyond noise" in found[0]
    chance = [trials(cell, [0.25, 0.25, 0.25], "judge") for cell in ("full fp32", "lora r=8 fp32")]
    assert "No answer: nothing is better than the majority answer" in told(folder(tmp_path / "chance", *chance))[0]


def test_single_seeds_name_the_command_that_runs_more(tmp_path):
    place = folder(
        tmp_path / "single", BASE, BEST[:1], SMALL[:1], command="peftbench run x.yaml --seeds 1 --only seed=0"
    )
    found = told(place)
    assert found[0] == (
        "No answer: no cell has more than one finished seed, so what another seed would give is not known."
    )
    assert found[-1] == f"  peftbench run x.yaml --seeds 3 -o {place}"


def test_missing_outcomes_are_said(tmp_path):
    place = store(tmp_path / "bare", *(make_result(seed=seed, examples=0) for seed in range(3)))
    for found in (told(place), told(reference.RESULTS / "nano_grid")):
        assert "the outcomes of single examples cannot be used (" in " ".join(found)


def test_outcomes_that_are_stored_but_cannot_be_used_are_not_called_missing(tmp_path):
    short = [dataclasses.replace(one, examples=one.examples[:1]) for one in BEST]
    text = " ".join(told(folder(tmp_path / "short", BASE, short)))
    assert "cannot be used (a score is not the mean of the stored outcomes" in text


def test_a_cell_is_compared_with_the_untuned_base_of_its_own_precision(tmp_path):
    worse = trials("base nf4", [0.05])
    low = trials("lora r=8 fp32", [0.30, 0.31, 0.30])
    found = told(folder(tmp_path / "two", BASE, worse, low))
    assert "nothing is better than the untuned base model beyond noise" in found[0]  # 30 % as the base in fp32


def test_cells_that_failed_or_have_one_seed_are_named_and_not_judged(tmp_path):
    failed = [make_result("ia3 fp32", "ia3", rank=None, seed=seed, status="oom") for seed in range(3)]
    place = folder(tmp_path / "failed", BASE, BEST, SMALL, FAST[:1], failed)
    text = " ".join(told(place))
    assert text.startswith("Cannot tell yet")  # the cell of one seed may be the best
    assert "Take" not in text
    assert "bottleneck adapter r=8 (90.0) was not judged and may be the best." in text
    assert "Not judged: bottleneck adapter r=8 (it has one finished seed)." in text
    assert "Likeliest" not in text  # probabilities are against the judged cells only
    assert "At least 2 seeds of every cell are needed." in text
    assert told(place)[-1].startswith("  peftbench run suites/quickstart.yaml --seeds 3 -o ")
    assert "No trial ended ok for ia3 fp32 (3 oom)." in text
    assert told(folder(tmp_path / "all", BASE, failed))[0] == "No answer: no tuned cell has a finished trial."


def test_a_cell_without_usable_outcomes_that_scores_as_well_is_not_passed_over(tmp_path):
    short = [dataclasses.replace(one, examples=one.examples[:1]) for one in SMALL]
    place = folder(tmp_path / "short", BASE, BAD, trials("full fp32", [0.8, 0.8, 0.8]), short)
    text = " ".join(told(place))
    assert text.startswith("Cannot tell yet: LoRA r=8 (90.0) was not judged and may be the best.")
    assert "Take" not in text
    assert "--seeds" not in text  # more seeds would not change it
    worse = [dataclasses.replace(one, examples=one.examples[:1]) for one in trials("lora r=8 fp32", [0.4, 0.4, 0.4])]
    assert told(folder(tmp_path / "worse", BASE, BEST, BAD, worse))[0].startswith(
        "Take full fine-tuning: the only cell"
    )


def test_a_gpus_budget_holds_what_is_not_in_tensors_and_the_largest_peak_counts(tmp_path):
    base = [dataclasses.replace(one, row=dataclasses.replace(one.row, device="cuda")) for one in BASE]
    gpu = [dataclasses.replace(one, row=dataclasses.replace(one.row, device="cuda")) for one in SMALL]
    place = folder(tmp_path / "gpu", base, gpu)
    assert "smallest peak is 3.6 GiB including non-tensor GPU memory" in told(place, budget_bytes=3 * 2**30)[0]
    assert "trained within" in told(place, budget_bytes=3.5 * 2**30)[0]
    assert told(place, budget_bytes=4 * 2**30)[0].startswith("LoRA r=8 is the only cell that can be judged")
    uneven = [
        dataclasses.replace(one, row=dataclasses.replace(one.row, peak_train_bytes=(1 + seed) * 2**30))
        for seed, one in enumerate(SMALL)
    ]
    assert told(folder(tmp_path / "uneven", BASE, uneven), budget_bytes=2 * 2**30)[0].startswith("No cell trained")


@pytest.mark.parametrize("columns", [{"device": "cuda", "precision": "fp3"}, {"device": None}])
def test_what_a_process_holds_on_an_unknown_device_or_in_an_unknown_precision_is_not_0(columns, tmp_path):
    odd = [dataclasses.replace(one, row=dataclasses.replace(one.row, **columns)) for one in SMALL]
    place = folder(tmp_path / "odd", odd)
    assert costs(collect(place))["reserve"] is None
    first, second, *_ = told(place, budget_bytes=2**40)
    assert first.startswith("No cell is known to have trained within 1.0 TiB")
    assert second.startswith("Not judged by memory, which is not known: ")


@pytest.mark.parametrize(
    ("reason", "merge"),
    [
        ("OutOfMemoryError: CUDA out of memory", None),
        ("RuntimeError: peft merged no layer", None),
        ("NotImplementedError: Merging is not supported", "no"),
        ("ValueError: Cannot merge LORA layers when the model is gptq quantized", "no"),
        ("virtual tokens cannot be merged into the weights", "no"),
    ],
)
def test_a_measurement_of_merging_that_failed_does_not_say_that_it_cannot(tmp_path, reason, merge):
    raw = json.dumps({"prompts": 2, "seconds": {}, "reasons": {"merge": reason}})
    made = trials("lora r=8 fp32", [0.9, 0.9, 0.9], inference_json=raw, merged_decode_tokens_per_second=None)
    record = peftbench.answer(folder(tmp_path / "r", BASE, made))
    assert next(cell["merge"] for cell in record["cells"] if cell["cell"] == "lora r=8 fp32") == merge
    results = collect(tmp_path / "r")
    (shown,) = [one for one in columns(results, significance(results), Pieces()) if one.name == "merge"]
    told = dict(zip([cell.name for cell in results.cells], shown.values, strict=True))["lora r=8 fp32"]
    assert told == (f"no: {reason}" if merge else f"not measured: {reason}")


def test_undecided_results_name_seeds_and_the_command(tmp_path):
    one = trials("full fp32", [0.80, 0.86, 0.83])
    other = trials("lora r=8 fp32", [0.86, 0.80, 0.82])
    place = folder(tmp_path / "noisy", BASE, one, other, command="peftbench run x.yaml --set train.steps=20")
    found = told(place)
    assert found[0].startswith("Cannot tell yet: no cell is known to lie within 2 points of the best for new seeds and")
    text = " ".join(found)
    assert "Likeliest to: " in text
    assert "Known so far: " in text
    assert " seeds (now 3) would decide it in 80 % of cases:" in text
    assert found[-1].startswith("  peftbench run x.yaml --set train.steps=20 --seeds ")
    record = peftbench.answer(place)
    assert record["status"] == "cannot_tell"
    assert record["command"] == found[-1].strip()
    assert f"--seeds {record['seeds_needed_count']} " in record["command"]
    assert peftbench.answer(place, within=record["shown_within_points"])["cell_by_memory"] == record["shown_cell"]


def test_the_default_folder_needs_no_option_in_the_command(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    place = folder(Path("results/quickstart"), BASE, BEST[:1], SMALL[:1])
    assert told(place)[-1] == "  peftbench run suites/quickstart.yaml --seeds 3"


def test_the_quickstart_has_an_answer_for_a_larger_loss():
    place = reference.RESULTS / "quickstart"
    record = peftbench.answer(place)
    assert record["status"] in ("answer", "cannot_tell")
    if record["status"] == "cannot_tell":
        record = peftbench.answer(place, within=record["shown_within_points"])
    assert record["cell_by_memory"] in record["good_enough_cells"]
    chosen = next(cell for cell in record["cells"] if cell["cell"] == record["cell_by_memory"])
    assert chosen["probability_within_fraction"] >= record["least_probability_fraction"] >= 0.95
    assert chosen["forgetting_nats_per_token"] is not None
    qlora = next(cell for cell in record["cells"] if cell["cell"] == "qlora r=8 nf4")
    assert qlora["probability_within_fraction"] < 0.95
    assert qlora["merge"] == "yes"
    assert qlora["decode_times_base_ratio"] > 1


def test_the_tables_have_the_probability_and_a_mark_that_is_no_asterisk(clear):
    rows = {row["cell"]: row for row in csv.DictReader(io.StringIO(table(clear, "csv")))}
    assert rows["lora r=8 fp32"]["good_enough_within_2_points"] == "True"
    assert float(rows["lora r=8 fp32"]["probability_within_2_points"]) > 0.95
    assert rows["prompt_tuning r=20 fp32"]["good_enough_within_2_points"] == "False"
    assert rows["base fp32"]["probability_within_2_points"] == ""
    assert rows["majority"]["probability_within_2_points"] == ""
    for form, mark in (("text", "100✓"), ("brief", "100✓"), ("md", "100 ✓"), ("tex", r"100 $\surd$")):
        text = table(clear, form)
        assert mark in text
        assert "*" not in text.replace("\\*", "") or form == "md"
        assert "P(within" in text
    assert "✓: known to" in table(clear, "text").replace("\n", " ")


def test_not_distinguishable_is_a_note_and_not_a_mark(tmp_path):
    one, other = trials("full fp32", [0.80, 0.86, 0.83]), trials("lora r=8 fp32", [0.86, 0.80, 0.82])
    text = table(folder(tmp_path / "noisy", BASE, one, other), "text").replace("\n", " ")
    assert (
        "Not distinguishable from the best on judge, full fine-tuning (Holm-adjusted p ≥ 0.05), which does not mean as"
        in text
    )
    assert "No cell is known to." in text


def test_the_command_prints_the_answer_and_its_record(clear, capsys):
    assert cli.main(["answer", str(clear)]) == 0
    assert capsys.readouterr().out.splitlines() == told(clear)
    assert cli.main(["answer", str(clear), "--budget", "2GiB", "--time", "1.5min", "--within", "50", "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert (record["budget_bytes"], record["time_budget_seconds"], record["within_points"]) == (2**31, 90.0, 50.0)
    assert record["cell_by_memory"] == "prompt_tuning r=20 fp32"
    assert record == peftbench.answer(clear, budget=2**31, time="90s", within=50)
    numbers = [name for name, value in record.items() if isinstance(value, float)]
    assert all(name.rsplit("_", 1)[1] in ("points", "fraction", "seconds") for name in numbers)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--within", "no"], "--within: given 'no'; allowed: a loss above 0 and up to 100 points of the score, like 2"),
        (["--within", "0"], "--within: given '0'"),
        (["--within", "nan"], "--within: given 'nan'"),
        (["--within", "101"], "--within: given '101'"),
        (["--budget", "16"], "--budget: given '16'; allowed: a size like 16GiB, 24GB or 500MiB"),
        (["--budget", ""], "--budget: given ''"),
        (["--time", "2"], "--time: given '2'; allowed: a time above 0 like 90s, 30min, 2h or 1h30m"),
        (["--time", "0h"], "--time: given '0h'"),
        (["--task", "jugde"], "unknown task 'jugde'; did you mean 'judge'?"),
    ],
)
def test_wrong_options_are_refused_with_what_is_allowed(clear, capsys, options, message):
    assert cli.main(["answer", str(clear), *options]) == 2
    assert message in capsys.readouterr().err


def test_a_folder_without_results_is_refused(tmp_path, capsys):
    assert cli.main(["answer", str(tmp_path / "nowhere")]) == 2
    assert "no such folder" in capsys.readouterr().err
    (tmp_path / "empty").mkdir()
    assert cli.main(["answer", str(tmp_path / "empty")]) == 2
    with pytest.raises(peftbench.UserError, match="--time: given -1"):
        peftbench.answer(folder(tmp_path / "some", BASE, SMALL), time=-1)
    assert "trained within" in report.text(collect(tmp_path / "some"), Question(budget_bytes=1))


def test_points_are_written_as_people_do():
    assert [points(value) for value in (2.0, 1.0, 2.5, 0.05)] == ["2 points", "1 point", "2.5 points", "0.05 points"]


def test_the_decode_time_of_one_process_has_its_interval():
    costs = Costs(None, None, None, None, Ratio(1.577, 1.5249, 1.64), None, None)
    assert list(beside(costs)) == ["It decodes in 1.58 times (1.52 to 1.64) the base's time."]
