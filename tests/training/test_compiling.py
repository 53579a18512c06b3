"""Compiled decoder layers: the same losses, compile time apart, memory counted, and nothing that falls back unseen."""

from __future__ import annotations

import dataclasses
import shutil
import sysconfig

import pytest
import torch

from peftbench import cli, suite
from peftbench.errors import Unsupported
from peftbench.measure import ledger
from peftbench.measure.clock import Clock
from peftbench.methods import METHODS, support
from peftbench.methods.strategies import refusal_of_cell
from peftbench.models import compilers
from peftbench.models.layers import decoder_layers
from peftbench.records import Devices
from peftbench.report.derived import unequal_settings
from peftbench.runner.checks import compiled
from peftbench.training import accounting, compiling, loop, warm_up
from tests.runner.test_resuming import compare_with_unbroken
from tests.support import trials
from tests.support.method_cells import TRAINED, attached

ON = {"compile": "layers"}
MISSING = compilers.why_missing("cpu")
needs_compiler = pytest.mark.skipif(bool(MISSING), reason=f"compile: layers: {MISSING}")


HOOKED = "llama_adapter"
"""Its hooks are on some layers alone, and torch does not look at hooks by itself: others' code would run."""
CASES = [
    name if name == HOOKED else pytest.param(name, marks=pytest.mark.slow)
    for name in (*TRAINED, "lora with dropout", "lora in 8 bits")
]


@pytest.fixture
def quick(monkeypatch):
    """Layers are traced, divided into forward and backward graphs and called as always, but no kernels are made."""
    monkeypatch.setattr(compiling, "BACKEND", "aot_eager")


@pytest.fixture(autouse=True)
def others():
    """Leave what torch is set to as it was, for other tests."""
    from torch._dynamo import config as dynamo
    from torch._inductor import config as inductor
    from torch.fx.experimental import _config as symbols

    names = {
        dynamo: (
            *("suppress_errors", "recompile_limit", "accumulated_recompile_limit", "fail_on_recompile_limit_hit"),
            "skip_nnmodule_hook_guards",
        ),
        symbols: ("use_duck_shape",),
        inductor: ("fallback_random", "compile_threads"),
    }
    kept = [(each, name, getattr(each, name)) for each, own in names.items() for name in own]
    yield
    torch._dynamo.reset()
    for each, name, value in kept:
        setattr(each, name, value)


def learner_of(tiny, tmp_path, name="full", precision="fp32", **changes):
    training = {**ON, **changes.pop("training", {})}
    _, learner, plan = attached(tiny, name, precision, tmp_path, training=training, **changes)
    return dataclasses.replace(learner, compiled=compiling.make(learner.model, "layers", "cpu")), plan


@needs_compiler
@pytest.mark.parametrize("name", CASES)
def test_losses_are_those_without_to_rounding_and_the_row_says_what_ran(name, tiny, tmp_path, quick):
    method, *more = name.split(" ", 1)
    precision = "int8" if more == ["in 8 bits"] else METHODS[method].default_precision
    options = {"options": {"dropout": 0.2}} if more == ["with dropout"] else {}
    given = {"inference": False, "options": trials.EXAMPLES.get(method, {}), **options}
    one, other = (
        trials.run(
            trials.trial(tiny, tmp_path / "data", method, precision, training=training, **given),
            tmp_path,
            predicts=True,
        )
        for training in ({}, ON)
    )
    assert other.row.status == "ok", other.row.message
    close = 1e-5 if precision == "fp32" else 2e-2
    assert [s.loss for s in other.steps] == pytest.approx([s.loss for s in one.steps], rel=close)
    assert [s.untimed for s in other.steps] == [s.untimed for s in one.steps]
    assert (other.row.compile_seconds or 0) > 0
    assert one.row.compile_seconds is None
    assert (one.row.compiled_modules, other.row.compiled_modules) == ("none", "3 decoder layers")
    assert (other.row.compiled_graphs or 0) >= 1
    assert other.row.compiling_steps == 0
    assert one.row.compiled_graphs is None
    assert other.row.attention_kernels == one.row.attention_kernels
    assert other.row.train_flops_per_token == one.row.train_flops_per_token
    assert other.row.predicted_train_bytes is None
    assert other.row.peak_train_bytes is not None
    assert abs(other.row.peak_unexplained_bytes) < 0.02 * other.row.peak_train_bytes
    assert unequal_settings._DECIDED_BY["compiled"] == "compile"


@needs_compiler
@pytest.mark.slow
def test_compiling_changes_nothing_that_training_starts_from(tiny, tmp_path, quick):
    learner, plan = learner_of(tiny, tmp_path)
    weights = [p.detach().clone() for p in learner.model.parameters()]
    random = torch.get_rng_state()
    warm_up.compile_layers(learner, plan)
    assert all(map(torch.equal, weights, learner.model.parameters()))
    assert torch.equal(random, torch.get_rng_state())
    assert all(p.grad is None for p in learner.model.parameters())
    assert not learner.optimizer.state
    assert all(layer._compiled_call_impl is None for layer in decoder_layers(learner.model)), "scores run without"
    compiled.check(learner, loop.step_batches(learner, plan[0])[0])
    compiling.close(learner.compiled)


@needs_compiler
def test_a_step_that_compiles_once_more_is_untimed_and_counted(tiny, tmp_path, quick):
    learner, plan = learner_of(tiny, tmp_path, training={"untimed_steps": 0})
    warm_up.compile_layers(learner, plan[:1])
    alone = [plan[0], plan[1][:1], plan[2], plan[3][:1]]
    found = loop.train(learner, alone, [], Clock(), lambda *_: None)
    assert [step.untimed for step in found.steps] == [False, True, False, False]
    assert warm_up.columns(learner).compiling_steps == 1


@needs_compiler
@pytest.mark.slow
def test_what_is_counted_ran_compiled_or_is_an_error(tiny, tmp_path, quick):
    learner, plan = learner_of(tiny, tmp_path)
    warm_up.compile_layers(learner, plan[:1])
    accounting.account_step(learner, plan[0], True)
    with pytest.raises(RuntimeError, match="recompile"):
        accounting.account_step(learner, plan[0][:1], True)


@needs_compiler
@pytest.mark.slow
def test_a_layer_that_is_no_single_graph_is_refused(tiny, tmp_path, quick):
    learner, plan = learner_of(tiny, tmp_path)
    layer = decoder_layers(learner.model)[1]
    layer.register_forward_hook(lambda *_: torch._dynamo.graph_break())
    with pytest.raises(
        Unsupported, match=r"compile: layers: torch.compile does not run .* as one graph: .*; use compile"
    ):
        warm_up.compile_layers(learner, plan)


@needs_compiler
@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_other_gradients_are_refused(precision, tiny, tmp_path, quick):
    learner, plan = learner_of(tiny, tmp_path, precision=precision)
    layer, batch = decoder_layers(learner.model)[0], loop.step_batches(learner, plan[0])[0]
    layer.register_forward_hook(lambda _, __, out: 2 * out if torch.compiler.is_compiling() else out)
    with torch.no_grad():
        for parameter in learner.parameters:
            parameter.normal_()
    with pytest.raises(
        Unsupported,
        match=r"with compiled layers are not those without \(.* % apart, .* up to .* %\); use compile: none",
    ):
        compiled.check(learner, batch)


@needs_compiler
@pytest.mark.slow  # kernels are made
def test_rounding_in_16_bits_is_not_taken_for_other_gradients(tiny, tmp_path):
    """Compiled kernels round less often: the two are as far apart as each is from fp32."""
    learner, plan = learner_of(tiny, tmp_path, "lora", "bf16")
    compiled.check(learner, loop.step_batches(learner, plan[0])[0])


@needs_compiler
@pytest.mark.slow  # three trials
def test_an_interrupted_trial_equals_the_unbroken_one(tiny, tmp_path, quick):
    given = {"training": {"steps": 9, **ON}, "options": {"dropout": 0.2}, "inference": False}
    compare_with_unbroken(trials.trial(tiny, tmp_path / "data", "lora", **given), tmp_path)


@needs_compiler
@pytest.mark.slow  # a C++ compiler takes its time
@pytest.mark.parametrize("case", [("full", {}), ("lora", {"gradient_checkpointing": True}), ("qlora", {})])
def test_what_compiled_code_allocates_is_counted(case, tiny, tmp_path):
    name, training = case
    method = METHODS[name]
    learner, plan = learner_of(tiny, tmp_path, name, method.default_precision, training=training)
    warm_up.compile_layers(learner, plan)
    counted = accounting.account_step(learner, plan[0], method.trains_base)
    _, plain, _ = attached(tiny, name, method.default_precision, tmp_path, training=training)
    for step in plan[:2]:
        loop.step(plain, loop.step_batches(plain, step), 1e-3)
    eager = accounting.account_step(plain, plan[0], method.trains_base)
    assert (counted.peak_bytes < eager.peak_bytes) == (not training), "with layers computed again it needs more"
    assert abs(counted.allocated_bytes - counted.peak_bytes) <= 0.02 * counted.peak_bytes


@needs_compiler
@pytest.mark.slow
def test_an_interrupted_trial_of_compiled_kernels_equals_the_unbroken_one(tiny, tmp_path):
    given = {"training": {"steps": 9, **ON}, "options": {"dropout": 0.2}, "inference": False}
    compare_with_unbroken(trials.trial(tiny, tmp_path / "data", "lora", **given), tmp_path)


@needs_compiler
@pytest.mark.slow
def test_buffers_of_compiled_code_are_counted_by_hand():
    n = 1024
    network = torch.nn.Linear(n, n, bias=False).requires_grad_(False)

    def run(x):
        return (x @ network.weight).sin() @ network.weight

    call, x = torch.compile(run), torch.ones(n, n, requires_grad=True)
    call(x).sum().backward()
    x.grad = None
    with ledger.account(network, False, {}, compiled=True) as counted:
        call(x).sum().backward()
    # the first product, which is saved, its sine and the second product, which has a gradient of ones without storage
    assert counted.peak_bytes - counted.peak["base_weights"] == pytest.approx(3 * n * n * 4, rel=0.01)


def test_without_a_compiler_the_cell_is_unsupported_before_anything_runs(tmp_path, monkeypatch, capsys):
    path = tmp_path / "s.yaml"
    path.write_text(
        "base: nano\ndevice: cpu\ntasks: [judge]\nseeds: 1\nmethods: {lora: {rank: 2}}\n"
        "train: {steps: 2, batch_size: 2, sequence_length: 32, compile: [none, layers]}\n"
    )
    monkeypatch.setenv("CXX", "g++")
    monkeypatch.setattr(shutil, "which", lambda _: None)
    cells = {t.training.compile: t.unsupported for t in suite.expand(suite.load(path), "cpu")}
    assert cells["none"] is None
    assert "because it needs a C++ compiler, and g++ is not found; use compile: none" in cells["layers"]
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(sysconfig, "get_path", lambda _: str(tmp_path))
    assert "it needs the headers of Python 3" in compilers.why_missing("cpu")
    (tmp_path / "Python.h").touch()
    assert compilers.why_missing("cpu") is None
    cli.main(["plan", str(path), "--memory"])
    said = " ".join(capsys.readouterr().out.split())
    assert "Peaks are those of steps that are not compiled: lora r=2 compile=layers" in said


def test_a_gpu_needs_a_c_compiler_and_triton(tmp_path, monkeypatch):
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setattr(sysconfig, "get_path", lambda _: str(tmp_path))
    (tmp_path / "Python.h").touch()
    monkeypatch.setattr(shutil, "which", lambda _: None)
    assert compilers.why_missing("cuda") == "it needs a C compiler, and gcc or clang is not found"
    monkeypatch.setattr(shutil, "which", lambda name: name if name == "clang" else None)
    monkeypatch.setattr(compilers, "find_spec", lambda _: None)
    assert compilers.why_missing("cuda") == "it needs the package triton, which is not installed"


def test_what_was_not_tried_is_refused(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(compilers, "why_missing", lambda _: None)
    training = dataclasses.replace(trials.TRAINING, **ON)
    method = METHODS["lora"]
    assert support.refusal(method, "fp32", "cpu", training) is None
    some = dataclasses.replace(training, gradient_checkpointing="selective")
    assert "use gradient_checkpointing: true" in support.refusal(method, "fp32", "cpu", some).message
    turns = refusal_of_cell(METHODS["full"], "fp32", "cpu", training, {"turns": "lisa"}, None)
    assert turns.message.endswith("each turn would be compiled anew in its first step; use compile: none")
    found = refusal_of_cell(method, "fp32", "cpu", training, {}, Devices("ddp", 2))
    assert found.message.endswith("compile: layers was not tried on several devices; use compile: none, or one device")
