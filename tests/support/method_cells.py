"""Every method in every precision, attached to the tiny base: what the conformance tests run over."""

from __future__ import annotations

import pytest
import torch

from peftbench.methods import METHODS
from peftbench.methods.support import why_unsupported
from peftbench.models import load
from peftbench.models.precision import PRECISIONS
from peftbench.records.resolve import resolve
from peftbench.tasks import read
from peftbench.training import batches, loop
from tests.support import trials

TRAINED = [name for name, method in METHODS.items() if method.trains]
COMMON = ("fp32", "bf16", "nf4")
"""The precisions in which every method is tested; in the others, with --run-slow."""
ALSO = (("lora", "int8"), ("adapter", "int8"))
"""Methods that are tested in another precision too: one of peft and one of peftbench."""


def cells():
    """Yield every method in every precision that exists on the CPU, the less common ones marked slow."""
    for name in TRAINED:
        for precision in METHODS[name].precisions:
            if why_unsupported(METHODS[name], precision, "cpu") is None:
                marks = () if precision in COMMON or (name, precision) in ALSO else pytest.mark.slow
                yield pytest.param(name, precision, marks=marks, id=f"{name}-{precision}")


CELLS = list(cells())


def loaded(tiny, name, precision):
    method = METHODS[name]
    return load.load(tiny, PRECISIONS[precision], method.trains_base, True, device="cpu", trust_remote_code=False)


def attached(tiny, name, precision, tmp_path, **changes):
    """Return the loaded base, the learner, and the plan of its training batches."""
    method, made = METHODS[name], trials.trial(tiny, tmp_path, name, precision, **changes)
    base = loaded(tiny, name, precision)
    torch.manual_seed(0)
    tuned = resolve(method.attach)(base.model, made.rank, made.options)
    learner = loop.learner(
        tuned,
        load.cast_trainable(tuned, PRECISIONS[precision]),
        made.training,
        precision=PRECISIONS[precision],
        device="cpu",
        pad_id=base.tokenizer.pad_token_id,
        virtual_tokens=0,
    )
    plan = batches.draw_batches({"colour": read.examples(made.tasks[0], "train")}, made.training, base.tokenizer, 0)
    return base, learner, plan


def logits(tuned, precision, ids):
    tuned.eval()
    with torch.no_grad(), load.autocast(PRECISIONS[precision], "cpu"):
        return tuned(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False).logits[:, -ids.shape[1] :]


IDS = torch.arange(2, 26).reshape(2, 12) * 7 % 300
