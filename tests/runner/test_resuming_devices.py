"""A trial on several devices that is interrupted goes on from the state that its ranks saved together, bit for bit."""

from __future__ import annotations

import json
import os
import shutil
import signal
from dataclasses import replace

import psutil
import pytest
from safetensors.torch import load_file

from peftbench.models import builtin
from peftbench.records import Devices, Status
from peftbench.runner import training_states
from peftbench.runner.executor import local
from peftbench.training import saved_state
from tests.support import several_devices, trials

DDP = Devices("ddp", 2)
SPLIT = {"batch_size": 6, "micro_batch_size": 2, "weight_decay": 0.01, "steps": 9}
"""Three passes in a step: on two ranks, one rank runs an empty one."""


def job_of(made, folder):
    """Return the job of a trial that keeps its adapter."""
    folder.mkdir()
    return replace(trials.job(made, folder), adapter_folder=str(folder / "adapter"))


def killed(job, rank, step):
    """Run a trial, and kill one of its processes after a step; return its result."""
    server, found = None, None
    for event in local.run([job], workers=1):
        if event.step == step:
            server = next(p for p in psutil.Process().children() if p.children())
            sorted(server.children(), key=lambda p: p.pid)[rank].kill()
        found = event.result or found
    return found


def weights(job):
    """Return the tensors that a trial kept."""
    (path,) = (p for p in os.scandir(job.adapter_folder) if p.name.endswith(".safetensors"))
    return load_file(path.path)


def equal(job, result, whole_job, whole):
    """Check that an interrupted trial is the unbroken one, bit for bit."""
    assert result.row.status == Status.OK, result.row.message
    for one, other in zip(result.steps, whole.steps, strict=True):
        assert replace(one, seconds=0.0, untimed=False, key="") == replace(other, seconds=0.0, untimed=False, key="")
    assert result.row.batches_sha256 == whole.row.batches_sha256
    assert [e.outcome for e in result.examples] == [e.outcome for e in whole.examples]
    mine, expected = weights(job), weights(whole_job)
    assert mine.keys() == expected.keys()
    assert all(tensor.equal(mine[name]) for name, tensor in expected.items())


def interrupted_and_unbroken(made, tmp_path, deaths):
    """Run a trial whole, and another time with a rank killed after some step, for each of these pairs; compare."""
    unbroken, broken = job_of(made, tmp_path / "whole"), job_of(made, tmp_path / "broken")
    broken = replace(broken, trial=replace(made, checkpoint_every_seconds=1e-9))
    (whole,) = several_devices.finished([unbroken])
    for rank, step in deaths:
        lost = killed(broken, rank, step)
        assert lost.row.status == Status.KILLED
        place = training_states.newest(broken.scratch, broken.key)
        assert sorted(path.name for path in place.iterdir()) == [f"rank{n}" for n in range(made.devices.count)]
    (result,) = several_devices.finished([broken])
    assert result.row.resumes == len(deaths)
    assert result.row.checkpoint_seconds > 0
    assert len(json.loads(result.row.ranks_json)) == made.devices.count
    equal(broken, result, unbroken, whole)


def die():
    """End this process as a crash does."""
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_trial_of_which_a_rank_dies_while_it_saves_goes_on_from_the_state_before(tiny, tmp_path, monkeypatch):
    """As the unbroken trial, bit for bit; and a state of which one rank's part is damaged is used by none."""
    made = trials.trial(
        tiny,
        tmp_path / "data",
        devices=DDP,
        evaluate=("colour",),
        inference=False,
        training=SPLIT,
        options={"dropout": 0.1},
    )
    unbroken, broken = job_of(made, tmp_path / "whole"), job_of(made, tmp_path / "broken")
    broken = replace(broken, trial=replace(made, checkpoint_every_seconds=1e-9))
    (whole, _), _ = several_devices.forked(unbroken, {})
    assert not (tmp_path / "whole" / training_states.FOLDER).exists()

    steps, write = [0], saved_state.write
    report = {1: lambda step, *_: steps.__setitem__(0, step)}
    with monkeypatch.context() as within:
        within.setattr(saved_state, "write", lambda *given: die() if steps[0] == 6 else write(*given))
        (lost, _), dead = several_devices.forked(broken, report)
    assert dead is None
    assert (lost.row.status, lost.row.phase) == (Status.ERROR, "checkpoint")
    state = training_states.newest(broken.scratch, broken.key)
    assert state.name == f"{broken.key}.5"
    assert sorted(path.name for path in state.iterdir()) == ["rank0", "rank1"]

    damaged = job_of(broken.trial, tmp_path / "damaged")
    copy = shutil.copytree(state, tmp_path / "damaged" / training_states.FOLDER / state.name)
    shutil.rmtree(copy / "rank1")
    for job, resumes in ((broken, 1), (damaged, None)):
        (result, said), (_, others) = several_devices.forked(job, {})
        assert result.row.resumes == resumes
        unused = result.row.state_not_used
        assert unused == (
            None if resumes else "rank 1: it cannot be read: [Errno 2] No such file or directory: 'state.json'"
        )
        assert ["anew" in each for each in said] == ["anew" in each for each in others] == ([] if resumes else [True])
        equal(job, result, unbroken, whole)
    assert (copy.parent / f"{copy.name}.{training_states.ASIDE}" / "rank0").is_dir()


SEVERAL = (DDP, Devices("fsdp2", 2), Devices("fsdp2", 2, "cpu"), Devices("tp", 2), Devices("pp", 2))


@pytest.mark.slow
@pytest.mark.parametrize("devices", SEVERAL, ids=lambda d: d.name)
@pytest.mark.parametrize("method", ["full", "lora", "adapter"])
def test_under_each_strategy_a_trial_that_is_killed_goes_on_as_the_unbroken_one(method, devices, tiny, tmp_path):
    training = SPLIT | {"validate_every": 2, "score": "best_on_validation"}
    made = trials.trial(tiny, tmp_path / "data", method, devices=devices, evaluate=("colour",), training=training)
    interrupted_and_unbroken(made, tmp_path, [(1, 3), (0, 7)])


@pytest.mark.slow
def test_sums_over_three_ranks_are_rounded_as_in_the_unbroken_trial(tmp_path):
    """DDP sorts its buckets anew after its first step, and an element's place decides the order of its sum."""
    training = SPLIT | {"steps": 5}
    made = trials.trial(
        builtin.folder("nano"), tmp_path / "data", "full", devices=Devices("ddp", 3), evaluate=(), training=training
    )
    interrupted_and_unbroken(made, tmp_path, [(1, 2)])
