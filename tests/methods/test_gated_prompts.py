"""Attention to prompts equals the base model's own, in every family, and leaves no state after a forward pass."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch

from peftbench.errors import Unsupported
from peftbench.methods import llama_adapter
from tests.support import architectures
from tests.support.llama_adapters import FAMILIES, OPTIONS, attached, prompts
from tests.support.method_cells import IDS, logits

OLD_FALCON = {"new_decoder_architecture": False, "num_kv_heads": None, "multi_query": True}
VARIANTS = {
    "falcon with ALiBi": ("falcon", {"alibi": True} | OLD_FALCON | {"multi_query": False}),
    "falcon with one key head": ("falcon", OLD_FALCON),
    "gpt2 with its own scale": ("gpt2", {"scale_attn_by_inverse_layer_idx": True}),
    "mistral with wide heads": ("mistral", {"head_dim": 32}),
    "llama with biases": ("llama", {"attention_bias": True}),
    "phi with norms": ("phi", {"qk_layernorm": True}),
    "llama, eager": ("llama", {"attn_implementation": "eager"}),
}
PROJECTIONS = ("o_proj", "out_proj", "dense", "c_proj")


@pytest.mark.parametrize("name", [*FAMILIES, *VARIANTS])
def test_the_attention_to_prompts_equals_that_of_the_layers_own_code(name):
    """With the input masked and prompts without a position, the layer itself computes what must be added."""
    family, changes = VARIANTS.get(name, (name, {}))
    tuned = attached(family, {"layers": 1, "gate": "per_layer"}, **changes)
    (module,) = prompts(tuned)
    module.gate.data.fill_(1.0)
    attention = next(m for m in tuned.modules() if getattr(m, "llama_adapter", None) is module)
    calls = []
    attention.register_forward_hook(lambda m, args, kwargs, out: calls.append((args, kwargs, out[0])), with_kwargs=True)
    adapted = logits(tuned, "fp32", IDS)
    with llama_adapter.disabled(tuned):
        assert not torch.equal(logits(tuned, "fp32", IDS), adapted)
        (args, kwargs, with_prompts), (_, _, without) = calls
        expected, bias = own_attention(attention, module.prompt, args, kwargs)
    torch.testing.assert_close(with_prompts - without + bias, expected, atol=2e-5, rtol=1e-4)


@torch.no_grad()
def own_attention(attention, prompt, args, kwargs):
    """Return the layer's output when its queries see only the prompts, and the bias of its output projection."""
    hidden = args[0] if args else kwargs["hidden_states"]
    (b, t, _), p = hidden.shape, prompt.shape[1]
    mask = torch.full((b, 1, p + t, p + t), torch.finfo(torch.float32).min)
    mask[..., :p] = 0.0
    given = {"attention_mask": mask}
    if kwargs.get("position_embeddings") is not None:
        cos, sin = (x.expand(b, -1, -1) for x in kwargs["position_embeddings"])
        none = torch.zeros_like(cos[:, :1]).expand(-1, p, -1)
        given["position_embeddings"] = (torch.cat([none + 1, cos], 1), torch.cat([none, sin], 1))
    if kwargs.get("position_ids") is not None:
        ids = kwargs["position_ids"].expand(b, -1)
        given["position_ids"] = torch.cat([torch.zeros(b, p, dtype=ids.dtype), ids], 1)
    whole = torch.cat([prompt.expand(b, -1, -1), hidden], 1)
    if "alibi" in kwargs:
        flat = torch.zeros(b * architectures.HEADS, 1, p + t)
        given["alibi"] = None if kwargs["alibi"] is None else flat
        given["residual"] = torch.zeros_like(whole)  # bloom adds it within its attention
    out = attention(whole, **given)[0][:, p:]
    projection = next(m for n, m in attention.named_children() if n in PROJECTIONS)
    bias = getattr(projection, "bias", None)
    return out, 0.0 if bias is None else bias


def test_a_gate_per_head_weighs_each_head_by_its_tanh():
    tuned = attached("llama", {"layers": 1, "gate": "per_head"})
    (module,) = prompts(tuned)
    (plain,) = prompts(attached("llama", {"layers": 1, "gate": "per_layer"}))
    plain.gate.data.fill_(1.0)
    query, keys_values = torch.randn(2, 4, 5, 16), torch.randn(2, 1, 2, 4, 16)
    read = []
    for each in (module, plain):
        each.keys_values = tuple(keys_values)
        read.append(each(query))
    torch.testing.assert_close(read[0], torch.tanh(module.gate)[:, None, None] * read[1])


@pytest.mark.parametrize("family", FAMILIES)
def test_gradients_under_checkpointing_are_those_without(family):
    gradients = []
    for checkpointing in (False, True):
        tuned = attached(family).train()
        if checkpointing:
            tuned.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
            tuned.enable_input_require_grads()
        tuned(input_ids=IDS, use_cache=False).logits.log_softmax(-1)[..., 3].mean().backward()
        gradients.append([p.grad for p in tuned.parameters() if p.requires_grad])
        assert all(m.keys_values is None for m in prompts(tuned))
    assert len(gradients[0]) == 4
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other)


def test_a_family_that_cannot_be_intercepted_is_unsupported_naming_the_line():
    class OddAttention(torch.nn.Linear):
        def forward(self, hidden_states):
            return hidden_states

    odd = architectures.build("llama")
    odd.model.layers[2].self_attn = OddAttention(64, 64)
    with pytest.raises(Unsupported, match=r"OddAttention\.forward, line \d+ of test_gated_prompts"):
        llama_adapter.attach(odd, 4, OPTIONS)


@pytest.mark.parametrize("family", ["llama", "gptj", "bloom", "falcon"])
def test_a_failed_forward_pass_leaves_no_state_behind(family):
    tuned, failing = attached(family), []

    def fail(*arguments):
        if failing:
            raise MemoryError

    for module in (m for m in tuned.modules() if hasattr(m, "llama_adapter")):
        projection = next(m for n, m in module.named_children() if n in PROJECTIONS)
        projection.register_forward_pre_hook(fail, prepend=True)
    with llama_adapter.disabled(tuned):
        base = logits(tuned, "fp32", IDS)
    adapted = logits(tuned, "fp32", IDS)
    for expected, context in ((adapted, nullcontext()), (base, llama_adapter.disabled(tuned))):
        failing.append(True)
        with pytest.raises(MemoryError):
            logits(tuned, "fp32", IDS)
        failing.clear()
        with context:
            assert torch.equal(logits(tuned, "fp32", IDS), expected)
