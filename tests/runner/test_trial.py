"""A trial run in this process: its row is complete, and every failure is a row with the right status."""

from __future__ import annotations

import dataclasses
import json
import re

import pytest
import torch

from peftbench.evaluation import decoding, metrics, scoring
from peftbench.methods import METHODS
from peftbench.models import builtin
from peftbench.models.precision import PRECISIONS
from peftbench.models.tokenizer import load_tokenizer
from peftbench.records import Category, Retention, Score, Status
from peftbench.records.columns.devices import DevicesColumns
from peftbench.runner.checks import liveness
from peftbench.tasks import read
from peftbench.training import loop
from tests.support import method_cells, trials
from tests.support.trials import run


@pytest.fixture(autouse=True)
def threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def ordinary(tiny, tmp_path_factory):
    """The result of a LoRA trial of four steps."""
    place = tmp_path_factory.mktemp("ordinary")
    return run(trials.trial(tiny, place), place)


def test_the_row_of_an_ok_trial_has_every_measured_column(tiny, tmp_path):
    general = Retention(str(builtin.held_out("nano")), limit=4)
    made = trials.trial(tiny, tmp_path, retention=general)
    result = run(made, tmp_path, measures_inference=True, predicts=True)
    row = result.row
    assert (row.status, row.phase, row.message) == ("ok", None, None)
    unknown = {f.name for f in dataclasses.fields(row) if getattr(row, f.name) is None}
    parents = {"wall_seconds", "untracked_seconds"}  # only the parent knows
    none = {
        "stalled_tensors",
        "unadapted_matrices",
        "left_out_modules",
        "named_settings",
        "candidate_of",
        "reason",
        "log_file",
        "stack",
        *("reading_json", "classes_json"),  # nothing was found out about the files, and no class is missing
        *("learning_rate_source", "defaults_json"),  # known to the suite that a trial comes from
    }
    none |= {"peak_train_reserved_bytes", "device_used_bytes", "device_process_bytes", "other_gpu_processes"}
    none |= {"paged_optimizer_bytes"}  # of paged optimizers on a GPU
    none |= {"peak_run_reserved_bytes", "not_training_seconds"}  # of imported results only
    none |= {"head_parameters", "padding_influence"}  # of classification heads only
    none |= {"compile_seconds", "compiled_graphs", "compiling_steps"}  # nothing is compiled
    none |= {"largest_turn_parameters"}  # of layers that train in turns only
    none |= {"deployed_json", "deploy_seconds"}  # nothing is deployed
    none |= {
        "checkpoint_seconds",
        "resume_seconds",
        "earlier_processes_seconds",
        "resumes",
        "state_not_used",
    }  # it ran without a break
    none |= {f.name for f in dataclasses.fields(DevicesColumns)}  # it ran on one device
    none |= {"node", "attempts", "trials_beside"}  # of Ray only
    none |= {"device_state_json"} | ({"train_energy_joules", "energy_source"} if row.energy_source is None else set())
    assert unknown == {"phase", "message", "best_validation_loss", "validate_seconds"} | none | parents
    held = {f.name: getattr(row, f.name) for f in dataclasses.fields(row) if f.name.endswith("_json")}
    assert not [name for name, text in held.items() if text and not isinstance(json.loads(text), dict)], (
        "readers rely on it"
    )
    assert row.trainable_tensors == row.moved_tensors
    assert row.largest_logit_change > 0
    assert row.checkpoint_bytes > 4 * row.trainable_parameters
    assert [s.step for s in result.steps] == [1, 2, 3, 4]
    assert [s.untimed for s in result.steps] == [True, False, False, False]
    assert row.train_seconds == pytest.approx(sum(s.seconds for s in result.steps))
    steady = [s for s in result.steps if not s.untimed]
    rate = sum(s.nonpadding_tokens for s in steady) / sum(s.seconds for s in steady)
    assert row.tokens_per_second == pytest.approx(rate)
    assert row.processed_tokens >= row.nonpadding_tokens > row.loss_tokens > 0
    assert {s.task for s in result.scores} == {"colour", "colour_text"}
    assert len(result.examples) == 16
    assert {e.key for e in result.examples} == {s.key for s in result.steps} == {row.key}


def test_a_trial_with_a_budget_of_seconds_records_its_data_use(tiny, tmp_path):
    """With the shortest budget, the first step is the last."""
    row = run(trials.trial(tiny, tmp_path, training={"steps": None, "seconds": 1e-6}), tmp_path).row
    one = run(trials.trial(tiny, tmp_path, training={"steps": 1}), tmp_path).row
    assert (row.status, row.steps_done, row.examples_seen) == ("ok", 1, 4)
    assert (row.batches_sha256, row.data_seen_json) == (one.batches_sha256, one.data_seen_json)
    assert row.key != one.key or json.loads(row.settings_json)["train"]["seconds"] == 1e-6


def test_the_untuned_base_is_a_row_without_seed_training_or_checkpoint(tiny, tmp_path):
    row = run(trials.trial(tiny, tmp_path, "base"), tmp_path).row
    assert row.status == "ok"
    assert row.peak_evaluate_bytes > row.base_weights_bytes
    for name in ("seed", "learning_rate", "train_seconds", "peak_train_bytes", "checkpoint_bytes", "batches_sha256"):
        assert getattr(row, name) is None


def test_all_methods_of_a_seed_see_the_same_batches(tiny, tmp_path, ordinary):
    hashes = {run(trials.trial(tiny, tmp_path, m), tmp_path).row.batches_sha256 for m in ("full", "prompt_tuning")}
    hashes.add(ordinary.row.batches_sha256)
    other = run(trials.trial(tiny, tmp_path, seed=1), tmp_path).row.batches_sha256
    assert len(hashes) == 1
    assert other not in hashes


def test_the_same_seed_gives_the_same_losses_and_scores_bit_for_bit(tiny, tmp_path):
    made = trials.trial(tiny, tmp_path, options={"dropout": 0.1})
    first, again = run(made, tmp_path), run(made, tmp_path)
    other = run(dataclasses.replace(made, seed=1), tmp_path)
    assert [s.loss for s in first.steps] == [s.loss for s in again.steps]
    assert first.scores == again.scores
    assert [e.choice_logprobs for e in first.examples] == [e.choice_logprobs for e in again.examples]
    assert [s.loss for s in first.steps] != [s.loss for s in other.steps]


def test_memory_by_category_adds_up_to_the_peak(ordinary):
    row = ordinary.row
    assert sum(getattr(row, category.column) for category in Category) == row.peak_train_bytes
    assert row.memory_kind == "tensor_accounting"


def test_bytes_by_category_are_recorded_after_load_after_attach_and_at_the_evaluation_peak(tiny, tmp_path):
    made = trials.trial(tiny, tmp_path, "qlora", "nf4")
    row = run(made, tmp_path).row
    ledger = json.loads(row.ledger_json)
    assert list(ledger) == ["load", "attach", "evaluate"]
    assert ledger["load"].keys() == {"base_weights", "quantization_state"}
    assert ledger["attach"] == ledger["load"] | {"adapter": 4 * row.trainable_parameters}
    assert ledger["evaluate"].items() >= ledger["attach"].items()
    assert "optimizer" not in ledger["evaluate"]
    assert sum(ledger["evaluate"].values()) == row.peak_evaluate_bytes
    assert json.loads(run(trials.trial(tiny, tmp_path, "base"), tmp_path).row.ledger_json).keys() == {
        "load",
        "evaluate",
    }


def test_the_host_peaks_of_training_and_evaluation_are_measured_separately(tiny, tmp_path, monkeypatch):
    held, evaluated = 300 << 20, scoring.evaluate

    def greedy(*args):
        memory_held = bytearray(held)
        return evaluated(*args) if memory_held else None

    monkeypatch.setattr(scoring, "evaluate", greedy)
    row = run(trials.trial(tiny, tmp_path), tmp_path).row
    assert row.host_peak_evaluate_bytes - row.host_peak_train_bytes > held / 2
    assert row.host_peak_resident_bytes >= row.host_peak_evaluate_bytes


def test_a_rate_needs_three_steady_steps(tiny, tmp_path, ordinary):
    rows = [run(trials.trial(tiny, tmp_path, training={"steps": 3}), tmp_path).row, ordinary.row]
    rates = ("tokens_per_second", "processed_tokens_per_second", "loss_tokens_per_second")
    assert [[getattr(row, name) is None for name in rates] for row in rows] == [[True] * 3, [False] * 3]
    assert all(row.median_step_seconds for row in rows)


@pytest.mark.parametrize(
    ("where", "error", "status"),
    [
        ("peftbench.runner.trial.load", MemoryError("no more"), Status.OOM),
        ("peftbench.training.loop.step", torch.OutOfMemoryError("CUDA out of memory"), Status.OOM),
        ("peftbench.training.loop.step", RuntimeError("DefaultCPUAllocator: can't allocate memory"), Status.OOM),
        ("peftbench.evaluation.scoring.evaluate", RuntimeError("broken"), Status.ERROR),
        ("peftbench.training.loop.step", ValueError("broken\nsecond line"), Status.ERROR),
    ],
)
def test_a_failure_is_a_row_with_its_phase_and_what_was_measured_before(
    where, error, status, tiny, tmp_path, monkeypatch
):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr(where, fail)
    result = run(trials.trial(tiny, tmp_path), tmp_path)
    phase = {"load": "load", "step": "train", "evaluate": "evaluate"}[where.rpartition(".")[2]]
    assert (result.row.status, result.row.phase) == (status, phase)
    assert result.row.message.startswith(type(error).__name__)
    assert "\n" not in result.row.message
    assert (result.row.base_parameters is None) == (phase == "load")
    assert result.scores == ()


def test_the_message_of_an_error_without_text_names_the_line_that_raised_it_and_the_log(tiny, tmp_path, monkeypatch):
    def fail(*_):
        raise AssertionError

    monkeypatch.setattr(loop, "step", fail)
    row = run(trials.trial(tiny, tmp_path), tmp_path).row
    assert row.status == "error"
    assert re.match(r"AssertionError in test_trial.py, line \d+: raise AssertionError; log: logs/", row.message)
    assert row.message == f"{row.reason}; log: {row.log_file}"
    assert row.log_file == f"logs/{row.key}.log"


def test_a_choice_that_does_not_fit_is_an_error_before_training(tiny, tmp_path):
    tasks = trials.tasks(tmp_path)
    long = "red " * 60
    wide = dataclasses.replace(tasks[0], choices=(*tasks[0].choices, long.strip()))
    row = run(trials.trial(tiny, tmp_path, tasks=(wide, *tasks[1:])), tmp_path).row
    assert (row.status, row.train_seconds) == ("error", None)
    assert "task 'colour', example 0: the choice 'red red" in row.message
    assert "allowed: less than evaluate.max_length, which is 48 (by default the longest sequence_length" in row.message
    fits = trials.Evaluation(4, 100, "test")
    assert (
        run(trials.trial(tiny, tmp_path, "base", tasks=(wide, *tasks[1:]), evaluation=fits), tmp_path).row.status
        == "ok"
    )


def test_an_out_of_memory_error_in_the_first_step_keeps_the_load_time(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "step", lambda *_: (_ for _ in ()).throw(MemoryError()))
    row = run(trials.trial(tiny, tmp_path), tmp_path).row
    assert row.status == "oom"
    assert row.load_seconds > 0
    assert row.trainable_parameters > 0
    assert row.train_seconds is None


def test_a_loss_that_is_not_finite_is_diverged(tiny, tmp_path):
    result = run(trials.trial(tiny, tmp_path, training={"learning_rate": float("inf")}), tmp_path)
    assert (result.row.status, result.row.phase) == ("diverged", "train")
    assert "step" in result.row.message


def test_training_that_changes_nothing_is_inert(tiny, tmp_path):
    result = run(trials.trial(tiny, tmp_path, training={"learning_rate": 0.0}), tmp_path)
    assert result.row.status == "inert"
    assert "no trainable tensor" in result.row.message
    assert result.row.moved_tensors == 0
    assert result.scores == ()


def test_logits_equal_to_the_base_models_are_inert(tiny, tmp_path, monkeypatch):
    from peftbench.methods import adapter

    original = liveness.probe

    def switched_off(model, *arguments):
        with adapter.disabled(model):
            return original(model, *arguments)

    monkeypatch.setattr(liveness, "probe", switched_off)
    row = run(trials.trial(tiny, tmp_path, "adapter"), tmp_path).row
    assert row.status == "inert"
    assert "logits equal" in row.message


def test_a_change_of_frozen_weights_is_corrupt(tiny, tmp_path, monkeypatch):
    original = loop.step

    def meddling(learner, *arguments):
        with torch.no_grad():
            next(p for p in learner.model.parameters() if not p.requires_grad).add_(0.01)
        return original(learner, *arguments)

    monkeypatch.setattr(loop, "step", meddling)
    row = run(trials.trial(tiny, tmp_path), tmp_path).row
    assert row.status == "corrupt"
    assert "embed_tokens" in row.message


def test_logits_that_are_not_finite_are_diverged_and_not_scored(tiny, tmp_path):
    import shutil

    from safetensors.torch import load_file, save_file

    folder = shutil.copytree(tiny, tmp_path / "broken")
    weights = load_file(folder / "model.safetensors")
    weights["model.norm.weight"][0] = float("nan")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    result = run(trials.trial(folder, tmp_path, "base"), tmp_path)
    assert (result.row.status, result.row.phase, result.scores) == ("diverged", "evaluate", ())
    late = run(trials.trial(tiny, tmp_path, training={"steps": 1, "learning_rate": 1e30}), tmp_path)
    assert late.row.status == "diverged"


def test_a_method_that_does_not_exist_on_a_base_is_unsupported_with_the_reason(tiny, tmp_path):
    from transformers import AutoTokenizer, MambaConfig, MambaForCausalLM

    config = MambaConfig(vocab_size=320, hidden_size=32, num_hidden_layers=2, state_size=4, tie_word_embeddings=False)
    MambaForCausalLM(config).save_pretrained(tmp_path / "mamba")
    AutoTokenizer.from_pretrained(tiny).save_pretrained(tmp_path / "mamba")
    row = run(trials.trial(tmp_path / "mamba", tmp_path, "llama_adapter"), tmp_path).row
    assert (row.status, row.phase) == ("unsupported", "load")
    assert row.message == "llama_adapter: the layers of mamba have no attention"


def test_texts_that_look_like_code_or_numbers_are_scored_as_they_are(tiny, tmp_path):
    lines = [{"q": "42", "a": "[1,2]"}, {"q": "7", "a": '["a"]'}, {"q": "{{ 1 + 1 }}", "a": "3"}]
    (tmp_path / "odd.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    files = {"test": str(tmp_path / "odd.jsonl")}
    answers = ("[1,2]", '["a"]', "3")
    tasks = (
        trials.Task("odd", "choice", files=files, prompt="{{ q }}", target="{{ a }}", choices=answers),
        trials.Task("odd_text", "exact_match", files=files, prompt="{{ q }}", target="{{ a }}", max_new_tokens=4),
    )
    made = trials.trial(tiny, tmp_path, "base", tasks=tasks, evaluate=("odd", "odd_text"))
    result = run(made, tmp_path)
    assert result.row.status == "ok"
    choice = [e for e in result.examples if e.task == "odd"]
    assert [e.outcome for e in choice] == [float(e.prediction == e.target) for e in choice]
    assert [e.prompt for e in choice] == ["42", "7", "{{ 1 + 1 }}"]


def test_an_exact_answer_in_brackets_counts_as_right(tiny, tmp_path, monkeypatch):
    from peftbench.records import Example

    task = trials.Task("odd", "exact_match", max_new_tokens=4)
    base = method_cells.loaded(tiny, "base", "fp32")
    wrapped = scoring.Harness(base.model, base.tokenizer, trials.Evaluation(4, 48, "test"), PRECISIONS["fp32"])
    said = decoding.Answer(" [1,2]", ended=True)
    monkeypatch.setattr(decoding, "answers", lambda _, requests, __: [said] * len(requests))
    samples, _ = scoring.run_harness(wrapped, task, [Example("42", "[1,2]"), Example("43", "[1,3]")])
    assert [sample["exact_match"] for sample in samples] == [1.0, 0.0]


def test_rouge_reads_words_of_any_script():
    assert metrics.rouge_l("кот сидит", ("кот сидит",)) == 1.0
    assert metrics.rouge_l("кот лежит", ("кот сидит",)) == 0.5


@pytest.mark.parametrize("closing", ["$A", "<s> $A", "<s> $A </s>"])
def test_training_and_scoring_tokenize_prompt_and_answer_alike_for_every_kind_of_tokenizer(closing, tiny):
    from tokenizers.processors import TemplateProcessing

    from peftbench.records import Example
    from peftbench.training import batches

    base = method_cells.loaded(tiny, "base", "fp32")
    base.tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=closing, special_tokens=[("<s>", 0), ("</s>", 1)]
    )
    wrapped = scoring.Harness(base.model, base.tokenizer, trials.Evaluation(4, 48, "test"), PRECISIONS["fp32"])
    prompt, answer = wrapped._encode_pair("one two ?", " red green")
    (trained,) = batches.encode(base.tokenizer, [(("t", 0), Example("one two ?", "red green"))], 48, "completion")
    assert (*prompt, *answer, 1) == trained.ids
    assert trained.loss_from == len(prompt)
    assert base.tokenizer.decode(answer) == " red green"


def test_no_path_of_this_machine_is_kept_with_an_adapter(tiny, tmp_path):
    folder = tmp_path / "adapters" / "one"
    run(trials.trial(tiny, tmp_path), tmp_path, adapter_folder=str(folder))
    for path in folder.rglob("*"):
        if path.is_file():
            assert str(tmp_path).encode() not in path.read_bytes(), path.name
            assert str(tiny.parent).encode() not in path.read_bytes(), path.name


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("base=/a/b/c", "base=c"),
        ("file:/home/alice/x failed", "file:x failed"),
        ("foo:/home/alice/m", "foo:m"),
        ("see https://x.org/a/b", "see https://x.org/a/b"),
        ("1/2 of a/b", "1/2 of a/b"),
        ("'~/models/x'", "'x'"),
    ],
)
def test_only_absolute_paths_are_cut_to_their_last_part(text, expected):
    from peftbench.records import failures

    assert failures.without_paths(text) == expected


def test_virtual_tokens_that_do_not_fit_the_context_are_unsupported(tiny, tmp_path):
    result = run(trials.trial(tiny, tmp_path, "prompt_tuning", rank=100), tmp_path)
    assert result.row.status == "unsupported"
    assert "context of 128" in result.row.message


def test_a_kept_adapter_has_a_card_and_the_tasks_for_the_stock_lm_eval_command(tiny, tmp_path):
    folder = tmp_path / "adapters" / "one"
    result = run(trials.trial(tiny, tmp_path), tmp_path, adapter_folder=str(folder))
    assert result.row.status == "ok"
    names = {p.name for p in folder.iterdir()}
    assert names == {"README.md", "tasks", "adapter_config.json", "adapter_model.safetensors"}
    assert {p.name for p in (folder / "tasks").iterdir()} == {
        "colour.yaml",
        "colour.jsonl",
        "colour_text.yaml",
        "colour_text.jsonl",
    }
    assert "PeftModel.from_pretrained" in (folder / "README.md").read_text()
    assert not list(tmp_path.glob(".saving-*"))


@pytest.mark.parametrize("gate", ["per_layer", "per_head"])
def test_the_card_of_a_llama_adapter_has_the_stock_command_only_if_peft_can_load_it(gate, tiny, tmp_path):
    folder = tmp_path / "kept"
    options = {"layers": 1, "gate": gate}
    assert run(trials.trial(tiny, tmp_path, "llama_adapter", options=options), tmp_path, adapter_folder=str(folder))
    card = (folder / "README.md").read_text()
    assert "from peftbench.methods.llama_adapter import load" in card
    assert ("lm_eval --model hf" in card) is (gate == "per_layer")
    assert ("cannot load this LLaMA-Adapter" in card) is (gate == "per_head")


PEFT_METHODS = [n for n, m in METHODS.items() if m.trains and m.load.endswith("peft_checkpoint:load")]
PEFT_METHODS.append("llama_adapter")  # saved in peft's format on this base


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[pytest.mark.slow] * (name not in ("lora", "full"))) for name in [*PEFT_METHODS, "full"]],
)
def test_the_stock_lm_eval_command_on_a_saved_adapter_reproduces_the_stored_scores(name, tiny, tmp_path, monkeypatch):
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    precision = "fp32" if "fp32" in METHODS[name].precisions else "nf4"
    folder, base = tmp_path / "kept", tiny
    made = trials.trial(tiny, tmp_path, name, precision, training={"steps": 12})
    result = run(made, tmp_path, adapter_folder=str(folder))
    if precision == "nf4":  # as the card says
        base = tmp_path / "quantized"
        loaded = method_cells.loaded(tiny, name, precision)
        loaded.model.save_pretrained(base)
        loaded.tokenizer.save_pretrained(base)
    where = f"pretrained={folder}" if name == "full" else f"pretrained={base},peft={folder}"
    dtype = "bfloat16,mixed_precision_dtype=bfloat16" if precision == "nf4" else "float32"
    monkeypatch.chdir(folder / "tasks")
    stock = simple_evaluate(
        model="hf",
        model_args=f"{where},dtype={dtype},max_length=48",
        tasks=["colour", "colour_text"],
        task_manager=TaskManager(include_path=str(folder / "tasks"), include_defaults=False),
        batch_size=1,
        device="cpu",
        bootstrap_iters=0,
    )["results"]
    stored = {s.task: s.value for s in result.scores}
    found = {"colour": stock["colour"]["acc,none"], "colour_text": stock["colour_text"]["exact_match,none"]}
    assert found == pytest.approx(stored, abs=0.126 if precision == "nf4" else 1e-9)


def test_chance_majority_and_format_failures_are_recorded_for_the_kinds_that_have_them(tiny, tmp_path):
    result = run(trials.trial(tiny, tmp_path, "base", evaluate=("colour", "colour_text", "colour_line")), tmp_path)
    choice, exact, line = result.scores
    assert isinstance(choice, Score)
    assert choice.chance == pytest.approx(1 / 3)
    assert choice.majority == pytest.approx(
        3 / 8
    )  # of the first eight: blue, green, blue, red, green, red, blue, green
    assert choice.format_failures is None
    assert exact.format_failures is not None
    assert exact.format_failures > 0, "an untuned random model answers in no format"
    assert (line.metric, line.chance, line.majority) == ("rouge_l", None, None)
    assert {"rouge_l", "bleu", "chrf"} <= set(line.metrics)
    settings = json.loads(result.row.settings_json)
    assert settings["evaluate"] == ["colour", "colour_text", "colour_line"]


def test_prompts_that_are_cut_to_the_longest_length_are_counted(tiny, tmp_path):
    made = trials.trial(tiny, tmp_path, "base", evaluation=trials.Evaluation(4, 8, "test"), evaluate=("colour",))
    tokenizer = load_tokenizer(tiny, trust_remote_code=False)
    texts = [max((f"{e.prompt} {c}" for c in e.choices), key=len) for e in read.examples(made.tasks[0], "test")]
    long = [text for text in texts if len(tokenizer(text)["input_ids"]) > 9]  # 8 are run and the last is predicted
    assert 0 < len(long) < len(texts)
    assert run(made, tmp_path).scores[0].truncated_prompts == len(long)


def test_scores_do_not_depend_on_the_evaluation_batch_size(tiny, tmp_path):
    found = []
    for size in (1, 5):
        made = trials.trial(tiny, tmp_path, "prompt_tuning", evaluation=trials.Evaluation(size, 48, "test"))
        found.append(run(made, tmp_path))
    assert [e.prediction for e in found[0].examples] == [e.prediction for e in found[1].examples]


def test_the_log_probability_cache_of_the_harness_is_off(tiny, tmp_path):
    made = trials.trial(tiny, tmp_path, "base")
    base = method_cells.loaded(tiny, "base", "fp32")
    wrapped = scoring.Harness(base.model, base.tokenizer, made.evaluation, PRECISIONS["fp32"])
    assert wrapped.logits_cache is False
