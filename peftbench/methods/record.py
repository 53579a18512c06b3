"""What a method and one of its settings are, as data. Nothing here imports torch."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

_LONGEST = 24
"""Characters of an option in the name of a variant's cell."""


@dataclass(frozen=True)
class Setting:
    """One setting that a method has beyond rank, precision and the training settings."""

    type: Any
    """A type that pydantic can check: ``int``, ``float | None``, ``Literal["a", "b"]``, ``list[str]``, ..."""
    default: Any
    doc: str
    shown: str | None = None
    """How the default is printed where it follows from something else; None to print it as it is."""
    late: bool = False
    """Whether the setting came after results that its default does not change: at its default it does not enter a
    trial's key, and a stored row without it had the default."""
    only_with: tuple[str, str] | None = None
    """Another option and the value of it without which this one would mean nothing."""
    needed: bool = False
    """Whether that value means nothing without this option either."""

    @property
    def meaning(self) -> str | None:
        """What the null that is the default comes to, in words: "all but 2"; None where nothing is said of it."""
        if self.default is not None or not self.shown:
            return None
        return self.shown.removeprefix("null (").removesuffix(")")


@dataclass(frozen=True)
class Method:
    """What a fine-tuning method is, as data: `list`, `plan`, validation, conformance tests and reports read it."""

    name: str
    title: str
    """As it is written in tables."""
    paper: str
    """Where it is described."""
    attach: str
    """``module:function`` with ``attach(model, rank, options) -> model``: makes the method's parameters trainable."""
    save: str
    """``module:function`` with ``save(model, folder)``: writes the tuned weights as safetensors."""
    load: str
    """``module:function`` with ``load(model, folder) -> model``: a freshly loaded base plus the saved weights."""
    precisions: tuple[str, ...]
    """Precisions in which the method exists; every other one is an ``unsupported`` cell."""
    why_not: str = ""
    """Why the other precisions do not exist, completing "... because"."""
    why_no_checkpointing: str = ""
    """Why the method does not exist with gradient checkpointing; empty where it does."""
    default_precision: str = "fp32"
    knob: str | None = None
    """What ``rank`` means for this method; None where it has no size knob."""
    default_rank: int | None = None
    options: Mapping[str, Setting] = field(default_factory=lambda: MappingProxyType({}))
    training: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    """Training settings in which the method's recipe differs from the suite's defaults (qlora's paged optimizer)."""
    trains: bool = True
    """False for the untuned base, which has no seed and no training."""
    trains_base: bool = False
    """True where the base's own weights train, which then need master weights under autocast."""
    identity_at_init: bool | None = True
    """Whether the first forward pass equals the base model's; None where nothing is promised."""
    virtual_tokens: bool = False
    """Whether each unit of rank takes one position of the model's context."""
    color: str = "#888888"
    """In every figure."""
    variants: str = ""
    """``module:function`` with ``variants(block) -> ((record, block), ...)`` where the options depend on what a block
    gives (``peft``: on the tuner); only options that a block gives are then part of a trial."""
    variant: str = ""
    """Which of its variants a record describes."""
    rank_key: str = "rank"
    """The key of a block that gives ``rank``."""
    switch_off: str = ""
    """``module:function`` with ``disabled(model)``, a context in which a tuned model is the base again, bit for bit;
    empty where the method cannot be switched off."""
    after_step: str = ""
    """``module:function`` with ``after_step(model, steps_done)`` for a method that changes itself while it trains."""

    def cell_name(self, rank: int | None, precision: str, options: Mapping[str, Any]) -> str:
        """Return a readable name of a cell: the method, its knob, options that differ from the default, precision."""
        variant, told = ([self.variant] if self.variant else []), self._differing_options(options)
        size = [] if rank is None else [f"r={rank}"]
        return " ".join([self.name, *variant, *size, *told, precision])

    def named_options(self, options: Mapping[str, Any]) -> list[str]:
        """Return the parts of a cell's name beside method, rank and precision: variant and options that differ."""
        return [*([self.variant] if self.variant else []), *self._differing_options(options)]

    def _differing_options(self, options: Mapping[str, Any]) -> list[str]:
        """Return the options that differ from the default, as ``name=value``."""
        found = {
            k: v for k, v in options.items() if k in self.options and v not in (self.options[k].default, self.variant)
        }
        return [f"{k}={_brief(shown(v)) if self.variant or isinstance(v, str) else shown(v)}" for k, v in found.items()]


def shown(value: Any) -> str:
    """Return a setting's value as it is written in a cell's name: 16 for 16.0, q_proj+v_proj for a list."""
    if value is None or isinstance(value, bool):
        return {None: "none", True: "true", False: "false"}[value]
    if isinstance(value, list | tuple):
        return "+".join(shown(item) for item in value)
    if isinstance(value, Mapping):
        return "+".join(f"{key}:{shown(item)}" for key, item in value.items()) or "none"
    return repr(value).removesuffix(".0") if isinstance(value, float) else str(value)


def _brief(text: str) -> str:
    """Return a long text cut, with a checksum that tells it from others."""
    text = " ".join(text.split())
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST // 2]}..{zlib.crc32(text.encode()) & 0xFFFF:04x}"
