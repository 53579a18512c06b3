"""Trials whose model is divided among processes by tensor parallelism or a pipeline: the numbers of one process."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from safetensors.torch import load_file

from peftbench.records import Devices
from tests.support import several_devices, trials

UNEVEN = {"batch_size": 5, "micro_batch_size": 2, "weight_decay": 0.01, "validate_every": 2, "loss_on": "all"}
"""Micro-batches of different lengths, and the last one with fewer rows."""
TOKEN = 64 * 4
"""Bytes of the hidden state of a token."""
HIDDEN = 2 * 32 * TOKEN
"""Bytes of hidden states of the largest micro-batch: gloo's thread may hold what it sends or adds a moment longer."""


def finished(made, folder):
    """Run trials that predict their memory, and return their results in order."""
    jobs = [
        replace(
            trials.job(one, folder),
            key=f"{place:016x}",
            predicts=True,
            adapter_folder=str(folder / "adapters" / str(place)),
            log=str(folder / f"{place}.log"),
        )
        for place, one in enumerate(made)
    ]
    return several_devices.finished(jobs)


def agree(one, other):
    """Check that two results are of the same training, up to rounding; a pipeline adds padding."""
    several_devices.same_training(one, other)
    assert all(a.processed_tokens <= b.processed_tokens for a, b in zip(one.steps, other.steps, strict=True))


def predicted_and_measured(result):
    """Return pairs of the peaks of each rank."""
    found = json.loads(result.row.ranks_json)
    assert list(found) == ["0", "1"], "the store takes what is no object for damaged"
    return [(rank["predicted_train_bytes"], rank["peak_train_bytes"]) for rank in found.values()]


@pytest.mark.parametrize(
    "method", ["full", *(pytest.param(name, marks=pytest.mark.slow) for name in ("lora", "adapter"))]
)
def test_a_divided_model_trains_as_in_one_process_and_needs_what_was_predicted(method, tiny, tmp_path):
    several = (None, Devices("tp", 2), Devices("pp", 2))
    one, shares, stages = finished(
        [trials.trial(tiny, tmp_path, method, training=UNEVEN, devices=d) for d in several], tmp_path
    )
    for other in (shares, stages):
        agree(one, other)
        assert other.row.peak_train_bytes < one.row.peak_train_bytes
    for other in (shares, stages):
        sizes = [rank["peak_optimizer_bytes"] for rank in json.loads(other.row.ranks_json).values()]
        assert max(sizes) <= one.row.peak_optimizer_bytes <= sum(sizes)
        assert other is shares or max(sizes) < 0.8 * one.row.peak_optimizer_bytes
    for predicted, measured in [*predicted_and_measured(shares), *predicted_and_measured(stages)]:
        assert predicted <= measured <= predicted + HIDDEN
    for predicted, measured in predicted_and_measured(shares):
        assert (measured - predicted) % TOKEN == 0, "what gloo holds are whole hidden states"
    files = [load_file(next((tmp_path / "adapters" / str(n)).glob("*.safetensors"))) for n in range(3)]
    for other in files[1:]:
        assert {n: (t.shape, t.dtype) for n, t in files[0].items()} == {n: (t.shape, t.dtype) for n, t in other.items()}
        assert all((files[0][n] - other[n]).abs().max() < 1e-3 for n in other)
