"""Compare predictions for FSDP2 with torch's own tracker: ``python -m tools.validation.fsdp_memory``.

Both run a training step of the built-in base model on tensors without values, as rank 0 of two. The tracker rounds each
storage up to 512 bytes, as CUDA's allocator does, so the planner predicts for a GPU. They need not agree: the tracker
counts gradients, buffers of collectives and temporaries by rules of its own, and in the first step of a module rather
than in a later one. Prints a line per method: both peaks, and what makes up each.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch.distributed._tools.fsdp2_mem_tracker import FSDPMemTracker

from peftbench.models import builtin
from peftbench.models.precision import PRECISIONS
from peftbench.planner import fake, pretended
from peftbench.planner import trace as tracing
from peftbench.planner.predict import load_config, predict
from peftbench.planner.records import Pass
from peftbench.records import Devices, Trial
from peftbench.records.units import memory
from peftbench.training import loop
from tests.support import trials

TWO = Devices("fsdp2", 2)
PASSES = (Pass(4, 64), Pass(4, 64))
"""Two micro-batches, of which each rank runs one."""
METHODS_HERE = ("full", "lora", "adapter")


def tracked(trial: Trial, folder: Path) -> Mapping[str, int]:
    """Return the peak of a trial's second step by torch's tracker, by its own categories."""
    precision = PRECISIONS[trial.precision]
    assert trial.training is not None
    with pretended.rank_of(TWO, 0) as parallel:
        tuned = fake.attach(fake.base(trial, load_config(trial.base, folder), precision), trial)
        with fake.fake_tensors(padded=True), fake.Answers():
            fake.materialize(tuned)
            learner = tracing._learner(tuned, trial, precision, parallel)
            batches = [tracing._batch(p, trial) for p in PASSES]
            tracker: Any = FSDPMemTracker(tuned, learner.optimizer)
            tracker.track_inputs(tuple(b.ids for b in batches))
            with tracker:
                for _ in range(2):
                    loop.step(learner, batches, trial.training.learning_rate)
                    tracker.reset_mod_stats()
            found: Mapping[str, int] = tracker.get_tracker_snapshot("peak")[torch.device("cpu")]
    return {str(name): size for name, size in found.items()}


def main() -> None:
    """Print the comparison."""
    argparse.ArgumentParser(description=(__doc__ or "").partition(":")[0]).parse_args()
    folder = builtin.folder("nano")
    with tempfile.TemporaryDirectory() as data:
        for name in METHODS_HERE:
            made = replace(trials.trial(folder, Path(data), name), devices=TWO)
            ours = predict(replace(made, device="cuda"), folder, PASSES)
            theirs = tracked(made, folder)
            total = theirs.pop("Total")
            print(f"{name}: planner {memory(ours.peak_bytes)}, torch's tracker {memory(total)}")
            print(f"  planner: {_parts(ours.categories)}\n  tracker: {_parts(theirs)}")


def _parts(sizes: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {memory(size)}" for name, size in sizes.items() if size)


if __name__ == "__main__":
    main()
