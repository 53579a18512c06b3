"""liger's kernels in training steps (``train.kernels``): norms, rotary position embeddings, gated MLPs.

liger's own function for a family says what is replaced: the ``forward`` of single modules, and functions that the
family's code calls by their name. Both are put in place for the forward and backward passes of a step alone, so that
nothing else in the process computes with them. See docs/design/kernels.md.
"""

from __future__ import annotations

import importlib
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

from torch import nn

from peftbench.errors import Unsupported
from peftbench.models import head
from peftbench.records import failures

NONE, LIGER = "none", "liger"
_OWN_CODE = ("transformers.", "torch.nn.")
"""Where the classes are whose code liger knows."""

Changes = Sequence[tuple[Any, Mapping[str, Any]]]
"""Modules of a model, or of Python, each with attributes."""


@dataclass(eq=False)
class Kernels:
    """What liger replaces of one model."""

    modules: Changes
    """Modules of the model, with what each has of liger: its ``forward`` and what that reads."""
    functions: Changes
    """Modules of transformers' code, with functions."""
    ran: str = NONE
    """What was seen to run in the check before training: classes with numbers of modules, and functions."""
    idle: Sequence[nn.Module] = ()
    """Modules whose ``forward`` is liger's, and that did not run there."""

    @property
    def replaced(self) -> list[nn.Module]:
        """The modules whose ``forward`` is liger's."""
        return [module for module, new in self.modules if "forward" in new]

    @contextmanager
    def running(self) -> Iterator[None]:
        """Let liger's code run in the place of the model's own within the context."""
        with _put(self.modules), _put(self.functions):
            yield

    @contextmanager
    def seen(self) -> Iterator[None]:
        """Do the same, and note in ``ran`` and ``idle`` what runs within the context and what does not."""
        called: set[Any] = set()
        hooks = [m.register_forward_hook(lambda module, *_: called.add(module)) for m in self.replaced]
        noticing = [(space, {k: _noticing(new[k], called) for k in new}) for space, new in self.functions]
        try:
            with _put(self.modules), _put(noticing):
                yield
        finally:
            for hook in hooks:
                hook.remove()
        self.idle = [module for module in self.replaced if module not in called]
        classes = Counter(_class(new["forward"]) for module, new in self.modules if module in called)
        functions = {each.__name__ for _, new in self.functions for each in new.values() if each in called}
        parts = [f"{name} {count}" for name, count in sorted(classes.items())]
        self.ran = ", ".join([*parts, *sorted(functions)]) or NONE


def make(model: Any, kind: str) -> Kernels | None:
    """Return what liger replaces of a model; None if nothing is to be. The model stays as it is.

    Args:
        model: a base model with a method attached.
        kind: a value of ``train.kernels``.

    Raises:
        Unsupported: if liger is not installed, does not know the family, or would replace what the method put there.
    """
    if kind == NONE:
        return None
    base, patches = head.base_of(model), _patches()
    family = base.config.model_type
    if family not in patches.MODEL_TYPE_TO_APPLY_LIGER_FN:
        raise Unsupported(f"kernels: {kind}: liger has no kernels for models of type {family}; use kernels: none")
    before = [(each, dict(vars(each))) for each in base.modules()]
    code = [(each, dict(vars(each))) for each in _code()]
    try:
        patches._apply_liger_kernel_to_instance(base, cross_entropy=False, fused_linear_cross_entropy=False)
    except Exception as error:
        raise Unsupported(
            f"kernels: {kind}: liger refuses {type(base).__name__}: {failures.words(error)}; use kernels: none"
        ) from error
    finally:
        modules = list(_taken_back(before))
        functions = [(space, _functions(new)) for space, new in _taken_back(code)]
    for module, new in modules:
        if "forward" in new:
            _check_own(kind, module)
    found = Kernels(modules, [(space, new) for space, new in functions if new])
    if not found.replaced and not found.functions:
        raise Unsupported(f"kernels: {kind}: liger replaced nothing in {type(base).__name__}; use kernels: none")
    return found


def running(kernels: Kernels | None) -> AbstractContextManager[None]:
    """Return the context of the forward and backward passes of a training step."""
    return kernels.running() if kernels else nullcontext()


def _patches() -> Any:
    try:
        return importlib.import_module("liger_kernel.transformers.monkey_patch")
    except ImportError as error:
        raise Unsupported(f"kernels: liger: {error}; pip install liger-kernel, or use kernels: none") from error


def _check_own(kind: str, module: nn.Module) -> None:
    """Refuse a module that computes something else than its family's code, which liger's would leave out."""
    where = f"{type(module).__module__}."
    if not where.startswith(_OWN_CODE) or "forward" in vars(module):
        raise Unsupported(
            f"kernels: {kind}: liger would replace {where.partition('.')[0]}'s {type(module).__name__} with code that "
            "does not know what the method changed; use kernels: none"
        )


def _code() -> list[Any]:
    """Return the modules of Python whose names liger may bind anew: the families' code, and torch's layers."""
    families = [m for n, m in list(sys.modules.items()) if n.startswith("transformers.models.") and ".modeling_" in n]
    return [*families, nn, nn.functional]


def _taken_back(before: Iterable[tuple[Any, Mapping[str, Any]]]) -> Iterator[tuple[Any, dict[str, Any]]]:
    """Yield each holder of attributes with those that changed, after they are again what they were."""
    for holder, old in before:
        now = holder.__dict__
        new = {name: value for name, value in now.items() if name not in old or old[name] is not value}
        _restore(now, new, old)
        if new:
            yield holder, new


@contextmanager
def _put(changes: Changes) -> Iterator[None]:
    """Give holders other attributes within the context."""
    kept = [{name: holder.__dict__[name] for name in new if name in holder.__dict__} for holder, new in changes]
    for holder, new in changes:
        holder.__dict__.update(new)
    try:
        yield
    finally:
        for (holder, new), old in zip(changes, kept, strict=True):
            _restore(holder.__dict__, new, old)


def _restore(now: dict[str, Any], names: Iterable[str], old: Mapping[str, Any]) -> None:
    for name in names:
        if name in old:
            now[name] = old[name]
        else:
            now.pop(name, None)


def _functions(new: Mapping[str, Any]) -> dict[str, Any]:
    """Return the functions among names that are bound anew; classes are of models that are yet to be made."""
    return {name: each for name, each in new.items() if callable(each) and not isinstance(each, type)}


def _noticing(function: Callable[..., Any], called: set[Any]) -> Callable[..., Any]:
    def call(*args: Any, **kwargs: Any) -> Any:
        called.add(function)
        return function(*args, **kwargs)

    return call


def _class(forward: Any) -> str:
    """Return the class of liger's that a bound ``forward`` comes from."""
    return str(forward.__qualname__).rpartition(".")[0]
