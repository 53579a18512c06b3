"""How attention is computed: what a suite may ask for, what a trial then computes with, and what is refused."""

from __future__ import annotations

import pytest

from peftbench import suite
from peftbench.errors import Unsupported, UserError
from peftbench.methods import METHODS, support
from peftbench.models import attention
from peftbench.models.precision import PRECISIONS
from peftbench.planner import fake
from peftbench.planner.predict import load_config
from peftbench.records.attention import ATTENTIONS, AUTO
from peftbench.report.derived import unequal_settings
from tests.support import architectures, trials
from tests.support.method_cells import loaded

SUITE = """
base: nano
tasks: [compute]
seeds: 1
train: {steps: 2, attention: ATTENTION}
precision: PRECISION
methods: [lora]
"""


def expanded(folder, asked, device="cpu", precision="fp32"):
    (folder / "x.yaml").write_text(SUITE.replace("ATTENTION", asked).replace("PRECISION", precision))
    return suite.expand(suite.load(folder / "x.yaml"), device)


def test_attention_is_an_axis_and_the_key_of_auto_does_not_have_it(tmp_path):
    one, other = expanded(tmp_path, "[auto, eager]")
    assert (one.training.attention, other.training.attention) == (AUTO, "eager")
    assert "attention=eager" in other.cell
    assert not any(t.unsupported for t in (one, other))
    with pytest.raises(UserError, match="'flash_atention_2'; did you mean 'flash_attention_2'"):
        expanded(tmp_path, "flash_atention_2")


@pytest.mark.parametrize(
    ("asked", "device", "precision", "why"),
    [
        ("flash_attention_2", "cpu", "bf16", "attention flash_attention_2 does not train on cpu (only on cuda)"),
        ("flex_attention", "cpu", "fp32", "attention flex_attention does not train on cpu (only on cuda)"),
        ("flash_attention_3", "cuda", "fp32", "because its kernels compute in 16 bits only"),
        ("flash_attention_2", "cuda", "bf16", None),
        ("flash_attention_2", "cuda", "nf4", None),
        ("flex_attention", "cuda", "fp32", None),
    ],
)
def test_what_no_kernel_computes_is_unsupported_with_its_reason(asked, device, precision, why, tmp_path):
    (made,) = expanded(tmp_path, asked, device, precision)
    assert (why is None and made.unsupported is None) or why in made.unsupported


def test_the_untuned_base_model_computes_as_transformers_has_it():
    assert support.refusal(METHODS["base"], "fp32", "cpu", None) is None


def test_a_model_that_has_not_the_asked_attention_is_unsupported(tiny, monkeypatch):
    model = loaded(tiny, "lora", "fp32").model
    with pytest.raises(Unsupported, match=r"with flash_attention_3: ImportError.*; use auto"):
        attention.use(model, "flash_attention_3")
    assert attention.of(model) == "sdpa"
    monkeypatch.setattr(type(model), "_can_set_attn_implementation", classmethod(lambda _: False))
    with pytest.raises(Unsupported, match="LlamaForCausalLM runs with sdpa only, and not with eager; use auto"):
        attention.use(model, "eager")


def test_a_family_without_fused_attention_refuses_it(tmp_path):
    folder = architectures.make(tmp_path / "base", "bloom")
    model = loaded(folder, "lora", "fp32").model
    assert attention.of(model) == "eager"
    with pytest.raises(
        Unsupported, match="attention: BloomForCausalLM runs with eager only, and not with sdpa; use auto"
    ):
        attention.use(model, "sdpa")


@pytest.mark.parametrize("name", ATTENTIONS)
def test_a_plan_traces_what_the_cpu_computes_or_what_keeps_as_much(name, tiny, tmp_path):
    made = trials.trial(tiny, tmp_path, "lora", "bf16", training={"attention": name}, device="cuda")
    built = fake.base(made, load_config(made.base, tiny), PRECISIONS["bf16"])
    assert attention.of(built) == ("eager" if name == "eager" else "sdpa")


@pytest.mark.parametrize("method", ["full", "lora", "llama_adapter"])
def test_a_trial_computes_with_the_asked_attention_and_scores_the_same(method, tiny, tmp_path):
    found = {}
    for name in (AUTO, "eager"):
        made = trials.trial(tiny, tmp_path, method, training={"attention": name})
        found[name] = trials.run(made, tmp_path, predicts=True)
        assert found[name].row.status == "ok", found[name].row.message
    one, other = found[AUTO], found["eager"]
    assert (one.row.attention_implementation, other.row.attention_implementation) == ("sdpa", "eager")
    assert one.row.attention_kernels != "eager"
    assert other.row.attention_kernels == "eager"
    assert other.row.peak_train_bytes == other.row.predicted_train_bytes >= one.row.peak_train_bytes
    if method != "llama_adapter":  # its gated prompts set the peak on this base
        assert other.row.peak_train_bytes > one.row.peak_train_bytes
    for a, b in zip(one.steps, other.steps, strict=True):
        assert a.loss == pytest.approx(b.loss, rel=1e-4)
    assert unequal_settings._DECIDED_BY["attention"] == "attention"
