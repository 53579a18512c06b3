"""LLaMA-Adapter on thirteen families, compared with peft's and with the base model's own code."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
import torch

from peftbench.errors import Unsupported, UserError
from peftbench.evaluation import scoring
from peftbench.measure.clock import Clock
from peftbench.methods import METHODS, llama_adapter
from peftbench.models import load
from peftbench.models.precision import PRECISIONS
from peftbench.tasks import read
from peftbench.training import batches, loop
from tests.support import architectures, trials
from tests.support.llama_adapters import FAMILIES, OPTIONS, attached, open_gates, prompts
from tests.support.method_cells import logits

IDS = torch.arange(2, 26).reshape(2, 12) * 7 % 300
FAST = [(family, "fp32", "per_layer") for family in FAMILIES] + [
    ("llama", "fp32", "per_head"),
    ("llama", "nf4", "per_head"),
    ("gemma3", "bf16", "per_layer"),
    *[(family, "nf4", "per_layer") for family in ("mixtral", "gpt2", "falcon")],
]
LOADED = [p for p in METHODS["llama_adapter"].precisions if p != "tf32"]
ALL = [(f, p, "per_layer") for p in LOADED for f in FAMILIES if (f, PRECISIONS[p].quantization) != ("mixtral", "int8")]
"""Fused experts do not load in int8."""
CELLS = FAST + [pytest.param(cell, marks=pytest.mark.slow) for cell in ALL if cell not in FAST]


# one training for all that is asked of a trained model


@pytest.fixture(scope="module", params=CELLS, ids=" ".join)
def trained(request, tmp_path_factory):
    """A family's tiny base model at a precision after two steps, and records from before and after."""
    family, precision, gate = request.param
    folder = tmp_path_factory.mktemp(family)
    architectures.make(folder / "base", family)
    base = loaded(folder / "base", precision)
    made = trials.trial(folder / "base", folder, "llama_adapter", precision, options={"layers": 2, "gate": gate})
    seen = SimpleNamespace(folder=folder, precision=precision, made=made, tokenizer=base.tokenizer, gate=gate)
    seen.base = logits(base.model, precision, IDS)
    torch.manual_seed(0)
    seen.model = llama_adapter.attach(base.model, 4, made.options)
    seen.first = logits(seen.model, precision, IDS)  # without gradients: it must leave nothing behind
    learner = loop.learner(
        seen.model,
        load.cast_trainable(seen.model, PRECISIONS[precision]),
        made.training,
        precision=PRECISIONS[precision],
        device="cpu",
        pad_id=base.tokenizer.pad_token_id,
        virtual_tokens=0,
    )
    seen.before = {n: p.detach().clone() for n, p in seen.model.named_parameters() if p.requires_grad}
    seen.frozen = {n: load.checksum(p) for n, p in seen.model.named_parameters() if not p.requires_grad}
    plan = batches.draw_batches({"colour": read.examples(made.tasks[0], "train")}, made.training, base.tokenizer, 0)
    seen.losses = [s.loss for s in loop.train(learner, plan[:2], [], Clock(), lambda *_: None).steps]
    return seen


def loaded(folder, precision):
    return load.load(folder, PRECISIONS[precision], False, True, device="cpu", trust_remote_code=False)


def test_the_first_forward_equals_the_bases(trained):
    assert torch.equal(trained.first, trained.base)


def test_two_steps_change_every_prompt_and_gate_and_nothing_else(trained):
    now = dict(trained.model.named_parameters())
    assert len(trained.before) == 4
    assert [n for n, p in trained.before.items() if torch.equal(now[n].detach(), p)] == []
    assert [n for n, value in trained.frozen.items() if load.checksum(now[n]) != value] == []
    gates = architectures.HEADS if trained.gate == "per_head" else 1
    assert sum(p.numel() for p in trained.before.values()) == 2 * (4 * architectures.WIDTH + gates)


def test_switched_off_it_equals_the_base(trained):
    with llama_adapter.disabled(trained.model):
        assert torch.equal(logits(trained.model, trained.precision, IDS), trained.base)
    assert not torch.equal(logits(trained.model, trained.precision, IDS), trained.base)


def test_a_saved_adapter_loads_to_the_same_logits(trained):
    llama_adapter.save(trained.model, trained.folder / "saved")
    fresh = llama_adapter.load(loaded(trained.folder / "base", trained.precision).model, trained.folder / "saved")
    ours, theirs = (logits(m, trained.precision, IDS) for m in (trained.model, fresh))
    assert torch.equal(ours, theirs)


def test_a_cache_changes_no_output_and_contains_no_prompt(trained):
    open_gates(trained.model)
    with torch.no_grad(), load.autocast(PRECISIONS[trained.precision], "cpu"):
        whole = trained.model(input_ids=IDS, use_cache=False).logits
        start = 10 if PRECISIONS[trained.precision].quantization else 6  # a quantized step is slow on a CPU
        out = trained.model(input_ids=IDS[:, :start], use_cache=True)
        parts = [out.logits]
        for i in range(start, IDS.shape[1]):
            out = trained.model(input_ids=IDS[:, i : i + 1], past_key_values=out.past_key_values, use_cache=True)
            parts.append(out.logits)
    assert out.past_key_values.get_seq_length() == IDS.shape[1]
    error = float((torch.cat(parts, 1) - whole).abs().max() / whole.std())
    codes = PRECISIONS[trained.precision].quantization == "int8"
    # LLM.int8 alone, without prompts: 0.09
    assert error < (1e-4 if trained.precision == "fp32" else 0.2 if codes else 0.1)


def test_tokens_generated_with_a_cache_are_those_without(trained):
    if trained.precision != "fp32":
        pytest.skip("rounding decides between close tokens; the test above compares the logits")
    open_gates(trained.model)
    settings = {"attention_mask": torch.ones_like(IDS), "max_new_tokens": 6, "do_sample": False, "pad_token_id": 1}
    cached, plain = (trained.model.generate(IDS, use_cache=cache, **settings) for cache in (True, False))
    assert torch.equal(cached, plain)


def test_log_likelihoods_equal_those_of_a_direct_forward(trained):
    made, tokenizer = trained.made, trained.tokenizer
    wrapped = scoring.Harness(trained.model, tokenizer, made.evaluation, PRECISIONS[trained.precision])
    examples = read.examples(made.tasks[0], "test")[:2]
    _, rows = scoring.evaluate(wrapped, [made.tasks[0]], {"colour": examples})
    for example, row in zip(examples, rows, strict=True):
        for choice, logprob in zip(example.choices, json.loads(row.choice_logprobs), strict=True):
            prompt, whole = (tokenizer.encode(t) for t in (example.prompt, f"{example.prompt} {choice}"))
            direct = logits(trained.model, trained.precision, torch.tensor([whole])).float().log_softmax(-1)
            expected = sum(float(direct[0, i - 1, whole[i]]) for i in range(len(prompt), len(whole)))
            assert logprob == pytest.approx(expected, abs=1e-4 if trained.precision == "fp32" else 0.3)


# against peft


@pytest.mark.parametrize("family", ["llama", "mistral", "gpt2"])
def test_pefts_weights_give_pefts_logits_and_gradients(family, tmp_path):
    """On gpt2 the output projection is the identity, since peft adds the attention to the prompts after it."""
    from peft import AdaptionPromptConfig, get_peft_model

    def base():
        made = architectures.build(family)
        if family == "gpt2":
            for block in made.transformer.h:
                block.attn.c_proj.weight.data.copy_(torch.eye(architectures.WIDTH))
        return made

    theirs = get_peft_model(base(), AdaptionPromptConfig(adapter_len=4, adapter_layers=2, task_type="CAUSAL_LM"))
    for name, parameter in theirs.named_parameters():
        if name.endswith("adaption_gate"):
            parameter.data.fill_(0.7)
    theirs.save_pretrained(tmp_path)
    if family == "gpt2":
        with pytest.raises(UserError, match="computes a different function"):
            llama_adapter.load(base(), tmp_path)
        config = json.loads((tmp_path / "adapter_config.json").read_text()) | {"peft_type": "LLAMA_ADAPTER"}
        (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    ours = llama_adapter.load(base(), tmp_path)
    found = {}
    for who, tuned in (("ours", ours), ("theirs", theirs)):
        for name, parameter in tuned.named_parameters():
            parameter.requires_grad_("adapt" in name)
        out = tuned(input_ids=IDS).logits
        (out.log_softmax(-1)[..., 3].sum() / 10).backward()
        gradients = [p.grad for n, p in sorted(tuned.named_parameters()) if p.requires_grad]
        found[who] = [out, *sorted(gradients, key=lambda g: g.numel())]
    assert len(found["ours"]) == 5
    for mine, expected in zip(found["ours"], found["theirs"], strict=True):
        torch.testing.assert_close(mine, expected, atol=2e-5, rtol=1e-4)


def test_on_gpt2_peft_computes_a_different_function(tmp_path):
    from peft import AdaptionPromptConfig, get_peft_model

    found = []
    for attach in (
        lambda m: get_peft_model(m, AdaptionPromptConfig(adapter_len=4, adapter_layers=2, task_type="CAUSAL_LM")),
        lambda m: llama_adapter.attach(m, 4, OPTIONS),
    ):
        made = architectures.build("gpt2")
        torch.manual_seed(0)
        tuned = attach(made).eval()
        for name, parameter in tuned.named_parameters():
            if name.endswith("gate"):
                parameter.data.fill_(0.7)
        found.append(logits(tuned, "fp32", IDS))
    assert float((found[0] - found[1]).abs().max()) > 0.1


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_initialization_equals_pefts_with_the_same_seed(precision, tmp_path):
    from peft import AdaptionPromptConfig, get_peft_model

    architectures.make(tmp_path, "llama")
    found = []
    for attach in (
        lambda m: get_peft_model(m, AdaptionPromptConfig(adapter_len=4, adapter_layers=2, task_type="CAUSAL_LM")),
        lambda m: llama_adapter.attach(m, 4, OPTIONS),
    ):
        base = loaded(tmp_path, precision).model
        torch.manual_seed(0)
        tuned = attach(base)
        found.append([p for n, p in tuned.named_parameters() if p.requires_grad and p.numel() > 1])
    assert [p.shape for p in found[0]] == [p.shape for p in found[1]]
    assert all(torch.equal(*pair) for pair in zip(*found, strict=True))


@pytest.mark.parametrize(("family", "gate"), [("llama", "per_layer"), ("llama", "per_head"), ("qwen3", "per_layer")])
def test_peft_loads_its_own_format_and_refuses_ours(family, gate, tmp_path):
    from peft import PeftModel

    tuned = attached(family, {"layers": 2, "gate": gate})
    llama_adapter.save(tuned, tmp_path)
    if (family, gate) != ("llama", "per_layer"):
        with pytest.raises((KeyError, ValueError), match="LLAMA_ADAPTER"):
            PeftModel.from_pretrained(architectures.build(family), str(tmp_path))
        return
    theirs = PeftModel.from_pretrained(architectures.build(family), str(tmp_path))
    torch.testing.assert_close(logits(theirs, "fp32", IDS), logits(tuned, "fp32", IDS), atol=2e-5, rtol=1e-4)


# counts and promises


@pytest.mark.parametrize(("gate", "count"), [("per_layer", 1_228_830), ("per_head", 1_229_760)])
def test_the_counts_at_7b_are_the_published_ones(gate, count):
    from transformers import LlamaConfig, LlamaForCausalLM

    with torch.device("meta"):
        tuned = llama_adapter.attach(LlamaForCausalLM(LlamaConfig()), 10, {"layers": None, "gate": gate})
    assert len(prompts(tuned)) == 30
    assert sum(p.numel() for p in tuned.parameters() if p.requires_grad) == count
    assert count == 30 * (10 * 4096 + (32 if gate == "per_head" else 1))


def test_the_functions_named_in_the_record_exist():
    assert set(METHODS["llama_adapter"].options) == {"layers", "gate"}
    assert METHODS["llama_adapter"].options["gate"].default == "per_layer"


def test_layers_without_attention_are_named():
    from transformers import MambaConfig, MambaForCausalLM

    base = MambaForCausalLM(MambaConfig(vocab_size=320, hidden_size=64, num_hidden_layers=2, state_size=4))
    with pytest.raises(Unsupported, match=r"layer 0 of MambaForCausalLM, MambaBlock, has no attention .*mixer"):
        llama_adapter.attach(base, 4, OPTIONS)
