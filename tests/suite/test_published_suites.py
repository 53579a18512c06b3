"""The suites of published tables: their heads say what they are, and their planned memory is of their present cells."""

from __future__ import annotations

import json
from itertools import chain

import pytest

from peftbench.models import builtin
from peftbench.records import Trial
from peftbench.report.published import load
from peftbench.report.published.badges import stated
from peftbench.report.published.parts import PARTS
from tests.support.documents import ROOT
from tools.validation import published_suites

SUITES = published_suites.names()
RECORD = json.loads(published_suites.PATH.read_text())["suites"]


def test_there_are_suites():
    assert len(SUITES) >= 8


@pytest.mark.parametrize("name", SUITES)
def test_a_head_names_source_hardware_cost_and_differences(name):
    head = (ROOT / "suites" / f"{name}.yaml").read_text().partition("\ndescription:")[0]
    for what in ("# Reproduces: ", "# Hardware: ", "# Cost: ", "# Differs from the "):
        assert what in head


@pytest.mark.parametrize("name", SUITES)
def test_the_recorded_plan_is_of_the_present_cells(name):
    found = published_suites.cells(name)
    first = next(iter(found.values()))[0]
    assert RECORD[name]["base"] == first.base.source
    assert {cell: len(each) for cell, each in found.items()} == {
        cell: each["trials"] for cell, each in RECORD[name]["cells"].items()
    }
    assert all(each["peak_bytes"] or each["reason"] for each in RECORD[name]["cells"].values())
    assert f"{sum(len(each) for each in found.values())} trials" in (ROOT / "suites" / f"{name}.yaml").read_text()
    assert builtin.shape(published_suites.SHAPES[first.base.source]).is_dir()


REPRODUCED = {
    ("paper_llm_adapters_math", "llm_adapters_math", "LLaMA-7B"): {
        "prefix_tuning r=10": ("prefix_tuning", {"score"}),
        "adapter r=256 kind=pfeiffer": ("adapter_series", {"score", "precision", "target_modules"}),
        "adapter r=256 kind=parallel": ("adapter_parallel", {"target_modules"}),
        "lora r=32": ("lora", set()),
    },
    ("paper_llm_adapters_commonsense", "llm_adapters_commonsense", "LLaMA-7B"): {
        "adapter r=256 kind=pfeiffer": ("adapter_series", {"score", "target_modules"}),
        "lora r=32 alpha=64 dropout=0.05 target_modules=q_proj+k_proj+v_proj+up_proj+down_proj fp16": (
            "lora",
            {"score"},
        ),
    },
    ("paper_llm_adapters_commonsense", "dora_commonsense", "llama-7b"): {
        "lora r=16": ("dora", {"score", "micro_batch_size", "gradient_checkpointing"}),
        "lora r=32": ("dora", {"score", "micro_batch_size", "gradient_checkpointing"}),
    },
    ("paper_metamath_gsm8k", "pissa_t2_nlg", "llama-2-7b"): {
        "full bf16-true": ("full", {"precision"}),  # the paper says bf16, which weights and optimizer are here
        "lora r=128 alpha=128 bf16": ("lora", {"precision"}),  # that of the scripts
        "initialization=pissa": ("pissa", {"precision"}),
    },
    ("paper_lora_e2e", "lora2021_t3_e2e", "gpt2-medium"): {
        "lora r=4": ("lora", {"sequence_length", "label_smoothing", "num_beams", "length_penalty"}),
    },
    ("paper_lit_llama_alpaca", "raschka2023_lit_llama", "llama-7b"): {
        "lora r=8": ("lora", set()),
        "llama_adapter": ("llama_adapter", set()),
        "full": ("full", set()),
    },
    ("paper_lora_glue", "lora2021_t2_glue", "roberta-base"): {"lora r=8": ("lora", {"score"})},
    ("hf_metamathqa", "hf_beyond_lora_blog_and_rerun", "llama-3.2-3b"): {
        "lora r=32": ("lora", set()),
        "rslora": ("rslora", set()),
        "full": ("full", set()),
        "prefix_tuning": ("prefix_tuning", set()),
    },
}
"""Suite, published table and base model to the beginning or a part of a cell's name, the method of the table, and the
parts of the protocol in which the suite differs, as its head says."""
_TRAINING = (
    "learning_rate",
    "batch_size",
    "micro_batch_size",
    "sequence_length",
    "schedule",
    "weight_decay",
    "loss_on",
)


def settings_of(trial: Trial) -> dict[str, object]:
    """Return the parts of a trial's protocol that a suite decides."""
    training, options = trial.training, trial.options
    assert training is not None
    found = {part: getattr(training, part) for part in (*_TRAINING, "gradient_checkpointing", "warmup_ratio")}
    found |= {"optimizer": training.optimizer, "precision": trial.precision, "rank": trial.rank}
    found |= {part: options[part] for part in ("alpha", "dropout", "target_modules") if part in options}
    found |= {"steps": training.steps, "epochs": training.epochs, "score": {"last": "last step"}.get(training.score)}
    return {part: value for part, value in found.items() if value is not None}


@pytest.mark.parametrize(("suite", "table", "base"), REPRODUCED)
def test_a_suite_has_the_published_settings_but_for_what_its_head_names(suite, table, base):
    cells = published_suites.cells(suite)
    printed = load.tables()[table]
    for part_of_name, (method, differing) in REPRODUCED[suite, table, base].items():
        cell = next(name for name in cells if part_of_name in name and (method != "dora" or "dora" in name))
        trial = cells[cell][0]
        rows = [row for row in printed.rows if (row.base, row.method) == (base, method) and row.group != "blog"]
        ranked = [row for row in rows if row.settings.get("rank", trial.rank) == trial.rank]
        row = next(row for row in ranked if row.group != "houlsby_like")
        column = "RTE" if "RTE" in row.values else next(iter(row.values))
        said, here = stated(printed, row, column), settings_of(trial)
        if said.get("alpha") in ("= r", "= 2r"):
            said["alpha"] = (trial.rank or 0) * (2 if "2" in said["alpha"] else 1)
        differs = {part for part in said if part in here and not PARTS[part].same(said[part], here[part])}
        assert differs - {"epochs"} <= differing, (cell, {part: (said[part], here[part]) for part in differs})
        if suite != "paper_lit_llama_alpaca":  # a quarter of the steps, as its head says
            assert "epochs" not in differs, cell
        if "warmup_steps" in said:
            steps = {"paper_llm_adapters_commonsense": 31_936, "paper_lora_e2e": 26_289}[suite]
            assert here["warmup_ratio"] * steps == pytest.approx(said["warmup_steps"], rel=0.06)


def test_qlora_s_precisions_have_double_quantization_as_in_the_paper():
    cells = published_suites.cells("paper_qlora_precision")
    found = {(trial.precision, trial.options.get("double_quantization")) for trial in chain(*cells.values())}
    assert found == {("bf16", None), ("nf4", True), ("nf4", False), ("fp4", False)}
    first = next(iter(cells.values()))[0]
    assert first.training is not None
    assert first.training.warmup_ratio == 0, "transformers' schedule `constant` has no warm-up"
    assert set(load.names().groups["mmlu"]) == {task.lm_eval for task in first.tasks if task.lm_eval}
    assert {task.num_fewshot for task in first.tasks if task.lm_eval} == {5}


def test_warm_up_of_prefix_tuning_is_a_hundred_steps_as_of_the_others():
    cells = published_suites.cells("paper_llm_adapters_math")
    for trial in (each[0] for each in cells.values()):
        steps = 9_919 * trial.training.epochs / trial.training.batch_size
        assert steps * trial.training.warmup_ratio == pytest.approx(100, rel=0.1)
