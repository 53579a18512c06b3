"""Layers that train in turns: whose turn it is, what is kept of the others, and what their memory and work are."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math

import pytest
import torch

from peftbench import suite
from peftbench.errors import UserError
from peftbench.measure.clock import Clock
from peftbench.models.layers import decoder_layers
from peftbench.planner.predict import predict
from peftbench.planner.records import Pass
from peftbench.runner import trial
from peftbench.suite import trial_key
from peftbench.training import accounting, flops, loop, saved_state, turns
from peftbench.training.loop import Course
from peftbench.training.turns import Turns
from tests.support import tiny_base, trials
from tests.support.method_cells import attached
from tools.validation.planner_accuracy import compare

KINDS = ("lisa", "badam")


@pytest.fixture(scope="module")
def five(tmp_path_factory):
    """Return a base model with five decoder layers."""
    return tiny_base.make(tmp_path_factory.mktemp("five") / "base", num_hidden_layers=5)


def learner_of(base, folder, kind, *, precision="fp32", steps=2, size=None, **training):
    """Return a learner with turns, and the examples of its steps."""
    options = {"turns": kind, "turn_steps": steps, "turn_size": size}
    settings = {"steps": 6, "learning_rate": 1e-3, **training}
    _, learner, plan = attached(base, "full", precision, folder, options=options, training=settings)
    return learner, plan


def trained_layers(before, model):
    """Return the layers of which every tensor has changed, and the names of what else has."""
    now = dict(model.named_parameters())
    moved = {name for name, old in before.items() if not torch.equal(old, now[name])}
    layers = {int(name.split(".")[2]) for name in moved if ".layers." in name}
    assert {name for name in now if ".layers." in name and int(name.split(".")[2]) in layers} <= moved
    return layers, {name for name in moved if ".layers." not in name}


def snapshot(model):
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def test_lisa_draws_layers_without_repetition_in_a_turn_and_badam_gives_each_block_a_turn_in_each_round():
    lisa, badam = Turns("lisa", 2, 3, 7, seed=5), Turns("badam", 2, 3, 7, seed=5)
    drawn = [lisa.layers(step) for step in range(300)]
    assert all(len(each) == 2 and drawn[3 * (i // 3)] == each for i, each in enumerate(drawn))
    shares = [sum(place in each for each in drawn) / 300 for place in range(7)]
    assert all(0.15 < share < 0.42 for share in shares)  # 2 / 7 is 0.29
    blocks = [{0, 1}, {2, 3}, {4, 5}, {6}]
    rounds = [[badam.layers(step) for step in range(start, start + 12, 3)] for start in (0, 12, 24, 36, 48)]
    assert all(sorted(map(sorted, each)) == sorted(map(sorted, blocks)) for each in rounds)
    assert len({str(each) for each in rounds}) > 1
    assert [lisa.layers(s) for s in range(60)] != [dataclasses.replace(lisa, seed=6).layers(s) for s in range(60)]


@pytest.mark.parametrize("kind", KINDS)
def test_each_step_trains_the_layers_of_its_turn_and_keeps_state_of_no_others(kind, five, tmp_path):
    learner, plan = learner_of(five, tmp_path, kind)
    own = turns.of(learner.model)
    rest = {name for name, _ in learner.model.named_parameters() if ".layers." not in name}
    since = dict.fromkeys(range(5), 0)
    for done, examples in enumerate(plan[:6]):
        before = snapshot(learner.model)
        loop.step(learner, loop.step_batches(learner, examples), 1e-3, done)
        layers, others = trained_layers(before, learner.model)
        assert layers == own.layers(done)
        assert others == (rest if kind == "lisa" else set())
        held = [p for n, p in learner.model.named_parameters() if (n in rest and kind == "lisa") or p.requires_grad]
        assert set(learner.optimizer.state) == set(held)
        since = {place: steps + 1 if place in layers else 0 for place, steps in since.items()}
        for place, layer in enumerate(decoder_layers(learner.model)):  # moments begin anew after a pause
            own_steps = {int(learner.optimizer.state[p]["step"]) for p in layer.parameters() if place in layers}
            assert own_steps == ({since[place]} if place in layers else set())
    if kind == "lisa":
        assert {int(learner.optimizer.state[p]["step"]) for p in held if not turns.in_turns(p)} == {6}


def test_steps_of_a_turn_are_those_of_full_fine_tuning_of_its_layers(five, tmp_path):
    """Of the topmost layer alone, as ``layers: 1`` trains it."""
    learner, plan = learner_of(five, tmp_path / "a", "badam", steps=100)
    _, other, _ = attached(five, "full", "fp32", tmp_path / "b", options={"layers": 1}, training={"steps": 6})
    seed = next(s for s in range(99) if Turns("badam", 1, 100, 5, s).layers(0) == {4})
    learner.model.peftbench_turns = dataclasses.replace(turns.of(learner.model), seed=seed)
    for each in (learner, other):
        for done, examples in enumerate(plan[:3]):
            loop.step(each, loop.step_batches(each, examples), 1e-3, done)
    assert all(torch.equal(a, b) for a, b in zip(learner.model.parameters(), other.model.parameters(), strict=True))


@pytest.mark.parametrize("kind", KINDS)
def test_training_that_is_killed_within_a_turn_or_at_its_end_continues_bit_for_bit(kind, five, tmp_path):
    whole, plan = learner_of(five, tmp_path / "whole", kind, validate_every=3)
    loop.train(whole, plan, plan[0], Clock(), lambda *_: None)
    for at in (3, 4):
        first, _ = learner_of(five, tmp_path / f"first{at}", kind, validate_every=3)
        folder = tmp_path / f"saved{at}"
        folder.mkdir()

        def killed(course: Course, at=at, first=first, folder=folder) -> None:
            if len(course.rows) == at:
                saved_state.write(folder, first, course, {})
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            loop.train(first, plan, plan[0], Clock(), lambda *_: None, after_each=killed)
        second, _ = learner_of(five, tmp_path / f"second{at}", kind, validate_every=3)
        course = saved_state.read(folder).restore(second)
        loop.train(second, plan, plan[0], Clock(), lambda *_: None, course)
        assert all(torch.equal(a, b) for a, b in zip(whole.parameters, second.parameters, strict=True))
        assert all(p.requires_grad for p in second.parameters)


def test_state_in_8_bits_of_a_turn_after_a_resume_shares_the_code_tables_of_the_one_before(five, tmp_path):
    first, plan = learner_of(five, tmp_path / "first", "lisa", optimizer="adamw_8bit")
    folder, courses = tmp_path / "saved", []
    folder.mkdir()
    loop.train(first, plan[:3], [], Clock(), lambda *_: None, after_each=courses.append)
    saved_state.write(folder, first, courses[-1], {})
    second, _ = learner_of(five, tmp_path / "second", "lisa", optimizer="adamw_8bit")
    course = saved_state.read(folder).restore(second)
    loop.train(second, plan, [], Clock(), lambda *_: None, course)
    for table in ("qmap1", "qmap2"):
        assert len({e[table].data_ptr() for e in second.optimizer.state.values() if table in e}) == 1


@pytest.mark.parametrize("kind", ["lisa", pytest.param("badam", marks=pytest.mark.slow)])
def test_the_peak_is_the_highest_of_all_turns_and_counting_it_changes_nothing(kind, five, tmp_path):
    learner, plan = learner_of(five, tmp_path, kind)
    loop.train(learner, plan[:3], [], Clock(), lambda *_: None)
    before = snapshot(learner.model)
    state = {p: {n: v.clone() for n, v in entry.items()} for p, entry in learner.optimizer.state.items()}
    found = accounting.account_steps(learner, plan[:1], True)
    assert all(
        torch.equal(old, now) for old, now in zip(before.values(), snapshot(learner.model).values(), strict=True)
    )
    assert learner.optimizer.state.keys() == state.keys()
    assert all(torch.equal(v, learner.optimizer.state[p][n]) for p, e in state.items() for n, v in e.items())
    assert all(p.requires_grad for p in learner.parameters)
    sets = (
        [frozenset(c) for c in itertools.combinations(range(5), 2)]
        if kind == "lisa"
        else turns.of(learner.model).blocks
    )
    peaks = []
    with turns.kept(learner.model, learner.optimizer):
        for layers in sets:
            turns.hold(learner.model, learner.optimizer, layers)
            loop.step(learner, loop.step_batches(learner, plan[0]), 0.0)
            peaks.append(accounting.account_step(learner, plan[0], True).peak_bytes)
    assert found.peak_bytes == max(peaks)
    _, all_at_once, _ = attached(five, "full", "fp32", tmp_path / "full", training={"steps": 6})
    loop.train(all_at_once, plan[:3], [], Clock(), lambda *_: None)
    assert found.peak_bytes < accounting.account_steps(all_at_once, plan[:1], True).peak_bytes


def test_state_and_gradients_of_a_turn_are_what_was_computed_by_hand(five, tmp_path):
    """AdamW keeps 8 bytes a value and 4 a tensor, of one layer; its gradients are 4 bytes a value."""
    learner, plan = learner_of(five, tmp_path, "badam")
    layer = list(decoder_layers(learner.model)[0].parameters())
    values = sum(p.numel() for p in layer)
    with turns.kept(learner.model, learner.optimizer):
        turns.hold(learner.model, learner.optimizer, frozenset({0}))
        loop.step(learner, loop.step_batches(learner, plan[0]), 0.0)
        held = sum(v.numel() * v.element_size() for entry in learner.optimizer.state.values() for v in entry.values())
    assert held == 8 * values + 4 * len(layer)
    assert turns.most_at_once(learner.model) == values


@pytest.mark.parametrize(
    ("kind", "size", "depth"),
    [
        ("lisa", None, 9),
        pytest.param("badam", None, 9, marks=pytest.mark.slow),
        ("badam", None, 5),
        pytest.param("lisa", None, 5, marks=pytest.mark.slow),
        pytest.param("badam", 2, 9, marks=pytest.mark.slow),
    ],
)
def test_a_plan_is_equal_to_the_byte_at_any_depth(kind, size, depth, tmp_path):
    folder = tiny_base.make(tmp_path / "base", num_hidden_layers=depth)
    found, _, book = compare(folder, "full", "bf16", [Pass(4, 24)], options={"turns": kind, "turn_size": size})
    assert dict(found.categories) == book.peak


@pytest.mark.parametrize("kind", [pytest.param("lisa", marks=pytest.mark.slow), "badam"])
def test_the_work_of_a_step_is_the_mean_over_turns_measured_and_predicted(kind, five, tmp_path):
    learner, plan = learner_of(five, tmp_path, kind)
    told = flops.columns(learner, plan[:1])[0].train_flops_per_token
    sets = (
        [frozenset(c) for c in itertools.combinations(range(5), 2)]
        if kind == "lisa"
        else turns.of(learner.model).blocks
    )
    each = []
    with turns.kept(learner.model, learner.optimizer):
        for layers in sets:
            turns.hold(learner.model, learner.optimizer, layers)
            products, tokens = flops.passes(learner, plan[0])
            each.append(products.operations / tokens)
    assert told == pytest.approx(sum(each) / len(each))
    made = trials.trial(five, tmp_path, "full", options={"turns": kind})
    rows, longest = len(plan[0]), max(len(e.ids) for e in plan[0])
    assert predict(made, five, [Pass(rows, longest)]).flops_per_token == pytest.approx(told, rel=0.02)


@pytest.mark.parametrize("kind", ["lisa", pytest.param("badam", marks=pytest.mark.slow)])
def test_a_trial_tells_what_trains_in_total_and_at_once(kind, five, tmp_path):
    options = {"turns": kind, "turn_steps": 2}
    made = trials.trial(five, tmp_path, "full", options=options, training={"steps": 8, "learning_rate": 1e-2})
    row = trial.run(trials.job(made, tmp_path), 0.0, lambda *_: None, lambda *_: None).row
    assert (row.status, row.message) == ("ok", None)
    assert row.last_loss < row.first_loss
    assert row.largest_turn_parameters < row.trainable_parameters <= row.base_parameters
    assert (row.trainable_parameters == row.base_parameters) == (kind == "lisa")
    assert json.loads(row.settings_json)["options"]["turns"] == kind


def cells(tmp_path, text, train=""):
    (tmp_path / "x.yaml").write_text(f"base: nano\ntasks: [compute]\nseeds: 1\ntrain: {{steps: 2{train}}}\n{text}\n")
    return [(t.cell, t.unsupported) for t in suite.expand(suite.load(tmp_path / "x.yaml"), "cpu")]


def test_turns_are_an_axis_and_what_they_exclude_is_unsupported_with_its_reason(tmp_path):
    found = cells(tmp_path, "methods: { full: { turns: [none, lisa, badam], layers: [null, 1] } }")
    assert [name for name, why in found if why is None] == [
        "full fp32",
        "full layers=1 fp32",
        "full turns=lisa fp32",
        "full turns=badam fp32",
    ]
    assert all("all decoder layers" in why for name, why in found if why)
    one = "methods: { full: { turns: lisa } }"
    for strategy in ("ddp", "fsdp2", "tp", "pp"):
        ((_, why),) = cells(tmp_path, f"devices: {{strategy: {strategy}, count: 2}}\n{one}")
        assert why.startswith("full with turns does not run on")
    ((_, why),) = cells(tmp_path, one, ", optimizer: schedule_free_adamw, schedule: constant, learning_rate: 1e-3")
    assert "its mean over the steps is kept in the state" in why
    for optimizer in ("paged_adamw", "paged_adamw_8bit"):
        ((_, why),) = cells(tmp_path, one, f", optimizer: {optimizer}")
        assert why.startswith(f"full with turns does not exist with optimizer {optimizer}, because bitsandbytes never")
    with pytest.raises(UserError, match="turn_size: given 2, which has no effect with turns: none"):
        cells(tmp_path, "methods: { full: { turn_size: 2 } }")


def test_more_layers_in_a_turn_than_there_are_is_unsupported(five, tmp_path):
    with pytest.raises(Exception, match="turn_size of 6: the base model has 5 decoder layers"):
        learner_of(five, tmp_path, "lisa", size=6)


def test_the_options_enter_the_key_only_if_they_are_given(five, tmp_path):
    plain = trials.trial(five, tmp_path, "full")
    old = dataclasses.replace(plain, options={n: v for n, v in plain.options.items() if not n.startswith("turn")})
    on = dataclasses.replace(plain, options={**plain.options, "turns": "lisa"})
    keys = [trial_key.key(each, "b" * 64, "d" * 64) for each in (plain, old, on)]
    assert keys[0] == keys[1] != keys[2]


@pytest.mark.parametrize("name", ["adamw_8bit", "adafactor", "muon", "apollo", "adafactor_in_backward"])
def test_other_optimizers_keep_and_drop_their_state_with_the_turns_too(name, five, tmp_path):
    learner, plan = learner_of(five, tmp_path, "lisa", optimizer=name, clip_norm=None)
    trace = loop.train(learner, plan[:6], [], Clock(), lambda *_: None)
    assert all(math.isfinite(step.loss) for step in trace.steps)
    held = turns.of(learner.model).layers(5)
    layers = decoder_layers(learner.model)
    with_state = {i for i, layer in enumerate(layers) if any(p in learner.optimizer.state for p in layer.parameters())}
    assert with_state == held
