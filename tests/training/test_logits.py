"""Logits at the positions in the loss alone, at once or in chunks: the same losses and gradients, in less memory."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import nn

from peftbench.errors import Unsupported
from peftbench.methods import METHODS
from peftbench.models import load
from peftbench.planner import budget
from peftbench.runner.checks import some_logits
from peftbench.training import accounting, batches, logits, loop
from peftbench.training.encoded import Encoded
from tests.support import architectures, families, trials
from tests.support.method_cells import TRAINED, attached
from tests.support.sample import sample
from tests.support.trials import TRAINING

KINDS = [logits.LOSS_BEARING, logits.CHUNKED]


def grown(learner):
    """Set trainable parameters to random values, so that each method has an effect."""
    torch.manual_seed(3)
    with torch.no_grad():
        for parameter in learner.parameters:
            parameter.add_(torch.randn_like(parameter) * 0.05)


def made(learner, step, kind, **changes):
    """Return a step's batches; chunks are of three positions, so that there are several."""
    training = dataclasses.replace(learner.training, logits=kind, **changes)
    found = batches.micro_batches(step, training, learner.pad_id)
    if kind != logits.CHUNKED:
        return found
    return [dataclasses.replace(b, bearing=dataclasses.replace(b.bearing, chunk=3)) for b in found]


def loss_and_gradients(learner, step, kind, **changes):
    learner.model.train()
    total = torch.zeros(())
    for batch in made(learner, step, kind, **changes):
        torch.manual_seed(1)
        with load.autocast(learner.precision, "cpu"):
            loss = loop.batch_loss(learner.model, batch)
        loss.backward()
        total += loss.detach()
    found = [torch.zeros(0) if p.grad is None else p.grad.flatten().clone() for p in learner.parameters]
    for parameter in learner.parameters:
        parameter.grad = None
    return total, torch.cat(found).float()


def compare(learner, step, **changes):
    exact = learner.precision.name == "fp32"
    expected, gradients = loss_and_gradients(learner, step, "all", **changes)
    assert gradients.any()
    for kind in KINDS:
        loss, found = loss_and_gradients(learner, step, kind, **changes)
        torch.testing.assert_close(loss, expected, rtol=1e-6 if exact else 1e-3, atol=0)
        assert float((found - gradients).norm() / gradients.norm()) < (1e-5 if exact else 2e-2)


VERA = {"options": {"peft_type": "VERA"}}
CELLS = [
    *((name, METHODS[name].default_precision, VERA if name == "peft" else {}) for name in TRAINED),
    ("full", "bf16", {}),
    ("adapter", "int8", {}),
    ("lora", "bf16", {}),
    ("lora", "int8", {}),
    ("lora", "fp32", {"options": {"target_modules": ["q_proj", "lm_head"]}}),
    (
        "peft",
        "fp32",
        {"options": {"peft_type": "LORA", "target_modules": ["q_proj"], "modules_to_save": ["lm_head"]}},
    ),
]


@pytest.mark.parametrize(("name", "precision", "changes"), CELLS, ids=lambda value: str(value)[:60])
def test_losses_and_gradients_of_every_method_are_those_of_logits_everywhere(name, precision, changes, tiny, tmp_path):
    _, learner, plan = attached(tiny, name, precision, tmp_path, **changes)
    grown(learner)
    compare(learner, plan[0])
    compare(learner, plan[0], micro_batch_size=3)


FAMILIES = [
    ("gemma3", "full"),  # logits are soft-capped
    ("gpt2", "prompt_tuning"),
    ("opt", "lora"),  # the base model calls a part of what transformers calls its decoder
    *((family, name) for family in architectures.CONFIGS for name in ("full", "prefix_tuning", "llama_adapter")),
]


@pytest.mark.parametrize(("family", "name"), sample(FAMILIES, 3))
def test_losses_and_gradients_of_other_families_are_those_of_logits_everywhere(family, name, tmp_path):
    folder = architectures.make(tmp_path / family, family)
    _, learner, plan = attached(folder, name, "fp32", tmp_path)
    grown(learner)
    compare(learner, plan[0])
    for kind in KINDS:
        few = dataclasses.replace(learner, training=dataclasses.replace(learner.training, logits=kind))
        some_logits.check(few, made(few, plan[0], "all")[0])


OTHERS = {
    "emu3": "no method trains it",
    "prophetnet": "it predicts several tokens at each position",
    "reformer": "it trains on texts of one length only",
    "xlnet": "its code fails on a batch with padding",
}
"""Families of which losses cannot be compared, and why."""


@pytest.mark.slow
@pytest.mark.parametrize("family", [name for name in families.names() if name not in {**families.NOT_ALONE, **OTHERS}])
def test_losses_and_gradients_of_every_family_are_those_of_logits_everywhere(family, tmp_path):
    families.make(tmp_path / family, family)
    for name in ("full", "lora"):
        _, learner, plan = attached(tmp_path / family, name, "fp32", tmp_path)
        grown(learner)
        compare(learner, plan[0])


def test_a_model_that_predicts_several_tokens_at_each_position_is_unsupported(tmp_path):
    families.make(tmp_path / "base", "prophetnet")
    _, learner, plan = attached(tmp_path / "base", "full", "fp32", tmp_path, training={"logits": "loss_bearing"})
    with pytest.raises(
        Unsupported, match=r"ProphetNetForCausalLM gives its output layer a tensor of shape \(4, 2, 11,"
    ):
        some_logits.check(learner, made(learner, plan[0], "all")[0])


@pytest.mark.parametrize("changes", [{"loss_on": "all"}, {"packing": True}, {"gradient_checkpointing": True}], ids=str)
def test_losses_and_gradients_are_the_same_with_other_settings_of_training(changes, tiny, tmp_path):
    _, learner, plan = attached(tiny, "lora", "fp32", tmp_path, training=changes)
    grown(learner)
    compare(learner, plan[0])


def test_logits_exist_at_the_positions_in_the_loss_and_no_more_than_a_chunk_of_them(tiny, tmp_path, monkeypatch):
    _, learner, plan = attached(tiny, "full", "fp32", tmp_path)
    monkeypatch.setattr(logits, "CHUNK", 4)
    seen = []
    learner.model.get_output_embeddings().register_forward_hook(lambda _, __, out: seen.append(out.shape[1]))
    for kind in ("all", *KINDS):
        (batch,) = batches.micro_batches(plan[0], dataclasses.replace(learner.training, logits=kind), 1)
        seen.clear()
        loop.batch_loss(learner.model, batch).backward()
        n, t = batch.loss_tokens, batch.ids.shape[1]
        parts = [4] * (n // 4) + [n % 4] * (n % 4 > 0)
        # of chunks, those of the forward pass, none for the whole batch, and those of the backward pass
        assert seen == {"all": [t], "loss_bearing": [n], "chunked": [*parts, 0, *seen[len(parts) + 1 :]]}[kind]
        assert sorted(seen[len(parts) + 1 :]) == (sorted(parts) if kind == "chunked" else [])


def test_a_batch_without_a_token_in_the_loss_has_a_loss_of_zero(tiny, tmp_path):
    _, learner, plan = attached(tiny, "lora", "fp32", tmp_path)
    (whole,) = made(learner, plan[0], "all")
    for kind in KINDS:
        empty = dataclasses.replace(whole, labels=torch.full_like(whole.labels, batches.IGNORED))
        batch = batches.bearing(empty, dataclasses.replace(learner.training, logits=kind))
        loss = loop.batch_loss(learner.model, batch)
        loss.backward()
        assert float(loss) == 0
        assert not any(p.grad.any() for p in learner.parameters if p.grad is not None)


def test_a_model_that_does_not_tell_its_output_layer_is_unsupported(tiny, tmp_path, monkeypatch):
    _, learner, _ = attached(tiny, "full", "fp32", tmp_path)
    monkeypatch.setattr(learner.model, "get_output_embeddings", lambda: None)
    with pytest.raises(Unsupported, match=r"LlamaForCausalLM does not tell its output layer.*use logits: all"):
        logits.check(learner.model, logits.LOSS_BEARING)


class Mixes(nn.Module):
    """An output layer whose logits depend on the positions beside them."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return self.layer(hidden + hidden.mean(1, keepdim=True))


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_that_gives_other_losses_is_unsupported(kind, tiny, tmp_path):
    _, learner, plan = attached(tiny, "full", "fp32", tmp_path, training={"logits": kind})
    (batch,) = made(learner, plan[0], "all")
    some_logits.check(learner, batch)
    learner.model.lm_head = Mixes(learner.model.lm_head)
    with pytest.raises(Unsupported, match=f"gives other losses with logits: {kind} than with all of them"):
        some_logits.check(learner, batch)


@pytest.mark.parametrize(
    ("kind", "first", "why"),
    [
        (logits.LOSS_BEARING, True, "calls its output layer 2 times"),
        (logits.LOSS_BEARING, False, "calls its output layer 2 times"),
        (logits.CHUNKED, True, "does not call its decoder as a module"),
        (logits.CHUNKED, False, "calls its output layer 2 times"),
    ],
)
def test_a_model_that_calls_its_output_layer_twice_is_unsupported(kind, first, why, tiny, tmp_path, monkeypatch):
    _, learner, plan = attached(tiny, "full", "fp32", tmp_path, training={"logits": kind})
    usual = learner.model.forward

    def forward(*args, **settings):
        other = torch.zeros(*settings["input_ids"].shape, 64)
        if first:
            learner.model.lm_head(other)
        found = usual(*args, **settings)
        if not first and found.logits.shape[1:2] != settings["input_ids"].shape[1:]:  # not where logits are everywhere
            learner.model.lm_head(other)
        return found

    monkeypatch.setattr(learner.model, "forward", forward)
    with pytest.raises(Unsupported, match=why):
        some_logits.check(learner, made(learner, plan[0], "all")[0])


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_whose_code_needs_logits_everywhere_is_unsupported_unless_memory_ran_out(
    kind, tiny, tmp_path, monkeypatch
):
    _, learner, plan = attached(tiny, "full", "fp32", tmp_path, training={"logits": kind})
    usual, raised = learner.model.forward, [ValueError("logits of 11 positions expected")]

    def forward(*args, **settings):
        found = usual(*args, **settings)
        if found.logits.shape[:2] != settings["input_ids"].shape:
            raise raised[0]
        return found

    monkeypatch.setattr(learner.model, "forward", forward)
    (batch,) = made(learner, plan[0], "all")
    with pytest.raises(Unsupported, match=rf"does not run with logits: {kind}: .*11 positions.*; use logits: all"):
        some_logits.check(learner, batch)
    raised[0] = torch.OutOfMemoryError("CUDA out of memory")
    with pytest.raises(torch.OutOfMemoryError):
        some_logits.check(learner, batch)


def test_a_trial_of_a_model_with_other_losses_ends_before_it_trains(tiny, tmp_path, monkeypatch):
    usual = logits.losses
    monkeypatch.setattr(logits, "losses", lambda *given: usual(*given) + 1)
    for kind, status in (("loss_bearing", "unsupported"), ("all", "ok")):
        result = trials.run(trials.trial(tiny, tmp_path, training={"logits": kind, "steps": 1}, evaluate=()), tmp_path)
        assert (result.row.status, len(result.steps)) == (status, int(status == "ok")), result.row.message
    assert status == "ok"


def test_a_model_without_known_layers_is_cut_where_transformers_says_and_else_has_no_chunks(
    tiny, tmp_path, monkeypatch
):
    _, learner, plan = attached(tiny, "full", "fp32", tmp_path)

    def unknown(_):
        raise LookupError("its layers are not known")

    monkeypatch.setattr(logits, "decoder_layers", unknown)
    compare(learner, plan[0])
    monkeypatch.setattr(type(learner.model), "base_model_prefix", "")
    logits.check(learner.model, logits.LOSS_BEARING)
    with pytest.raises(Unsupported, match=r"LlamaForCausalLM is not a module of its own.*use logits: loss_bearing"):
        logits.check(learner.model, logits.CHUNKED)


def test_the_largest_step_has_the_most_tokens_in_the_loss_where_only_these_have_logits():
    def step(*lengths):
        return [Encoded((5,) * length, start, False, ("x", 0)) for length, start in lengths]

    long, answers = step((20, 18), (20, 18)), step((18, 1), (18, 1))
    assert accounting.largest_steps([long, answers], TRAINING) == [long]
    for kind in KINDS:
        training = dataclasses.replace(TRAINING, logits=kind)
        assert accounting.largest_steps([long, answers], training) == [long, answers]
        assert budget.passes(answers, training)[0].bearing == batches.collate(answers, 1).loss_tokens == 34
    assert budget.passes(answers, TRAINING)[0].bearing is None
