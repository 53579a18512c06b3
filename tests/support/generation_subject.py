"""A method attached to the tiny base, ready to be measured in use."""

from __future__ import annotations

import torch

from peftbench.evaluation import generation, structure
from peftbench.measure.clock import Clock
from peftbench.methods import METHODS
from peftbench.models.load import cast_trainable
from peftbench.models.precision import PRECISIONS
from peftbench.records import Example
from peftbench.records.resolve import resolve
from tests.support import trials
from tests.support.method_cells import loaded


def texts(*lengths: int) -> list[Example]:
    return [Example("one " * length, "two") for length in lengths]


def subject(tiny, tmp_path, name="lora", precision="fp32", clock=None) -> generation.Subject:
    """Return a method attached to the tiny base, moved away from its start, ready to be measured."""
    method, made = METHODS[name], trials.trial(tiny, tmp_path, name, precision)
    base = loaded(tiny, name, precision)
    beside = method.trains and not method.trains_base
    bare = structure.remember(base.model.modules(), weights=False) if beside else None
    torch.manual_seed(1)
    tuned = resolve(method.attach)(base.model, made.rank, made.options)
    with torch.no_grad():
        for parameter in cast_trainable(tuned, PRECISIONS[precision]):
            parameter.add_(0.02 * torch.randn_like(parameter))
    return generation.Subject(
        model=tuned,
        base=base.model,
        bare=bare,
        method=method,
        precision=PRECISIONS[precision],
        device="cpu",
        clock=clock or Clock(),
        prompts=generation.prompts(base.tokenizer, [texts(9, 12, 12, 20, 3)], 32),
        pad_id=base.tokenizer.pad_token_id,
        scratch=tmp_path,
    )
