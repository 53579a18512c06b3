"""Base models that are stored quantized: what their config and files say of it, and which can be trained as they are.

Such a base model is loaded as it is stored, with ``precision: stored``. No torch.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType
from typing import Any

from peftbench.errors import UserError
from peftbench.models import files
from peftbench.models.files import Stored
from peftbench.models.stored_kinds import KINDS, UNTRIED

NAME = "stored"
"""The precision in which a base model is used as it is stored."""
_KEYS = ("quantization_config", "compression_config")
"""Keys of a ``config.json`` with a stored quantization."""
_TORCHAO = ("Int8WeightOnlyConfig", "IntxWeightOnlyConfig", "Float8WeightOnlyConfig", "NVFP4WeightOnlyConfig")
"""The schemes of torchao that are read: others have other kernels, or quantize activations, which have no gradient."""
_TORCHAO_PART = re.compile(r"(?P<weight>.*\.)_weight_(?P<part>qdata|scale|zero_point|per_tensor_scale)")
_STATE = ".quant_state.bitsandbytes__"
"""Part of the name of the tensor in which bitsandbytes stores the description of a 4-bit weight, as JSON."""
_PARTS = (".absmax", ".quant_map", ".nested_absmax", ".nested_quant_map")
"""Ends of the names of the other tensors of a 4-bit weight of bitsandbytes, after the weight's own name."""
_SCALES, _FORMAT = ".SCB", ".weight_format"
"""Ends of the names of the other tensors of an 8-bit weight of bitsandbytes, after the layer's name."""


@dataclass(frozen=True)
class Scheme:
    """How a base model is stored quantized, by its config."""

    kind: str
    """``quant_method``; ``bitsandbytes`` too if the config has none and says ``load_in_4bit``; empty if unknown."""
    settings: Mapping[str, Any]
    """The quantization config."""
    where: str
    """Its key in ``config.json``."""

    @property
    def title(self) -> str:
        """The library or format, as people write it."""
        return KINDS[self.kind].title if self.kind in KINDS else self.kind or "no quant_method"

    @property
    def bits(self) -> int | None:
        """Bits of one weight's code; None if the config does not say it."""
        for bits in (4, 8):
            if self._given(f"load_in_{bits}bit"):
                return bits
        found = (self._weights.get(key) for key in ("bits", "w_bit", "nbits"))
        return next((value for value in found if isinstance(value, int)), None)

    @property
    def four_bit_type(self) -> str | None:
        """``nf4`` or ``fp4`` of bitsandbytes; None for anything else."""
        own = self.kind == "bitsandbytes" and self.bits == 4
        return str(self.settings.get("bnb_4bit_quant_type", "fp4")) if own else None

    @property
    def torchao(self) -> str | None:
        """The class of torchao's config; None for another library."""
        types = self.settings.get("quant_type")
        found = types.get("default") if isinstance(types, Mapping) else types
        return str(found.get("_type") if isinstance(found, Mapping) else found) if self.kind == "torchao" else None

    @property
    def double_quantization(self) -> bool:
        """Whether bitsandbytes has quantized the quantization constants too."""
        return bool(self.settings.get("bnb_4bit_use_double_quant"))

    @property
    def words(self) -> str:
        """Library, type and width: ``bitsandbytes, nf4, 4 bits``."""
        group = self._weights.get("group_size", self._weights.get("q_group_size"))
        grouped = f"groups of {group}" if isinstance(group, int) and group > 0 else None
        double = "double quantization" if self.four_bit_type and self.double_quantization else None
        parts = (self.title, self.torchao, self.four_bit_type, self.bits and f"{self.bits} bits", grouped, double)
        return ", ".join(part for part in parts if part)

    @property
    def _weights(self) -> Mapping[str, Any]:
        """What the config says of the weights, which HQQ says two levels below."""
        match self.settings:
            case {"quant_config": {"weight_quant_params": Mapping() as found}}:
                return found
        return self.settings

    def _given(self, key: str) -> bool:
        return bool(self.settings.get(key) or self.settings.get(f"_{key}"))


def scheme(config: Any) -> Scheme | None:
    """Return how a base model is stored quantized; None if its config has no stored quantization.

    Args:
        config: a transformers config, or the mapping read from ``config.json``.
    """
    mapping = config if isinstance(config, Mapping) else _as_mapping(config)
    for key, part in files.sections(mapping):
        for name in _KEYS:
            found = part.get(name)
            if found is not None:
                return _scheme(found, f"{key}.{name}" if key else name)
    return None


def _as_mapping(config: Any) -> Mapping[str, Any]:
    """Return what a transformers config says of quantization."""
    own = {key: value for key in _KEYS if (value := getattr(config, key, None)) is not None}
    return {key: value if isinstance(value, Mapping) else value.to_dict() for key, value in own.items()}


def _scheme(given: Any, where: str) -> Scheme:
    if not isinstance(given, Mapping):
        return Scheme(repr(given)[:40], {}, where)
    method = given.get("quant_method")
    if method is None and (given.get("load_in_4bit") or given.get("load_in_8bit")):
        method = "bitsandbytes"
    return Scheme(str(getattr(method, "value", method) or ""), given, where)


def why_refused(config: Mapping[str, Any]) -> str | None:
    """Return why a base model that is stored quantized cannot be used, with the way out; None if it can.

    Args:
        config: the mapping read from its ``config.json``.
    """
    found = scheme(config)
    if found is None:
        return None
    kind, why = KINDS.get(found.kind), _why_not_read(found)
    stored = f"its weights are stored quantized ({found.where} in config.json: {found.words})"
    if not why and kind and kind.package and find_spec(kind.package) is None:
        return f"{stored}, and {kind.package} is not installed: pip install 'peftbench[{kind.package}]'"
    if not why:
        return None
    copy = f", or save a dequantized copy: {kind.way_out}" if kind and kind.way_out else ", or a dequantized copy"
    return (
        f"{stored}, and {why}; give the unquantized original, with precision nf4, fp4 or int8 for quantized "
        f"training{copy}"
    )


def _why_not_read(found: Scheme) -> str:
    """Return why weights that are stored so are not read, as a clause; empty if they are."""
    why_not = KINDS[found.kind].why_not if found.kind in KINDS else UNTRIED
    if why_not:
        return why_not
    if found.where != _KEYS[0]:
        return "transformers reads a quantization_config at the top level of config.json only"
    if found.kind == "torchao" and found.torchao not in _TORCHAO:
        return f"peftbench reads only {', '.join(_TORCHAO)} of torchao's schemes"
    if found.kind == "bitsandbytes" and found.bits is None:
        return "its config says neither load_in_4bit nor load_in_8bit"
    return ""


def why_other_precision(config: Any, precision: str, options: Mapping[str, Any]) -> str | None:
    """Return why a base model does not exist in a precision for the way it is stored; None if it may.

    Args:
        config: a transformers config, or the mapping read from ``config.json``.
        precision: name of the precision.
        options: the method's options.
    """
    found = scheme(config)
    if found is None:
        return "this base is not stored quantized; give another precision" if precision == NAME else None
    if precision != NAME:
        way_out = KINDS[found.kind].way_out if found.kind in KINDS else ""
        copy = f" or a dequantized copy: {way_out}" if way_out else " or a dequantized copy"
        return (
            f"the base is stored quantized ({found.words}), so that there are no weights to store in {precision}; use "
            f"precision {NAME}, or give the unquantized original{copy}"
        )
    if options.get("initialization") == "loftq":
        return "initialization loftq needs the unquantized weights, which a base that is stored quantized does not have"
    return _why_no_qlora(found, options) if "double_quantization" in options else None


def _why_no_qlora(found: Scheme, options: Mapping[str, Any]) -> str | None:
    """Return why LoRA on a stored base is not the QLoRA that the options describe; None if it is."""
    if found.four_bit_type is None:
        return f"QLoRA is LoRA on a base in 4 bits of bitsandbytes, and this one is {found.words}; use lora"
    if bool(options["double_quantization"]) != found.double_quantization:
        own = str(found.double_quantization).lower()
        return f"the base is stored as {found.words}; give double_quantization: {own}"
    return None


@lru_cache(maxsize=16)
def _described(path: Path, names: tuple[str, ...], _: float) -> tuple[dict[str, Any], ...]:
    """Return bitsandbytes' descriptions of 4-bit weights, which are tensors of characters, in one file."""
    from safetensors import safe_open

    with safe_open(path, framework="np") as file:
        return tuple(json.loads(file.get_tensor(name).tobytes().decode("utf-8")) for name in names)


@dataclass(frozen=True)
class Contents:
    """The tensors in a base model's files, quantized weights apart."""

    unpacked: Mapping[str, Stored]
    """Every weight with the shape that it has in the unquantized model, quantized ones with the dtype ``BF16``."""
    packed: Mapping[str, Stored]
    """The codes of the quantized weights, as they are in the files."""
    state_bytes: int
    """Bytes of what belongs to the codes: scales, code tables, descriptions."""

    @property
    def bits_per_weight(self) -> float | None:
        """Bits of a quantized weight with its share of the scales; None if nothing is quantized."""
        weights = sum(math.prod(self.unpacked[name].shape) for name in self.packed)
        codes = sum(math.prod(each.shape) for each in self.packed.values())  # all are of one byte
        return 8 * (codes + self.state_bytes) / weights if weights else None


def contents(folder: Path) -> Contents:
    """Return the tensors in a model folder's files, from their headers and bitsandbytes' own descriptions.

    Raises:
        UserError: as ``files.tensors``, or if a description cannot be read.
    """
    found = files.tensors(folder)
    here = scheme(files.read_mapping(folder / "config.json"))
    if here is None:
        return Contents(found, {}, 0)
    try:
        return _of_torchao(found) if here.kind == "torchao" else _of_bitsandbytes(folder, found)
    except (ValueError, LookupError, TypeError) as error:
        raise UserError(f"the description of a quantized weight cannot be read: {error}") from None


def _of_bitsandbytes(folder: Path, found: Mapping[str, Stored]) -> Contents:
    states = {name: name.partition(_STATE)[0] for name in found if _STATE in name}
    shapes: dict[str, tuple[int, ...]] = {}
    for file in dict.fromkeys(found[name].file for name in states):
        names = tuple(name for name in states if found[name].file == file)
        each = _described(folder / file, names, (folder / file).stat().st_mtime)
        shapes |= {states[name]: tuple(one["shape"]) for name, one in zip(names, each, strict=True)}
    eights = {name.removesuffix(_SCALES) for name in found if name.endswith(_SCALES)}
    shapes |= {f"{name}.weight": found[f"{name}.weight"].shape for name in eights}
    parts = {*states, *(f"{name}{part}" for name in states.values() for part in _PARTS)}
    parts |= {f"{name}{part}" for name in eights for part in (_SCALES, _FORMAT)}
    unpacked = {
        name: replace(each, shape=shapes[name], dtype="BF16") if name in shapes else each
        for name, each in found.items()
        if name not in parts
    }
    return Contents(unpacked, {name: found[name] for name in shapes}, sum(_size(found[n]) for n in parts if n in found))


def _of_torchao(found: Mapping[str, Stored]) -> Contents:
    parts = {name: match for name in found if (match := _TORCHAO_PART.fullmatch(name))}
    packed = {f"{m['weight']}weight": found[name] for name, m in parts.items() if m["part"] == "qdata"}
    unpacked = {name: each for name, each in found.items() if name not in parts}
    unpacked |= {name: replace(each, shape=_unpacked(each), dtype="BF16") for name, each in packed.items()}
    return Contents(unpacked, packed, sum(_size(found[name]) for name, m in parts.items() if m["part"] != "qdata"))


def _unpacked(codes: Stored) -> tuple[int, ...]:
    """Return the shape of a weight of torchao, of whose codes of 4 bits two share a byte in the last dimension."""
    return (*codes.shape[:-1], 2 * codes.shape[-1]) if codes.dtype == "U8" else codes.shape


def _size(tensor: Stored) -> int:
    return math.prod(tensor.shape) * _BYTES[tensor.dtype]


_BYTES: Mapping[str, int] = MappingProxyType({"U8": 1, "I8": 1, "F8_E4M3": 1, "BF16": 2, "F16": 2, "F32": 4, "I64": 8})
"""Bytes of a value of scales and offsets, by the names of dtypes in the safetensors format."""


def note(config: Mapping[str, Any], folder: Path) -> str | None:
    """Return what a plan says of a base model that is stored quantized; None if it is not, or its files are not here.

    Raises:
        UserError: as ``contents``.
    """
    found = scheme(config)
    bits = contents(folder).bits_per_weight if found else None
    if found is None or bits is None:
        return None
    return f"stored quantized: {found.words}; {bits:.3g} bits for each quantized weight, with its scales"
