"""Gradients of the factors of a product, preconditioned by each other: Riemannian preconditioned LoRA.

With W + s B A, the gradient of A is multiplied from the left by (B^T B + d I)^-1 and that of B from the right by
(A A^T + d I)^-1, after clipping and before any optimizer uses them, as in peft's ``create_riemannian_optimizer``.

References:
    Zhang & Pilanci 2024, arXiv:2402.02347, equation 2.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import torch

DAMPING = 1e-2
"""d, as in peft; at the start B is zero, and the gradient of A is multiplied by 100."""
_PARTNER = "peftbench_riemannian_partner"


def mark(a: Any, b: Any) -> None:
    """Mark A of shape (r, in), whose gradient and that of B of shape (out, r) are preconditioned."""
    setattr(a, _PARTNER, b)


def precondition_before_steps(optimizer: Any) -> None:
    """Let an optimizer precondition the gradients of marked pairs before each step; they are A's part's."""
    parts = getattr(optimizer, "parts", (optimizer,))
    marked = [p for part in parts for group in part.param_groups for p in group["params"] if hasattr(p, _PARTNER)]
    if marked:
        parts[0].register_step_pre_hook(lambda *_: _precondition(marked))


@torch.no_grad()
def _precondition(marked: list[Any]) -> None:
    """Precondition the gradients in place; pairs of one rank are inverted together."""
    ranks: dict[int, list[tuple[Any, Any]]] = defaultdict(list)
    for a in marked:
        ranks[a.shape[0]].append((a, getattr(a, _PARTNER)))
    for rank, pairs in ranks.items():
        damping = DAMPING * torch.eye(rank, device=pairs[0][0].device)
        grams = [b.float().mT @ b.float() + damping for _, b in pairs]
        grams += [a.float() @ a.float().mT + damping for a, _ in pairs]
        inverses = torch.linalg.inv(torch.stack(grams))
        for place, (a, b) in enumerate(pairs):
            if a.grad is not None:
                a.grad.copy_(inverses[place] @ a.grad.float())
            if b.grad is not None:
                b.grad.copy_(b.grad.float() @ inverses[len(pairs) + place])
