"""The records of a method and of one of its settings. No torch."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

_LONGEST = 24
"""Most characters of an option's value in the cell name of a variant."""


@dataclass(frozen=True)
class Setting:
    """One option of a method, besides rank, precision and the training settings."""

    type: Any
    """A type that pydantic can validate: ``int``, ``float | None``, ``Literal["a", "b"]``, ``list[str]``, ..."""
    default: Any
    doc: str
    """Its meaning, as shown by ``peftbench list methods`` and the documentation."""
    shown: str | None = None
    """How the default is printed if it depends on something else; None to print the value."""
    only_with: tuple[str, str] | None = None
    """Another option and its value, without which this option has no meaning."""
    needed: bool = False
    """Whether, conversely, that value requires this option."""
    excludes: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    """Another option -> why the two do not exist together, as a clause; a cell that has both is ``unsupported``."""
    not_on: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    """A strategy for several devices -> why this option does not run on it, as a clause."""
    why_no_mean: str = ""
    """Why it does not exist with an optimizer that scores a mean of the weights over the steps; empty if it does."""
    why_no_paged: str = ""
    """Why it does not exist with an optimizer whose state is paged; empty if it does."""
    why_no_compile: str = ""
    """Why it does not exist with compiled layers; empty if it does."""
    not_with: tuple[str, str] | None = None
    """Another option and its value, with which this option has no meaning."""

    @property
    def meaning(self) -> str | None:
        """What a default of null means, such as "all but 2"; None if ``shown`` does not state it."""
        if self.default is not None or not self.shown:
            return None
        return self.shown.removeprefix("null (").removesuffix(")")


@dataclass(frozen=True)
class Method:
    """A fine-tuning method as data, read by ``list``, ``plan``, suite validation, conformance tests and reports."""

    name: str
    title: str
    """The name in tables."""
    paper: str
    """Authors, year and arXiv id of the paper that describes it."""
    attach: str
    """``module:function`` with ``attach(model, rank, options) -> model``: adds the method's trainable parameters."""
    save: str
    """``module:function`` with ``save(model, folder)``: writes the tuned weights as safetensors."""
    load: str
    """``module:function`` with ``load(model, folder) -> model``: attaches saved weights to a fresh base model."""
    precisions: tuple[str, ...]
    """Precisions in which the method exists; a cell in any other is ``unsupported``."""
    why_not: str = ""
    """Why the method does not exist in other precisions, completing "... because"."""
    why_no_checkpointing: str = ""
    """Why the method does not exist with gradient checkpointing; empty if it does."""
    why_no_packing: str = ""
    """Why the method does not exist with packing, besides virtual tokens; empty if it does."""
    why_no_mean: str = ""
    """Why the method does not exist with an optimizer that scores a mean of the weights over the steps, besides what
    another package's ``after_step`` does; empty if it does."""
    why_never: str = ""
    """For a variant: why the method does not exist with its options, whatever the base model; empty if it does."""
    default_precision: str = "fp32"
    rank_meaning: str | None = None
    """What ``rank`` is for this method (``virtual tokens``, ``bottleneck width``); None if the method has no rank."""
    default_rank: int | None = None
    options: Mapping[str, Setting] = field(default_factory=lambda: MappingProxyType({}))
    training: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    """The method's recipe: training settings that differ from the general defaults (qlora's paged optimizer)."""
    trains: bool = True
    """False for the untuned base model, which has no seed and no training."""
    trains_base: bool = False
    """True if the base model's own weights train, which need master weights under autocast."""
    identity_at_init: bool | None = True
    """Whether the first forward pass equals the base model's; None if that is not known."""
    virtual_tokens: bool = False
    """Whether each unit of rank takes one position of the model's context."""
    color: str = "#888888"
    """Color in figures."""
    variants: str = ""
    """``module:function`` with ``variants(block) -> ((record, block), ...)``, for a method whose options depend on the
    block (``peft``: on the tuner). A trial then has only the options given in its block."""
    variant: str = ""
    """The variant that this record describes, such as a tuner of peft; empty for a method without variants."""
    rank_key: str = "rank"
    """The key of a block that gives the rank."""
    switch_off: str = ""
    """``module:function`` with ``disabled(model)``, a context in which the tuned model computes what the base model
    does, bit for bit; empty if the method cannot be switched off."""
    after_step: str = ""
    """``module:function`` with ``after_step(model, steps_done)``, called after each optimizer step; empty for none."""
    progress: str = ""
    """Module with ``state(model)`` and ``restore(model, tensors, plain)``, for a method that changes more than weights
    and buffers while it trains; empty for others. An interrupted trial continues with it."""

    def cell_name(self, rank: int | None, precision: str, options: Mapping[str, Any]) -> str:
        """Return a readable name of a cell: method, rank, options that differ from their defaults, precision."""
        variant, differing = ([self.variant] if self.variant else []), self._differing_options(options)
        size = [] if rank is None else [f"r={rank}"]
        return " ".join([self.name, *variant, *size, *differing, precision])

    def named_options(self, options: Mapping[str, Any]) -> list[str]:
        """Return the parts of a cell's name other than method, rank and precision: variant and differing options."""
        return [*([self.variant] if self.variant else []), *self._differing_options(options)]

    def _differing_options(self, options: Mapping[str, Any]) -> list[str]:
        """Return the options that differ from the default, as ``name=value``."""
        found = {
            k: v for k, v in options.items() if k in self.options and v not in (self.options[k].default, self.variant)
        }
        return [f"{k}={self._shown(v)}" for k, v in found.items()]

    def _shown(self, value: Any) -> str:
        """Return an option's value in the name of a cell; an empty config of peft's has its defaults."""
        if self.variant and value == {}:
            return "defaults"
        return _brief(shown(value)) if self.variant or isinstance(value, str) else shown(value)


def shown(value: Any) -> str:
    """Return a setting's value as written in the name of a cell: 16 for 16.0, q_proj+v_proj for a list."""
    if value is None or isinstance(value, bool):
        return {None: "none", True: "true", False: "false"}[value]
    if isinstance(value, list | tuple):
        return "+".join(shown(item) for item in value)
    if isinstance(value, Mapping):
        return "+".join(f"{key}:{shown(item)}" for key, item in value.items()) or "none"
    return repr(value).removesuffix(".0") if isinstance(value, float) else str(value)


def _brief(text: str) -> str:
    """Return a text, shortened if long, with a checksum that distinguishes it from others."""
    text = " ".join(text.split())
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST // 2]}..{zlib.crc32(text.encode()) & 0xFFFF:04x}"
