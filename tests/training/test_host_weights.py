"""Frozen weights on the host: the same losses with one layer's weights on the device. Here both are one memory."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from peftbench import suite
from peftbench.errors import Unsupported
from peftbench.measure import ledger
from peftbench.measure.clock import Clock
from peftbench.methods import METHODS, offload_support
from peftbench.models.layers import decoder_layers
from peftbench.planner import budget
from peftbench.planner.predict import predict
from peftbench.training import accounting, host_weights, loop
from tests.support import architectures, trials
from tests.support.method_cells import TRAINED, attached
from tests.support.sample import sample

ON = {"offload": "weights", "optimizer": "adamw"}
FROZEN = [name for name in TRAINED if not METHODS[name].trains_base]


def trained(base, name, tmp_path, precision=None, options=None, **training):
    own = {"options": options} if options else {}
    precision = precision or METHODS[name].default_precision
    _, learner, plan = attached(base, name, precision, tmp_path, training={**training, "optimizer": "adamw"}, **own)
    found = loop.train(learner, plan, [], Clock(), lambda *_: None)
    return [(step.loss, step.gradient_norm) for step in found.steps], learner, plan


CASES = [
    *((name, METHODS[name].default_precision, {}) for name in FROZEN if METHODS[name].default_precision == "fp32"),
    ("lora", "bf16", {"micro_batch_size": 2}),
    ("lora", "fp32", {"gradient_checkpointing": 2}),
    ("lora", "fp32", {"logits": "chunked"}),
    ("adapter", "bf16", {"gradient_checkpointing": "selective"}),
]


@pytest.mark.parametrize("kept", ["weights", "all"])
@pytest.mark.parametrize(("name", "precision", "training"), sample(CASES, 5))
def test_losses_are_the_same_bit_for_bit_and_both_parts_are_predicted(name, precision, training, kept, tiny, tmp_path):
    expected, learner, plan = trained(tiny, name, tmp_path, precision, **training)
    before = accounting.account_step(learner, plan[0], False)
    found, learner, plan = trained(tiny, name, tmp_path, precision, offload=kept, **training)
    assert found == expected
    counted = accounting.account_step(learner, plan[0], False)
    weights = sum(each.nbytes for each in host_weights.held(learner.model))
    assert counted.peak_bytes < before.peak_bytes
    assert weights <= counted.offloaded_peak
    made = trials.trial(tiny, tmp_path, name, precision, training={"optimizer": "adamw", "offload": kept, **training})
    predicted = predict(made, tiny, budget.passes(plan[0], made.training, learner.virtual_tokens))
    assert predicted.categories == counted.peak
    assert (predicted.peak_bytes, predicted.offloaded_bytes) == (counted.peak_bytes, counted.offloaded_peak)


class OnHost(TorchDispatchMode):
    """Refuses operators that compute with weights on the host, as a GPU does; they may be copied and viewed."""

    def __init__(self, held):
        super().__init__()
        self.places = {tensor.untyped_storage()._cdata for tensor in held}
        self.copied = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        given = [t for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)]
        reads = any(t.untyped_storage()._cdata in self.places for t in given)
        copies = func in (torch.ops.aten._to_copy.default, torch.ops.aten.clone.default)
        assert not reads or func.is_view or copies or func is torch.ops.aten.detach.default, f"{func} reads the host"
        self.copied += reads and copies
        return func(*args, **(kwargs or {}))


TUNERS = [
    *((name, {}) for name in FROZEN if name not in ("qlora", "peft")),
    ("lora", {"dora": True}),
    *(("peft", {"peft_type": kind}) for kind in ("OFT", "HRA", "LOKR", "VERA", "ADALORA")),
]


@pytest.mark.parametrize("again", [False, 2, True, "selective"])
@pytest.mark.parametrize(("name", "options"), sample(TUNERS, 5))
def test_nothing_computes_with_weights_on_the_host(name, options, again, tiny, tmp_path):
    if again and METHODS[name].why_no_checkpointing:
        return
    own = {"total_step": 4, "tinit": 1, "tfinal": 1} if options.get("peft_type") == "ADALORA" else {}
    training = {**ON, "gradient_checkpointing": again}
    _, learner, plan = attached(tiny, name, "fp32", tmp_path, training=training, options={**options, **own})
    learner.model.train()
    batches = loop.step_batches(learner, plan[0])
    with OnHost(host_weights.held(learner.model)) as seen:
        loop.step(learner, batches, 1e-2, 0)
        loop.validation_loss(learner, plan[0])
    each = len(list(host_weights.held(learner.model)))
    assert seen.copied >= 2 * each


@pytest.mark.parametrize("again", [False, True])
@pytest.mark.parametrize("family", sample(["gpt2", "mixtral", "gemma3", "falcon"], 1))
def test_nor_do_other_families_whose_products_save_the_parameter_itself(family, again, tmp_path):
    folder = architectures.make(tmp_path / family, family)
    plain, _, _ = trained(folder, "lora", tmp_path, "fp32", gradient_checkpointing=again)
    found, learner, plan = trained(folder, "lora", tmp_path, "fp32", gradient_checkpointing=again, **ON)
    assert found == plain
    learner.model.train()
    batches = loop.step_batches(learner, plan[0])
    with OnHost(host_weights.held(learner.model)):
        loop.step(learner, batches, 1e-2, 0)


def test_each_moment_has_the_weights_of_one_layer_on_the_device(tiny, tmp_path):
    """Forward a whole layer's, and in the backward pass one weight at a time, or again a whole layer's."""
    for again in (False, True):
        _, learner, plan = attached(tiny, "lora", "fp32", tmp_path, training={**ON, "gradient_checkpointing": again})
        learner.model.train()
        layers = decoder_layers(learner.model)
        each = [sum(p.nbytes for p in layer.parameters() if not p.requires_grad) for layer in layers]
        small = sum(p.nbytes for layer in layers for p in layer.parameters() if p.nbytes < 1024)
        held = list(host_weights.held(learner.model))
        assert sum(each) - small <= sum(t.nbytes for t in held) <= sum(each)
        highest = {False: 0, True: 0}
        with ledger.account(learner.model, False, {}, host=held) as counted:
            rest = counted.live["base_weights"]
            usual = counted.add

            def add(*given, counted=counted, usual=usual, rest=rest, highest=highest):
                usual(*given)
                place = torch._C._current_graph_task_id() != -1
                highest[place] = max(highest[place], counted.live["base_weights"] - rest)

            counted.add = add
            loop.step(learner, loop.step_batches(learner, plan[0]), 1e-2, 0)
            assert counted.live["base_weights"] == rest
        largest = max(t.nbytes for t in held)
        assert max(each) - small <= highest[False] <= max(each)
        assert highest[True] == highest[False] if again else largest <= highest[True] <= 2 * largest


def test_weights_are_on_the_device_within_a_layer_alone_also_after_an_exception_and_at_last_for_good(tiny, tmp_path):
    _, learner, plan = attached(tiny, "lora", "fp32", tmp_path, training=ON)
    layer = decoder_layers(learner.model)[1]
    weight = layer.mlp.down_proj.weight
    host = next(t for t in host_weights.held(learner.model) if t.data_ptr() == weight.data_ptr())
    values, places = host.clone(), []
    hook = layer.mlp.register_forward_hook(lambda *_: places.append(weight.data_ptr()))
    batch = loop.step_batches(learner, plan[0])[0]
    with torch.no_grad():
        learner.model(**batch.inputs)
    assert places[0] != host.data_ptr() == weight.data_ptr()
    hook.remove()

    def fail(*_):
        raise RuntimeError("in a layer")

    hook = layer.mlp.register_forward_hook(fail)
    with pytest.raises(RuntimeError, match="in a layer"):
        learner.model(**batch.inputs)
    assert weight.data_ptr() == host.data_ptr()
    hook.remove()
    x = torch.ones(2, requires_grad=True)
    (x * x).sum().backward()  # no hook of the failed pass is left
    host_weights.release(learner.model)
    assert torch.equal(weight, values)
    assert not any(layer._forward_pre_hooks for layer in decoder_layers(learner.model))
    assert not list(host_weights.held(learner.model))


def test_a_trial_with_all_on_the_host_has_the_scores_of_one_without_and_both_parts_are_predicted(tiny, tmp_path):
    rows = []
    for kept in ("none", "all"):
        (tmp_path / kept).mkdir()
        changes = {"offload": kept, "gradient_checkpointing": 2}
        made = trials.trial(tiny, tmp_path / "data", "lora", training=changes, inference=False)
        rows.append(trials.run(made, tmp_path / kept, predicts=True).row)
        assert rows[-1].status == "ok", rows[-1].message
        assert rows[-1].predicted_train_bytes == rows[-1].peak_train_bytes
    none, every = rows
    assert (every.first_loss, every.last_loss) == (none.first_loss, none.last_loss)
    assert every.peak_train_bytes < none.peak_train_bytes
    assert every.peak_offloaded_bytes > none.peak_base_weights_bytes / 4
    assert every.peak_evaluate_bytes == none.peak_evaluate_bytes, "scores have all on the device again"


@pytest.mark.parametrize(
    ("method", "precision", "reason"),
    [
        ("qlora", "nf4", "bitsandbytes' 4-bit products keep the codes on the device"),
        ("lora", "int8", "hold codes and scales in objects of their own"),
        ("adapter", "torchao-int8", "hold codes and scales in objects of their own"),
    ],
)
def test_quantized_weights_are_refused(method, precision, reason):
    made = replace(trials.TRAINING, **ON)
    for kept in ("weights", "all"):
        _, why = offload_support.refused(METHODS[method], precision, "cuda", replace(made, offload=kept))
        assert reason in why
    assert offload_support.refused(METHODS["lora"], "bf16", "cuda", made) is None
    _, why = offload_support.refused(METHODS["lora"], "bf16", "cuda", replace(made, compute="fp8"))
    assert "not tried with compute: fp8" in why


SUITE = """
base: nano
device: cuda
tasks: [judge]
seeds: 1
methods: {full: [{}, {layers: 2}, {modules: [norms]}]}
train: {steps: 2, offload: [weights, all]}
"""


def test_weights_that_train_are_not_moved_and_where_all_train_the_cell_is_refused(tmp_path, tiny):
    path = tmp_path / "s.yaml"
    path.write_text(SUITE)
    found = {t.cell: t.unsupported for t in suite.expand(suite.load(path), "cuda")}
    (refused,) = (why for why in found.values() if why)
    assert "full does not exist with offload: weights, because all of its weights train" in refused
    _, learner, _ = attached(tiny, "full", "fp32", tmp_path, training=ON, options={"layers": 1})
    layers = decoder_layers(learner.model)
    frozen = [p.nbytes for layer in layers[:-1] for p in layer.parameters() if p.nbytes >= 1024]
    assert sum(t.nbytes for t in host_weights.held(learner.model)) == sum(frozen)
    with pytest.raises(Unsupported, match="no decoder layer has frozen weights"):
        attached(tiny, "full", "fp32", tmp_path, training=ON)
