"""The memory of loading a base model: its parameters in the loader's order, each with what is made of it meanwhile.

What quantizing a weight takes is traced with the library's own functions on fake tensors. Files are read through the
kernel's page cache, which it takes back when memory is short, so their bytes are not counted.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any
from unittest import mock

import bitsandbytes
import torch
from torch import nn

from peftbench.measure.ledger import Ledger
from peftbench.models import quantization
from peftbench.models.layers import decoder_layers
from peftbench.models.precision import Precision
from peftbench.models.storage import parts
from peftbench.planner.fake_cache import CachingFakeTensorMode
from peftbench.records import Category

Loaded = tuple[int | None, str, Mapping[str, int]]
"""A decoder layer (None outside of layers), a parameter's name within it, and the bytes by category as it is loaded."""
_LEVELS = 256
"""Numbers that a scale of scales can be a multiple of."""
_FROM_PARTS = 2
"""Times the size of a tensor that transformers puts together from others in the files: these, and the result."""


def moments(
    made: nn.Module, precision: Precision, dtype: torch.dtype, rounding: int, *, files: bool
) -> Iterator[Loaded]:
    """Yield the bytes by category at their highest while each parameter is loaded, and after the last.

    Args:
        made: the base model on ``meta`` as it will be after loading.
        precision: how its weights are stored.
        dtype: of the weights before they are quantized.
        rounding: every storage is rounded up to a multiple of this many bytes.
        files: whether weights are read from files, which may have a tensor in parts.
    """
    from transformers.core_model_loading import dot_natural_key

    sizes = _Sizes(precision, dtype, rounding)
    together = _put_together(made) if files else None
    layers = _layers(made)
    modules = dict(made.named_modules())
    held: dict[str, int] = dict.fromkeys(Category, 0)
    own = {_plain(name): name for name, _ in made.named_parameters()}
    for name in sorted(own, key=dot_natural_key):
        module = modules[own[name].rpartition(".")[0]]
        parameter = made.get_parameter(own[name])
        kept, scales = sizes.of(parts(parameter)[:1]), sizes.of((*parts(parameter)[1:], *_scales(parameter)))
        quantized = bool(scales) and sizes.quantizes
        most = sizes.quantizing(parameter, module) if quantized else kept + scales
        if together is not None and together.search(name):
            most = max(most, _FROM_PARTS * sizes.read(parameter))
        yield layers.get(id(parameter)), name, {**held, Category.TEMPORARIES: most}
        held[Category.BASE_WEIGHTS] += kept
        held[Category.QUANTIZATION_STATE] += scales
    held[Category.BASE_WEIGHTS] += sizes.of(list(made.buffers()))
    yield None, "", held


def _plain(name: str) -> str:
    """Return the name of a parameter in the files; that of experts in 4 bits is another one in the model."""
    return name.replace(".parametrizations.", ".").removesuffix(".original")


def _layers(made: nn.Module) -> dict[int, int]:
    """Return the decoder layer of each parameter that is in one, by the parameter's id."""
    try:
        layers = list(decoder_layers(made))
    except LookupError:
        return {}
    return {id(p): place for place, layer in enumerate(layers) for p in layer.parameters()}


def _put_together(made: Any) -> re.Pattern[str] | None:
    """Return a pattern of the names of tensors that transformers puts together from several; None if there are none."""
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import Concatenate, MergeModulelist, WeightConverter

    converters = [c for c in get_model_conversion_mapping(made, add_legacy=False) if isinstance(c, WeightConverter)]
    joining = [c for c in converters if any(isinstance(o, Concatenate | MergeModulelist) for o in c.operations)]
    found = [target.replace("*", ".*").replace(r"\1", ".*") for c in joining for target in c.target_patterns]
    return re.compile("|".join(found)) if found else None


def _scales(parameter: Any) -> list[torch.Tensor]:
    """Return the tensors of a quantized parameter beside its codes."""
    found = [getattr(parameter, "SCB", None)]
    state = getattr(parameter, "quant_state", None)
    while state is not None:
        found += [state.absmax, state.code, state.offset]
        state = state.state2
    return [tensor for tensor in found if isinstance(tensor, torch.Tensor)]


class _Sizes:
    """Bytes of tensors, and of what quantizing them takes: each shape is traced once."""

    def __init__(self, precision: Precision, dtype: torch.dtype, rounding: int) -> None:
        self.quantizes = precision.quantization in ("int8", "nf4", "fp4") or precision.package == "torchao"
        self._precision, self._kind = precision, precision.quantization
        self._dtype, self._rounding = dtype, rounding
        self._known: dict[Any, int] = {}

    def of(self, tensors: Any) -> int:
        """Return the bytes of tensors' storages."""
        sizes = (tensor.untyped_storage().nbytes() for tensor in tensors)
        return sum(-(-size // self._rounding) * self._rounding for size in sizes)

    def read(self, parameter: Any) -> int:
        """Return the bytes of a parameter before it is quantized."""
        with torch.device("meta"):
            return self.of([torch.empty(_shape(parameter), dtype=self._dtype)])

    def quantizing(self, parameter: Any, module: nn.Module) -> int:
        """Return the most bytes at one moment while a parameter is quantized, itself included."""
        state = getattr(parameter, "quant_state", None)
        double = state is not None and state.state2 is not None
        turned = issubclass(getattr(module, "source_cls", nn.Linear), _conv1d())
        key = (_shape(parameter), double, turned)
        if key not in self._known:
            self._known[key] = self._traced(*key)
        return self._known[key]

    def _traced(self, shape: tuple[int, ...], double: bool, turned: bool) -> int:
        if self._precision.package == "torchao":
            return self._by_torchao(*shape)
        functional = bitsandbytes.functional
        ledger = Ledger(rounding=self._rounding)
        mode = CachingFakeTensorMode()
        with mode:
            levels = torch.empty(_LEVELS)  # which the library makes once, and keeps
        with mock.patch.dict(functional.name2qmap, dynamic=levels), mode, ledger:
            weight = torch.empty(shape[::-1] if turned else shape, dtype=self._dtype)
            given = weight.T.contiguous() if turned else weight
            if self._kind == "int8":
                functional.int8_vectorwise_quant(given.to(torch.float16))
            else:
                functional.quantize_4bit(given, compress_statistics=double, quant_type=self._kind)
        return ledger.bytes.peak_bytes

    def _by_torchao(self, rows: int, columns: int) -> int:
        from torchao.quantization import quantize_

        ledger = Ledger(rounding=self._rounding)
        with CachingFakeTensorMode(), ledger:
            layer = nn.Linear(columns, rows, bias=False, dtype=self._dtype).requires_grad_(False)
            quantize_(layer, quantization.config(self._precision, True).quant_type)
        return ledger.bytes.peak_bytes


def _shape(parameter: Any) -> tuple[int, ...]:
    state = getattr(parameter, "quant_state", None)
    return tuple(parameter.shape if state is None else state.shape)


def _conv1d() -> type:
    from transformers.pytorch_utils import Conv1D

    return Conv1D
