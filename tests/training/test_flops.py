"""FLOPs of a training step against closed forms, and the device's rate."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import nn

from peftbench.measure.clock import Clock
from peftbench.methods import METHODS
from peftbench.models import find
from peftbench.models.precision import PRECISIONS
from peftbench.records import Base
from peftbench.training import effective, loop, matmuls
from peftbench.training import flops as training_flops
from tests.support import trials
from tests.support.method_cells import attached

PASSES = 7
"""Matrix products of attention: two forward, and five backward because the scores are recomputed."""


@pytest.fixture(params=["tiny", "nano"])
def base(request, tiny):
    """A folder with a base model."""
    return tiny if request.param == "tiny" else find.resolve_base(Base("nano"))


def flops_per_token(learner, step):
    """Return the FLOPs of a step per processed token."""
    products, tokens = training_flops.passes(learner, step)
    return products.operations / tokens


def measured(base, name, precision, tmp_path, **changes):
    """Return a method's FLOPs per token, the weights of the base model's matrices, and attention's FLOPs per token."""
    found, learner, plan = attached(base, name, precision, tmp_path, **changes)
    step = training_flops.typical_step(plan)
    config = found.model.config
    d, f, layers = config.hidden_size, config.intermediate_size, config.num_hidden_layers
    kv = config.num_key_value_heads * (d // config.num_attention_heads)
    weights = layers * (2 * d * d + 2 * d * kv + 3 * d * f) + d * config.vocab_size
    attention = 2 * PASSES * d * layers * max(len(e.ids) for e in step)
    return flops_per_token(learner, step), weights, attention, learner


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_full_fine_tuning_takes_exactly_6_n_flops_and_those_of_attention(base, precision, tmp_path):
    flops, weights, attention, _ = measured(base, "full", precision, tmp_path)
    assert flops == 6 * weights + attention


@pytest.mark.parametrize(
    ("name", "precision"), [("lora", "fp32"), ("lora", "bf16"), ("lora", "int8"), ("qlora", "nf4"), ("adapter", "fp32")]
)
def test_adapters_take_4_n_flops_plus_their_own_and_quantized_layers_count_as_dense(name, precision, base, tmp_path):
    flops, weights, attention, learner = measured(base, name, precision, tmp_path)
    own = sum(p.numel() for p in learner.parameters if p.ndim == 2)
    # below the first update nothing needs a gradient: of nano a few per cent, of the tiny base's three layers more
    allowed = 0.05 if weights > 500_000 else 0.16
    assert flops <= 4 * weights + 6 * own + attention
    assert flops == pytest.approx(4 * weights + 6 * own + attention, rel=allowed)


def test_the_flops_of_lora_are_exact_without_the_gradient_of_the_first_layers_inputs(tiny, tmp_path):
    flops, weights, attention, learner = measured(tiny, "lora", "fp32", tmp_path)
    own = sum(p.numel() for p in learner.parameters)
    d, kv, r = 64, 32, 4
    first = 2 * (d * d + 2 * d * kv) + 2 * 3 * d * r  # gradients of q, k, v of layer 0 and of its three A, by inputs
    assert flops == 4 * weights + 6 * own + attention - first


def test_the_storage_precision_does_not_change_the_flops(tiny, tmp_path):
    counts = {measured(tiny, "lora", precision, tmp_path)[0] for precision in ("fp32", "bf16", "int8", "nf4")}
    assert len(counts) == 1


def test_checkpointing_adds_a_second_forward_pass(tiny, tmp_path):
    plain, weights, attention, _ = measured(tiny, "full", "fp32", tmp_path)
    again, *_ = measured(tiny, "full", "fp32", tmp_path, training={"gradient_checkpointing": True})
    head, last = 64 * 320, 3 * 64 * 128  # of a block, the last product is not needed again
    assert again - plain == 2 * (weights - head - last) + attention * 2 / PASSES


def test_virtual_tokens_count_as_processed_tokens(tiny, tmp_path):
    _, learner, plan = attached(tiny, "prompt_tuning", "fp32", tmp_path)
    without = flops_per_token(learner, plan[0])
    longest = max(len(e.ids) for e in plan[0])
    counted = flops_per_token(dataclasses.replace(learner, virtual_tokens=4), plan[0])
    assert counted * (longest + 4) == pytest.approx(without * longest)


@pytest.mark.parametrize("name", [name for name, method in METHODS.items() if method.trains])
def test_counting_flops_leaves_no_trace(name, tiny, tmp_path):
    _, learner, plan = attached(tiny, name, METHODS[name].default_precision, tmp_path)
    loop.train(learner, plan[:1], [], Clock(), lambda *_: None)
    before = [p.detach().clone() for p in learner.model.parameters()]
    state = torch.get_rng_state()
    assert flops_per_token(learner, plan[1]) > 0
    assert torch.equal(torch.get_rng_state(), state)
    assert all(map(torch.equal, learner.model.parameters(), before))
    assert all(p.grad is None for p in learner.parameters)


def test_only_matrix_products_are_counted():
    with training_flops.Products() as products:
        torch.relu(torch.ones(3, 4)) + 1
        assert products.operations == 0
        nn.functional.linear(torch.ones(3, 4), torch.ones(5, 4))
    assert products.operations == 2 * 3 * 4 * 5


def test_fused_experts_take_6_n_flops_of_the_weights_that_process_a_token():
    from transformers import MixtralConfig, MixtralForCausalLM

    d, kv, f, layers, vocabulary, tokens, experts, met = 64, 32, 128, 2, 64, 16, 4, 2
    sizes = {"hidden_size": d, "intermediate_size": f, "num_hidden_layers": layers, "vocab_size": vocabulary}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2}
    model = MixtralForCausalLM(MixtralConfig(**sizes, **heads, num_local_experts=experts, num_experts_per_tok=met))
    with training_flops.Products() as products:
        logits = model(input_ids=torch.arange(2 * tokens).reshape(2, tokens), use_cache=False).logits
        logits.logsumexp(-1).sum().backward()
    weights = layers * (2 * d * d + 2 * d * kv + d * experts + met * 3 * d * f) + d * vocabulary
    assert products.operations / (2 * tokens) == 6 * weights + 2 * PASSES * d * layers * tokens


def test_int8_products_of_cuda_are_counted_as_dense_ones():
    import bitsandbytes  # noqa: F401  registers its operators

    x, codes = torch.empty(6, 8), torch.empty(5, 8, dtype=torch.int8)
    mixed = torch.ops.bitsandbytes.int8_mixed_scaled_mm.default
    scaled = torch.ops.bitsandbytes.int8_scaled_mm.default
    assert matmuls.operations(mixed, (x, x.char(), codes), {}, None) == 2 * 6 * 8 * 5
    assert matmuls.operations(scaled, (x.char(), codes), {}, None) == 2 * 6 * 8 * 5


@pytest.mark.parametrize(
    "kernel", ["flash_attention_for_cpu", "flash_attention", "efficient_attention", "cudnn_attention"]
)
def test_every_fused_kernel_counts_as_many_key_heads_as_query_heads(kernel, monkeypatch):
    """Independently of torch's own table, which refuses them in 2.11."""
    q, shared, own = torch.empty(2, 8, 5, 4), torch.empty(2, 2, 7, 4), torch.empty(2, 8, 7, 4)
    forward = getattr(torch.ops.aten, f"_scaled_dot_product_{kernel}").default
    backward = getattr(torch.ops.aten, f"_scaled_dot_product_{kernel}_backward").default
    asked = []
    count = matmuls.sdpa_flop_count
    monkeypatch.setattr(matmuls, "sdpa_flop_count", lambda *shapes: asked.append(shapes) or count(*shapes))
    product = 2 * 2 * 8 * 5 * 7 * 4
    for k in (shared, own):
        assert matmuls.operations(forward, (q, k, k), {}, None) == 2 * product
        assert matmuls.operations(backward, (q, q, k, k), {}, None) == 5 * product
    assert {shape[1] for shapes in asked for shape in shapes} == {8}


def test_the_typical_step_has_the_median_number_of_tokens(tiny, tmp_path):
    _, _, plan = attached(tiny, "lora", "fp32", tmp_path, training={"steps": 5})
    sizes = [sum(len(e.ids) for e in step) for step in plan]
    assert sum(len(e.ids) for e in training_flops.typical_step(plan)) == sorted(sizes)[2]


def test_the_devices_rate_is_measured_in_the_compute_type(monkeypatch):
    given, state = [], torch.get_rng_state()
    multiply = torch.mm
    monkeypatch.setattr(torch, "mm", lambda *pair, out: given.append(pair) or multiply(*pair, out=out))
    monkeypatch.setattr(training_flops, "_SIZES", {"cpu": 16})
    monkeypatch.setattr(training_flops, "_SECONDS", 0.001)
    for name, dtype in (("fp32", torch.float32), ("nf4", torch.bfloat16)):
        given.clear()
        assert training_flops.matrix_rate(PRECISIONS[name], "cpu") > 0
        assert {matrix.dtype for matrix in given[0]} == {dtype}
        assert all(matrix.unique().numel() > 16 for matrix in given[0]), "of constants a GPU is faster"
    assert torch.equal(torch.get_rng_state(), state)


def test_without_memory_for_the_rate_it_is_none_and_other_failures_are_raised(monkeypatch):
    def fail(error):
        def randn(*_, **__):
            raise error

        monkeypatch.setattr(torch, "randn", randn)

    fail(torch.OutOfMemoryError("CUDA out of memory"))
    assert training_flops.matrix_rate(PRECISIONS["fp32"], "cpu") is None
    fail(RuntimeError("broken"))
    with pytest.raises(RuntimeError, match="broken"):
        training_flops.matrix_rate(PRECISIONS["fp32"], "cpu")


def test_a_row_has_its_work_and_the_devices_rate(tiny, tmp_path):
    from tests.support.trials import run

    row = run(trials.trial(tiny, tmp_path), tmp_path).row
    assert row.train_flops_per_token > 4 * 131_072
    assert row.device_flops_per_second > row.train_flops_per_token
    assert (row.attention_implementation, row.attention_kernels) == (
        "sdpa",
        "scaled_dot_product_flash_attention_for_cpu",
    )
    assert (row.optimizer_class, row.optimizer_state_dtypes) == ("torch AdamW fused", "float32")
    assert (row.trainable_dtypes, row.autocast_dtype, row.checkpointing_active) == ("float32", "none", "0")


def test_effective_columns_are_read_from_the_model_and_the_optimizer_not_from_the_settings(tiny, tmp_path):
    _, learner, plan = attached(
        tiny, "lora", "bf16", tmp_path, training={"optimizer": "adamw_8bit", "gradient_checkpointing": True}
    )
    learner.model.config._attn_implementation = "eager"
    loop.train(learner, plan, [], Clock(), lambda *_: None)
    assert training_flops.columns(learner, plan)[1].attention_kernels == "eager"
    found = effective.columns(learner)
    assert (found.autocast_dtype, found.trainable_dtypes) == ("bfloat16", "float32")
    assert found.attention_implementation == "eager"
    assert found.optimizer_class == "bitsandbytes AdamW8bit"
    assert found.optimizer_state_dtypes == "float32"  # its tensors are too small for 8 bits
    assert int(found.checkpointing_active) > 0
