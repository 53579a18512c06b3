"""A base model under FSDP2: rank 0 reads it, no other rank has it whole, and the numbers are those of one process."""

from __future__ import annotations

import gc
import json
from contextlib import nullcontext
from dataclasses import replace
from types import SimpleNamespace

import psutil
import pytest
import torch

from peftbench.methods import METHODS
from peftbench.models import load
from peftbench.models.precision import PRECISIONS
from peftbench.planner import fake
from peftbench.records import Devices, Status
from peftbench.records.devices import Place
from peftbench.runner import devices_of_trial, divided_base, trial, tuning
from peftbench.runner.checks import liveness
from peftbench.training import loop
from peftbench.training.parallel import make, shards
from tests.support import architectures, several_devices, trials
from tests.support.ranks import on_ranks

FSDP2, OFFLOADED = Devices("fsdp2", 2), Devices("fsdp2", 2, "cpu")
SPLIT = {"batch_size": 6, "micro_batch_size": 2, "weight_decay": 0.01}
SHARE = 0.6
"""Of a base model's bytes, what one of two ranks may hold: half of each tensor, buffers, and what a method adds."""


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """A base model large enough that a method's own tensors are small beside it, with buffers that are in no file."""
    return architectures.make(tmp_path_factory.mktemp("bases") / "large", "gemma3", hidden_size=256)


def pair(made, folder):
    """Return the results of a trial in one process and on its devices."""
    both = (replace(made, devices=None), made)
    return several_devices.finished([replace(trials.job(each, folder), key=f"{n:016x}") for n, each in enumerate(both)])


def real_bytes(before):
    """Return the bytes of all tensors that hold values and did not exist before, each storage once."""
    sizes = {}
    for found in gc.get_objects():
        if issubclass(type(found), torch.Tensor) and id(found) not in before:
            local_part = getattr(found, "_local_tensor", found)
            if local_part.device.type == "cpu" and type(local_part).__name__ != "FakeTensor":
                storage = local_part.untyped_storage()
                sizes[storage.data_ptr()] = storage.nbytes()
    return sum(sizes.values())


def watched(rank, job):
    """Run a rank of a trial; return its result, and what it held at some moments until it trained."""
    kept = [each for each in gc.get_objects() if issubclass(type(each), torch.Tensor)]
    before, held = {id(each) for each in kept}, {}

    def noting(module, name, moment):
        real = getattr(module, name)

        def noted(*arguments, **named):
            gc.collect()
            held.setdefault(moment, real_bytes(before))
            return real(*arguments, **named)

        setattr(module, name, noted)

    noting(liveness, "probe", "base")
    noting(divided_base, "divide", "attach")
    noting(tuning.first_step, "check", "check")
    noting(loop, "train", "train")
    devices_of_trial.group.join = lambda devices, rank, meeting, device: make(devices, rank, device)
    result = trial.run(job, 0.0, lambda _: None, lambda *_: None, place=Place(rank, ""))
    return result, held


def on_two(made, folder):
    """Return the results of a trial in one process and on two, and what each of the two held."""
    one = trials.run(replace(made, devices=None), folder)
    job = replace(trials.job(made, folder), log=None)
    (first, held), (_, others) = on_ranks(2, folder, watched, job)
    several_devices.same_training(one, first)
    return one, first, held, others


@pytest.mark.parametrize(
    ("method", "devices"),
    [
        ("lora", FSDP2),
        ("full", OFFLOADED),
        pytest.param("adapter", FSDP2, marks=pytest.mark.slow),
        pytest.param("prefix_tuning", FSDP2, marks=pytest.mark.slow),
        pytest.param("llama_adapter", OFFLOADED, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_a_rank_other_than_the_first_never_holds_more_than_its_shards(method, devices, large, tmp_path):
    made = trials.trial(large, tmp_path, method, training=SPLIT, devices=devices, evaluate=("colour",))
    one, several, first, other = on_two(made, tmp_path)
    base = one.row.base_weights_bytes
    assert several.row.base_weights_bytes == base
    assert list(other) == ["base", "attach", "check", "train"]
    assert max(other.values()) < SHARE * base
    assert first["base"] > base, "it has what it has read, and its shards"
    assert first["train"] < SHARE * base
    ledgers = [json.loads(several.row.ranks_json)[rank]["ledger"] for rank in "01"]
    assert all(sum(ledger["load"].values()) < SHARE * base for ledger in ledgers)


@pytest.mark.slow
@pytest.mark.parametrize("family", ["gpt2", "mixtral", "bloom", "glm4", "falcon", "opt", "phi"])
def test_families_with_other_buffers_ties_and_experts_train_as_in_one_process(family, tmp_path):
    folder = architectures.make(tmp_path / "base", family)
    several_devices.same_training(*pair(trials.trial(folder, tmp_path, training=SPLIT, devices=FSDP2), tmp_path))


def test_a_rank_that_cannot_do_without_the_weights_warns_of_it(tiny, tmp_path, caplog):
    made = trials.trial(tiny, tmp_path, devices=FSDP2)
    run = SimpleNamespace(job=trials.job(made, tmp_path))
    assert divided_base._hollow(run, trial.load_config(made.base, tiny), {"structure": {}}) is None
    assert "cannot be built without its weights; this rank reads them" in caplog.text


def test_a_rank_that_builds_another_model_than_was_read_is_refused(tiny):
    made = trials.trial(tiny, tiny.parent / "data", devices=FSDP2)
    read = load.load(tiny, PRECISIONS["fp32"], False, True, device="cpu", trust_remote_code=False)
    told = shards.structure(read.model)
    hollow = fake.base(made, trial.load_config(made.base, tiny), PRECISIONS["fp32"])
    divided_base._compare(told, hollow)
    hollow.lm_head.weight = torch.nn.Parameter(torch.empty_like(hollow.lm_head.weight), requires_grad=False)
    with pytest.raises(divided_base.Unsupported, match=r"lm_head\.weight"):
        divided_base._compare(told, hollow)


def test_shards_that_are_not_the_weights_that_were_read_end_the_trial(tiny, tmp_path):
    model = torch.nn.Linear(2, 2)
    given = trials.trial(tiny, tmp_path, devices=FSDP2)
    for rank, change, told in ((0, 1.0, True), (0, 0.0, False), (1, 1.0, False)):  # rank 1 has read nothing
        parallel = SimpleNamespace(early=True, rank=rank, divide=lambda *_, by=change: model.weight.data.add_(by))
        run = SimpleNamespace(job=SimpleNamespace(trial=given), parallel=parallel)
        with pytest.raises(RuntimeError, match="are not those that this rank has read") if told else nullcontext():
            divided_base.divide(run, model, PRECISIONS["fp32"])


def test_a_method_that_cannot_be_attached_without_the_weights_is_attached_to_those_that_are_then_read(
    tiny, tmp_path, monkeypatch, caplog
):
    made = trials.trial(tiny, tmp_path, devices=FSDP2)
    usual = divided_base.resolve(METHODS["lora"].attach)

    def attach(model, rank, options):
        if any(p.is_meta for p in model.parameters()):
            torch.rand(3)
            raise ValueError("it reads weights")
        return usual(model, rank, options)

    def read():
        torch.rand(3)
        return load.load(tiny, PRECISIONS["fp32"], False, True, device="cpu", trust_remote_code=False)

    plain, hollow = read(), read()
    torch.manual_seed(0)
    whole = usual(plain.model, made.rank, made.options)
    hollow.model.to("meta").peftbench_origin = replace(hollow.model.peftbench_origin, step_examples=["of the trial"])
    monkeypatch.setattr(divided_base, "resolve", lambda _: attach)
    parallel = SimpleNamespace(early=True, rank=1, first=lambda _: shards.structure(whole))
    run = SimpleNamespace(job=trials.job(made, tmp_path), parallel=parallel, read_here=read, base=None)
    torch.manual_seed(0)
    tuned = divided_base.attach(run, hollow)
    assert "the method cannot be attached without the weights; this rank reads them" in caplog.text
    assert hollow.model.peftbench_origin.step_examples == ["of the trial"]
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), tuned.parameters(), strict=True))


@pytest.mark.parametrize(("device", "draws_on"), [("cpu", None), ("cuda", "cuda")])
def test_a_base_that_waits_on_the_host_has_its_methods_draw_where_it_will_compute(device, draws_on, tiny, tmp_path):
    def whole(*given):
        raise LookupError(given)

    parallel = SimpleNamespace(early=True, rank=0)
    run = SimpleNamespace(job=SimpleNamespace(trial=trials.trial(tiny, tmp_path, device=device)), parallel=parallel)
    with pytest.raises(LookupError) as read:
        divided_base.read(run, None, whole)
    assert read.value.args == (("cpu", draws_on),)


@pytest.mark.parametrize("name", ["adapter", "llama_adapter"])
def test_a_method_draws_on_the_device_that_the_base_names(name, tiny, tmp_path):
    model = load.load(
        tiny, PRECISIONS["fp32"], False, True, device="cpu", trust_remote_code=False, draws_on="meta"
    ).model
    made = trials.trial(tiny, tmp_path, name)
    with pytest.raises(NotImplementedError, match="meta tensor"):  # nothing can be moved from there
        divided_base.resolve(METHODS[name].attach)(model, made.rank, made.options)


def test_what_dividing_does_to_a_twin_it_does_not_do_to_the_model(tiny):
    model = load.load(tiny, PRECISIONS["fp32"], False, True, device="cpu", trust_remote_code=False).model
    ids = torch.tensor([[5, 6, 7]])
    expected, names = model(input_ids=ids).logits, dict(model.named_parameters())
    twin = shards.twin(model)
    assert torch.equal(twin(input_ids=ids).logits, expected)
    assert twin.lm_head.weight is twin.get_input_embeddings().weight
    shards.taken(twin)
    assert {p.device.type for p in twin.parameters()} == {"meta"}
    assert dict(model.named_parameters()) == names
    assert torch.equal(model(input_ids=ids).logits, expected)


def test_int8_weights_which_a_stored_base_may_have_are_refused_and_not_divided(tiny):
    model = load.load(tiny, PRECISIONS["int8"], False, True, device="cpu", trust_remote_code=False).model
    with pytest.raises(divided_base.Unsupported, match="Int8Params"):
        shards.twin(model)


@pytest.mark.parametrize("damage", ["model.safetensors", pytest.param("config.json", marks=pytest.mark.slow)])
def test_a_base_that_rank_0_cannot_read_is_one_row_and_no_process_is_left(damage, tiny, tmp_path):
    folder = tmp_path / "base"
    folder.mkdir()
    for file in (each for each in tiny.iterdir() if each.is_file()):  # other tests write data beside it
        (folder / file.name).write_bytes(file.read_bytes())
    made = trials.trial(folder, tmp_path, training=SPLIT, devices=FSDP2, evaluate=("colour",))
    job = trials.job(made, tmp_path)
    whole = (folder / damage).read_bytes()
    (folder / damage).write_bytes(whole[: len(whole) // 2])
    (result,) = several_devices.finished([job])
    assert result.row.status == Status.ERROR
    assert "base" in result.row.message
    assert "rank 1" not in result.row.message
    servers = [p for p in psutil.Process().children() if p.children()]
    assert not [c for server in servers for c in server.children() if c.status() != psutil.STATUS_ZOMBIE]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "precision", "options"),
    [("lora", "nf4", {}), ("lora", "fp32", {"initialization": "eva"}), ("lora", "fp32", {"initialization": "pissa"})],
    ids=str,
)
def test_what_needs_the_weights_to_be_attached_has_them_on_every_host(method, precision, options, large, tmp_path):
    made = trials.trial(large, tmp_path, method, precision, training=SPLIT, devices=FSDP2, options=options)
    one, other = pair(made, tmp_path)
    several_devices.same_training(one, other, 2e-2 if precision == "nf4" else several_devices.TOLERANCE)


@pytest.mark.slow
@pytest.mark.parametrize("method", [name for name, method in METHODS.own.items() if method.trains and name != "qlora"])
def test_random_weights_of_a_shape_are_divided_too(method, tiny, tmp_path):
    made = trials.trial(tiny, tmp_path, method, training=SPLIT, devices=FSDP2)
    made = replace(made, base=replace(made.base, random_weights=True))
    one, other = pair(made, tmp_path)
    assert other.row.status == Status.OK, other.row.message
    assert [s.loss for s in other.steps] == pytest.approx([s.loss for s in one.steps], rel=several_devices.TOLERANCE)
