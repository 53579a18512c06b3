"""Proofs before training: the method computes on the base model as it is, and a gradient reaches all that should train.

A parameter that is zero, such as LoRA's B before training, hides others (A then has no gradient). So noise is added
during the proof to the method's parameters, or in full fine-tuning to the weights that are zero. A frozen weight that
is zero stays so: what it hides never trains.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch

from peftbench.errors import Unsupported
from peftbench.methods.record import Method
from peftbench.models import divided, head
from peftbench.models.load import autocast
from peftbench.models.unreached import depends_on_tokens
from peftbench.records import failures
from peftbench.records.wording import abridged, plural
from peftbench.runner.checks import liveness
from peftbench.training import float8, host_step, several_optimizers
from peftbench.training.batches import IGNORED, Batch
from peftbench.training.loop import Learner, batch_loss

_CLOSE = 1e-3
"""Largest distance, relative to their norm, of logits from embeddings to those from token ids. The same kernels compute
both, so they are mostly equal bit for bit; what a model leaves out changes them by far more."""
_ROUTER = re.compile(r"(^|\.)(gate|router|\w*gate_network)(\.|$)|router|bias_u|expert_bias")
"""Part of the name of a weight that routes tokens to experts; it has no gradient for experts that were not chosen."""
_SMALL = 2**16
"""Most values of a parameter that is searched for one that is not zero."""
_MOST = 3
"""Most tensors that a message names."""


def check(learner: Learner, base: Any, method: Method, batch: Batch) -> None:
    """Check what a method needs of a base model and what neither plan nor library says.

    Args:
        learner: the tuned model, ready to train; it is not changed.
        base: the base model's own module, which the method changed or wrapped.
        method: the method.
        batch: a few training examples.

    Raises:
        Unsupported: if the base gives other logits for embeddings than for the token ids that they stand for, and the
            method gives it embeddings; if a tensor, or a part of the virtual tokens, has no gradient; or as
            ``float8.used``.
    """
    there = batch.to(learner.device)
    devices = [torch.cuda.current_device()] if learner.device == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        if method.virtual_tokens:
            with learner.parallel.in_parts(learner.model):
                _check_embeddings(learner, base, method, there)
        with float8.used(learner.model):
            _check_gradients(learner, method, there)


class _Called(Exception):
    """The base model was called; carries the embeddings that it was given, or None."""

    def __init__(self, embeddings: torch.Tensor | None) -> None:
        super().__init__()
        self.embeddings = embeddings


@torch.no_grad()
def _check_embeddings(learner: Learner, base: Any, method: Method, batch: Batch) -> None:
    learner.model.eval()
    given = _given_embeddings(learner, base, batch)
    if given is None:
        return
    name, model = _name(method), type(base).__name__
    rest = {key: value for key, value in batch.inputs.items() if key != "input_ids"}
    with autocast(learner.precision, learner.device):
        expected = head.predictions(base, batch.inputs).float()
        try:
            found = head.predictions(base, {"inputs_embeds": given[:, -batch.ids.shape[1] :], **rest}).float()
        except Exception as error:
            if failures.out_of_memory(error):
                raise
            raise Unsupported(
                f"{name}: it gives the base embeddings, which {model} does not take in place of token ids: "
                f"{failures.words(error)}"
            ) from error
    seen = batch.mask.bool() if batch.targets is None else ...
    distance = float((found[seen] - expected[seen]).norm() / expected[seen].norm())
    if distance > _CLOSE:
        raise Unsupported(
            f"{name}: it gives the base embeddings, for which {model} computes other logits than for the token ids "
            f"({100 * distance:.2g} % apart), so that another base would be tuned"
        )


def _given_embeddings(learner: Learner, base: Any, batch: Batch) -> torch.Tensor | None:
    """Return the embeddings that the tuned model gives the base, (b, p + t, d); None if it gives token ids."""

    def stop(_: Any, __: Any, settings: dict[str, Any]) -> None:
        raise _Called(settings.get("inputs_embeds"))

    hook = base.register_forward_pre_hook(stop, with_kwargs=True)
    try:
        with autocast(learner.precision, learner.device):
            head.predictions(learner.model, batch.inputs)
    except _Called as called:
        return called.embeddings
    finally:
        hook.remove()
    return None


def _check_gradients(learner: Learner, method: Method, batch: Batch) -> None:
    """Take the gradient of the loss on every token: tokens of the answer alone may not see the virtual tokens."""
    whole = replace(batch, labels=batch.ids.masked_fill(batch.mask == 0, IGNORED))
    name = _name(method)
    learner.model.train()
    try:
        zeros = [p for p in learner.parameters if p.numel() <= _SMALL and not bool(divided.whole(p).any())]
        with liveness.perturbed(zeros if method.trains_base else learner.parameters):
            with autocast(learner.precision, learner.device):
                loss = batch_loss(learner.model, whole) / whole.ids.numel()
            if not loss.requires_grad:
                raise Unsupported(f"{name}: no trainable parameter affects the output of this base model")
            every = host_step.takes(learner) and method.trains_base  # an adapter's fit, and more is checked of them
            with several_optimizers.dropping(learner.optimizer, learner.parameters, every) as reached:
                learner.scaler.scale(loss).backward()
        apart = liveness.head_names(learner.model)
        named = [(n, p) for n, p in learner.model.named_parameters() if p.requires_grad and n not in apart]
        dead = [n for n, p in named if p not in reached and not _learns(n, p)]
        if len(dead) == len(named) or (dead and not method.variants):
            raise Unsupported(
                f"{name}: no gradient reaches {len(dead)} of {plural(len(named), 'trainable tensor')} on this base "
                "model (its code does not use them, or a frozen weight that is zero hides them): "
                f"{abridged(dead, _MOST)}"
            )
        for part in _dead_parts(named):
            raise Unsupported(f"{name}: {part}")
    finally:
        learner.optimizer.zero_grad(set_to_none=True)


def _learns(name: str, parameter: torch.Tensor) -> bool:
    """Whether a parameter has a gradient that is not zero, or may have none because of the tokens."""
    if parameter.grad is not None and bool(divided.whole(parameter.grad).any()):
        return True
    return depends_on_tokens(name) or _ROUTER.search(name) is not None


def _dead_parts(named: list[tuple[str, torch.Tensor]]) -> Iterator[str]:
    """Yield the tensors of virtual tokens of which a part has no gradient, with the size of the part."""
    for name, parameter in named:
        if liveness.VIRTUAL.search(name) and parameter.grad is not None:
            alive = divided.whole(parameter.grad).reshape(-1, parameter.shape[-1]) != 0
            share = float(alive.any(1).float().mean() * alive.any(0).float().mean())
            if share < 1:
                yield (
                    f"no gradient reaches {100 * (1 - share):.0f} % of {name} on this base model, because some of its "
                    "layers do not read the virtual tokens"
                )


def _name(method: Method) -> str:
    return f"{method.name} {method.variant}".strip()
