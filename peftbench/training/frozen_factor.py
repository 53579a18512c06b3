"""The gradient of one factor of a product whose other factor is frozen, corrected to the step of the whole product.

With W + s B A and A frozen, a step of B by g moves the weight by s g A. The g that brings it nearest to the gradient of
the weight itself (in the Frobenius norm) is g_B (A A^T)^+ / s^2, with g_B the gradient of B. Gradients are corrected
after they were clipped, before any optimizer uses them, as in peft's ``create_lorafa_optimizer``, which takes AdamW
alone, multiplies in bf16 and adds 1e-8 to the diagonal of A A^T.

References:
    Zhang et al. 2023, arXiv:2308.03303, section 3.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import torch
from torch import nn

_FROZEN, _SCALE = "peftbench_frozen_factor", "peftbench_factor_scale"


def mark(factor: Any, frozen: nn.Parameter, scale: float) -> None:
    """Mark a factor B of shape (out, r) whose gradient is corrected.

    Args:
        factor: B.
        frozen: A of shape (r, in).
        scale: s.
    """
    setattr(factor, _FROZEN, frozen)
    setattr(factor, _SCALE, scale)


def correct_before_steps(optimizer: Any) -> None:
    """Let an optimizer correct the gradients of the marked parameters before each of its steps."""
    for part in getattr(optimizer, "parts", (optimizer,)):
        marked = [p for group in part.param_groups for p in group["params"] if hasattr(p, _FROZEN)]
        if marked:
            part.register_step_pre_hook(lambda *_, marked=marked: _correct(marked))


@torch.no_grad()
def _correct(marked: list[Any]) -> None:
    """Correct the gradients in place; A's of one rank are inverted together."""
    ranks: dict[int, list[Any]] = defaultdict(list)
    for factor in marked:
        if factor.grad is not None:
            ranks[factor.shape[1]].append(factor)
    for factors in ranks.values():
        frozen = [getattr(factor, _FROZEN).to(factor.device).float() for factor in factors]  # a step may be on the host
        inverses = torch.linalg.pinv(torch.stack([a @ a.mT for a in frozen]), hermitian=True)
        for factor, inverse in zip(factors, inverses, strict=True):
            factor.grad.copy_(factor.grad.float() @ inverse / getattr(factor, _SCALE) ** 2)
