"""What a published number is compared by: costs, quantization, stated sizes, printed digits, groups of tasks."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from peftbench.errors import UserError
from peftbench.report import folders
from peftbench.report.collect import collect
from peftbench.report.published import load, writers
from peftbench.report.published.arrange import LaidOut, laid_out
from peftbench.report.published.badges import badge, stated
from peftbench.report.published.facts import Shown, facts
from tests.support import published_results as made
from tests.support.published_results import LLAMA, ROBERTA, cell, folder, glue, task


def table(root: Path, layout: str, *cells, tasks: tuple[str, ...]) -> LaidOut:
    return laid_out(folders.read([folder(root / "a", *cells, tasks=tasks)]), load.layout(layout), True)


def test_of_protocols_without_a_common_part_nothing_is_known():
    assert badge({}, {"seeds": 3}, ()).kind == "unknown"
    assert badge({"seeds": 3}, {"seeds": 3}, ()).kind == "same protocol"


@pytest.mark.parametrize(
    ("quantity", "lacks"), [("peak_train_bytes", "gradient_checkpointing"), ("train_seconds", "hardware")]
)
def test_no_layout_calls_costs_the_same_without_what_decides_them(tmp_path, quantity, lacks):
    needs = {"batch_size", "sequence_length", "precision", "optimizer", "gradient_checkpointing", "hardware"}
    needs |= {"memory_figure", "time_figure"}
    layout = {
        "name": "mine",
        "title": "My table",
        "rows": ["base", "method"],
        "published": [{"table": "raschka2023_lit_llama", "name": "article"}],
        "columns": [{"key": "memory_gb", "quantity": [[quantity]]}],
    }
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(layout | {"needs": sorted(needs)}), encoding="utf-8")
    assert load.layout_from(path).name == "mine"
    path.write_text(yaml.safe_dump(layout | {"needs": sorted(needs - {lacks})}), encoding="utf-8")
    with pytest.raises(UserError, match=f"columns: memory_gb: needs has no {lacks}, which decides"):
        load.layout_from(path)


def test_a_time_is_not_said_to_lack_a_memory_figure(tmp_path):
    found = laid_out(folders.read(made.folders(tmp_path, "lit-llama")), load.layout("lit-llama"), True)
    lora = next(line for line in found.lines if line.row and line.head[1] == "LoRA")
    minutes, memory = (lora.printed[key].badge for key in ("train_min", "memory_gb"))
    assert {"time figure", "gradient checkpointing"} <= {*minutes.not_stated}
    assert "memory figure" not in minutes.not_stated
    assert {"memory figure", "gradient checkpointing", "optimizer"} <= {*memory.not_stated}


@pytest.mark.parametrize(("train", "known"), [({"gradient_checkpointing": True}, True), ({"use_gc": False}, False)])
def test_gradient_checkpointing_is_read_of_own_and_imported_rows(tmp_path, train, known):
    rows = cell(LLAMA, "lora", {"gsm8k": 0.3}, [task("gsm8k", None)], 8, seeds=1, examples=4, train=train)
    settings = json.loads(rows[0].row.settings_json)
    if "use_gc" in train:
        del settings["train"]["gradient_checkpointing"]
    changed = [replace(one, row=replace(one.row, settings_json=json.dumps(settings))) for one in rows]
    (one,) = collect(folder(tmp_path / "a", changed, tasks=("gsm8k",))).cells
    column = load.layout("lit-llama").columns[0]
    assert facts(Shown(one, column, None, None, ("peak_train_bytes",)))["gradient_checkpointing"] is known


def _quantized(precision: str, double: bool) -> list:
    glue_mean = task("glue", None, kind="classification")
    options = {"double_quantization": double}
    return cell("FacebookAI/roberta-large", "qlora", {"glue": 0.88}, [glue_mean], 16, precision, seeds=1, examples=4,
                options=options, cell=f"qlora {precision} {double}")  # fmt: skip


def test_double_quantization_is_part_of_the_protocol(tmp_path):
    """The paper's FP4 has none; of two measured rows the published one stands under that with the same."""
    alone = table(tmp_path / "alone", "qlora-t3", _quantized("fp4", True), tasks=("glue",))
    (line,) = (line for line in alone.lines if line.row)
    assert line.head == ("QLoRA", "fp4 + DQ")
    assert "double quantization (off; here on)" in line.printed["RoBERTa_large_GLUE"].badge.differences
    both = table(tmp_path / "both", "qlora-t3", _quantized("fp4", True), _quantized("fp4", False), tasks=("glue",))
    assert {line.head[1]: bool(line.printed) for line in both.lines if line.row} == {"fp4 + DQ": False, "fp4": True}
    nf4 = table(tmp_path / "nf4", "qlora-t4", *(_mmlu(double) for double in (True, False)), tasks=("mmlu",))
    assert {line.head[1]: bool(line.printed) for line in nf4.lines if line.row} == {"nf4 + DQ": True, "nf4": False}


def _mmlu(double: bool) -> list:
    alpaca, mmlu = task("alpaca", "tatsu-lab/alpaca", kind="generation"), task("mmlu", None, kind="choice")
    train, options = {"data": [["alpaca", 1.0]]}, {"double_quantization": double}
    return cell("huggyllama/llama-7b", "qlora", {"mmlu": 0.38}, [alpaca, mmlu], 64, "nf4", seeds=1, examples=4,
                train=train, options=options, cell=f"{double}")  # fmt: skip


def test_a_rank_that_a_protocol_states_is_the_size_of_its_rows(tmp_path):
    """LLM-Adapters' LoRA has rank 32 by its commands, which its table does not print."""
    cells = [
        cell(LLAMA, "lora", {"boolq": 0.7}, [task("boolq", None)], rank, "fp16", seeds=1, examples=4)
        for rank in (16, 32)
    ]
    found = table(tmp_path, "llm-adapters-commonsense", *cells, tasks=("boolq",))
    sources = {line.head[2]: line.source for line in found.lines if line.row}
    assert sources == {"16": "DoRA", "32": "LLM-Adapters"}
    assert ("LLaMA 7B", "series adapter", "256") in {line.head for line in found.lines}


def test_what_the_sources_of_commonsense_state_is_in_their_protocols():
    tables = load.tables()
    lora = next(
        row for row in tables["llm_adapters_commonsense"].rows if (row.base, row.method) == ("LLaMA-7B", "lora")
    )
    said = stated(tables["llm_adapters_commonsense"], lora, "BoolQ")
    assert (said["learning_rate"], said["batch_size"], said["epochs"], said["num_beams"]) == (3e-4, 16, 3, 4)
    assert (said["rank"], said["alpha"], said["warmup_steps"], said["loss_on"]) == (32, 64, 100, "all")
    dora = {
        (row.base, row.settings["rank"]): stated(tables["dora_commonsense"], row, "BoolQ")
        for row in tables["dora_commonsense"].rows
        if row.method == "dora"
    }
    assert {key: said["learning_rate"] for key, said in dora.items()} == {
        **{("llama-7b", rank): 1e-4 if rank == 32 else 2e-4 for rank in (4, 8, 16, 32, 64)},
        **{("llama-2-7b", rank): 2e-4 for rank in (16, 32)},
        **{("llama-3-8b", rank): 1e-4 for rank in (16, 32)},
    }
    assert {key for key, said in dora.items() if "alpha" in said} == {key for key in dora if key[1] in (16, 32)}
    assert all(said["epochs"] == 3 and said["temperature"] == 0.1 for said in dora.values())


def test_an_alpha_of_twice_the_rank_is_compared_as_a_number(tmp_path):
    dora = cell(LLAMA, "lora", {"boolq": 0.7}, [task("boolq", None)], 16, "fp16", seeds=1, examples=4,
                options={"dora": True, "alpha": 16.0})  # fmt: skip
    found = table(tmp_path, "llm-adapters-commonsense", dora, tasks=("boolq",))
    (line,) = (line for line in found.lines if line.row)
    assert "alpha (32; here 16)" in line.printed["BoolQ"].badge.differences


@pytest.mark.parametrize(
    ("name", "column", "value", "digits"),
    [
        ("pissa_t2_nlg", "HumanEval", 21.2, 2),  # 21.20 in the paper: a file loses the zero
        ("lora2021_t3_e2e", "NIST", 8.5, 2),
        ("litgpt_config_hub", "mmlu_pct", 62.45, 2),  # most have one decimal, this one two
        ("litgpt_config_hub", "mmlu_pct", 26.2, 1),
        ("raschka2023_lit_llama", "memory_gb", 22, 0),
        ("qlora2023_memory_breakdown", "total_gb", 45.0, 1),
        ("hf_beyond_lora_blog_and_rerun", "train_time_s", 958.3, 1),
        ("hf_beyond_lora_blog_and_rerun", "test_accuracy", 53.2, 1),  # of the blog; the files have two
        ("metamath100k_llama2_7b_reports", "GSM8K", 44.1, 1),  # each of another text
        ("metamath100k_llama2_7b_reports", "GSM8K", 54, 0),
    ],
)
def test_published_numbers_have_the_decimals_that_they_were_printed_with(name, column, value, digits):
    known = {digits for (_, _, number), digits in load.decimals(name, column).items() if number == value}
    assert known == {digits}


def test_a_small_cost_is_not_printed_as_zero(tmp_path):
    sizes = {"peak_base_weights_bytes": 1_200_000, "peak_quantization_state_bytes": 0, "peak_train_bytes": 12_345_678}
    rows = cell("nano", "qlora", {"x": 0.5}, [task("x", None)], 8, "nf4", seeds=2, examples=4, **sizes)
    found = table(tmp_path, "qlora-memory", rows, tasks=("x",))
    assert "| 1.2 ± 0.0 | " in (text := writers.write(found, "md"))
    assert "| 0.012 ± 0.000 |" in text
    tex = writers.write(found, "tex")
    assert r"0.012 \pm 0.000" in tex
    assert "S[table-format=2.3(1)" in tex, "45.0 has room, and so has 0.012"


def test_a_column_has_one_number_of_decimals_that_tells_its_smallest_costs_apart(tmp_path):
    cells = [
        cell("nano", "qlora", {"x": 0.5}, [task("x", None)], rank, "nf4", seeds=1, examples=4,
             peak_base_weights_bytes=weights, peak_quantization_state_bytes=0, peak_train_bytes=peak)
        for rank, weights, peak in ((2, 734_656, 900), (4, 1_139_072, 55_569_120), (8, 10_400_000, 41_199_332))
    ]  # fmt: skip
    found = table(tmp_path, "qlora-memory", *cells, tasks=("x",))
    lines = [line for line in writers.write(found, "md").splitlines() if "measured |" in line]
    assert [line.split(" | ")[-4] for line in lines] == ["0.73", "1.14", "10.40"]
    assert [line.split(" | ")[-1] for line in lines] == ["0.0000 |", "0.0556 |", "0.0412 |"], "four at most"
    assert {one.digits for line in found.lines if line.row for one in line.measured.values()} == {2, 4}


@pytest.mark.parametrize(
    ("layout", "precision", "head"),
    [
        ("qlora-memory", "int8", "LoRA"),  # QLoRA is of 4 bits
        ("qlora-memory", "nf4", "QLoRA"),
        ("qlora-t3", "int8", "QLoRA"),  # as its table calls it
    ],
)
def test_lora_on_a_base_of_8_bits_is_qlora_only_where_the_table_calls_it_so(tmp_path, layout, precision, head):
    base = "FacebookAI/roberta-large"
    task_ = task("glue", None, kind="classification")
    rows = cell(base, "lora", {"glue": 0.8}, [task_], 8, precision, seeds=1, examples=4, peak_train_bytes=9_000_000)
    (line,) = (line for line in table(tmp_path, layout, rows, tasks=("glue",)).lines if line.row)
    assert head in line.head
    assert bool(line.printed) is (layout == "qlora-t3")


def test_a_column_of_which_there_are_several_tasks_says_which_it_shows(tmp_path):
    tasks = [task(name, "openai/gsm8k", "main") for name in ("gsm8k", "gsm8k_fewshot")]
    scores = {"gsm8k": 0.3, "gsm8k_fewshot": 0.4}
    rows = cell(made.LLAMA2, "lora", scores, tasks, 8, seeds=1, examples=4)
    found = table(tmp_path, "metamath-gsm8k", rows, tasks=tuple(scores))
    assert "GSM8K: gsm8k and gsm8k_fewshot of a count for it; shown is gsm8k." in found.cautions
    one = table(tmp_path / "one", "metamath-gsm8k", cell(made.LLAMA2, "lora", {"gsm8k": 0.3}, tasks[:1], 8, seeds=1,
                examples=4), tasks=("gsm8k",))  # fmt: skip
    assert not any("count for it" in text for text in one.cautions)


def test_a_column_that_a_cell_does_not_fill_is_not_said_to_show_one_of_its_tasks(tmp_path):
    """Of the two columns of LLaMA-7B the cell fills that of the data which it is trained on."""
    tasks = [task("alpaca", "tatsu-lab/alpaca"), *(task(name, "cais/mmlu", "all") for name in ("mmlu", "mmlu_5"))]
    rows = cell("huggyllama/llama-7b", "lora", {"mmlu": 0.38, "mmlu_5": 0.4}, tasks, 64, "bf16", seeds=1, examples=4,
                train={"data": [["alpaca", 1.0]]})  # fmt: skip
    found = table(tmp_path, "qlora-t4", rows, tasks=("mmlu", "mmlu_5"))
    said = [text for text in found.cautions if "count for it" in text]
    assert said == ["Alpaca: mmlu and mmlu_5 of a count for it; shown is mmlu."]


def test_an_interval_that_rounds_to_the_published_number_has_it(tmp_path):
    """86.6 stands for all from 86.55 to 86.65."""
    rows = cell(ROBERTA, "lora", {"rte": 0.7}, [glue("rte")], 8, seeds=1, examples=40, trainable_parameters=294_912)
    found = table(tmp_path, "lora-t2", rows, tasks=("rte",))
    (one,) = (line.measured["RTE"] for line in found.lines if line.row)
    from peftbench.report.published.arrange import _inside

    high = float(one.high)
    assert _inside(one, high + 0.04, 1) is True
    assert _inside(one, high + 0.06, 1) is False
    assert _inside(one, None, 1) is None


def _subjects(names: list[str]) -> list:
    alpaca = task("alpaca", "tatsu-lab/alpaca", kind="generation")
    tasks = [task(name, None, kind="lm_eval", lm_eval=name) for name in names]
    scores = {name: 0.3 + 0.4 * (place % 2) for place, name in enumerate(names)}
    return cell("huggyllama/llama-7b", "lora", scores, [alpaca, *tasks], 64, "bf16", seeds=2, examples=3, metric="acc",
                train={"data": [["alpaca", 1.0]]}, how={"num_fewshot": 5})  # fmt: skip


def test_mmlu_is_the_mean_over_its_57_subjects_and_over_no_fewer(tmp_path):
    names = list(load.names().groups["mmlu"])
    assert len(set(names)) == 57
    found = table(tmp_path / "all", "qlora-t4", _subjects(names), tasks=tuple(names))
    (line,) = (line for line in found.lines if line.row)
    one = line.measured["7B_Alpaca"]
    each = [float(row[f"score_{name}"]) for row in line.row.cell.ok_rows for name in names]
    assert one.value == pytest.approx(100 * sum(each) / len(each))
    assert (one.examples, one.seeds) == (57 * 3, 2)
    assert one.low < one.value < one.high
    printed = line.printed["7B_Alpaca"]
    assert printed.value == 38.4
    assert {"test data", "shots"} & {*printed.badge.not_known, *printed.badge.not_stated} == set()
    with pytest.raises(UserError, match="no task of this table is in"):
        table(tmp_path / "some", "qlora-t4", _subjects(names[:-1]), tasks=tuple(names[:-1]))


@pytest.mark.parametrize(
    ("layout", "column", "dataset", "config", "counts"),
    [
        ("qlora-t4", "7B_Alpaca", "cais/mmlu", "all", True),
        ("qlora-t4", "7B_Alpaca", "cais/mmlu", "anatomy", False),
        ("metamath-gsm8k", "MATH", "EleutherAI/hendrycks_math", "algebra", False),
        ("metamath-gsm8k", "MATH", "hendrycks/competition_math", None, True),
    ],
)
def test_one_subject_of_a_benchmark_is_not_the_benchmark(layout, column, dataset, config, counts):
    from peftbench.report.published.counted import matches

    match = next(one.task for one in load.layout(layout).columns if one.key == column)
    assert matches("x", {"dataset": dataset, "config": config}, match) is counts
