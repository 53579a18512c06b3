"""Logits at the positions in the loss alone, all at once or in chunks that are computed twice.

With a large vocabulary, logits are the largest tensors of a training step: at each position a float for every token,
their copy in fp32, its softmax and a gradient. Prompts, padding and virtual tokens need none.

A hook before the model's output layer selects positions of the hidden states. What the model's own code does with
logits afterwards (soft-capping, scales) stays as it is, since it treats each position alike, and so does what a method
does to the layer. In chunks, the code after the decoder runs once for each chunk, with the decoder's output as it was,
under ``torch.utils.checkpoint``. See docs/design/logits.md.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NoReturn

import torch
from torch import nn
from torch.nn import functional
from torch.utils._pytree import tree_map_only
from torch.utils.checkpoint import checkpoint

from peftbench.errors import Unsupported
from peftbench.models import head
from peftbench.models.layers import decoder_layers
from peftbench.training import liger_logits

ALL, LOSS_BEARING, CHUNKED, LIGER = "all", "loss_bearing", "chunked", "liger"
CHUNK = 256
"""Most positions of a chunk."""


@dataclass(frozen=True)
class Bearing:
    """The positions of a batch whose logits enter the loss, and how many of them have logits at the same time."""

    rows: torch.Tensor
    """(n,): the row of each."""
    places: torch.Tensor
    """(n,): its data token, from 0; it predicts the next one."""
    chunk: int | None = None
    """Most positions that have logits at the same time; None for all of them."""
    fused: bool = False
    """Whether liger's operator computes output layer and loss, so that no logits are there outside of it."""

    def to(self, device: str) -> Bearing:
        """Return the same on a device."""
        return Bearing(self.rows.to(device), self.places.to(device), self.chunk, self.fused)


def bearing(bears: torch.Tensor, kind: str) -> Bearing | None:
    """Return where logits are needed; None if they are made everywhere.

    Args:
        bears: (b, t): whether each data token is to be predicted.
        kind: one of the values of ``train.logits``.
    """
    if kind == ALL:
        return None
    rows, places = bears[:, 1:].nonzero(as_tuple=True)
    return Bearing(rows.clone(), places.clone(), CHUNK if kind == CHUNKED else None, kind == LIGER)


def check(model: Any, kind: str) -> None:
    """Refuse a model whose logits cannot be made at some positions alone.

    Args:
        model: a base model or a tuned one, which predicts tokens.
        kind: one of the values of ``train.logits``.

    Raises:
        Unsupported: if its output layer is not known or, for chunks, what comes before it.
    """
    if kind == ALL or head.placed_in(model) is not None:
        return
    base = head.base_of(model)
    layer = _output_layer(base)
    if kind == LIGER:
        liger_logits.check(base, layer)
    if kind == CHUNKED:
        _decoders(base)


def losses(
    model: Any, inputs: Mapping[str, torch.Tensor], labels: torch.Tensor, where: Bearing, ignored: int
) -> torch.Tensor:
    """Return the cross-entropy at each position in the loss, (n,) in nats; of ``fused`` the sum with gradients on.

    Args:
        model: a base model or a tuned one, which predicts tokens.
        inputs: its arguments.
        labels: (b, t) token ids, or ``ignored``.
        where: the positions.
        ignored: label of positions whose loss is zero.

    Raises:
        Unsupported: if the model does not give its output layer the hidden states of every position, once.
    """
    base = head.base_of(model)
    targets = labels[:, 1:][where.rows, where.places]
    loss_of = partial(_cross_entropy, ignored=ignored)
    kind = _Fused if where.fused else _All if where.chunk is None else _Chunks
    part = kind(base, _output_layer(base), where, labels.shape, targets, loss_of)
    with part.hooked():
        found: torch.Tensor = model(**inputs, use_cache=False).logits
    return part.finished(found)


def _cross_entropy(logits: torch.Tensor, targets: torch.Tensor, ignored: int) -> torch.Tensor:
    """Return the loss at each position, (n,), of logits (1, n, v)."""
    return functional.cross_entropy(logits.flatten(0, 1).float(), targets, ignore_index=ignored, reduction="none")


def _output_layer(base: Any) -> nn.Module:
    try:
        found = base.get_output_embeddings()
    except (AttributeError, NotImplementedError):
        found = None
    if not isinstance(found, nn.Module):
        raise Unsupported(
            f"logits: {type(base).__name__} does not tell its output layer, so that logits cannot be made at some "
            "positions alone; use logits: all"
        )
    return found


def _decoders(base: Any) -> list[nn.Module]:
    """Return a base model's modules, from the outermost, that may be all that comes before the output layer.

    They contain all decoder layers but not the output layer; if the layers are not known, it is the one module that
    transformers names.
    """
    try:
        layers = decoder_layers(base)
    except LookupError:
        names = [getattr(base, "base_model_prefix", "")]
    else:
        name = next(name for name, module in base.named_modules() if module is layers)
        names = [name[: end.start()] for end in re.finditer(r"\.", name)]
    last, modules = _output_layer(base), dict(base.named_modules())
    found = [modules[name] for name in names if name in modules and modules[name] is not base]
    found = [each for each in found if all(module is not last for module in each.modules())]
    if not found:
        raise Unsupported(
            f"logits: what comes before the output layer of {type(base).__name__} is not a module of its own, so that "
            "logits cannot be made in chunks; use logits: loss_bearing"
        )
    return found


@dataclass(eq=False)
class _All:
    """One forward pass with logits of shape (1, n, v)."""

    base: Any
    layer: nn.Module
    where: Bearing
    shape: torch.Size
    """(b, t) of the data tokens."""
    targets: torch.Tensor
    loss_of: Any
    calls: int = 0

    @contextmanager
    def hooked(self) -> Iterator[None]:
        """Make the output layer see some positions alone."""
        hook = self.layer.register_forward_pre_hook(self.before)
        try:
            yield
        finally:
            hook.remove()

    def before(self, _: nn.Module, args: tuple[Any, ...]) -> Any:
        """Give the output layer the hidden states of the positions in the loss."""
        return (self.selected(args)[None], *args[1:])

    def selected(self, args: tuple[Any, ...]) -> torch.Tensor:
        """Return the hidden states of the positions in the loss, (n, d)."""
        self.calls += 1
        b, t = self.shape
        hidden = args[0] if args and isinstance(args[0], torch.Tensor) else torch.empty(0)
        if hidden.ndim != 3 or len(hidden) != b or hidden.shape[1] < t:
            what = f"a tensor of shape {tuple(hidden.shape)}" if args else "no positional argument"
            self.refuse(f"gives its output layer {what}, not hidden states of {b} rows with {t} tokens or more")
        before = hidden.shape[1] - t  # virtual tokens
        return hidden[self.where.rows, self.where.places + before if before else self.where.places]

    def finished(self, logits: torch.Tensor) -> torch.Tensor:
        """Return the loss at each position, from what the model returned as logits."""
        if self.calls != 1 or logits.shape[:-1] != (1, len(self.targets)):
            self.refuse(f"calls its output layer {self.calls} times, and gives logits {tuple(logits.shape)}")
        return self.loss_of(logits, self.targets)  # type: ignore[no-any-return]

    def refuse(self, what: str) -> NoReturn:
        """Raise Unsupported with what the model does."""
        raise Unsupported(f"logits: {type(self.base).__name__} {what}; use logits: all")


@dataclass(eq=False)
class _Fused(_All):
    """One forward pass in which liger's operator stands for the output layer and the loss."""

    loss: torch.Tensor | None = None

    def before(self, _: nn.Module, args: tuple[Any, ...]) -> Any:
        """Compute the loss, and give the output layer no position."""
        each = not torch.is_grad_enabled()
        self.loss = liger_logits.losses(self.base, self.layer, self.selected(args), self.targets, each)
        return (args[0][:, :0], *args[1:])

    def finished(self, logits: torch.Tensor) -> torch.Tensor:
        """Return the loss."""
        if self.calls != 1 or self.loss is None or logits.shape[1] != 0:
            self.refuse(f"calls its output layer {self.calls} times, and gives logits {tuple(logits.shape)}")
        return self.loss


@dataclass(eq=False)
class _Chunks(_All):
    """One forward pass whose logits are made in chunks, and made again in the backward pass."""

    given: torch.Tensor | None = None
    """Hidden states of the chunk that is running, (1, c, d)."""
    again: Any = None
    """Calls the base model's own code as it was called."""
    decoder: nn.Module | None = None
    """The outermost module with all decoder layers that the base model's code calls."""
    output: Any = None
    """What it gave, without positions."""
    found: list[torch.Tensor] = field(default_factory=list)

    @contextmanager
    def hooked(self) -> Iterator[None]:
        """Let the output layer run in chunks, and the base model give their losses in place of logits."""
        hooks = [each.register_forward_hook(self.decoded) for each in _decoders(self.base)]
        try:
            # peft calls ``forward``, past the hooks of the base model
            with super().hooked(), _forward(self.base, partial(self.called, self.base.forward)):
                yield
        finally:
            for hook in hooks:
                hook.remove()

    def called(self, forward: Any, *args: Any, **kwargs: Any) -> Any:
        """Run the base model, and return the losses in place of logits."""
        self.again = partial(forward, *args, **kwargs)
        output = self.again()
        if self.calls != 1:
            self.refuse(f"calls its output layer {self.calls} times")
        output.logits = torch.cat(self.found)
        self.found.clear()
        return output

    def decoded(self, module: nn.Module, _: Any, output: Any) -> None:
        """Keep what the decoder gives, without its positions: chunks bring their own. The outermost ends last."""
        if not self.calls:
            self.decoder, self.output = module, tree_map_only(torch.Tensor, _without_positions, output)

    def before(self, _: nn.Module, args: tuple[Any, ...]) -> Any:
        """Run the chunks; afterwards, give the output layer no position."""
        if self.given is not None:
            given, self.given = self.given, None
            return (given, *args[1:])
        if self.calls:  # else a second call within a chunk would begin chunks of its own, without end
            self.refuse("calls its output layer 2 times")
        hidden, size = self.selected(args), self.where.chunk or CHUNK
        for start in range(0, max(1, len(hidden)), size):
            part = hidden[start : start + size], self.targets[start : start + size]
            self.found.append(checkpoint(self.chunk, *part, use_reentrant=False))
        return (args[0][:, :0], *args[1:])

    def chunk(self, hidden: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Return the losses of a chunk by the base model's own code, with its decoder's output as it was."""
        if self.decoder is None:
            self.refuse("does not call its decoder as a module")
        self.given = hidden[None]
        in_backward = self.before not in self.layer._forward_pre_hooks.values()
        with (
            super().hooked() if in_backward else nullcontext(),
            _forward(self.decoder, lambda *_, **__: self.output),
        ):
            logits = self.again().logits
        if self.given is not None or logits.shape[:-1] != (1, len(targets)):
            self.refuse(f"gives logits {tuple(logits.shape)} for {len(targets)} positions")
        return self.loss_of(logits, targets)  # type: ignore[no-any-return]

    def finished(self, logits: torch.Tensor) -> torch.Tensor:
        """Return the loss at each position."""
        if logits.shape != self.targets.shape:
            self.refuse(f"does not return what its output layer gives, but {tuple(logits.shape)}")
        return logits


def _without_positions(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.new_empty((len(tensor), 0, *tensor.shape[2:])) if tensor.ndim > 1 else tensor


@contextmanager
def _forward(module: nn.Module, forward: Any) -> Iterator[None]:
    """Replace what a module computes."""
    kept = module.__dict__.get("forward")
    module.forward = forward  # type: ignore[method-assign]
    try:
        yield
    finally:
        if kept is None:
            del module.__dict__["forward"]
        else:
            module.forward = kept  # type: ignore[method-assign]
