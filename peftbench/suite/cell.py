"""One cell of a suite's grid before it becomes trials."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

from peftbench.methods import ADAPTER_KINDS, PREFIX_HIDDEN, Method, alpha_of
from peftbench.records import Devices, Training
from peftbench.suite import layers


@dataclass(frozen=True)
class Cell:
    """One combination of values of one block."""

    method: Method
    where: str
    precision: str
    rank: int | None
    options: Mapping[str, Any]
    """As given: None for an alpha that follows from the rank."""
    settings: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    """Training settings as given: None for a micro-batch size that is each device's share of the batch. Empty for the
    base model."""
    rates: tuple[float, ...] = ()
    """The candidate learning rates of a search; empty if the cell has one rate."""
    devices: Devices | None = None
    """None for one device."""
    name: str = ""
    named_settings: str = ""
    """The name without method, rank and precision."""
    filled: layers.Filled | None = None
    """Where the settings are from; None for the base model."""

    def resolved_options(self) -> dict[str, Any]:
        """Return the options with derived values filled in: alpha from the rank, activation from the adapter's kind."""
        options = dict(self.options)
        if "alpha" in options and self.rank is not None:
            options["alpha"] = alpha_of(options["alpha"], self.rank)
        if self.method.name == "adapter" and options["activation"] is None:
            options["activation"] = ADAPTER_KINDS[options["kind"]][0]
        return options

    def meaning(self) -> dict[str, Any]:
        """Return the options with every null replaced by the value it stands for, also those a trial stores as null."""
        options = self.resolved_options()
        if self.method.name == "adapter" and options["scale"] is None:
            options["scale"] = ADAPTER_KINDS[options["kind"]][1]
        if options.get("reparameterization") == "mlp" and options["hidden_size"] is None:
            options["hidden_size"] = PREFIX_HIDDEN
        return options

    def at(self, rate: float) -> Cell:
        """Return a copy of the cell with this learning rate."""
        return replace(self, settings={**self.settings, "learning_rate": rate})

    def training(self, data: tuple[tuple[str, float], ...]) -> Training | None:
        """Return the training record; None for the untuned base model."""
        if not self.settings:
            return None
        share = -(-self.settings["batch_size"] // (self.devices.shares if self.devices else 1))
        micro = self.settings["micro_batch_size"] or share
        return Training(data=data, **{**self.settings, "micro_batch_size": micro})
