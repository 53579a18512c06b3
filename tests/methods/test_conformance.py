"""Every method in the table passes the same tests. Adding a record adds its tests."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch
from peft.tuners.tuners_utils import BaseTuner
from safetensors.torch import load_file

from peftbench.evaluation import scoring
from peftbench.measure.clock import Clock
from peftbench.methods import METHODS, method_of
from peftbench.methods.support import why_unsupported
from peftbench.models import load
from peftbench.models.precision import PRECISIONS
from peftbench.records.resolve import resolve
from peftbench.runner.executor import local
from peftbench.tasks import read
from peftbench.training import loop
from tests.support import trials
from tests.support.method_cells import CELLS, IDS, TRAINED, attached, loaded, logits

D, FEED, LAYERS, KV = 64, 128, 3, 32
"""Sizes of the tiny base model: width, feed-forward width, layers, key-value width."""
LINEARS = ((D, D), (D, KV), (D, KV), (D, D), (D, FEED), (D, FEED), (FEED, D))
"""Input and output widths of a decoder layer's linear layers."""
FORMS: dict[str, Callable[[int, int], int]] = {
    "full": lambda r, base: base,
    "prompt_tuning": lambda r, base: r * D,
    "prefix_tuning": lambda r, base: r * LAYERS * 2 * KV,
    "adapter": lambda r, base: LAYERS * 2 * (2 * D * r + r + D),
    "llama_adapter": lambda r, base: (LAYERS - 2) * (r * D + 1),
    "lora": lambda r, base: LAYERS * sum(r * (i + o) for i, o in LINEARS),
    "qlora": lambda r, base: LAYERS * sum(r * (i + o) for i, o in LINEARS),
    "peft": lambda r, base: LAYERS * r * (D + KV),  # MiSS on the queries and values: (r, out) each
}
"""Method -> number of trainable parameters on the tiny base model, from the rank and the number of its parameters.
Methods of other packages are counted by their own tests (tests/outside_method/test_vectors.py)."""


def test_every_method_of_peftbench_has_a_closed_form():
    assert set(FORMS) == {name for name, method in METHODS.own.items() if method.trains}
    assert {"full", "prompt_tuning", "prefix_tuning", "adapter", "llama_adapter", "lora", "qlora", "peft"} == set(FORMS)


@pytest.mark.parametrize("name", FORMS)
def test_the_number_of_parameters_is_the_closed_form_at_every_rank_and_all_of_them_are_saved(name, tiny, tmp_path):
    precision = METHODS[name].default_precision
    for rank in (1, 4, 7):
        changes = {"rank": rank} if method_of(name, trials.EXAMPLES.get(name, {})).rank_meaning else {}
        base, learner, _ = attached(tiny, name, precision, tmp_path, **changes)
        wanted = FORMS[name](rank, base.parameters)
        assert sum(p.numel() for p in learner.parameters) == wanted
        resolve(METHODS[name].save)(learner.model, tmp_path / str(rank))
        files = (tmp_path / str(rank)).glob("*.safetensors")
        assert sum(tensor.numel() for file in files for tensor in load_file(file).values()) == wanted


@pytest.fixture(scope="module")
def untuned(tiny):
    """A function that returns the logits of the base model of a method, computed once for each precision."""
    found = {}

    def at(name, precision):
        key = METHODS[name].trains_base, precision
        if key not in found:
            found[key] = logits(loaded(tiny, name, precision).model, precision, IDS)
        return found[key]

    return at


@pytest.mark.parametrize("name", TRAINED)
def test_the_first_forward_equals_the_base_models_if_the_record_promises_it(name, tiny, tmp_path, untuned):
    precision = METHODS[name].default_precision
    before = untuned(name, precision)
    _, learner, _ = attached(tiny, name, precision, tmp_path)
    same = torch.allclose(logits(learner.model, precision, IDS), before, atol=1e-5)
    promised = METHODS[name].identity_at_init
    assert promised is None or same is promised


@pytest.fixture(scope="module", params=[pytest.param(cell.values, marks=cell.marks, id=cell.id) for cell in CELLS])
def trained(request, tiny, tmp_path_factory):
    """A method in a precision after two steps, and records from before: one training for what is asked of it."""
    name, precision = request.param
    base, learner, plan = attached(tiny, name, precision, tmp_path_factory.mktemp(name))
    logits(learner.model, precision, IDS)  # a forward without gradients must leave nothing behind
    before = {n: p.detach().clone() for n, p in learner.model.named_parameters() if p.requires_grad}
    frozen = {n: load.checksum(p) for n, p in learner.model.named_parameters() if not p.requires_grad}
    own = {id(p) for p in learner.model.parameters() if p.requires_grad}
    trace = loop.train(learner, plan[:2], [], Clock(), lambda *_: None)
    assert len(trace.steps) == 2
    seen = {"model": learner.model, "parameters": learner.parameters, "own": own, "before": before, "frozen": frozen}
    return SimpleNamespace(name=name, precision=precision, base_parameters=base.parameters, **seen)


def test_only_the_methods_own_parameters_train_in_the_precisions_dtype(trained):
    assert {id(p) for p in trained.parameters} == trained.own != set()
    assert {str(p.dtype).removeprefix("torch.") for p in trained.parameters} == {
        PRECISIONS[trained.precision].trainable
    }
    if not METHODS[trained.name].trains_base:
        assert sum(p.numel() for p in trained.parameters) < trained.base_parameters


def test_two_steps_change_every_trainable_tensor_and_no_frozen_one(trained):
    now = dict(trained.model.named_parameters())
    assert trained.before
    assert [n for n, p in trained.before.items() if torch.equal(now[n].detach(), p)] == []
    assert [n for n, value in trained.frozen.items() if load.checksum(now[n]) != value] == []


def test_the_saved_adapter_loads_back_to_the_same_logits(trained, tiny, tmp_path, untuned):
    method, precision = METHODS[trained.name], trained.precision
    resolve(method.save)(trained.model, tmp_path / "saved")
    assert list((tmp_path / "saved").glob("*.safetensors"))
    again = resolve(method.load)(loaded(tiny, trained.name, precision).model, tmp_path / "saved")
    expected, found = logits(trained.model, precision, IDS), logits(again, precision, IDS)
    assert not torch.equal(expected, untuned(trained.name, precision))
    torch.testing.assert_close(found, expected, atol=1e-5 if precision == "fp32" else 2e-2, rtol=1e-3)


@pytest.fixture(scope="module", params=TRAINED)
def tuned(request, tiny, tmp_path_factory):
    """A method in its default precision after all steps of its plan, in evaluation mode."""
    name, precision = request.param, METHODS[request.param].default_precision
    folder = tmp_path_factory.mktemp(name)
    base, learner, plan = attached(tiny, name, precision, folder)
    loop.train(learner, plan, [], Clock(), lambda *_: None)
    made = trials.trial(tiny, folder, name, precision)
    return SimpleNamespace(made=made, precision=precision, tokenizer=base.tokenizer, model=learner.model.eval())


def test_answers_do_not_depend_on_the_batch_size(tuned):
    task = tuned.made.tasks[1]
    prompts = read.examples(task, "train")[:7]
    assert len({len(tuned.tokenizer.encode(e.prompt)) for e in prompts}) > 1, "prompts of several lengths, or no trap"
    found = []
    for size in (1, 5):
        wrapped = scoring.Harness(
            tuned.model, tuned.tokenizer, trials.Evaluation(size, 48, "test"), PRECISIONS[tuned.precision]
        )
        samples, _ = scoring.run_harness(wrapped, task, prompts)
        found.append([sample["filtered_resps"][0] for sample in samples])
    assert found[0] == found[1]


def test_ranked_log_probabilities_equal_those_of_a_direct_forward_pass(tuned):
    made, tokenizer, precision = tuned.made, tuned.tokenizer, tuned.precision
    wrapped = scoring.Harness(tuned.model, tokenizer, made.evaluation, PRECISIONS[precision])
    examples = read.examples(made.tasks[0], "test")[:3]
    _, rows = scoring.evaluate(wrapped, [made.tasks[0]], {"colour": examples})
    for example, row in zip(examples, rows, strict=True):
        for choice, logprob in zip(example.choices, trials.json.loads(row.choice_logprobs), strict=True):
            prompt, whole = (tokenizer.encode(t) for t in (example.prompt, f"{example.prompt} {choice}"))
            ids = torch.tensor([whole])
            direct = logits(tuned.model, precision, ids).float().log_softmax(-1)
            expected = sum(float(direct[0, i - 1, whole[i]]) for i in range(len(prompt), len(whole)))
            assert logprob == pytest.approx(expected, abs=1e-4 if precision == "fp32" else 0.05)


def test_generated_answers_equal_those_decoded_step_by_step(tuned):
    made, tokenizer, precision = tuned.made, tuned.tokenizer, tuned.precision
    examples = read.examples(made.tasks[2], "train")[:3]
    wrapped = scoring.Harness(tuned.model, tokenizer, made.evaluation, PRECISIONS[precision])
    samples, _ = scoring.run_harness(wrapped, made.tasks[2], examples)
    for example, sample in zip(examples, samples, strict=True):
        ids = tokenizer.encode(example.prompt)
        start = len(ids)
        while len(ids) - start < made.tasks[2].max_new_tokens:
            token = int(logits(tuned.model, precision, torch.tensor([ids]))[0, -1].argmax())
            if token == tokenizer.eos_token_id:
                break
            ids.append(token)
        direct = tokenizer.decode(ids[start:], skip_special_tokens=True).split("\n")[0]
        assert sample["resps"][0][0] == direct


@pytest.mark.parametrize("name", [name for name in TRAINED if METHODS[name].switch_off])
def test_a_method_that_is_switched_off_leaves_the_base_bit_for_bit(name, tiny, tmp_path, untuned):
    precision = METHODS[name].default_precision
    before = untuned(name, precision)
    _, learner, plan = attached(tiny, name, precision, tmp_path)
    loop.train(learner, plan[:2], [], Clock(), lambda *_: None)
    tuned = logits(learner.model, precision, IDS)
    with resolve(METHODS[name].switch_off)(learner.model):
        assert torch.equal(logits(learner.model, precision, IDS), before)
    assert torch.equal(logits(learner.model, precision, IDS), tuned)
    assert not torch.equal(tuned, before)


def test_every_method_but_full_can_be_switched_off():
    assert {name for name, method in METHODS.own.items() if method.trains and not method.switch_off} == {"full"}


@pytest.mark.parametrize("name", [name for name in TRAINED if METHODS[name].default_precision == "fp32"])
def test_mergeable_methods_give_the_same_logits_merged_and_unmerged(name, tiny, tmp_path):
    _, learner, plan = attached(tiny, name, "fp32", tmp_path)
    if not isinstance(getattr(learner.model, "base_model", None), BaseTuner):
        assert name not in ("lora", "peft")
        pytest.skip("is no update of weights")
    loop.train(learner, plan[:2], [], Clock(), lambda *_: None)
    before = logits(learner.model, "fp32", IDS)
    learner.model.merge_adapter()
    merged = logits(learner.model, "fp32", IDS)
    learner.model.unmerge_adapter()
    for found in (merged, logits(learner.model, "fp32", IDS)):  # on quantized layers: test_lora, which has the bounds
        torch.testing.assert_close(found, before, atol=1e-4, rtol=0)


def load_all(tiny, folder):
    """Write the logits of every method saved in a folder."""
    torch.set_num_threads(1)
    found = {}
    for saved in sorted(folder.iterdir()):
        precision = METHODS[saved.name].default_precision
        tuned = resolve(METHODS[saved.name].load)(loaded(tiny, saved.name, precision).model, saved)
        found[saved.name] = logits(tuned, precision, IDS)
    torch.save(found, folder / "logits.pt")


def test_each_saved_method_gives_the_same_logits_in_another_process(tiny, tmp_path):
    expected = {}
    for name in TRAINED:
        precision = METHODS[name].default_precision
        _, learner, plan = attached(tiny, name, precision, tmp_path / "data")
        loop.train(learner, plan[:2], [], Clock(), lambda *_: None)
        resolve(METHODS[name].save)(learner.model, tmp_path / "saved" / name)
        expected[name] = logits(learner.model, precision, IDS)
    context = multiprocessing.get_context("forkserver")  # it has the libraries, and nothing was ever attached in it
    context.set_forkserver_preload(["peftbench.runner.executor.preload"])
    local._await_server(context)
    process = context.Process(target=load_all, args=(tiny, tmp_path / "saved"))
    process.start()
    process.join(300)
    assert process.exitcode == 0
    found = torch.load(tmp_path / "saved" / "logits.pt")
    assert set(found) == set(TRAINED)
    assert [name for name in TRAINED if not torch.equal(found[name], expected[name])] == []


@pytest.mark.parametrize("precision", ["int8", "nf4", "fp4"])
def test_full_fine_tuning_of_a_quantized_base_is_refused_with_the_reason(precision):
    assert "quantized weights have no gradient" in why_unsupported(METHODS["full"], precision, "cpu")


def test_tf32_does_not_exist_on_the_cpu():
    assert "only on cuda" in why_unsupported(METHODS["lora"], "tf32", "cpu")


@pytest.mark.parametrize(
    ("name", "options"),
    [
        *((name, {}) for name in TRAINED),
        ("adapter", {"kind": "parallel"}),
        ("llama_adapter", {"gate": "per_head"}),
        ("lora", {"dora": True}),
        ("prefix_tuning", {"reparameterization": "mlp"}),
    ],
)
def test_a_method_keeps_all_its_tensors_on_the_base_models_device(name, options, tiny, tmp_path, monkeypatch):
    """``meta`` stands in for a GPU: a tensor that stays or is created on the CPU causes an error."""
    from transformers import AutoConfig, AutoModelForCausalLM, masking_utils

    monkeypatch.setattr(masking_utils, "find_packed_sequence_indices", lambda *_: None)  # asks for values
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda *_: True)  # no device of that name has autocast
    made = trials.trial(tiny, tmp_path, name, METHODS[name].default_precision, options=options)
    with torch.device("meta"):
        base = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(tiny))
    base.requires_grad_(METHODS[name].trains_base)
    tuned = resolve(METHODS[name].attach)(base, made.rank, made.options)
    assert {t.device.type for t in (*tuned.parameters(), *tuned.buffers())} == {"meta"}
    ids = torch.zeros(2, 7, dtype=torch.long, device="meta")
    tuned(input_ids=ids, use_cache=False).logits.sum().backward()
    assert {p.grad.device.type for p in tuned.parameters() if p.requires_grad} == {"meta"}
