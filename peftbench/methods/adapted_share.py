"""What of a base's weight matrices a method reaches: ``all-linear`` may pass over fused experts."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn
from torch.nn.utils.parametrize import is_parametrized

from peftbench.errors import Unsupported
from peftbench.models.load import parameter_count
from peftbench.records.columns.size import SizeColumns

_STORED = re.compile(r"\.weight$|\.original$|\.parametrizations(?=\.)")
"""What a matrix's name in the model says beyond the module's own names."""
_NUMBER = re.compile(r"\.\d+(?=\.)")


def columns(matrices: Mapping[str, nn.Parameter], tuned: Any) -> SizeColumns:
    """Return the row's columns on how much of the base a method adapts.

    Args:
        matrices: the base's, by name, before the method was attached (``model.matrices``).
        tuned: the same base with the method attached.

    Raises:
        Unsupported: if peft wraps a parameter that is a parametrization already, such as 4-bit experts: peft 0.21 adds
            its update once more with every forward pass.
    """
    wrapped = set(_wrapped(tuned))
    missed = {name: p for name, p in matrices.items() if name not in wrapped and not p.requires_grad}
    if len(missed) == len(matrices):
        return SizeColumns()
    total = sum(map(parameter_count, matrices.values()))
    names = dict.fromkeys(_NUMBER.sub(".*", _STORED.sub("", name)) for name in missed)
    return SizeColumns(
        adapted_share=1 - sum(map(parameter_count, missed.values())) / total,
        unadapted_matrices=", ".join(names) or None,
    )


def _wrapped(tuned: Any) -> Iterator[str]:
    """Yield the base's names of the parameters in modules that peft has wrapped, or that it wraps one by one."""
    base = tuned.get_base_model() if hasattr(tuned, "get_base_model") else tuned
    for path, module in base.named_modules():
        if isinstance(module, BaseTunerLayer):
            alone, inner = getattr(module, "parameter_name", None), module.get_base_layer()
            if alone is not None and is_parametrized(inner, alone):
                raise Unsupported(f"peft 0.21 adds its update to 4-bit fused experts ({alone}) anew in every pass")
            for name, _ in inner.named_parameters():
                if alone is None or name == alone:
                    yield f"{path.replace('.base_layer', '')}.{name}"
