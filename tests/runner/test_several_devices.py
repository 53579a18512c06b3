"""One trial on several devices: the numbers of one process, memory that is divided, and a rank that fails."""

from __future__ import annotations

import json
import signal
import time
from dataclasses import replace

import psutil
import pytest
from safetensors.torch import load_file

from peftbench.methods import METHODS
from peftbench.records import Devices, Status
from peftbench.runner.executor import local
from tests.support import several_devices, trials
from tests.support.several_devices import TOLERANCE

LOOSE = 2e-2
"""The same at bf16: rounding in another order moves the last of its eight bits."""
SPLIT = {"batch_size": 6, "micro_batch_size": 2, "weight_decay": 0.01}
"""Three passes in a step: on two ranks, one rank runs an empty one."""
DDP, FSDP2, OFFLOADED = Devices("ddp", 2), Devices("fsdp2", 2), Devices("fsdp2", 2, "cpu")


def finished(made, folder, **changes):
    """Run trials, and return their results in order."""
    jobs = [replace(trials.job(one, folder), **changes) for one in made]
    jobs = [replace(job, key=f"{place:016x}", log=str(folder / f"{place}.log")) for place, job in enumerate(jobs)]
    return several_devices.finished(jobs)


def agree(one, other, tolerance=TOLERANCE):
    """Check that two results are of the same training, up to rounding, and of passes of the same size."""
    several_devices.same_training(one, other, tolerance)
    assert [s.processed_tokens for s in one.steps] == [s.processed_tokens for s in other.steps]


def made_for(devices, *arguments, **changes):
    """A trial on devices, scored by a task without decoding unless another one is given."""
    return trials.trial(*arguments, devices=devices, **({"evaluate": ("colour",)} | changes))


def test_full_fine_tuning_under_each_strategy_is_that_of_one_process_with_its_memory_divided(tiny, tmp_path):
    kept = tmp_path / "adapters"
    made = [made_for(d, tiny, tmp_path, "full", training=SPLIT) for d in (None, DDP, FSDP2)]
    jobs = [replace(trials.job(one, tmp_path), adapter_folder=str(kept / str(n))) for n, one in enumerate(made)]
    jobs = [replace(job, key=f"{n:016x}") for n, job in enumerate(jobs)]
    one, copied, divided = several_devices.finished(jobs)
    for other in (copied, divided):
        agree(one, other)
        assert (other.row.rank_processes, other.row.rank_backend) == (2, "gloo")
        found = [*json.loads(other.row.ranks_json).values()]
        assert other.row.total_train_bytes == sum(rank["peak_train_bytes"] for rank in found)
        assert other.row.peak_train_bytes == max(rank["peak_train_bytes"] for rank in found)
    assert one.row.rank_processes is None
    for name in ("peak_base_weights_bytes", "peak_optimizer_bytes"):
        whole = getattr(one.row, name)
        assert getattr(copied.row, name) == whole
        for rank in json.loads(divided.row.ranks_json).values():
            assert whole / 2 <= rank[name] < 0.52 * whole
    # the peak of a step is within its backward pass, when not every gradient exists
    assert divided.row.peak_gradients_bytes < 0.6 * one.row.peak_gradients_bytes
    assert divided.row.peak_train_bytes < one.row.peak_train_bytes < copied.row.peak_train_bytes
    first, second = (load_file(kept / n / "model.safetensors") for n in "02")
    assert {n: (t.shape, t.dtype) for n, t in first.items()} == {n: (t.shape, t.dtype) for n, t in second.items()}
    assert all((first[n] - second[n]).abs().max() < 1e-3 for n in first)
    assert (kept / "0" / "config.json").read_text() == (kept / "2" / "config.json").read_text()


def test_lora_under_fsdp2_has_the_validation_losses_and_the_decoded_answers_of_one_process(tiny, tmp_path):
    changes = {"training": SPLIT | {"validate_every": 2, "score": "best_on_validation"}, "evaluate": ("colour_text",)}
    one, other = finished([made_for(d, tiny, tmp_path, **changes) for d in (None, FSDP2)], tmp_path)
    agree(one, other)
    assert other.row.scored_step == one.row.scored_step
    assert other.row.best_validation_loss == pytest.approx(one.row.best_validation_loss, rel=TOLERANCE)
    assert other.row.peak_adapter_bytes < 0.6 * one.row.peak_adapter_bytes
    assert not list(tmp_path.glob("*.log.rank*"))


def test_a_rank_that_is_killed_is_one_row_and_no_process_is_left(tiny, tmp_path):
    long = trials.trial(tiny, tmp_path, training=SPLIT | {"steps": 20_000}, devices=DDP)
    results = []
    for event in local.run([trials.job(long, tmp_path)], workers=1):
        if event.step == 2:
            server = next(p for p in psutil.Process().children() if p.children())
            ranks = sorted(server.children(), key=lambda p: p.pid)
            assert len(ranks) == 2
            ranks[1].kill()
        if event.result is not None:
            results.append(event.result)
    (result,) = results
    assert result.row.status == Status.KILLED
    assert result.row.message == "rank 1 of 2: the trial's process ended with signal SIGKILL"
    assert not any(p.is_running() and p.status() != psutil.STATUS_ZOMBIE for p in ranks)


def test_ranks_that_were_begun_are_ended_if_another_cannot_be(tiny, tmp_path, monkeypatch):
    """They would wait for it, until the run ends, beside the trial that is begun anew."""
    begun, real = [], local._begin

    def begin(process):
        if len(begun) == 1:
            begun.append(None)
            raise OSError("too many open files")
        real(process)
        begun.append(process)

    context = local._context()
    local._await_server(context)
    monkeypatch.setattr(local, "_begin", begin)
    with pytest.raises(OSError, match="too many"):
        local._started(context, trials.job(trials.trial(tiny, tmp_path, training=SPLIT, devices=DDP), tmp_path))
    begun[0].join(20)
    assert begun[0].exitcode == -signal.SIGKILL


def test_memory_that_runs_out_on_one_rank_is_oom_whatever_the_others_say(tiny, tmp_path, monkeypatch):
    from peftbench.runner.executor import ranks

    def end(rank, status, message):
        return rank, made(status, message)

    def made(status, message):
        return local.failure(trials.job(trials.trial(tiny, tmp_path), tmp_path), status, "train", message)

    lost = end(0, Status.ERROR, "RuntimeError: [gloo/transport/tcp/pair.cc:534] Connection closed by peer")
    memory = end(1, Status.OOM, "out of memory: 3 GB")
    ends = ranks.Ends()
    ends.add(*lost, now=100.0)
    assert ends.verdict(2, 101.0) is None
    ends.add(*memory, now=102.0)
    found = ends.verdict(2, 102.0).row
    assert (found.status, found.message, found.reason) == (Status.OOM, *["rank 1 of 2: out of memory: 3 GB"] * 2)
    alone = ranks.Ends()
    alone.add(*lost, now=100.0)
    assert alone.verdict(2, 100.0 + ranks.GRACE_SECONDS).row.status == Status.ERROR
    fine = ranks.Ends()
    fine.add(0, made(Status.OK, None), now=1.0)
    assert fine.verdict(2, 1.0).row.status == Status.OK
    fine.add(*lost, now=1.0)
    assert fine.verdict(2, 1.0).row.status == Status.OK
    fine.add(1, made(Status.CORRUPT, "frozen weights changed: x"), now=1.0)
    assert fine.verdict(2, 1.0 + ranks.GRACE_SECONDS).row.status == Status.CORRUPT


@pytest.mark.parametrize(
    ("trains", "status", "why"),
    [(False, Status.CORRUPT, "frozen weights changed: "), (True, Status.ERROR, "the ranks' trained weights differ")],
)
def test_a_weight_that_one_rank_alone_changes_ends_the_trial_on_every_rank(
    trains, status, why, tiny, tmp_path, monkeypatch
):
    from peftbench.runner import tuning

    train = tuning._train

    def changing(run, learner, *rest):
        train(run, learner, *rest)
        if run.parallel.rank == 1:
            next(p for p in learner.model.parameters() if p.requires_grad is trains).data.add_(1)

    monkeypatch.setattr(tuning, "_train", changing)
    made = made_for(DDP, tiny, tmp_path, training=SPLIT | {"steps": 2}, inference=False)
    for result, _ in several_devices.forked(trials.job(made, tmp_path), {}):
        assert result.row.status == status
        assert result.row.message.removeprefix("RuntimeError: ").startswith(why)


@pytest.mark.slow
def test_a_trial_on_several_devices_that_exceeds_its_timeout_ends_all_its_processes(tiny, tmp_path):
    long = made_for(FSDP2, tiny, tmp_path, training=SPLIT | {"steps": 20_000}, timeout_seconds=30.0)
    pids, results = [], []
    for event in local.run([trials.job(long, tmp_path)], workers=1):
        if event.step == 1:
            server = next(p for p in psutil.Process().children() if p.children())
            pids = [p.pid for p in server.children()]
        results += [event.result] if event.result else []
    assert [r.row.status for r in results] == [Status.TIMEOUT]
    assert len(pids) == 2
    until = time.monotonic() + 5
    while any(psutil.pid_exists(p) and psutil.Process(p).status() != "zombie" for p in pids):
        assert time.monotonic() < until
        time.sleep(0.05)


@pytest.mark.slow
@pytest.mark.parametrize("devices", [Devices("ddp", 4), Devices("fsdp2", 4), DDP, OFFLOADED], ids=lambda d: d.name)
@pytest.mark.parametrize("method", [name for name, method in METHODS.own.items() if method.trains and name != "qlora"])
def test_every_method_on_several_devices_trains_as_in_one_process(method, devices, tiny, tmp_path):
    agree(*finished([made_for(d, tiny, tmp_path, method, training=SPLIT) for d in (None, devices)], tmp_path))


@pytest.mark.slow
@pytest.mark.parametrize("devices", [DDP, FSDP2, Devices("tp", 2), Devices("pp", 2)], ids=lambda d: d.name)
@pytest.mark.parametrize("kind", [True, 2, "selective"])
@pytest.mark.parametrize("method", ["full", "lora"])
def test_checkpointing_on_several_devices_trains_as_without_in_one_process(method, kind, devices, tiny, tmp_path):
    if kind == "selective" and devices.strategy in ("fsdp2", "tp"):
        pytest.skip("refused: gradients would be wrong, or are not compared")
    alone = made_for(None, tiny, tmp_path, method, training=SPLIT)
    several = made_for(devices, tiny, tmp_path, method, training=SPLIT | {"gradient_checkpointing": kind})
    several_devices.same_training(*finished([alone, several], tmp_path), TOLERANCE)


@pytest.mark.slow
@pytest.mark.parametrize("devices", [DDP, FSDP2], ids=lambda d: d.name)
@pytest.mark.parametrize("changes", [{"packing": True}, {"optimizer": "sgd"}], ids=str)
def test_training_settings_on_several_devices_do_what_they_do_in_one_process(changes, devices, tiny, tmp_path):
    agree(*finished([made_for(d, tiny, tmp_path, training=SPLIT | changes) for d in (None, devices)], tmp_path))


@pytest.mark.slow
@pytest.mark.parametrize("devices", [DDP, FSDP2, Devices("tp", 2)], ids=lambda d: d.name)
@pytest.mark.parametrize(("method", "kind"), [("full", "chunked"), ("lora", "loss_bearing"), ("lora", "chunked")])
def test_logits_of_some_positions_on_several_devices_train_as_all_in_one_process(method, kind, devices, tiny, tmp_path):
    alone = made_for(None, tiny, tmp_path, method, training=SPLIT)
    several = made_for(devices, tiny, tmp_path, method, training=SPLIT | {"logits": kind})
    agree(*finished([alone, several], tmp_path))


@pytest.mark.slow
def test_ranks_stop_at_the_same_step_when_a_budget_of_seconds_is_used_up(tiny, tmp_path):
    made = made_for(FSDP2, tiny, tmp_path, training=SPLIT | {"steps": None, "seconds": 1.0})
    (found,) = finished([made], tmp_path)
    assert found.row.status == Status.OK
    assert found.row.train_seconds >= 1.0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("precision", "devices"),
    [("bf16", DDP), ("bf16", FSDP2), ("bf16-true", FSDP2), ("fp16", DDP), ("int8", DDP), ("nf4", DDP), ("nf4", FSDP2)],
    ids=str,
)
def test_precisions_on_several_devices_train_as_in_one_process(precision, devices, tiny, tmp_path):
    made = [made_for(d, tiny, tmp_path, "lora", precision, training=SPLIT) for d in (None, devices)]
    agree(*finished(made, tmp_path), tolerance=LOOSE)
