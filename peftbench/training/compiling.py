"""Decoder layers compiled by ``torch.compile`` for training steps (``train.compile``).

Each decoder layer is compiled by itself, so that layers of the same code share what is compiled. Sizes of batches are
symbols of the compiled code, but for a batch of one row, and for batches with and without padding, which have code of
their own. A layer is one graph, or it is refused: no part of it runs otherwise without a word.

Only training steps run compiled code. See docs/design/compile.md.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch

from peftbench.errors import Unsupported
from peftbench.measure import machine
from peftbench.models import compilers
from peftbench.models.layers import decoder_layers

NONE, LAYERS = "none", "layers"
BACKEND = "inductor"
_FOLDERS = ("TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR")
"""Environment variables with the folders of compiled code."""
_MOST_GRAPHS = 64
"""Graphs of one function, for different shapes and kinds of layers, from which on training stops with an error."""


@dataclass(eq=False)
class Compiled:
    """The decoder layers of a model, with what calls their compiled code."""

    layers: Sequence[Any]
    calls: Sequence[Any]
    folder: tempfile.TemporaryDirectory[str]
    """Holds what is compiled, from scratch for each trial."""
    graphs_before: int
    """Graphs that this process had compiled before."""
    in_steps: int = 0
    """Training steps in which something was compiled."""

    @contextmanager
    def running(self) -> Iterator[None]:
        """Let the layers run compiled code within the context."""
        for layer, call in zip(self.layers, self.calls, strict=True):
            layer._compiled_call_impl = call
        try:
            yield
        finally:
            for layer in self.layers:
                layer._compiled_call_impl = None

    def close(self) -> None:
        """Give up compiled code, and delete its folder."""
        torch._dynamo.reset()
        for name in _FOLDERS:
            os.environ.pop(name, None)
        self.folder.cleanup()


def make(model: Any, kind: str, device: str, scratch: str | None = None) -> Compiled | None:
    """Return the compiled layers of a model; None if nothing is to be compiled. Nothing is compiled before they run.

    Args:
        model: a base model with a method attached.
        kind: a value of ``train.compile``.
        device: ``cpu`` or ``cuda``.
        scratch: an existing folder for compiled code; None for the system's.

    Raises:
        Unsupported: if there is no compiler here, or the model has no decoder layers.
    """
    if kind == NONE:
        return None
    missing = compilers.why_missing(device)
    if missing:
        raise Unsupported(f"compile: {kind}: {missing}; use compile: none")
    try:
        layers = tuple(decoder_layers(model))
    except LookupError as error:
        raise Unsupported(f"compile: {kind}: {error}; use compile: none") from None
    _configure()
    folder = tempfile.TemporaryDirectory(dir=scratch, prefix=f".saving-{machine.process_name()}-")
    os.environ.update(dict.fromkeys(_FOLDERS, folder.name))
    calls = [torch.compile(layer._call_impl, backend=BACKEND, dynamic=True, fullgraph=True) for layer in layers]
    return Compiled(layers, calls, folder, graphs())


def _configure() -> None:
    """Set what torch compiles with, in this process."""
    from torch._dynamo import config as dynamo
    from torch._inductor import config as inductor
    from torch.fx.experimental import _config as symbols

    torch._dynamo.reset()
    dynamo.suppress_errors = False
    dynamo.recompile_limit = dynamo.accumulated_recompile_limit = _MOST_GRAPHS
    dynamo.fail_on_recompile_limit_hit = True
    dynamo.skip_nnmodule_hook_guards = False  # else a layer with a method's hooks would run the code of one without
    symbols.use_duck_shape = False  # a number of tokens that equals the width by chance would be no symbol
    inductor.fallback_random = True  # dropout as without compilation
    inductor.compile_threads = 1  # in this process, not in others that it leaves behind when it is killed


def close(compiled: Compiled | None) -> None:
    """Give up compiled code after training."""
    if compiled is not None:
        compiled.close()


def running(compiled: Compiled | None) -> AbstractContextManager[None]:
    """Return the context of the forward and backward passes of a training step."""
    return compiled.running() if compiled else nullcontext()


def counted(compiled: Compiled | None) -> AbstractContextManager[None]:
    """Return the context of a step whose operators or tensors are counted: nothing is compiled within it.

    A layer that would be compiled again is an error there, since without its compiled code something else is counted.
    """
    return torch.compiler.set_stance("fail_on_recompile") if compiled else nullcontext()


def graphs() -> int:
    """Return how many graphs were compiled in this process."""
    return int(torch._dynamo.utils.counters["stats"]["unique_graphs"])


@contextmanager
def noticed(compiled: Compiled | None) -> Iterator[list[int]]:
    """Yield a list that receives the number of graphs that a training step compiles, if it compiles any.

    They are for shapes that no batch had before; the step's time says nothing about the others.
    """
    found: list[int] = []
    if compiled is None:
        yield found
        return
    before = graphs()
    yield found
    if graphs() > before:
        found.append(graphs() - before)
        compiled.in_steps += 1


def is_refusal(error: BaseException) -> bool:
    """Return whether an exception is torch's word for what it cannot compile, or a compiler's."""
    from torch._dynamo import exc

    return isinstance(error, exc.TorchDynamoException) or type(error).__module__.startswith("torch._inductor")
