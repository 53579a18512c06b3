"""Initializations of LoRA that read the trial's own training examples: LoRA-GA's gradients, CorDA's covariances.

The examples are the first that the trial trains on, the same for every method of a seed. Each passes alone, so that
little memory is needed for activations and nothing is padded. The time is part of the trial's attach phase.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from peft.tuners.lora import LoraLayer
from torch import nn
from transformers.pytorch_utils import Conv1D

from peftbench.errors import Unsupported
from peftbench.models import head
from peftbench.training.batches import Batch, collate
from peftbench.training.loop import batch_loss

ADAPTER = "default"
COVARIANCE_EXAMPLES = 256
"""Most examples for CorDA's covariances: as many as in Yang et al. 2024, arXiv:2406.05223, section 4."""
GAMMA = 16.0
"""LoRA-GA's gamma: Outsider565/LoRA-GA, reproduce/conf/init/gradient.yaml (89af7de5)."""

Layers = Mapping[str, LoraLayer]


def layers(tuned: Any) -> dict[str, LoraLayer]:
    """Return the adapted layers by name."""
    return {n: m for n, m in tuned.get_base_model().named_modules() if isinstance(m, LoraLayer)}


def lora_ga(tuned: Any) -> None:
    """Start A and B in the directions of the base weights' gradient, as LoRA-GA's authors do.

    With G (out, in) the gradient of the loss by W on the examples of the first training step, and its singular vectors
    u, v in descending order, A is the first r of v, and B the next r of u (``ArB2r``), both times out^(1/4) / sqrt(16).
    s B A is subtracted from W, so that the first forward pass equals the base model's.

    peft's own ``lora_ga`` differs from it: it multiplies B by the gradient's singular values too and does not scale A.

    Raises:
        Unsupported: if a layer has fewer than 2r components, or a gradient is not finite.

    References:
        Wang et al. 2024, arXiv:2407.05000, algorithm 1; Outsider565/LoRA-GA, peft/src/peft/tuners/lora/layer.py
        (89af7de5).
    """
    found = layers(tuned)
    for name, gradient in gradients(tuned, found).items():
        layer = found[name]
        r, out = layer.r[ADAPTER], gradient.shape[0]
        own = layer.lora_A[ADAPTER].weight
        u, _, v = torch.svd_lowrank(gradient.to(own.device), q=min(4 * r, *gradient.shape), niter=4)
        scale = out**0.25 / GAMMA**0.5
        layer.lora_A[ADAPTER].weight.data = (scale * v[:, :r].T).to(own.dtype).contiguous()
        layer.lora_B[ADAPTER].weight.data = (scale * u[:, r : 2 * r]).to(own.dtype).contiguous()
        _subtract(layer)


def pefts_lora_ga(tuned: Any, config: Any) -> None:
    """Start A and B by peft's own version of LoRA-GA, on the gradients of the mean loss of the first training step."""
    found = layers(tuned)
    for name, gradient in gradients(tuned, found).items():
        base = found[name].get_base_layer()
        if isinstance(base, Conv1D):
            raise Unsupported(
                "peft LORA: lora_ga: peft scales by a Conv1D's input, as it takes its weights as (out, in)"
            )
        base._peft_loraga_grad = gradient.to(base.weight.device)
        found[name].lora_ga_init(ADAPTER, config)


def corda(tuned: Any, config: Any) -> None:
    """Start A and B by peft's CorDA, on the covariances of each layer's inputs over the trial's first examples."""
    from peft.tuners.lora.corda import collect_eigens_for_layer

    found = layers(tuned)
    for name, covariance in covariances(tuned, found).items():
        layer, r = found[name], found[name].r[ADAPTER]
        base = layer.get_base_layer()
        base.covariance_matrix = covariance
        eigens = collect_eigens_for_layer(base, config)
        del base.covariance_matrix
        eigens.S_WC = eigens.S_WC[:r].clone()
        eigens.U_WC, eigens.V_WC = (m[:, :r].clone().to(covariance.device) for m in (eigens.U_WC, eigens.V_WC))
        base.eigens = eigens
        layer.corda_init(ADAPTER, "corda")


@torch.no_grad()
def _subtract(layer: Any) -> None:
    weight = layer.get_base_layer().weight
    weight.data = (weight.data.float() - layer.get_delta_weight(ADAPTER).float()).to(weight.dtype)


def gradients(tuned: Any, found: Layers) -> dict[str, torch.Tensor]:
    """Return the gradient of the mean loss per token by each adapted weight, (out, in) in fp32 on the host.

    The examples are those of the first training step. An update that is zero does not change the gradient. Each
    weight's gradient is moved to the host when it is complete, so that the device holds one at a time.

    Raises:
        Unsupported: if a gradient is missing or not finite, or has fewer than 2r components.
    """
    weights = {name: layer.get_base_layer().weight for name, layer in found.items()}
    sums: dict[str, torch.Tensor] = {}

    def keep(name: str) -> Callable[[torch.Tensor], None]:
        def moved(weight: torch.Tensor) -> None:
            assert weight.grad is not None
            gradient = weight.grad.float().cpu()
            sums[name] = sums[name].add_(gradient) if name in sums else gradient
            weight.grad = None

        return moved

    trained = [p for p in tuned.parameters() if p.requires_grad]
    hooks = []
    with _evaluating(tuned):
        try:
            for p in trained:
                p.requires_grad_(False)
            for name, weight in weights.items():
                weight.requires_grad_(True)
                hooks.append(weight.register_post_accumulate_grad_hook(keep(name)))
            tokens = 0
            for batch in _examples(tuned, _first_step(tuned)):
                tokens += batch.loss_tokens
                with computing(tuned):
                    loss = batch_loss(tuned, batch)
                loss.backward()
        finally:
            for hook in hooks:
                hook.remove()
            for weight in weights.values():
                weight.requires_grad_(False)
            for p in trained:
                p.requires_grad_(True)
    for name, layer in found.items():
        _check(name, layer, sums.get(name))
    conv = {name for name, layer in found.items() if isinstance(layer.get_base_layer(), Conv1D)}
    return {name: (s.T if name in conv else s) / tokens for name, s in sums.items()}


def _check(name: str, layer: Any, gradient: torch.Tensor | None) -> None:
    if gradient is None or not gradient.isfinite().all():
        what = "no gradient reaches it" if gradient is None else "its gradient is not finite"
        raise Unsupported(f"lora: initialization lora_ga: {name}: {what}")
    if min(gradient.shape) < 2 * layer.r[ADAPTER]:
        raise Unsupported(
            f"lora: initialization lora_ga: {name} has {min(gradient.shape)} components, fewer than twice its rank of "
            f"{layer.r[ADAPTER]}"
        )


@torch.no_grad()
def covariances(tuned: Any, found: Layers) -> dict[str, torch.Tensor]:
    """Return the mean over examples of X^T X / max(X)^2 by layer, (in, in), with X (t, in) the layer's inputs.

    References:
        Yang et al. 2024, arXiv:2406.05223, section 3.2; the division is the authors' code's and peft's.
    """
    sums: dict[str, torch.Tensor] = {}

    def keep(name: str) -> Callable[[nn.Module, Any], None]:
        def read(_: nn.Module, given: Any) -> None:
            x = given[0].detach().reshape(-1, given[0].shape[-1]).float()
            x = x / x.max().abs()
            sums[name] = sums.get(name, 0) + x.T @ x

        return read

    hooks = [layer.register_forward_pre_hook(keep(name)) for name, layer in found.items()]
    examples = list(itertools.islice(itertools.chain(*_steps(tuned)), COVARIANCE_EXAMPLES))
    with _evaluating(tuned), computing(tuned):
        try:
            for batch in _examples(tuned, examples):
                head.predictions(tuned, batch.inputs)
        finally:
            for hook in hooks:
                hook.remove()
    missing = [name for name in found if name not in sums or not sums[name].isfinite().all()]
    if missing:
        raise Unsupported(f"peft LORA: corda: {missing[0]} has no inputs that are finite")
    return {name: s / len(examples) for name, s in sums.items()}


def _steps(tuned: Any) -> Sequence[Sequence[Any]]:
    steps: Sequence[Sequence[Any]] = tuned.get_base_model().peftbench_origin.step_examples
    if not steps:
        raise Unsupported("lora: this initialization needs training batches, and there are none")
    return steps


def _first_step(tuned: Any) -> Sequence[Any]:
    return _steps(tuned)[0]


def _examples(tuned: Any, examples: Sequence[Any]) -> Iterator[Batch]:
    """Yield each example as a batch of its own."""
    device = str(next(tuned.parameters()).device)
    pad = tuned.get_base_model().peftbench_origin.tokenizer.pad_token_id
    return (collate([e], pad).to(device) for e in examples)


def computing(tuned: Any) -> AbstractContextManager[Any]:
    """Return the context in which a model with a head can run: its head may have another dtype than the base model."""
    base = tuned.get_base_model()
    embedding = base.get_input_embeddings().weight
    if head.placed_in(base) is None or embedding.dtype is torch.float32:
        return nullcontext()
    return torch.autocast(embedding.device.type, dtype=embedding.dtype)


@contextmanager
def _evaluating(tuned: Any) -> Iterator[None]:
    """Switch dropout off within the context."""
    was = tuned.training
    tuned.eval()
    try:
        yield
    finally:
        tuned.train(was)
