"""Published beside measured: which rows match, what badges say, and whether a number lies in the interval."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from peftbench import cli
from peftbench.report import folders
from peftbench.report.collect import collect
from peftbench.report.published import load
from peftbench.report.published.arrange import LaidOut, Printed, laid_out
from peftbench.report.published.badges import Badge, badge, stated, words
from peftbench.report.published.facts import Shown, base_of, facts, methods_of
from peftbench.report.published.parts import concerns
from peftbench.report.published.records import PublishedRow
from tests.support import published_results as made
from tests.support.published_results import GREEDY, LLAMA2, ROBERTA, cell, folder, glue, task

FULL = {"base": "llama-2-7b", "seeds": 3, "rank": 8, "epochs": 3, "target_modules": "q,v"}


def table(root: Path, layout: str, *cells, tasks: tuple[str, ...]) -> LaidOut:
    return laid_out(folders.read([folder(root / "a", *cells, tasks=tasks)]), load.layout(layout), True)


def beside(found: LaidOut, column: str, method: str = "LoRA") -> Printed:
    """Return the number beside the measured one of a method."""
    (one,) = (line.printed[column] for line in found.lines if column in line.measured and method in line.head)
    return one


def test_the_protocol_is_the_same_only_if_every_needed_part_is_stated_and_every_stated_part_is_equal():
    needs = tuple(FULL)
    same = FULL | {"target_modules": ["q_proj", "v_proj"], "optimizer": "adamw"}
    assert badge(FULL, same, needs).kind == "same protocol"
    assert words({"RTE": badge(FULL, same, needs)}) == "Same protocol"
    other = badge(FULL, same | {"seeds": 5, "rank": 16}, needs)
    assert (other.kind, other.differences) == ("differs", ("seeds (3; here 5)", "rank (8; here 16)"))
    assert words({"RTE": other}) == "Differs: seeds (3; here 5), rank (8; here 16)"


@pytest.mark.parametrize(
    ("dropped", "added", "said"),
    [
        ("epochs", "", "Not stated by the source: epochs"),
        ("seeds", "", "Not stated by the source: seeds"),
        ("", "hardware", "Not recorded in our rows: hardware"),
        ("base", "template", "Not stated by the source: base model. Not recorded in our rows: prompt template"),
    ],
)
def test_a_part_that_one_side_does_not_know_makes_the_badge_unknown(dropped, added, said):
    published = {part: value for part, value in FULL.items() if part != dropped} | ({added: "A100"} if added else {})
    found = badge(published, FULL, tuple(FULL))
    assert (found.kind, words({"RTE": found})) == ("unknown", said)


def test_steps_stand_for_epochs_and_a_method_without_a_rank_needs_none():
    published = {"steps": 100}
    assert badge(published, {"steps": 100, "epochs": 2.0}, ("epochs", "rank")).kind == "same protocol"
    assert badge(published, {"steps": 90, "epochs": 2.0}, ("epochs",)).kind == "differs"
    assert badge(published, {"steps": 100, "rank": 8}, ("epochs", "rank")).not_stated == ("rank",)


def test_a_note_says_each_part_once_and_names_columns_only_where_they_are_not_alike():
    rte = Badge("differs", ("seeds (5; here 3)", "epochs (80; here 3)"), ("shots",), ())
    sst2 = Badge("differs", ("epochs (60; here 3)", "seeds (5; here 3)"), (), ("shots",))
    assert words({"RTE": rte, "SST-2": sst2}) == (
        "Differs: seeds (5; here 3); for RTE: epochs (80; here 3); for SST-2: epochs (60; here 3). "
        "Not stated by the source for RTE: shots. Not recorded in our rows for SST-2: shots"
    )
    assert words({"RTE": rte, "time": Badge("same protocol", (), (), ())}).startswith("Same protocol for time. Differs")
    assert words({}) == ""


@pytest.mark.parametrize(
    ("part", "published", "measured", "same"),
    [
        ("optimizer", "AdamW", "adamw", True),
        ("train_examples", 52_000, 52_002, True),
        ("train_examples", 52_000, 51_000, False),
        ("learning_rate", 2e-5, 2.0e-05, True),
        ("hardware", "A100 40GB", "1x NVIDIA A100-SXM4-40GB", True),
        ("hardware", "1xA10G", "1x NVIDIA A100-SXM4-40GB", False),
        ("template", "Q: ... A: ", "Q: {{ question }}\nA:", True),
        ("template", "alpaca", "Q: {} A:", False),
        ("precision", "fp16", "bf16", False),
    ],
)
def test_values_are_compared_by_what_they_mean(part, published, measured, same):
    assert (badge({part: published}, {part: measured}, ()).kind == "same protocol") is same


def test_a_number_copied_from_another_paper_has_not_the_protocol_of_the_table():
    found = load.tables()["lora2021_t2_glue"]
    copied = next(row for row in found.rows if row.from_prior_work)
    own = next(row for row in found.rows if row.method == "lora" and row.base == "roberta-base")
    assert {"seeds", "statistic", "score", "train_data"} & stated(found, copied, "RTE").keys() == set()
    assert stated(found, copied, "CoLA")["metric"] == "matthews"
    protocol = stated(found, own, "RTE")
    assert (protocol["seeds"], protocol["statistic"], protocol["rank"]) == (5, "median", 8)
    assert protocol["init_from"] == "MNLI LoRA checkpoint"
    assert "init_from" not in stated(found, own, "SST2")
    assert (stated(found, own, "CoLA")["batch_size"], stated(found, own, "RTE")["batch_size"]) == (64, 256)


def test_a_rerun_of_rte_names_what_differs_from_the_paper(tmp_path):
    lora = cell(ROBERTA, "lora", {"rte": 0.6}, [glue("rte")], 8, examples=277, trainable_parameters=294_912)
    found = table(tmp_path, "lora-t2", lora, tasks=("rte",))
    one = beside(found, "RTE")
    assert (one.value, one.spread, one.inside) == (86.6, 0.7, False)
    assert one.badge is not None
    assert one.badge.kind == "differs"
    assert {
        "statistic over seeds (median; here mean)",
        "seeds (5; here 3)",
        "scored weights (best epoch on the reported set; here last step)",
        "start (MNLI LoRA checkpoint; here the base model)",
        "epochs (80; here 3)",
    } <= set(one.badge.differences)
    assert not one.badge.not_stated
    readme = [line for line in found.lines if line.head[:2] == ("RoBERTa base", "LoRA") and line.row is None]
    assert [line.printed["RTE"].table.id for line in readme] == ["lora_readme_glue"], "0.8 M are another size"


def test_a_task_that_ranks_label_words_is_another_kind_of_task(tmp_path):
    lora = cell(ROBERTA, "lora", {"rte": 0.6}, [glue("rte", "choice")], 8, trainable_parameters=294_912)
    differences = beside(table(tmp_path, "lora-t2", lora, tasks=("rte",)), "RTE").badge.differences
    assert "kind of task (classification head; here choices ranked by likelihood)" in differences


def same_protocol(root: Path, **change) -> Printed:
    """Return the published number beside a measured one, of which one thing can be changed."""
    gsm8k = task("gsm8k", "openai/gsm8k", "main", prompt="Q: {{ question }}\nA:")
    train = {"data": [["gsm8k", 1.0]]}
    lora = cell(
        LLAMA2, "lora", {"gsm8k": 0.43}, [gsm8k], 8, train=train, how=GREEDY, metric="exact_match", **change
    )  # fmt: skip
    found = table(root, "metamath-gsm8k", lora, tasks=("gsm8k",))
    return beside(found, "GSM8K")


def test_one_measured_example_of_each_badge(tmp_path, monkeypatch):
    row = PublishedRow("llama-2-7b", "lora", {"GSM8K": 43.0}, settings={"rank": 8})
    unstated = replace(load.tables()["pissa_t2_nlg"], rows=(row,), protocol=())
    registry = dict(load.tables()) | {"pissa_t2_nlg": unstated}
    layout = load.layout("metamath-gsm8k")
    for module in ("arrange", "matching"):
        monkeypatch.setattr(f"peftbench.report.published.{module}.tables", lambda: registry)
    one = same_protocol(tmp_path / "unknown")
    assert one.badge is not None
    assert one.badge.kind == "unknown"
    measured = collect(tmp_path / "unknown" / "a").cells[0]
    column = next(column for column in layout.columns if column.key == "GSM8K")
    known = facts(Shown(measured, column, "gsm8k", "exact_match"))
    assert set(layout.needs) <= known.keys(), "so that a paper that states all can have the same protocol"
    registry["pissa_t2_nlg"] = replace(unstated, rows=(replace(row, settings={part: known[part] for part in known}),))
    one = same_protocol(tmp_path / "same")
    assert (one.badge.kind, one.inside) == ("same protocol", True)
    changed = same_protocol(tmp_path / "differs", options={"dropout": 0.1})
    assert changed.badge.differences == ("dropout (0; here 0.1)",)


def test_a_mixture_is_not_the_tasks_own_training_data(tmp_path):
    lora = cell(ROBERTA, "lora", {"rte": 0.6}, [glue("rte"), glue("mnli")], 8, trainable_parameters=294_912)
    differences = beside(table(tmp_path, "lora-t2", lora, tasks=("rte",)), "RTE").badge.differences
    assert "training data (the task's own; here a mixture of rte, mnli)" in differences


def test_a_rate_of_zero_is_compared_and_not_taken_for_unknown(tmp_path):
    lora = cell(
        ROBERTA, "lora", {"rte": 0.6}, [glue("rte")], 8, train={"weight_decay": 0.0}, trainable_parameters=294_912
    )
    differences = beside(table(tmp_path, "lora-t2", lora, tasks=("rte",)), "RTE").badge.differences
    assert "weight decay (0.1; here 0)" in differences


def test_another_kind_of_bleu_than_the_papers_is_named(tmp_path):
    e2e = task("e2e", "tuetschek/e2e_nlg", kind="generation")
    lora = cell(
        "openai-community/gpt2-medium",
        "lora",
        {"e2e": 0.7},
        [e2e],
        4,
        metric="rouge_l",
        metrics={"bleu": 0.68},
        how=GREEDY,
        trainable_parameters=393_216,
    )
    found = table(tmp_path, "lora-t3", lora, tasks=("e2e",))
    assert "metric (bleu_lowercase; here bleu)" in beside(found, "BLEU").badge.differences
    assert "metric (rouge_l_coco; here rouge_l)" in beside(found, "ROUGE_L").badge.differences
    assert "beams (10; here 1)" in beside(found, "BLEU").badge.differences


def test_scores_are_not_compared_by_hardware_and_costs_not_by_shots():
    assert concerns("hardware", False, ())
    assert not concerns("hardware", True, ("hardware",))
    assert not concerns("num_fewshot", False, ("num_fewshot",))
    assert concerns("memory_figure", False, ("memory_figure",))
    assert not concerns("memory_figure", False, ("time_figure",)), "a time is no memory figure"
    assert all(concerns("learning_rate", is_score, ()) for is_score in (True, False))


def test_the_peers_own_files_stand_beside_what_its_blog_prints(tmp_path, real_data):
    files = real_data / "hf_method_comparison" / "july_2026"
    if not files.is_dir():
        pytest.skip("no results of the peer on this machine (set PEFTBENCH_SHARED_DATA)")
    assert cli.main(["import", "hf-method-comparison", str(files), "-o", str(tmp_path)]) == 0
    (night,) = tmp_path.iterdir()
    found = laid_out(folders.read([night]), load.layout("hf-method-comparison"), True)
    lora = [line for line in found.lines if line.head[1:3] == ("LoRA", "32")]
    (measured,) = (line.measured for line in lora if line.row)
    assert measured["test_accuracy"].over == "new examples, these checkpoints (from the stored standard error)"
    july = next(line for line in lora if "july" in line.printed["test_accuracy"].row.about)
    assert july.printed["test_accuracy"].value == pytest.approx(measured["test_accuracy"].value, abs=0.005)
    assert july.printed["memory_max_gb"].value == pytest.approx(measured["memory_max_gb"].value, abs=0.005)
    assert july.printed["train_time_s"].value == pytest.approx(measured["train_time_s"].value, abs=0.1)
    assert all(line.printed["test_accuracy"].inside for line in lora), "June and July are one number with its noise"
    loss = july.printed["train_loss"].badge
    assert loss.differences == (
        "loss figure (mean of the last interval between validations; here mean of the last tenth of the steps)",
    )
    score = july.printed["test_accuracy"].badge
    assert (score.not_stated, score.not_known) == (("shots", "metric", "beams", "scored weights"), ())
    assert july.printed["memory_max_gb"].badge.kind == "same protocol", "every part is in the files"
    june = next(line for line in lora if "june" in line.printed["test_accuracy"].row.about)
    assert june.printed["memory_max_gb"].badge.not_stated == ("gradient checkpointing",), "June's files do not say"
    assert [line.source for line in lora] == ["June 2026", "July 2026"], "the blog's number is that of rank 64"
    lily = {line.head[2]: line for line in found.lines if line.head[1] == "Lily" and line.source == "blog"}
    assert lily.keys() == {"140"}, "and its Lily that of rank 140"
    adaption = [line for line in found.lines if line.head[1].startswith("adaption prompt")]
    assert [line.printed["test_accuracy"].value for line in adaption] == [21.23, 21.15, 38.36], "each beside its rate"
    assert 0 < len(found.notes) <= 12
    assert {"rsLoRA", "LoRA-FA", "Lily", "IA3"} <= {line.head[1] for line in found.lines if line.row}


def test_second_hand_numbers_and_copies_say_so(tmp_path):
    found = laid_out(folders.read(made.folders(tmp_path, "metamath-gsm8k")), load.layout("metamath-gsm8k"), True)
    quoted = [note for note in found.notes if note.startswith("PiSSA paper, earlier version")]
    assert quoted
    assert all("Read second-hand. Copied by the source from prior work" in note for note in quoted)
    lines = [line for line in found.lines if line.source.startswith("PiSSA, table 2")]
    assert lines
    assert not any("second-hand" in found.notes[number - 1] for line in lines if (number := found.number(line)))
    reported = {one.value for line in found.lines if line.head[1] == "PiSSA" for one in line.printed.values()}
    assert {53.22, 53.07, 44.54} <= reported, "what papers disagree on stands side by side"


def test_published_rows_that_nothing_matches_stand_with_empty_columns(tmp_path):
    lora = cell(ROBERTA, "lora", {"rte": 0.6}, [glue("rte")], 8, trainable_parameters=294_912)
    found = table(tmp_path, "lora-t2", lora, tasks=("rte",))
    alone = [line for line in found.lines if line.row is None]
    assert {line.head[0] for line in alone} == {"RoBERTa base", "RoBERTa large", "DeBERTa v2 XXL"}
    assert all(one.badge is None and one.inside is None for line in alone for one in line.printed.values())
    rows = sum(len(load.tables()[source.table].rows) for source in load.layout("lora-t2").published)
    assert len(found.lines) == rows, "each published row once, one of them beside the measured row"


@pytest.mark.parametrize(("rates", "has_it"), [((2e-4, 1e-3), (True, False)), ((3e-4, 1e-3), (True, True))])
def test_of_rows_alike_but_for_their_rate_the_one_with_the_stated_rate_has_the_published_row(tmp_path, rates, has_it):
    """The paper states 2e-4 for LoRA on E2E."""
    e2e = task("e2e", "tuetschek/e2e_nlg", kind="generation")
    name, size = "openai-community/gpt2-medium", {"trainable_parameters": 393_216}
    cells = [
        cell(
            name, "lora", {"e2e": 0.7}, [e2e], 4, seeds=1, examples=4, metric="rouge_l", cell=f"lora r=4 lr={rate}",
            train={"learning_rate": rate}, **size,
        )
        for rate in rates
    ]  # fmt: skip
    found = table(tmp_path, "lora-t3", *cells, tasks=("e2e",))
    measured = {line.row.cell.rows[0]["learning_rate"]: bool(line.printed) for line in found.lines if line.row}
    assert measured == dict(zip(rates, has_it, strict=True))


def test_size_decides_between_rows_of_one_method(tmp_path):
    """The paper has two Houlsby adapters on RoBERTa large; another size than both has none beside it."""
    adapters = [
        cell(
            "FacebookAI/roberta-large",
            "adapter",
            {"rte": 0.7},
            [glue("rte")],
            rank,
            trainable_parameters=size,
            options=kind,
        )
        for kind in ({"kind": "houlsby"},)
        for rank, size in ((8, 810_000), (64, 6_300_000), (16, 1_600_000))
    ]
    found = table(tmp_path, "lora-t2", *adapters, tasks=("rte",))
    values = {line.head[2]: one.value if (one := line.printed.get("RTE")) else None for line in found.lines if line.row}
    assert values == {"810 k": 72.9, "6.30 M": 83.4, "1.60 M": None}


def test_a_method_has_the_name_that_the_table_uses(tmp_path):
    """What one paper calls the adapter of Pfeiffer et al. is the series adapter of another."""
    options = {"kind": "pfeiffer", "activation": "tanh"}
    series = cell(made.LLAMA, "adapter", {"gsm8k": 0.3}, [task("gsm8k", None)], 256, "fp16", options=options)
    found = table(tmp_path, "llm-adapters-math", series, tasks=("gsm8k",))
    (line,) = (line for line in found.lines if line.row)
    assert line.head == ("LLaMA 7B", "series adapter", "256")
    assert line.printed["GSM8K"].value == 33.3
    assert "precision (int8; here fp16)" in line.printed["GSM8K"].badge.differences


@pytest.mark.parametrize(
    ("method", "precision", "options", "name"),
    [
        ("lora", "fp32", {}, "lora"),
        ("lora", "bf16", {"initialization": "gaussian"}, "lora"),
        ("lora", "bf16", {"rslora": True}, "rslora"),
        ("lora", "bf16", {"dora": True}, "dora"),
        ("lora", "bf16", {"initialization": "pissa"}, "pissa"),
        ("lora", "bf16", {"initialization": "pissa", "dora": True}, None),
        ("lora", "bf16", {"lora_plus_ratio": 16.0}, None),
        ("lora", "bf16", {"lora_fa": True}, "lora_fa"),
        ("lora", "bf16", {"lora_fa": True, "rslora": True}, None),
        ("lora", "bf16", {"initialization": "lora_ga", "rslora": True}, "lora_ga"),
        ("lora", "nf4", {}, "qlora"),
        ("qlora", "nf4", {"compute_dtype": "float32"}, "qlora"),
        ("lora", "bf16", {"use_rslora": True}, "rslora"),
        ("lora", "bf16", {"use_dora": True}, "dora"),
        ("lora", "bf16", {"use_qalora": True}, None),
        ("lora", "bf16", {"init_lora_weights": True, "corda_config": None}, "lora"),
        ("lora", "bf16", {"init_lora_weights": "pissa"}, None),
        ("lora", "bf16", {"corda_config": {"rank": 4}}, None),
        ("lora", "bf16", {"initialization": "lora_ga"}, "lora_ga"),
        ("full", "bf16", {"modules": "biases"}, "bitfit"),
        ("full", "bf16", {"layers": 2}, "full_top2"),
        ("full", "bf16", {"layers": 3}, None),
        ("adapter", "fp16", {"kind": "parallel", "scale": 4.0}, "adapter_parallel"),
        ("peft", "bf16", {"peft_type": "IA3"}, "ia3"),
    ],
)
def test_methods_are_found_by_their_options(tmp_path, method, precision, options, name):
    rows = cell(ROBERTA, method, {"rte": 0.6}, [glue("rte")], 8, precision, seeds=1, examples=4, options=options)
    found = collect(folder(tmp_path / "a", rows, tasks=("rte",)))
    assert next(iter(methods_of(found.cells[0])), None) == name


@pytest.mark.parametrize(
    ("source", "name", "known"),
    [
        ("FacebookAI/roberta-base", "roberta-base", True),
        ("meta-llama/Llama-2-7b-hf", "llama-2-7b", True),
        ("roberta-base", "roberta-base", False),  # a folder of that name
        ("me/roberta-base", "roberta-base", False),  # weights of another, which may be fine-tuned
        ("HuggingFaceTB/SmolLM2-360M", None, False),
    ],
)
def test_base_models_are_found_by_their_names_and_a_folder_is_no_proof(tmp_path, source, name, known):
    rows = cell(source, "lora", {"rte": 0.6}, [glue("rte")], 8, seeds=1, examples=4)
    found = collect(folder(tmp_path / "a", rows, tasks=("rte",)))
    assert base_of(found.cells[0]) == name
    column = load.layout("lora-t2").columns[6]
    assert ("base" in facts(Shown(found.cells[0], column, "rte", "accuracy"))) is known
