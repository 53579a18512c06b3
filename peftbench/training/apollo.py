"""APOLLO: steps along the whole gradient, scaled as AdamW would scale a random projection of it.

For a gradient G of shape (m, n) with m <= n (a taller matrix is taken transposed), R = P G with P of shape (r, m),
whose values are normal with variance 1 / r and drawn anew every 200 steps. AdamW's moments are those of R, and U is the
direction that it gives. Column j of G is multiplied by |U_j| / |R_j|; APOLLO-Mini, with r = 1, multiplies the whole G
by |U| / |R| and by the square root of 128. The norm of what results grows by at most 1 % from one step to the next.

It is written here because ``apollo-torch``, the authors', is licensed for non-commercial use, and ``APOLLO`` of
pytorch-optimizer 4.1 scales R and projects it back, so that its steps are of rank r.
"""

from __future__ import annotations

import itertools
import math
from typing import Any

import torch

BETAS = (0.9, 0.999)
EPS = 1e-8
GAP = 200
"""Steps between two projections."""
GROWTH = 1.01
"""Largest ratio of the norms of two steps that follow each other."""


class Apollo(torch.optim.Optimizer):
    """APOLLO for matrices; its state is 2 r n values and the norm of the last step.

    Projections are not kept: they are drawn again from a seed that is the process's and the parameter's own, without
    touching torch's random state.

    References:
        Zhu et al. 2024, arXiv:2412.05270, algorithm 1 and section 4; the limit of the growth from Chen et al. 2024,
        arXiv:2410.01623 (Fira).
    """

    def __init__(self, groups: Any, lr: float, rank: int, scale: float, by_column: bool) -> None:
        """Make the optimizer.

        Args:
            groups: parameter groups of matrices.
            lr: learning rate.
            rank: r, at most m.
            scale: factor of each step.
            by_column: whether each column has a factor of its own; False for one factor of the whole matrix.
        """
        settings = {"lr": lr, "weight_decay": 0.0, "rank": rank, "scale": scale, "by_column": by_column}
        super().__init__(groups, {**settings, "seed": torch.initial_seed() % 2**31})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Take a step with every gradient that exists."""
        place = itertools.count()
        for group in self.param_groups:
            for parameter in group["params"]:
                seed = group["seed"] + 7919 * next(place)
                if parameter.grad is not None:
                    self._move(parameter, group, seed)

    def _move(self, parameter: Any, group: dict[str, Any], seed: int) -> None:
        tall = parameter.shape[0] > parameter.shape[1]
        gradient = parameter.grad.mT if tall else parameter.grad
        state = self.state[parameter]
        if not state:
            low = (min(group["rank"], gradient.shape[0]), gradient.shape[1])
            state["step"] = 0
            state["exp_avg"], state["exp_avg_sq"] = (parameter.new_zeros(low) for _ in range(2))
            state["norm"] = torch.zeros((), device=parameter.device)
        projected = _projection(state["exp_avg"].shape[0], gradient, seed + state["step"] // GAP) @ gradient
        state["step"] += 1
        adapted = _adam(projected, state)
        by = {"dim": 0} if group["by_column"] else {}
        factor = torch.linalg.vector_norm(adapted, **by) / (torch.linalg.vector_norm(projected, **by) + EPS)
        move = gradient * factor.mul_(group["scale"])
        norm = torch.linalg.vector_norm(move, dtype=torch.float32)
        limited = torch.where(state["norm"] > 0, torch.minimum(norm, GROWTH * state["norm"]), norm)
        move.mul_((limited / (norm + EPS)).to(move.dtype))
        state["norm"].copy_(limited)
        parameter.mul_(1 - group["lr"] * group["weight_decay"])
        parameter.add_(move.mT if tall else move, alpha=-group["lr"])


def _adam(gradient: torch.Tensor, state: dict[str, Any]) -> torch.Tensor:
    """Return Adam's direction for a gradient, with the moments and the step of ``state``."""
    first, second = BETAS
    state["exp_avg"].lerp_(gradient, 1 - first)
    state["exp_avg_sq"].mul_(second).addcmul_(gradient, gradient, value=1 - second)
    root = (state["exp_avg_sq"] / (1 - second ** state["step"])).sqrt_().add_(EPS)
    return state["exp_avg"] / root.mul_(1 - first ** state["step"])


def _projection(rank: int, gradient: torch.Tensor, seed: int) -> torch.Tensor:
    """Return P of shape (rank, m) for a gradient of shape (m, n)."""
    generator = torch.Generator(gradient.device).manual_seed(seed)
    shape = (rank, gradient.shape[0])
    drawn = torch.randn(shape, generator=generator, device=gradient.device, dtype=gradient.dtype)
    return drawn.div_(math.sqrt(rank))
