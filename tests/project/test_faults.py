"""Faults that were seen in other benchmarks of fine-tuning, each with a test that would catch it here.

``docs/faults.md`` lists all of them with what peftbench does instead, and names the tests in other files.
"""

from __future__ import annotations

import ast
import csv
import dataclasses
import gc
import io
import os
import re
import statistics
import time
from collections import Counter
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

from peftbench import report, suite
from peftbench.evaluation import generation
from peftbench.measure import environment, nvml, watch
from peftbench.measure.clock import Clock
from peftbench.methods import METHODS
from peftbench.models import find
from peftbench.records import Base, Result, Status
from peftbench.records.columns.inference import InferenceColumns
from peftbench.results import store
from peftbench.runner import checkpoint, trial
from peftbench.runner import rows as runner_rows
from peftbench.tasks import read
from peftbench.training import batches, loop
from peftbench.training import flops as training_flops
from tests.support import generation_subject, method_cells, results_factory, trials

ROOT = Path(__file__).resolve().parents[2]
MB = 1 << 20


def run(made, tmp_path, **job_fields) -> Result:
    job = dataclasses.replace(trials.job(made, tmp_path), **job_fields)
    return trial.run(job, time.perf_counter(), lambda _: None, lambda *_: None)


@pytest.fixture(scope="module")
def kept(tiny, tmp_path_factory) -> tuple[Result, Path]:
    """A finished trial and the folder of its adapter."""
    folder = tmp_path_factory.mktemp("kept")
    return run(trials.trial(tiny, folder), folder, adapter_folder=str(folder / "adapter")), folder / "adapter"


def test_more_steps_than_examples_are_all_taken_in_several_passes_and_the_row_says_so(tiny, tmp_path):
    result = run(trials.trial(tiny, tmp_path, training={"steps": 20}), tmp_path)
    row = result.row
    assert (row.status, row.steps_done, len(result.steps)) == ("ok", 20, 20)
    assert (row.examples_seen, row.distinct_examples_seen) == (80, 24)


def test_the_last_batch_of_a_pass_is_filled_from_the_next_one_and_nothing_is_doubled_or_dropped(tiny, tmp_path):
    tokenizer = method_cells.loaded(tiny, "base", "fp32").tokenizer
    examples = {"colour": read.examples(trials.tasks(tmp_path)[0], "train")}
    assert len(examples["colour"]) == 24
    training = dataclasses.replace(trials.TRAINING, steps=None, epochs=1.0, batch_size=5)
    plan = batches.draw_batches(examples, training, tokenizer, 0)
    assert [len(step) for step in plan] == [5] * 5
    seen = Counter(e.identity for step in plan for e in step)
    assert sorted(seen.values()) == [1] * 23 + [2]


def test_a_trial_is_ok_only_if_all_its_steps_were_done(tiny, tmp_path, monkeypatch):
    work = loop.step

    def breaks(*arguments):
        if arguments[3] == 2:
            raise RuntimeError("on purpose")
        return work(*arguments)

    monkeypatch.setattr(loop, "step", breaks)
    result = run(trials.trial(tiny, tmp_path), tmp_path)
    assert (result.row.status, result.row.phase, result.row.steps_done) == ("error", "train", None)
    assert result.scores == ()


def test_the_peak_of_training_is_neither_that_of_loading_nor_that_of_evaluation(tiny, tmp_path, monkeypatch):
    made = trials.trial(tiny, tmp_path)
    plain = run(made, tmp_path).row
    held = 256 * MB
    load, harness = trial.load, trial.scoring.run_harness

    def hungry(work):
        def eats(*arguments, **named):
            torch.zeros(held, dtype=torch.uint8)
            return work(*arguments, **named)

        return eats

    monkeypatch.setattr(trial, "load", hungry(load))
    monkeypatch.setattr(trial.scoring, "run_harness", hungry(harness))
    fed = run(made, tmp_path).row
    assert fed.peak_train_bytes == plain.peak_train_bytes < held
    assert plain.peak_evaluate_bytes < held <= fed.peak_evaluate_bytes


@pytest.mark.parametrize(
    ("holder", "place", "column"),
    [(trial, "load", "base_parameters"), (checkpoint, "save", "checkpoint_bytes")],
)
def test_what_a_failed_trial_did_not_measure_is_null(holder, place, column, tiny, tmp_path, monkeypatch):
    def fail(*_, **__):
        raise OSError("no space left")

    monkeypatch.setattr(holder, place, fail)
    made = trials.trial(tiny, tmp_path)
    row = run(made, tmp_path).row
    assert (row.status, row.phase) == ("error", place)
    assert getattr(row, column) is None
    if place == "load":
        known = {f.name for f in dataclasses.fields(row) if getattr(row, f.name) is not None}
        always = {"status", "phase", "message", "reason", "log_file", "scores_json", "schema_version"}
        always |= {"started_at", "finished_at"}
        of_the_process = {"start_seconds", "load_seconds", "load_average", "host_peak_resident_bytes"}
        described = vars(runner_rows.row(trials.job(made, tmp_path), Status.ERROR))
        named = {name for name, value in described.items() if value is not None}
        assert known - named - always - of_the_process == set()


def test_checkpoint_bytes_are_those_of_the_files_and_nothing_is_estimated(kept, tiny, tmp_path):
    whole = run(trials.trial(tiny, tmp_path, "full"), tmp_path, adapter_folder=str(tmp_path / "full"))
    for result, folder in (kept, (whole, tmp_path / "full")):
        files = list(folder.glob("*.safetensors"))
        assert result.row.checkpoint_bytes == sum(file.stat().st_size for file in files) > 0
        assert result.row.stored_parameters == sum(t.numel() for file in files for t in load_file(file).values())


def test_the_base_models_number_of_parameters_does_not_depend_on_the_method(kept, tiny, tmp_path):
    found = [run(trials.trial(tiny, tmp_path, name), tmp_path).row for name in ("full", "prefix_tuning")]
    assert {row.base_parameters for row in (kept[0].row, *found)} == {found[0].trainable_parameters}


def test_each_scored_example_is_stored_and_the_score_is_their_mean(kept, tmp_path):
    result, _ = kept
    store.open_for_run(tmp_path / "r", ["colour", "colour_text"])
    store.write(tmp_path / "r", result)
    tables = store.read(tmp_path / "r")
    for score in result.scores:
        outcomes = tables.examples.loc[tables.examples["task"] == score.task, "outcome"]
        assert len(outcomes) == score.examples == 8
        assert outcomes.mean() == score.value == tables.trials[f"score_{score.task}"].item()


def test_times_are_stored_as_measured_and_exported_unrounded(tmp_path):
    odd = 1140.123456789012
    made = results_factory.make_result(train_seconds=odd)
    steps = tuple(dataclasses.replace(s, seconds=odd / 7) for s in made.steps)
    folder = results_factory.store(tmp_path / "r", dataclasses.replace(made, steps=steps))
    tables = store.read(folder)
    assert tables.trials["train_seconds"].item() == odd
    assert set(tables.steps["seconds"]) == {odd / 7}
    row = next(csv.DictReader(io.StringIO(report.table(folder, "csv"))))
    assert float(row["train_seconds_mean"]) == odd


@pytest.mark.parametrize("form", ["text", "md", "tex", "csv"])
def test_the_token_rate_is_in_every_table(form, tmp_path):
    folder = results_factory.store(tmp_path / "r", results_factory.make_result(tokens_per_second=20_417.0))
    table = report.table(folder, form)
    assert "tokens_per_second" in table if form == "csv" else "tokens/s" in table
    assert re.search(r"20.{0,4}417", table)


def test_the_loss_is_over_the_tokens_of_the_answer_and_the_end_only(tiny, tmp_path):
    base, learner, plan = method_cells.attached(tiny, "lora", "fp32", tmp_path)
    loss, _ = loop.step(learner, [batches.collate(plan[0], base.tokenizer.pad_token_id)], 0.0)
    nats = []
    for example in plan[0]:  # one by one, without padding
        ids = torch.tensor([example.ids])
        with torch.no_grad():
            chances = learner.model(input_ids=ids).logits[0].log_softmax(-1)
        answer = range(example.loss_from, len(example.ids))
        assert base.tokenizer.decode([example.ids[i] for i in answer]).strip() in ("red</s>", "green</s>", "blue</s>")
        nats += [-chances[i - 1, example.ids[i]].item() for i in answer]
    assert loss == pytest.approx(statistics.fmean(nats), rel=1e-4)


def test_the_last_loss_is_a_mean_of_as_many_steps_as_there_were(tiny, tmp_path):
    result = run(trials.trial(tiny, tmp_path, training={"steps": 3}), tmp_path)
    assert result.row.last_loss == result.steps[-1].loss
    assert result.row.first_loss == result.steps[0].loss


@pytest.mark.parametrize("name", [name for name, method in METHODS.items() if method.trains])
def test_no_method_runs_the_base_model_twice(name, tiny, tmp_path):
    _, learner, plan = method_cells.attached(tiny, name, METHODS[name].default_precision, tmp_path)
    calls: Counter[str] = Counter()
    for path, module in learner.model.named_modules():
        if type(module).__name__ in ("LlamaDecoderLayer", "LlamaMLP", "LlamaModel"):
            module.register_forward_hook(lambda *_, path=path: calls.update([path]))
    loop.train(learner, plan[:1], [], Clock(), lambda *_: None)
    assert len(calls) == 3 + 3 + 1
    assert set(calls.values()) == {1}


def gpu(*processes):
    """A GPU whose library reports its processes only, each as (pid, bytes)."""
    listed = [SimpleNamespace(pid=pid, usedGpuMemory=size) for pid, size in processes]
    library = SimpleNamespace(NVMLError=OSError, nvmlDeviceGetComputeRunningProcesses=lambda _: listed)
    return nvml.Gpu(library, "handle")


def test_another_process_on_the_gpu_is_in_the_row(tiny, tmp_path, monkeypatch):
    made = trials.trial(tiny, tmp_path)
    for others in ((), ((99_999_999, 5 * MB),)):
        sensors = watch.Sensors("cpu", gpu((os.getpid(), MB), *others))
        monkeypatch.setattr(watch, "sensors", lambda _, sensors=sensors: sensors)
        row = run(made, tmp_path).row
        assert (row.status, row.other_gpu_processes, row.device_process_bytes) == ("ok", len(others), MB)


def test_a_row_of_a_trial_that_ran_out_of_memory_keeps_phase_peak_and_other_processes(tiny, tmp_path, monkeypatch):
    answers = {"synchronize": None, "reset_peak_memory_stats": None, "mem_get_info": (MB, 100 * MB)}
    answers |= {"max_memory_allocated": 70 * MB, "max_memory_reserved": 80 * MB, "empty_cache": None}
    for name, value in answers.items():
        monkeypatch.setattr(torch.cuda, name, lambda value=value: value)
    monkeypatch.setattr(watch, "sensors", lambda _: watch.Sensors("cuda", gpu((os.getpid(), MB), (1, MB))))

    def dies(*_):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")

    monkeypatch.setattr(loop, "step", dies)
    row = run(trials.trial(tiny, tmp_path), tmp_path).row
    assert (row.status, row.phase) == ("oom", "train")
    assert "Tried to allocate 20.00 MiB" in row.message
    assert (row.peak_train_bytes, row.peak_train_reserved_bytes) == (70 * MB, 80 * MB)
    assert (row.device_used_bytes, row.other_gpu_processes) == (99 * MB, 1)
    assert row.train_seconds is None


@pytest.mark.parametrize(("name", "least", "most"), [("lora", 3.5, 4.6), ("full", 6.0, 6.6)])
def test_the_work_of_a_step_depends_on_what_trains(name, least, most, tmp_path):
    nano = find.resolve_base(Base("nano"))
    base, learner, plan = method_cells.attached(nano, name, "fp32", tmp_path)
    config = base.model.config
    weights = base.parameters if config.tie_word_embeddings else base.parameters - config.vocab_size * 64
    flops = training_flops.columns(learner, plan)[0].train_flops_per_token
    assert least * weights < flops < most * weights


def test_inference_is_measured_after_a_warm_up(tiny, tmp_path, monkeypatch):
    seconds = iter([100.0, 100.0, *(1.0,) * 100])
    monkeypatch.setattr(generation, "_generate", lambda *_: [next(seconds)] * 4)
    found = generation._in_turns(generation_subject.subject(tiny, tmp_path), {"tuned": (None, nullcontext)})
    assert {t for repeats in found["tuned"].values() for one in repeats for t in one} == {1.0}
    assert [len(repeats) for repeats in found["tuned"].values()] == [generation.REPEATS] * 2


@pytest.mark.parametrize("precision", ["bf16", "nf4"])
def test_the_base_model_in_the_inference_ratio_has_the_tuned_models_precision_and_weights(
    precision, tiny, tmp_path, monkeypatch
):
    subject, seen = generation_subject.subject(tiny, tmp_path, "lora", precision), []

    def generate(_, model, count):
        inner = model.get_base_model() if hasattr(model, "get_base_model") else model
        layer = inner.model.layers[0].mlp.up_proj
        weight = getattr(layer, "base_layer", layer).weight
        seen.append((weight.dtype, weight.data_ptr(), hasattr(layer, "base_layer")))
        return [1.0] * 4

    monkeypatch.setattr(generation, "_generate", generate)
    generation._in_turns(subject, generation._variants(subject))
    assert len({(dtype, place) for dtype, place, _ in seen}) == 1
    assert {tuned for *_, tuned in seen} == {True, False}


def test_inference_is_measured_with_the_trained_adapter(tiny, tmp_path, monkeypatch):
    moved = []

    def measure(subject):
        moved.extend(float(p.abs().max()) for n, p in subject.model.named_parameters() if "lora_B" in n)
        return InferenceColumns()

    monkeypatch.setattr(generation, "measure", measure)
    assert run(trials.trial(tiny, tmp_path), tmp_path, measures_inference=True).row.status == "ok"
    assert moved
    assert min(moved) > 0, "B is zero before training"


def test_waiting_for_a_cpu_during_generation_is_measured_and_stated(tiny, tmp_path, monkeypatch):
    seconds = iter(range(1000))
    monkeypatch.setattr(environment, "waiting_by_thread", lambda: {"1": 10.0 * next(seconds)})
    row = run(trials.trial(tiny, tmp_path), tmp_path, measures_inference=True).row
    assert row.inference_waiting_seconds == 10.0
    folder = results_factory.store(tmp_path / "r", dataclasses.replace(results_factory.make_result(), row=row))
    text = " ".join(report.table(folder, "text").split())
    assert "Rates and latencies of 1 of 1 trial are unreliable: the machine was busy" in text


def test_no_step_collects_garbage_or_empties_the_allocators_cache(tiny, tmp_path, monkeypatch):
    _, learner, plan = method_cells.attached(tiny, "lora", "fp32", tmp_path)
    called = []
    monkeypatch.setattr(gc, "collect", lambda *_: called.append("gc.collect"))
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: called.append("empty_cache"))
    loop.train(learner, plan, plan[0], Clock(), lambda *_: None)
    assert called == []


def test_a_setting_that_a_method_overrides_leaves_its_neighbours_as_they_were(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = "base: nano\ntasks: [compute]\ntrain: {steps: 5, weight_decay: 0.1, warmup_ratio: 0.2}\n"
    Path("x.yaml").write_text(text + "methods:\n  lora: {learning_rate: 1e-3}\n  full: {learning_rate: 2e-5}\n")
    found = {t.method: t.training for t in suite.expand(suite.load("x.yaml"), "cpu")}
    assert {name: t.learning_rate for name, t in found.items()} == {"lora": 1e-3, "full": 2e-5}
    assert {(t.weight_decay, t.warmup_ratio, t.steps) for t in found.values()} == {(0.1, 0.2, 5)}


def test_a_cells_name_has_the_rank_that_trains(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("x.yaml").write_text("base: nano\ntasks: [compute]\nmethods:\n  lora: {rank: [4, 32]}\n")
    assert {(t.cell, t.rank) for t in suite.expand(suite.load("x.yaml", seeds="1"), "cpu")} == {
        ("lora r=4 fp32", 4),
        ("lora r=32 fp32", 32),
    }


def test_the_rate_of_a_step_is_the_suites_whatever_the_batch(tiny, tmp_path):
    for size in (4, 8):
        made = trials.trial(tiny, tmp_path, training={"batch_size": size, "schedule": "constant", "steps": 2})
        assert {s.learning_rate for s in run(made, tmp_path).steps} == {1e-2}


def test_every_fault_of_the_document_names_tests_that_exist():
    text = (ROOT / "docs" / "faults.md").read_text()
    rows = [line for line in text.splitlines() if line.startswith("| ") and not line.startswith("| fault")]
    assert len(rows) >= 30
    missing = []
    for row in rows:
        named = re.findall(r"`(test_\w+)::(test_\w+)`", row.split("|")[-2])
        assert named, f"no test: {row}"
        missing += [f"{file}::{name}" for file, name in named if name not in functions(file)]
    assert missing == []


def test_every_test_of_this_file_is_in_the_document():
    text = (ROOT / "docs" / "faults.md").read_text()
    here = {name for name in functions("test_faults") if not name.endswith("document")}
    own = {"test_every_fault_of_the_document_names_tests_that_exist"}
    assert {name for name in here - own if f"`test_faults::{name}`" not in text} == set()


def functions(file: str) -> set[str]:
    """The tests of a file."""
    (path,) = (ROOT / "tests").glob(f"*/{file}.py")
    tree = ast.parse(path.read_text())
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")}
