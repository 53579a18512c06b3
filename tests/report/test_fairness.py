"""The fairness audit reports every field that is not equal in all rows and is not an axis, known or not."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from peftbench import cli
from peftbench.models import find
from peftbench.records import Result, Status
from peftbench.report import collect, table
from peftbench.report.notes import unequal_settings
from peftbench.report.tables import settings as settings_table
from peftbench.results.store import record_grid, recorded_grid
from peftbench.runner import rows as runner_rows
from peftbench.runner.executor import Event, local
from tests.support.results_factory import ENVIRONMENT, make_result, store

TRAIN = {"steps": 30, "learning_rate": 1e-3, "optimizer": "adamw", "weight_decay": 0.1, "batch_size": 16}
BEGINNING = "Not held equal, and not an axis of the grid"


def row(method: str, seed: int | None = 0, cell: str = "", settings: dict | None = None, **given) -> Result:
    """A finished trial; ``train`` changes its training settings, ``environment`` its environment."""
    train = {**TRAIN, **given.pop("train", {})} if method != "base" else None
    environment = {**ENVIRONMENT, **given.pop("environment", {})}
    precision = given.pop("precision", "fp32")
    rank = None if method in ("full", "base") else 8
    return make_result(
        cell or f"{method} {precision}",
        method,
        precision,
        rank,
        seed,
        settings_json=json.dumps({"method": method, "rank": rank, "train": train, **(settings or {})}),
        environment_json=json.dumps(environment),
        **given,
    )


def content(folder: Path, *rows: Result) -> list[str]:
    """The notes without their common beginning."""
    found = unequal_settings.notes(collect.collect(store(folder / "r", *rows)))
    assert all(text.startswith(f"{BEGINNING} (") for text in found)
    return [text.removeprefix(f"{BEGINNING} ") for text in found]


def test_a_planted_difference_is_reported_under_the_table(tmp_path):
    rows = [row("full"), row("adapter"), row("lora", train={"weight_decay": 0.01}), row("base", None)]
    rows.append(row("prompt_tuning"))
    (found,) = content(tmp_path, *rows)
    assert found == "(training): weight_decay 0.01 (LoRA), weight_decay 0.1 (the others)."
    for form in ("text", "md"):
        text = " ".join(table(tmp_path / "r", form).replace("\\", "").split())
        assert f"{BEGINNING} (training): weight_decay 0.01 (LoRA), weight_decay 0.1 (the others)." in text


def test_unknown_fields_are_compared(tmp_path):
    rows = [
        row("full", settings={"unheard": {"of": 1}}, environment={"ambient": {"heat": 20}}),
        row("lora", settings={"unheard": {"of": 2}}, environment={"ambient": {"heat": 30}}),
        row("adapter", train={"unseen": True}),
    ]
    settings, machine, training = content(tmp_path, *rows)
    assert settings.startswith("(settings): unheard.of ")
    assert "unheard.of not recorded (bottleneck adapter)" in settings
    assert "ambient heat 20 (full fine-tuning)" in machine
    assert "ambient heat not recorded (bottleneck adapter)" in machine
    assert training == "(training): unseen yes (bottleneck adapter), unseen none (full fine-tuning, LoRA)."


def test_the_search_for_answers_is_compared(tmp_path):
    def tasks(beams):
        return {"tasks": [{"name": "describe", "num_beams": beams, "length_penalty": 0.9, "no_repeat_ngram_size": 4}]}

    (found,) = content(tmp_path, row("lora", settings=tasks(10)), row("adapter", settings=tasks(1)))
    assert found == "(tasks): describe.num_beams 1 (bottleneck adapter), describe.num_beams 10 (LoRA)."


def test_settings_that_belong_to_a_method_are_not_reported(tmp_path):
    rows = [
        row("lora", settings={"options": {"alpha": 16}}, train={"learning_rate": 1e-2}),
        row("adapter", settings={"options": {"kind": "pfeiffer"}}),
        row("qlora", precision="nf4", train={"optimizer": "paged_adamw"}, optimizer_class="paged"),
        row("lora", precision="nf4", optimizer_class="torch"),
        row("base", None),
    ]
    assert content(tmp_path, *rows) == []


def test_a_methods_optimizer_is_its_own_only_if_its_recipe_sets_it(tmp_path):
    rows = [row("lora", train={"optimizer": "sgd"}), row("full"), row("adapter")]
    assert content(tmp_path, *rows) == [
        "(training): optimizer sgd (LoRA), optimizer adamw (full fine-tuning, bottleneck adapter)."
    ]


def test_a_setting_of_which_every_cell_has_all_values_is_an_axis(tmp_path):
    rows = [
        row(
            method,
            cell=f"{method} batch_size={size} fp32",
            train={"batch_size": size, "optimizer": "sgd" if size == 8 else "adamw"},
            batches_sha256=f"{size}" * 16,
            examples_seen=10 * size,
            optimizer_class=f"torch of {size}",
        )
        for method in ("full", "lora")
        for size in (8, 32)
    ]
    assert content(tmp_path / "crossed", *rows) == []
    training, *_ = content(tmp_path / "not", *rows[:3])
    assert "batch_size 32 (full batch_size=32 fp32)" in training
    settings = {"batch_size": 8, "optimizer": "sgd"}
    other = row("lora", cell="lora batch_size=8 fp32", train=settings, batches_sha256="f" * 32)
    (work,) = content(tmp_path / "other", rows[0], rows[1], other, rows[3])
    assert work.startswith("(work): training batches in their order")


def test_a_cell_that_could_not_run_has_its_part_in_an_axis(tmp_path):
    cells = [("lora", False), ("lora", True), ("prompt_tuning", False), ("prompt_tuning", True)]
    rows = [row(m, cell=f"{m} packing={packed} fp32", train={"packing": packed}) for m, packed in cells]
    failed = replace(rows[-1], row=replace(rows[-1].row, status=Status.UNSUPPORTED))
    assert content(tmp_path / "unsupported", *rows[:3], failed) == []
    assert content(tmp_path / "untuned", row("base", None), *rows[:3], failed) == []
    other = replace(rows[0], row=replace(rows[0].row, status=Status.UNSUPPORTED))
    (training,) = content(tmp_path / "opposite", other, rows[1], rows[2], failed)
    assert training == "(training): packing no (prompt tuning), packing yes (LoRA)."
    (training,) = content(tmp_path / "missing", *rows[:3])
    assert training.startswith("(training): packing yes (lora packing=True fp32)")


def test_a_setting_that_goes_with_the_precision_is_not_an_axis(tmp_path):
    rows = [row("lora"), row("lora", precision="bf16", train={"batch_size": 4})]
    assert content(tmp_path, *rows) == ["(training): batch_size 4 (lora bf16), batch_size 16 (lora fp32)."]


def test_fields_that_differ_alike_share_a_sentence_and_seeds_are_numbered(tmp_path):
    other = {"packages": {**ENVIRONMENT["packages"], "torch": "2.12.0", "peft": "0.20"}}
    rows = [row("lora", seed) for seed in range(2)] + [row("lora", 2, environment=other), row("full")]
    (found,) = content(tmp_path, *rows)
    odd, same = "torch 2.12.0, peft 0.20 (lora fp32 seed 2)", "torch 2.13.0, peft 0.21.1"
    assert found == f"(packages): {odd}, {same} (full fine-tuning, lora fp32 seed 0, 1)."


def test_machine_and_source_are_compared_and_the_command_is_not(tmp_path):
    rows = [
        row("lora", environment={"cpu": "Another", "command": "a"}),
        row("full", environment={"git": {"commit": "f" * 40, "dirty": True}, "command": "b"}),
        row("adapter", workers=1),
    ]
    machine, source, inputs = content(tmp_path, *rows)
    assert machine.startswith("(machine): cpu Another (LoRA)")
    assert source.startswith("(source): git commit ffffffffffff, git dirty yes (full fine-tuning)")
    assert inputs.startswith("(inputs): workers 1 (bottleneck adapter)")


def test_another_engine_is_compared_between_the_rows_that_it_scored(tmp_path):
    old, new = ({"engine": {"engine": "vllm", "vllm": version}} for version in ("0.31.0", "0.32.0"))
    rows = [row("lora", environment=new), row("full", environment=new), row("prefix_tuning"), row("base", None)]
    assert content(tmp_path / "a", *rows) == []
    (found,) = content(tmp_path / "b", row("adapter", environment=old), *rows)
    assert "engine vllm 0.31.0 (bottleneck adapter), engine vllm 0.32.0 (full fine-tuning, LoRA)." in found


def test_batches_and_work_are_compared_within_a_seed(tmp_path):
    rows = [
        row(method, seed, batches_sha256=f"{seed}" * 64, nonpadding_tokens=1000 + seed)
        for method in ("full", "lora")
        for seed in (0, 1)
    ]
    assert content(tmp_path / "same", *rows) == []
    odd = row("adapter", 1, batches_sha256="e" * 64, nonpadding_tokens=900)
    (found,) = content(tmp_path / "odd", *rows, odd)
    head, tail = found.split(" (bottleneck adapter), ")
    assert head == "(work): training batches in their order eeeeeeeeeeee, data tokens 900"
    assert tail == "training batches in their order 111111111111, data tokens 1001 (full fine-tuning, LoRA)."


@pytest.mark.parametrize("field", ["attention_kernels", "optimizer_state_dtypes", "autocast_dtype"])
def test_what_was_really_computed_with_is_compared_within_a_precision(tmp_path, field):
    same = [row("full", **{field: "a"}), row("lora", **{field: "a"}), row("lora", precision="bf16", **{field: "b"})]
    assert content(tmp_path / "same", *same, row("base", None)) == []
    (found,) = content(tmp_path / "odd", *same, row("adapter", **{field: "c"}))
    words = field.replace("_", " ")
    assert found == f"(as computed): {words} c (bottleneck adapter), {words} a (full fine-tuning, LoRA)."


def test_an_older_row_has_the_default_of_a_setting_that_was_added_later(tmp_path):
    rows = [row("full", schema_version=1), row("lora", train={"group_by_length": False}, schema_version=1)]
    assert content(tmp_path / "default", *rows) == []
    (found,) = content(tmp_path / "changed", rows[0], row("lora", train={"group_by_length": True}, schema_version=1))
    assert found.startswith("(training): group_by_length ")


def test_a_row_that_does_not_state_where_logits_are_made_has_them_everywhere(tmp_path):
    rows = [row("full"), row("lora", train={"logits": "chunked"}), row("base", None)]
    (found,) = content(tmp_path / "r", *rows)
    assert found == "(training): logits all (full fine-tuning), logits chunked (LoRA)."
    shown = dict(settings_table.audit(collect.collect(tmp_path / "r" / "r")).differing)
    assert shown["train.logits"] == ("–", "all", "chunked")
    both = [
        row(m, cell=f"{m} logits={k} fp32", train={"logits": k} if k != "all" else {})
        for m in ("full", "lora")
        for k in ("all", "chunked")
    ]
    assert content(tmp_path / "axis", *both) == []
    assert "train.logits" not in dict(settings_table.audit(collect.collect(tmp_path / "axis" / "r")).common)


def test_the_work_of_unsupported_and_failed_trials_is_not_compared(tmp_path):
    rows = [
        row("lora", batches_sha256="a" * 64),
        row("full", status="oom", workers=9),
        row("adapter", status="unsupported", train={"weight_decay": 0.0}),
    ]
    assert content(tmp_path, *rows) == []


def test_many_rows_are_counted_after_the_first(tmp_path):
    rows = [
        row("lora", cell=f"lora {i}", settings={"options": {"a": i}}, train={"weight_decay": 0.2 if i < 9 else 0.1})
        for i in range(20)
    ]
    (found,) = content(tmp_path, *rows)
    assert found.endswith("lora 5, and 3 more), weight_decay 0.1 (the others).")


def planted(folder: Path, strict: bool, weight_decay: float = 0.01) -> Path:
    """A results folder whose grid is recorded, with one method at another weight decay."""
    rows = [row("full"), row("lora", train={"weight_decay": weight_decay})]
    made = store(folder / "r", *rows)
    record_grid(made, [r.row.key for r in rows], "peftbench run mine", strict=strict)
    return made


@pytest.mark.parametrize(("strict", "decay", "code"), [(True, 0.01, 1), (True, 0.1, 0), (False, 0.01, 0)])
def test_a_report_fails_if_the_suite_demands_a_fair_comparison(tmp_path, capsys, strict, decay, code):
    folder = planted(tmp_path, strict, decay)
    page = ["report", str(folder), "-o", str(tmp_path / "page.html")]
    for argv in (["report", str(folder), "--format", "csv"], *([page] if code else [])):
        assert cli.main(argv) == code
        content = " ".join(capsys.readouterr().err.split())
        assert ("weight_decay 0.01 (LoRA), weight_decay 0.1 (full fine-tuning)" in content) is bool(code)
        assert ("the rows are not comparable, and the suite sets audit: strict" in content) is bool(code)


@pytest.mark.parametrize(("audit", "code"), [("audit: strict\n", 1), ("", 0), ("audit: report\n", 0)])
def test_a_run_reports_what_differs_and_fails_if_that_is_demanded(tmp_path, monkeypatch, capsys, audit, code):
    def run(jobs, workers):
        for job in jobs:
            made = row(job.trial.method, job.trial.seed, job.trial.cell, key=job.key)
            settings = runner_rows.row(job, Status.OK).settings_json
            stored = replace(made.row, settings_json=settings)
            yield Event(job, "train", result=replace(made, row=stored, steps=(), examples=()))

    monkeypatch.setattr(local, "run", run)
    monkeypatch.setattr(find, "base_fingerprint", lambda folder: "b" * 64)
    suite = tmp_path / "mine.yaml"
    suite.write_text(f"{audit}base: nano\nseeds: 1\ntasks: [judge]\nmethods:\n  full:\n  lora: {{clip_norm: 2}}\n")
    assert cli.main(["run", str(suite), "-o", str(tmp_path / "r")]) == code
    found = capsys.readouterr().err
    assert f"{BEGINNING} (training): clip_norm 1 (full fine-tuning), clip_norm 2 (LoRA)." in " ".join(found.split())
    assert recorded_grid(tmp_path / "r").strict is bool(code)


def test_an_unknown_audit_is_refused(tmp_path, capsys):
    (tmp_path / "mine.yaml").write_text("audit: strickt\nbase: nano\ntasks: [judge]\nmethods: [full]\n")
    assert cli.main(["plan", str(tmp_path / "mine.yaml")]) == 2
    assert "audit: unknown audit 'strickt'" in (content := capsys.readouterr().err), content
    assert "strict" in content
