"""Packing changes only the rows of examples: same loss, same gradients, same predictions, less padding."""

from __future__ import annotations

import random
import time
from dataclasses import replace

import pytest
import torch
import transformers

from peftbench import suite
from peftbench.errors import Unsupported
from peftbench.measure.ledger import account
from peftbench.methods import METHODS
from peftbench.models import load
from peftbench.models.precision import effective
from peftbench.planner import budget
from peftbench.planner.predict import predict
from peftbench.records import Status
from peftbench.records.resolve import resolve
from peftbench.runner import trial
from peftbench.runner.checks import packed_rows
from peftbench.training import accounting, batches, loop, packing
from tests.support import architectures, trials
from tests.support.method_cells import TRAINED, attached

PACKED = replace(trials.TRAINING, packing=True, sequence_length=32, batch_size=6, micro_batch_size=6)
PACKS = [name for name in TRAINED if not METHODS[name].virtual_tokens]
MIXES = ("opt", "falcon", "bloom")
"""Model families that make their attention mask without the positions of tokens."""


def step(*lengths: int) -> list[batches.Encoded]:
    """Return examples of these lengths with different tokens, of which the last three enter the loss."""
    return [
        batches.Encoded(tuple(7 + (31 * i + j * j) % 290 for j in range(n)), max(1, n - 3), False, ("made", i))
        for i, n in enumerate(lengths)
    ]


STEP = step(9, 14, 5, 21, 8, 11)


@pytest.mark.parametrize("size", [1, 3, 8])
def test_every_example_is_in_one_row_uncut_and_no_row_is_too_long(size):
    rng = random.Random(size)
    lengths = [rng.randint(1, 32) for _ in range(50)]
    examples = [batches.Encoded(tuple(range(n)), 1, False, ("made", i)) for i, n in enumerate(lengths)]
    passes = packing.forward_passes(examples, replace(PACKED, micro_batch_size=size))
    assert [sorted(e.identity for row in rows for e in row) for rows in passes] == [
        sorted(e.identity for e in examples[i : i + size]) for i in range(0, len(examples), size)
    ], "each forward pass has the examples that it has without packing"
    assert all(packing.tokens(row) <= 32 for rows in passes for row in rows)
    for index, rows in enumerate(passes):
        b, t = packing.shape(rows)
        chunk = examples[index * size : (index + 1) * size]
        assert b * t <= len(chunk) * max(len(e.ids) for e in chunk), "never more tokens than without packing"


def test_rows_are_as_short_as_possible_with_hardly_any_padding():
    def shape(*lengths: int) -> tuple[int, int]:
        (rows,) = packing.forward_passes(step(*lengths), replace(PACKED, micro_batch_size=len(lengths)))
        return packing.shape(rows)

    assert shape(8, 8, 8, 8) == (4, 8), "there is nothing to gain"
    assert shape(16, 8, 8, 5, 11) == (3, 16)
    assert shape(12, 8, 5) == (1, 25), "two rows of 13 would hold one token of padding, of 26"
    assert shape(32, 3, 3, 3) == (2, 32), "as long as the longest row may be"
    assert shape(20, 20, 20) == (3, 20), "two do not fit in a row"


def test_every_token_of_a_packed_batch_is_as_expected():
    a, b, c = step(4, 3, 5)
    batch = batches.pack([[c, b], [a]], 1)
    assert batch.ids.tolist() == [[*c.ids, *b.ids], [*a.ids, 1, 1, 1, 1]]
    assert batch.positions.tolist() == [[0, 1, 2, 3, 4, 0, 1, 2], [0, 1, 2, 3, 0, 1, 2, 3]]
    assert batch.mask.tolist() == [[1] * 8, [1] * 4 + [0] * 4]
    x = batches.IGNORED
    assert batch.labels.tolist() == [[x, x, *c.ids[2:], x, *b.ids[1:]], [x, *a.ids[1:], x, x, x, x]]
    assert batch.loss_tokens == 9 - 1, "the first token of b has none before it that could tell it"


def grown(learner):
    """Set trainable parameters to random values, so that each method has an effect."""
    torch.manual_seed(3)
    with torch.no_grad():
        for parameter in learner.parameters:
            parameter.add_(torch.randn_like(parameter) * 0.05)


def loss_and_gradients(learner, training):
    learner.model.eval()  # no dropout
    total = torch.zeros(())
    for batch in batches.micro_batches(STEP, training, learner.pad_id):
        with load.autocast(learner.precision, "cpu"):
            loss = loop.batch_loss(learner.model, batch)
        loss.backward()
        total += loss.detach()
    found = [p.grad.clone() for p in learner.parameters]
    for parameter in learner.parameters:
        parameter.grad = None
    return total, found


def compare(learner):
    grown(learner)
    alone, one = loss_and_gradients(learner, replace(PACKED, packing=False))
    packed, other = loss_and_gradients(learner, PACKED)
    torch.testing.assert_close(packed, alone, rtol=1e-5, atol=0)
    for a, b in zip(one, other, strict=True):
        torch.testing.assert_close(b, a, rtol=1e-3, atol=1e-5 * float(a.abs().max()) + 1e-6)
    assert any(bool(g.any()) for g in one)


@pytest.mark.parametrize("name", PACKS)
def test_packing_does_not_change_loss_and_gradients_of_any_method(name, tiny, tmp_path):
    precision = METHODS[name].default_precision
    _, learner, _ = attached(tiny, name, precision, tmp_path)
    (compare if precision == "fp32" else near)(learner)


@pytest.mark.parametrize("precision", ["bf16", "fp16", "bf16-true", "int8", "nf4"])
def test_rounding_in_low_precision_is_not_taken_for_mixing(precision, tiny, tmp_path):
    _, learner, _ = attached(tiny, "lora", precision, tmp_path)
    packed_rows.check(learner, [STEP])
    near(learner)


def near(learner):
    """Compare in a low precision, in which another order of summation rounds differently."""
    grown(learner)
    alone, one = loss_and_gradients(learner, replace(PACKED, packing=False))
    packed, other = loss_and_gradients(learner, PACKED)
    torch.testing.assert_close(packed, alone, rtol=1e-2, atol=0)
    one, other = (torch.cat([g.flatten().float() for g in found]) for found in (one, other))
    assert float((one - other).norm() / one.norm()) < 0.05


def learner_of(family, tmp_path, name="lora", training=PACKED):
    folder = architectures.make(tmp_path / family, family)
    made = trials.trial(folder, tmp_path, name)
    precision = effective("fp32", made.options)
    loaded = load.load(folder, precision, METHODS[name].trains_base, True, device="cpu", trust_remote_code=False)
    tuned = resolve(METHODS[name].attach)(loaded.model, made.rank, made.options)
    where = {"precision": precision, "device": "cpu", "pad_id": 1, "virtual_tokens": 0}
    return loop.learner(tuned, load.cast_trainable(tuned, precision), training, **where)


@pytest.mark.parametrize(
    ("family", "name"),
    [
        pytest.param(
            family,
            name,
            marks=()
            if (family, name) in (("gpt2", "lora"), ("gptj", "llama_adapter"), ("gemma3", "lora"))
            else pytest.mark.slow,
        )
        for family in architectures.CONFIGS
        if family not in MIXES
        for name in ("lora", "adapter", "llama_adapter")
    ],
)
def test_packing_does_not_change_loss_and_gradients_of_other_model_families(family, name, tmp_path):
    learner = learner_of(family, tmp_path, name)
    packed_rows.check(learner, [STEP])
    compare(learner)


@pytest.mark.parametrize("family", MIXES)
def test_a_base_model_that_mixes_the_examples_of_a_row_is_unsupported(family, tmp_path):
    with pytest.raises(
        Unsupported, match=r"packing: (OPT|Falcon|Bloom)ForCausalLM mixes the examples of a row .*packing: false"
    ):
        packed_rows.check(learner_of(family, tmp_path), [STEP])


SMALL = {
    "vocab_size": 320,
    "hidden_size": 64,
    "num_attention_heads": 4,
    "num_hidden_layers": 3,
    "intermediate_size": 96,
    "initializer_range": 0.2,
}
OTHERS = {
    "RecurrentGemmaConfig": {"lru_width": 64, "block_types": ["recurrent", "recurrent", "attention"]},
    "RwkvConfig": {"attention_hidden_size": 64, "context_length": 1024},
    "Lfm2Config": {"num_key_value_heads": 2, "layer_types": ["full_attention", "conv", "conv"]},
}
"""Model families with a recurrent state or convolutions, besides attention or in place of it."""


@pytest.mark.parametrize("kind", OTHERS)
def test_mixing_only_at_the_border_of_examples_is_detected_in_long_rows_too(kind, tiny, tmp_path):
    _, learner, _ = attached(tiny, "lora", "fp32", tmp_path)
    torch.manual_seed(0)
    made = transformers.AutoModelForCausalLM.from_config(getattr(transformers, kind)(**SMALL, **OTHERS[kind])).eval()
    learner = replace(learner, model=made, training=replace(PACKED, sequence_length=1024))
    with pytest.raises(Unsupported, match=r"packing: .* mixes the examples of a row"):
        packed_rows.check(learner, [step(500, 450)])


def test_a_base_model_whose_positions_do_not_restart_is_unsupported(tmp_path, monkeypatch):
    learner = learner_of("gpt2", tmp_path)
    forward = learner.model.get_base_model().transformer.wpe.forward
    places = torch.arange(32)
    monkeypatch.setattr(
        learner.model.get_base_model().transformer.wpe, "forward", lambda ids: forward(places[: ids.shape[1]][None])
    )
    with pytest.raises(
        Unsupported,
        match=r"packing: .* computes other logits for an example in a shared row",
    ):
        packed_rows.check(learner, [STEP])


def test_a_base_model_without_position_ids_is_unsupported(tmp_path, monkeypatch):
    learner = learner_of("llama", tmp_path)
    forward = learner.model.forward
    monkeypatch.setattr(learner.model, "forward", lambda input_ids, use_cache: forward(input_ids, use_cache=use_cache))
    with pytest.raises(Unsupported, match=r"packing: .* does not accept position ids"):
        packed_rows.check(learner, [STEP])


@pytest.mark.parametrize("plan", [[step(30), step(31)], [step(32)], [[*step(5), *STEP]]])
def test_a_base_model_is_checked_even_if_no_row_is_shared_in_training(plan, tmp_path):
    """Held-out examples or later steps may share rows."""
    with pytest.raises(Unsupported, match="mixes the examples"):
        packed_rows.check(learner_of("opt", tmp_path), plan)


def test_the_packing_check_leaves_no_trace_and_needs_less_memory_than_a_step(tiny, tmp_path):
    training = {"packing": True, "sequence_length": 64, "gradient_checkpointing": True}
    _, learner, _ = attached(tiny, "lora", "fp32", tmp_path, training=training)
    long = step(31, 30, 28, 29)
    loop.step(learner, batches.micro_batches(long, learner.training, 1), 0.0)
    state = torch.get_rng_state()
    with account(learner.model, False, learner.optimizer.state) as counted:
        packed_rows.check(learner, [long])
    assert torch.equal(torch.get_rng_state(), state)
    assert all(p.grad is None for p in learner.model.parameters())
    assert counted.peak_bytes < accounting.account_step(learner, long, False).peak_bytes


@pytest.mark.parametrize(
    ("name", "precision"), [("lora", "fp32"), ("full", "bf16"), ("qlora", "nf4"), ("llama_adapter", "fp32")]
)
@pytest.mark.parametrize("examples", [STEP, step(32, 32), step(16, 16)], ids=["shared", "apart", "one row"])
def test_the_peak_of_a_packed_step_is_predicted(name, precision, examples, tiny, tmp_path):
    training = {"packing": True, "batch_size": len(examples), "micro_batch_size": len(examples)}
    made = trials.trial(tiny, tmp_path, name, precision, training=training)
    _, learner, _ = attached(tiny, name, precision, tmp_path, training=training)
    learner.model.train()
    loop.step(learner, batches.micro_batches(STEP[:1], made.training, 1), 1e-4)
    counted = accounting.account_step(learner, examples, METHODS[name].trains_base)
    assert predict(made, tiny, budget.passes(examples, made.training)).peak_bytes == counted.peak_bytes


def test_the_peak_of_packed_steps_is_at_most_that_of_the_settings_alone(tiny, tmp_path):
    made = trials.trial(tiny, tmp_path, training={"packing": True, "batch_size": 6, "micro_batch_size": 6})
    assert predict(made, tiny).peak_bytes > predict(made, tiny, budget.passes(STEP, made.training)).peak_bytes


def ran(tiny, tmp_path, name="lora", **training):
    made = trials.trial(tiny, tmp_path, name, training={"validate_every": 2, **training})
    job = replace(trials.job(made, tmp_path), predicts=True)
    return trial.run(job, time.perf_counter(), lambda _: None, lambda *_: None).row


def test_a_packed_trial_sees_the_same_data_with_less_padding(tiny, tmp_path):
    padded, packed = (ran(tiny, tmp_path, packing=choice, sequence_length=64) for choice in (False, True))
    assert (padded.status, packed.status) == (Status.OK, Status.OK), packed.message
    for name in ("batches_sha256", "nonpadding_tokens", "loss_tokens", "examples_seen", "steps_done"):
        assert getattr(packed, name) == getattr(padded, name), name
    assert packed.nonpadding_tokens <= packed.processed_tokens
    assert packed.first_loss == pytest.approx(padded.first_loss, rel=1e-5)
    assert packed.last_loss == pytest.approx(padded.last_loss, rel=1e-2)
    assert packed.best_validation_loss == pytest.approx(padded.best_validation_loss, rel=1e-2)
    assert packed.predicted_train_bytes == pytest.approx(packed.peak_train_bytes, rel=0.02)


def test_a_packed_trial_of_a_base_model_that_mixes_examples_is_unsupported_with_the_reason(tmp_path):
    folder = architectures.make(tmp_path / "opt", "opt")
    row = ran(folder, tmp_path, packing=True, sequence_length=64)
    assert row.status == Status.UNSUPPORTED
    assert "mixes the examples of a row" in row.message


def suite_of(tmp_path, methods):
    path = tmp_path / "grid.yaml"
    path.write_text(f"base: nano\ntasks: [compute]\ntrain: {{packing: true}}\nmethods: {methods}\n")
    return suite.expand(suite.load(path), "cpu")


def test_packing_is_unsupported_for_methods_with_virtual_tokens(tmp_path):
    found = suite_of(
        tmp_path,
        "{lora: , prompt_tuning: , prefix_tuning: {packing: false}, peft: {peft_type: P_TUNING, learning_rate: 1e-2}}",
    )
    why = {t.method: t.unsupported for t in found}
    assert why["lora"] is why["prefix_tuning"] is None
    assert why["prompt_tuning"].startswith("prompt_tuning does not exist with packing, because its virtual tokens")
    assert why["peft"].startswith("peft P_TUNING does not exist with packing")
    assert {t.method: t.training.packing for t in found} == {m: m != "prefix_tuning" for m in why}


def test_the_peak_of_a_run_is_found_even_if_its_step_does_not_have_the_most_tokens(tiny, tmp_path):
    """Two steps with nearly as many tokens: eight short rows, and a single long row with the larger mask."""
    training = {"packing": True, "sequence_length": 120, "batch_size": 8, "micro_batch_size": 8}
    made = trials.trial(tiny, tmp_path, training=training)
    _, learner, _ = attached(tiny, "lora", "fp32", tmp_path, training=training)
    rows, row = step(*[15] * 8), step(63, *[8] * 7)
    plan = [step(3, 4), rows, row]
    assert accounting.largest_steps(plan, made.training) == [rows, row]
    loop.step(learner, batches.micro_batches(rows, made.training, 1), 0.0)
    peaks = [accounting.account_step(learner, each, False).peak_bytes for each in (rows, row)]
    assert peaks[1] > peaks[0]
    assert accounting.account_steps(learner, [rows, row], False).peak_bytes == peaks[1]
    found = [predict(made, tiny, budget.passes(each, made.training)).peak_bytes for each in (rows, row)]
    assert found == peaks


def test_without_packing_there_is_usually_a_single_largest_step():
    plan = [step(14, 14), step(3, 20), step(20, 19)]
    assert accounting.largest_steps(plan, replace(PACKED, packing=False)) == [plan[1]]


def test_with_several_passes_per_step_the_longest_row_is_a_candidate_too():
    training = replace(PACKED, sequence_length=120, batch_size=20, micro_batch_size=8)
    passes = budget.passes(step(63, *[8] * 7, *[15] * 8, 3, 4, 5, 6), training)
    assert [(p.examples, p.tokens) for p in passes] == [(1, 119), (8, 15), (2, 9)], (
        "first, largest, largest with a mask"
    )
