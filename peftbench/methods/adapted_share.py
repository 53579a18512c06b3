"""The share of the base model's weight matrices that a method adapts: ``all-linear`` may skip fused experts."""

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
"""Parts of a parameter's name that are not names of modules."""
_NUMBER = re.compile(r"\.\d+(?=\.)")


def columns(matrices: Mapping[str, nn.Parameter], tuned: Any) -> SizeColumns:
    """Return the row's columns on the share of the base model that a method adapts; none if it adapts no matrix.

    Args:
        matrices: the base model's weight matrices by name, from before the method was attached (``load.matrices``).
        tuned: the same model with the method attached.

    Raises:
        Unsupported: if peft wraps a parameter that already has a parametrization, such as 4-bit experts. peft 0.21
            would add its update once more with every forward pass.
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
    """Yield the names, in the base model, of the parameters in modules that peft wraps, or that it wraps singly."""
    base = tuned.get_base_model() if hasattr(tuned, "get_base_model") else tuned
    for path, module in base.named_modules():
        if isinstance(module, BaseTunerLayer):
            alone, inner = getattr(module, "parameter_name", None), module.get_base_layer()
            if alone is not None and is_parametrized(inner, alone):
                raise Unsupported(f"peft 0.21 adds its update to 4-bit fused experts ({alone}) anew in every pass")
            for name, _ in inner.named_parameters():
                if alone is None or name == alone:
                    yield f"{path.replace('.base_layer', '')}.{name}"
