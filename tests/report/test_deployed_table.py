"""The score after deployment in reports: its table, what is said of a fall, and what is missing."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace

import pytest

from peftbench.report import table
from peftbench.report.collect import collect
from peftbench.report.derived.deployed import deployed
from peftbench.report.page import html
from tests.support.page_data import PageData
from tests.support.results_factory import make_result, store

EXAMPLES = 40
TASKS = ("judge", "compute")
UNSUPPORTED = {"status": "unsupported", "message": "the base model is not quantized in fp32"}


def tasks(right: int, nats: float, tokens: bool = False) -> dict:
    each = {
        "score": right / EXAMPLES,
        "outcomes": [1.0] * right + [0.0] * (EXAMPLES - right),
        "nats": [nats] * EXAMPLES,
    }
    return {task: each | ({"tokens": [2] * EXAMPLES} if tokens else {}) for task in TASKS}


def form(right: int, nats: float = 1.0, **changes) -> dict:
    numbers = {"dtype": "float32", "stored_bytes": 2048, "loaded_bytes": 4096, "load_seconds": 0.5}
    found = {"status": "ok", "largest_logit_difference": 0.25, "logit_positions": 9, "tasks": tasks(right, nats)}
    return found | numbers | changes


def result(cell: str, seed: int, forms: dict, options: dict | None = None):
    stored = {"scored": {"tasks": tasks(36, 0.5, tokens=True)}, "forms": forms}
    settings = {"method": "lora", "deployed": ["merged", "as_lora_2", "requantized"], "options": options or {}}
    made = make_result(
        cell,
        rank=int(cell.split("=")[1].split()[0]),
        seed=seed,
        scores=dict.fromkeys(TASKS, 0.9),
        examples=EXAMPLES,
        deployed_json=json.dumps(stored),
        settings_json=json.dumps(settings),
    )
    right = tuple(replace(e, outcome=float(e.index < 36)) for e in made.examples)
    return replace(made, examples=right)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("deployed") / "results"
    out_of_memory = {"status": "oom", "message": "MemoryError: no room"}
    results = [
        *(
            result("lora r=8 fp32", s, {"merged": form(36), "as_lora_2": form(18, 2.0), "requantized": UNSUPPORTED})
            for s in range(3)
        ),
        *(
            result(
                "lora r=2 fp32", s, {"merged": form(36) if s else out_of_memory, "as_lora_2": form(35)}, {"dora": True}
            )
            for s in range(3)
        ),
    ]
    store(place, *results, tasks=TASKS)
    return place


def rows(folder) -> dict:
    found = csv.DictReader(io.StringIO(table(folder, "deployed")))
    return {(row["cell"], row["form"]): row for row in found}


def test_a_form_is_compared_with_what_was_scored_by_seed_and_example(folder):
    found = rows(folder)
    assert list(found)[:2] == [("lora r=2 fp32", "merged"), ("lora r=2 fp32", "as_lora_2")]  # the suite's order
    same, fallen = found["lora r=8 fp32", "merged"], found["lora r=8 fp32", "as_lora_2"]
    assert (float(same["scored"]), float(same["deployed"]), float(same["change"])) == (0.9, 0.9, 0.0)
    assert float(fallen["change"]) == pytest.approx(-0.45)
    assert float(fallen["change_high"]) < 0
    assert (float(fallen["worse"]), float(fallen["better"])) == (0.45, 0.0)
    assert (float(fallen["loss_scored"]), float(fallen["loss_deployed"])) == (0.25, 1.0)  # nats per token, of two
    assert float(fallen["deployed_judge"]) == 0.45
    assert (fallen["largest_logit_difference"], fallen["stored_bytes"], fallen["load_seconds"]) == (
        "0.25",
        "2048.0",
        "0.5",
    )


def test_a_form_that_a_method_does_not_have_is_a_row_of_the_csv_and_a_sentence_under_the_table(folder):
    assert rows(folder)["lora r=8 fp32", "requantized"]["status"] == "3 unsupported"
    text = " ".join(table(folder, "text").split())
    assert "Not available as requantized: LoRA r=8 (the base model is not quantized in fp32)." in text


def test_a_form_that_failed_once_counts_the_seeds_that_it_has(folder):
    row = rows(folder)["lora r=2 fp32", "merged"]
    assert (row["seeds"], row["status"], row["message"]) == ("2", "1 oom", "MemoryError: no room")
    assert float(row["change"]) == 0.0


def test_a_significant_fall_is_named_under_the_main_table_and_a_small_one_is_not(folder):
    markdown = table(folder, "md")
    main, _, own = markdown.partition("| cell | form |")
    assert "significantly after Holm's correction for all forms: LoRA r=8 as as_lora_2 (90.0 to 45.0)." in main
    assert "-45.0 (" in own
    assert "↓" in own
    falls = {(one.cell.name, one.form) for one in deployed(collect(folder)) if one.falls}
    assert falls == {("lora r=8 fp32", "as_lora_2")}


def test_what_peft_leaves_out_of_doras_plain_lora_is_said(folder):
    assert "as_lora_2 of LoRA r=2: peft converts B A alone, without DoRA's magnitudes." in table(folder, "md")


def test_the_page_has_the_table(folder):
    found = PageData(html(collect(folder))).core["deployed"]
    assert found["heads"][:2] == ["cell", "form"]
    assert len(found["rows"]) == 4
    assert any("Score after deployment" in note for note in found["notes"])


def test_without_deployment_nothing_is_said(tmp_path):
    store(tmp_path / "r", make_result())
    assert table(tmp_path / "r", "deployed") == ""
    assert "deployment" not in table(tmp_path / "r", "text")
    assert PageData(html(collect(tmp_path / "r"))).core["deployed"] is None


def test_a_form_that_failed_is_not_said_to_be_unavailable(folder):
    text = " ".join(table(folder, "text").split())
    assert "Failed as merged: LoRA r=2 (MemoryError: no room)." in text
    assert "Not available as merged" not in text


def test_each_change_has_half_of_its_interval_in_the_text_table(folder):
    fallen = rows(folder)["lora r=8 fp32", "as_lora_2"]
    half = 50 * (float(fallen["change_high"]) - float(fallen["change_low"]))
    assert f"-45.0±{half:.1f} ↓" in table(folder, "text")


def test_outcomes_of_other_examples_than_the_trained_models_give_no_number(tmp_path):
    short = form(18)
    short["tasks"]["judge"] = {**short["tasks"]["judge"], "outcomes": [1.0, 0.0]}
    store(tmp_path / "r", result("lora r=8 fp32", 0, {"merged": short}), tasks=TASKS)
    assert rows(tmp_path / "r")["lora r=8 fp32", "merged"]["change"] == ""
    assert "Not shown" not in table(tmp_path / "r", "text")


WHOLE = '{"forms": {"merged": {"status": "ok"}}}'


@pytest.mark.parametrize(
    "text", [WHOLE, "{", "[]", '{"forms": 3}', '{"forms": {"merged": null}}', '{"forms": {"merged": {}}}']
)
def test_a_damaged_record_loses_nothing_else(text, tmp_path):
    store(tmp_path / "r", make_result(deployed_json=text))
    assert "lora r=8" in table(tmp_path / "r", "text").lower()
    assert "Not shown" not in table(tmp_path / "r", "text")


def test_a_form_of_another_engine_is_a_row_and_a_note_says_which_engine_and_how_far_it_is(tmp_path):
    engine = {"engine": "vllm", "vllm": "0.32.0", "torch": "2.13.0"}
    beside = {"largest_logprob_difference": 3e-5, "logprobs": 120, "equal_texts": 39, "texts": 40}
    more = {"loaded_bytes": None, "largest_logit_difference": None, "engine": engine}
    served = [form(36, **more, beside=beside | {"largest_logprob_difference": far}) for far in (3e-5, 4e-5)]
    cells = [result("lora r=8 fp32", s, {"vllm_merged": served[s], "merged": form(36)}) for s in range(2)]
    store(tmp_path / "r", *cells, tasks=TASKS)
    found = {row["form"]: row for row in csv.DictReader(io.StringIO(table(tmp_path / "r", "deployed")))}
    assert (found["vllm_merged"]["deployed"], found["vllm_merged"]["seeds"]) == ("0.9", "2")
    assert found["vllm_merged"]["loaded_bytes"] == found["vllm_merged"]["largest_logit_difference"] == ""
    words = " ".join(table(tmp_path / "r", "text", all_notes=True).split())
    assert (
        "vllm_merged is loaded and scored by vllm 0.32.0 (torch 2.13.0) with the same tokens. Of 240 log-probabilities "
        "of choices and targets none differs by more than 4e-05 nats from the trained model's, and 78 of 80 decoded "
        "texts are the same."
    ) in words


def test_a_form_of_another_engine_without_its_numbers_is_not_scored(tmp_path):
    bare = form(36, loaded_bytes=None, engine={"engine": "vllm"})
    lacks = form(36, loaded_bytes=None)
    store(tmp_path / "r", result("lora r=8 fp32", 0, {"vllm_merged": bare, "merged": lacks}), tasks=TASKS)
    assert [one.numbers for one in deployed(collect(tmp_path / "r"))] == [None, None]
