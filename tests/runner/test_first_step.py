"""Before training, a method is shown to compute on the base as it is, and all that should train to have a gradient."""

from __future__ import annotations

import dataclasses

import pytest
import torch
import transformers

from peftbench.errors import Unsupported
from peftbench.measure.ledger import account
from peftbench.methods import METHODS, base_facts
from peftbench.methods.adapter import Bottleneck
from peftbench.models.load import checksum
from peftbench.records.resolve import resolve
from peftbench.runner.checks import first_step, probe
from peftbench.training import accounting
from peftbench.training.batches import collate
from peftbench.training.encoded import Encoded
from tests.support import architectures, families, tiny_base, trials
from tests.support.method_cells import TRAINED, attached
from tests.support.sample import sample

OWN = [name for name in TRAINED if name not in ("peft", "qlora")]


def prove(home, name, tmp_path, **changes):
    """Run the proofs on a method attached to a base; return its learner."""
    base, learner, plan = attached(home, name, METHODS[name].default_precision, tmp_path, **changes)
    method = METHODS[name]
    first_step.check(learner, base.model, method, collate(plan[0][:4], base.tokenizer.pad_token_id))
    return learner


@pytest.mark.parametrize("family", sample(architectures.CONFIGS, 2))
def test_no_method_of_peftbench_is_refused_on_the_tested_families(family, tmp_path):
    home = architectures.make(tmp_path / family, family)
    for name in OWN:
        prove(home, name, tmp_path / name)


@pytest.mark.parametrize("name", [*OWN, "qlora"])
def test_the_proofs_change_nothing(name, tiny, tmp_path):
    base, learner, plan = attached(tiny, name, METHODS[name].default_precision, tmp_path)
    before = {n: checksum(p) for n, p in learner.model.named_parameters()}
    torch.manual_seed(3)
    state = torch.get_rng_state()
    first_step.check(learner, base.model, METHODS[name], collate(plan[0][:4], base.tokenizer.pad_token_id))
    assert torch.equal(torch.get_rng_state(), state)
    assert {n: checksum(p) for n, p in learner.model.named_parameters()} == before
    assert all(p.grad is None for p in learner.model.parameters())
    assert not base.model._forward_pre_hooks


@pytest.fixture(scope="module")
def gemma3n(tmp_path_factory):
    """Gemma 3n: each layer has an input computed from token ids, and the upper layers share keys and values."""
    folder = tmp_path_factory.mktemp("gemma3n") / "base"
    tiny_base.tokenizer().save_pretrained(folder)
    sizes = {"vocab_size": 320, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 4, "head_dim": 16}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "num_kv_shared_layers": 2, "laurel_rank": 8}
    own = {
        "vocab_size_per_layer_input": 320,
        "hidden_size_per_layer_input": 16,
        "activation_sparsity_pattern": [0.0] * 4,
    }
    kinds = {"layer_types": ["sliding_attention", "full_attention"] * 2, "sliding_window": 16}
    ids = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1, "initializer_range": 0.2}
    torch.manual_seed(0)
    config = transformers.Gemma3nTextConfig(**sizes, **heads, **own, **kinds, **ids, max_position_embeddings=128)
    model = transformers.AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for layer in model.model.layers:  # a scale that is zero at first
            layer.altup.correct_output_scale.fill_(1.0)
    model.save_pretrained(folder)
    return folder


def test_prompt_tuning_is_refused_where_embeddings_give_other_logits_than_token_ids(gemma3n, tmp_path):
    with pytest.raises(Unsupported, match=r"prompt_tuning: it gives the base embeddings, for which Gemma3nForCausalLM"):
        prove(gemma3n, "prompt_tuning", tmp_path)


def test_prompt_tuning_is_refused_where_embeddings_are_no_input(tiny, tmp_path, monkeypatch):
    base, learner, plan = attached(tiny, "prompt_tuning", "fp32", tmp_path)
    forward = type(base.model).forward

    def only_ids(self, *args, input_ids=None, inputs_embeds=None, **given):
        if input_ids is None:
            raise ValueError("input_ids are needed")
        return forward(self, input_ids=input_ids, **given)

    monkeypatch.setattr(type(base.model), "forward", only_ids)
    with pytest.raises(
        Unsupported, match="which LlamaForCausalLM does not take in place of token ids: ValueError: inp"
    ):
        first_step.check(learner, base.model, METHODS["prompt_tuning"], collate(plan[0][:4], 1))


def test_a_prefix_of_which_a_part_never_trains_is_refused(gemma3n, tmp_path):
    told = r"prefix_tuning: no gradient reaches 50 % of prompt_encoder\.default\.embedding\.weight"
    with pytest.raises(Unsupported, match=told):
        prove(gemma3n, "prefix_tuning", tmp_path)


def test_a_row_says_so_and_plan_says_it_from_the_config(gemma3n, tmp_path, monkeypatch):
    for name, told in (("prompt_tuning", "input of its own"), ("prefix_tuning", "keys and values of others")):
        made = trials.trial(gemma3n, tmp_path, name)
        row = trials.run(made, tmp_path).row
        assert (row.status, row.phase) == ("unsupported", "load")
        assert told in row.message
        with monkeypatch.context() as patch:
            patch.setattr(base_facts, "check", lambda *_: None)
            row = trials.run(made, tmp_path / "unknown").row
        assert (row.status, row.phase) == ("unsupported", "check")
        assert row.train_seconds is None


@pytest.mark.parametrize("name", ["lora", *(pytest.param(name, marks=pytest.mark.slow) for name in ("qlora", "full"))])
def test_other_methods_train_on_gemma_3n_and_adapt_what_the_pass_uses(name, gemma3n, tmp_path):
    made = trials.trial(gemma3n, tmp_path, name, METHODS[name].default_precision, training={"steps": 2})
    row = trials.run(made, tmp_path).row
    assert (row.status, row.message, row.stalled_tensors) == ("ok", None, None)


def test_what_a_frozen_weight_of_zero_hides_is_refused_but_full_fine_tuning_trains_that_weight(gemma3n, tmp_path):
    model = transformers.AutoModelForCausalLM.from_pretrained(gemma3n)
    with torch.no_grad():
        for layer in model.model.layers:
            layer.altup.correct_output_scale.zero_()
    model.save_pretrained(tmp_path / "zero")
    tiny_base.tokenizer().save_pretrained(tmp_path / "zero")
    with pytest.raises(Unsupported, match=r"a frozen weight that is zero hides them\): .*per_layer_input_gate"):
        prove(tmp_path / "zero", "lora", tmp_path)
    prove(tmp_path / "zero", "full", tmp_path / "full")


def test_a_method_whose_tensors_get_no_gradient_is_refused_with_their_names(tiny, tmp_path, monkeypatch):
    own = Bottleneck.forward
    monkeypatch.setattr(Bottleneck, "forward", lambda self, x: own(self, x).detach())
    with pytest.raises(Unsupported, match="adapter: no trainable parameter affects the output of this base model"):
        prove(tiny, "adapter", tmp_path)

    def half(self, x):
        return self.up(self.activation(self.down(x)).detach())

    monkeypatch.setattr(Bottleneck, "forward", half)
    with pytest.raises(Unsupported, match=r"no gradient reaches 12 of 24 trainable tensors .*down\.weight"):
        prove(tiny, "adapter", tmp_path / "half")


def test_an_embedding_that_peft_cannot_find_is_a_reason(tmp_path):
    made = architectures.build("llama")
    made.config.vocab_size = 321
    options = {"initialization": "random", "text": None}
    with pytest.raises(
        Unsupported,
        match="peft finds embeddings by their number of rows, which in LlamaForCausalLM is 320 instead of the 321",
    ):
        resolve(METHODS["prompt_tuning"].attach)(made, 4, options)


@pytest.mark.parametrize("name", ["lora", "full", "prompt_tuning"])
@pytest.mark.parametrize("micro", [1, 4])
def test_the_proofs_need_no_more_memory_than_a_training_step(micro, name, tiny, tmp_path):
    base, learner, plan = attached(tiny, name, "fp32", tmp_path, training={"micro_batch_size": micro})
    method, pad = METHODS[name], base.tokenizer.pad_token_id
    first = [max(plan, key=lambda step: max(len(e.ids) for e in step))]
    with account(learner.model, method.trains_base, {}) as counted:
        first_step.check(learner, base.model, method, probe.batch(first, learner.training, pad))
    _, step = (accounting.account_step(learner, first[0], method.trains_base) for _ in range(2))  # with its state
    assert counted.peak_bytes <= 1.01 * step.peak_bytes


def encoded(*lengths):
    return [Encoded(tuple(range(2, 2 + n)), 1, False, ("colour", i)) for i, n in enumerate(lengths)]


@pytest.mark.parametrize(
    ("lengths", "settings", "shape"),
    [
        ((20, 30, 10, 5), {"micro_batch_size": 4}, (4, 30)),
        ((20, 30, 10, 5), {"micro_batch_size": 1}, (1, 30)),
        ((20, 30, 10, 5), {"micro_batch_size": 2}, (2, 30)),
        ((200, 300, 10, 5), {"micro_batch_size": 2, "sequence_length": 400}, (2, 64)),
        ((5,) * 8, {"micro_batch_size": 8}, (4, 5)),
        ((30, 5, 5, 5), {"micro_batch_size": 4, "packing": True, "sequence_length": 64}, (1, 30)),
    ],
)
def test_the_proofs_run_on_a_part_of_a_forward_pass_of_training(lengths, settings, shape):
    training = dataclasses.replace(trials.TRAINING, **settings)
    assert tuple(probe.batch([encoded(*lengths)], training, 0).ids.shape) == shape


def test_the_part_of_a_prefix_that_no_answer_reads_is_named(tmp_path):
    """The upper layer's window is shorter than the prompts, so that no answer sees the prefix in it."""
    config = families.config("modernbert-decoder")
    config.local_attention = config.sliding_window = 8
    families.build(config).save_pretrained(tmp_path / "base")
    tiny_base.tokenizer().save_pretrained(tmp_path / "base")
    row = trials.run(trials.trial(tmp_path / "base", tmp_path, "prefix_tuning"), tmp_path).row
    assert row.status == "ok", row.message
    assert row.stalled_tensors == "50 % of prompt_encoder.default.embedding.weight"
    assert (row.trainable_tensors, row.moved_tensors) == (1, 1)
