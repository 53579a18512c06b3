"""The built-in base model with a method, whole or as one process of several has it, and examples to train it on."""

from __future__ import annotations

import torch

from peftbench.methods import METHODS
from peftbench.models import builtin, load
from peftbench.models.precision import PRECISIONS
from peftbench.records.resolve import resolve
from peftbench.training import batches, loop
from peftbench.training.parallel import ALONE
from tests.support import trials

STEP = {"batch_size": 5, "micro_batch_size": 1, "clip_norm": 0.5}
LENGTHS = (9, 14, 6, 17, 12)
"""Of a step's examples: five micro-batches, so that of two copies one has a pass less."""


def trial_of(method, folder, **changes):
    """Return a trial of the built-in base model whose steps have five micro-batches."""
    return trials.trial(builtin.folder("nano"), folder, method, training=STEP, **changes)


def learner_of(method, folder, parallel=ALONE, **options):
    """Return the learner of such a trial, with the part of the model that a strategy leaves to this process."""
    made = trial_of(method, folder, options=options)
    loaded = load.load(
        builtin.folder("nano"),
        PRECISIONS["fp32"],
        METHODS[method].trains_base,
        True,
        device="cpu",
        trust_remote_code=False,
    )
    torch.manual_seed(0)
    tuned = resolve(METHODS[method].attach)(loaded.model, made.rank, made.options)
    load.cast_trainable(tuned, PRECISIONS["fp32"])
    if parallel is not ALONE:
        parallel.distribute(tuned, PRECISIONS["fp32"])
    return loop.learner(
        tuned,
        [p for p in tuned.parameters() if p.requires_grad],
        made.training,
        precision=PRECISIONS["fp32"],
        device="cpu",
        pad_id=2,
        virtual_tokens=0,
        parallel=parallel,
    )


def examples(step):
    """Return the examples of a step."""
    drawn = torch.Generator().manual_seed(step)
    ids = [tuple(torch.randint(5, 1000, (n,), generator=drawn).tolist()) for n in LENGTHS]
    return [batches.Encoded(own, 2, False, ("x", place)) for place, own in enumerate(ids)]
