"""Decide from a loader's report whether a base model's weights are those of its config. No torch.

transformers draws at random what it does not find in the files, and leaves out what it does not know. Both make another
model than the one that the folder's name promises.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

from peftbench.models import files
from peftbench.models.files import Stored

_NAMED = 3
"""How many tensors a message names."""
_HARMLESS = re.compile(
    r"(^|\.)(rotary\w*|rope\w*|inv_freq|freqs_cis|masked_bias|position_ids|version|_float_tensor|[kqv]_scale|kv_scale)"
    r"(\.|$)"
)
"""Tensors that code computes, left over in files: an unexpected one changes nothing."""
_COMPUTED = re.compile(r"inv_freq|masked_bias|position_ids|(key|query|diagonal)_decay|slope_rate|act_fn\.(eps|beta)$")
"""Buffers that the model's code computes if a file has none."""
_APART = re.compile(
    r"vis|image|audio|speech|tower|project|mtp|nextn|eagle|medusa|draft|resampl|connector|aligner|talker|code2wav"
)
"""Parts of a name that belong to other models in the same files: towers, and heads that predict further tokens."""
WRAPPERS = (
    *("base_model.model", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "module", "model"),
    *(
        "original_module",
        "modules_to_save.default",
        "base_layer",
        "student",
        "policy",
        "actor",
        "llm",
        "language_model",
    ),
)
"""Parts of names that wrappers add while a model is trained."""
QUANTIZED = re.compile(
    r"\.(qweight|qzeros|g_idx|weight_packed|weight_scale(_inv)?|weight_shape|SCB|absmax|quant_map|quant_state.*"
    r"|\w+_blocks|\w+_scales|scales)$"
)
"""Ends of the names of what quantized weights are stored as."""
LAYER = re.compile(r"(?P<list>.+?)\.(?P<index>\d+)\.(?P<rest>.+)")
INTEGERS = ("BOOL", "U8", "I8", "U16", "I16", "U32", "I32", "U64", "I64")
"""Names of dtypes in the safetensors format that are no floating-point numbers."""
_SMALL = re.compile(r"(F8|F6|F4)(_|$)")
"""Beginnings of the names of floating-point dtypes of at most 8 bits, whose values mean nothing without a scale."""


@dataclass(frozen=True)
class Report:
    """What a loader found: names in the model, except unexpected ones, which are names in the files."""

    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    mismatched: tuple[tuple[str, tuple[int, ...], tuple[int, ...]], ...]
    """(name, shape in the files, shape in the model)."""

    @classmethod
    def of(cls, info: Mapping[str, Collection[Any]]) -> Report:
        """Return transformers' loading info, sorted."""
        wrong = sorted((name, tuple(stored), tuple(own)) for name, stored, own in info["mismatched_keys"])
        return cls(tuple(sorted(info["missing_keys"])), tuple(sorted(info["unexpected_keys"])), tuple(wrong))


@dataclass(frozen=True)
class Expected:
    """The tensors that a config's model has."""

    parameters: frozenset[str]
    buffers: frozenset[str]
    prefix: str
    """The name of the decoder inside the model, as in ``model.layers.0``."""
    embeddings: str | None
    """Name of the input embeddings' weight; None if it is not known."""
    head: str | None
    """Name of the output embeddings' weight; None if there is none."""
    optional: frozenset[str] = frozenset()
    """Those that files may lack, or have in another shape: a head for whole texts."""

    @cached_property
    def names(self) -> frozenset[str]:
        """All tensors."""
        return self.parameters | self.buffers


@dataclass(frozen=True)
class Comparison:
    """A base model's files beside the model that its config describes."""

    report: Report
    expected: Expected
    stored: Mapping[str, Stored]
    """The tensors in the files."""
    config: Mapping[str, Any]
    """The mapping read from ``config.json``."""
    index: Mapping[str, str]
    """The file of each tensor by the index of weights; empty without one."""

    @cached_property
    def missing(self) -> list[str]:
        """Tensors of the model that are not in the files and would be drawn at random."""
        own, optional = self.expected.parameters, self.expected.optional
        found = (name for name in self.report.missing if name not in optional)
        return [name for name in found if name in own or not _COMPUTED.search(name)]

    @cached_property
    def mismatched(self) -> list[tuple[str, tuple[int, ...], tuple[int, ...]]]:
        """Tensors of another shape: name, shape in the files, shape in the model."""
        return [found for found in self.report.mismatched if found[0] not in self.expected.optional]

    @cached_property
    def extra(self) -> list[str]:
        """Weights in the files that the model does not have."""
        return [name for name in self.report.unexpected if self._is_weight(name)]

    @cached_property
    def packed(self) -> list[str]:
        """Weights that the files store as integers or 8-bit floats, which transformers would take for their values."""
        own = self.expected.parameters
        return [
            name
            for name, found in self.stored.items()
            if (name in own and found.dtype in INTEGERS) or _SMALL.match(found.dtype)
        ]

    def _is_weight(self, name: str) -> bool:
        """Return whether an unexpected tensor looks like a weight of this model, and not like a buffer."""
        known, prefix = self.expected.names, self.expected.prefix
        tensor = self.stored.get(name) or self.stored.get(name.removeprefix(f"{prefix}."))
        if _HARMLESS.search(name) or (tensor is not None and 0 in tensor.shape):
            return False
        if tensor is not None and tensor.dtype in INTEGERS and not QUANTIZED.search(name):
            return False  # a mask, a counter
        parent, _, last = name.rpartition(".")
        if (last == "bias" and f"{parent}.weight" in known) or self._is_wrapped(name):
            return True
        layer = layer_of(name, known, prefix)
        if layer is not None:
            beyond = layer[1] - count_layers(layer[0], known)
            mask = last == "bias" and tensor is not None and len(tensor.shape) > 2
            return not mask and not 0 <= beyond < _further_layers(self.config)
        return name.startswith(f"{prefix}.") and name.count(".") <= 2 and not _APART.search(name)

    def _is_wrapped(self, name: str) -> bool:
        """Return whether a tensor has the name of one of the model's behind the name of a wrapper."""
        inside = (name.removeprefix(f"{wrapper}.") for wrapper in WRAPPERS if name.startswith(f"{wrapper}."))
        return any(own in self.expected.names for own in inside)


@lru_cache(maxsize=8)
def _lists(known: frozenset[str]) -> frozenset[str]:
    """Return the names of the lists of layers."""
    return frozenset(m["list"] for m in map(LAYER.fullmatch, known) if m)


def layer_of(name: str, known: frozenset[str], prefix: str) -> tuple[str, int] | None:
    """Return the list of layers that a tensor is in and the layer's index; None if it is in none.

    Args:
        name: the tensor's name in the model or in the files, where the decoder's name may be missing.
        known: the names of the model's tensors.
        prefix: the decoder's name.
    """
    found = LAYER.fullmatch(name)
    if found is None:
        return None
    places = (found["list"], f"{prefix}.{found['list']}")
    where = next((place for place in places if place in _lists(known)), None)
    return None if where is None else (where, int(found["index"]))


def count_layers(layers: str, names: Iterable[str]) -> int:
    """Return how many layers a list has, by the names of tensors."""
    found = (LAYER.fullmatch(name) for name in names)
    return 1 + max((int(m["index"]) for m in found if m and m["list"] == layers), default=-1)


def _further_layers(config: Mapping[str, Any]) -> int:
    """Return how many layers after the model's predict further tokens; transformers does not use them."""
    sizes = [value for _, part in files.sections(config) for key, value in part.items() if re.search("nextn|mtp", key)]
    return max((size for size in sizes if isinstance(size, int)), default=0)


def differences(found: Comparison) -> str | None:
    """Return how a base model's weights differ from what its config describes; None if they do not."""
    missing, extra, packed = found.missing, found.extra, found.packed
    parts = []
    if missing:
        parts.append(f"{_counted(missing, 'tensor')} not in the files and would be random: {_names(missing)}")
    if found.mismatched:
        wrong = [f"{name} is {_shape(a)} in the files, {_shape(b)} by the config" for name, a, b in found.mismatched]
        parts.append(f"{_counted(wrong, 'tensor')} of another shape: {_names(wrong)}")
    if extra:
        parts.append(f"{_counted(extra, 'tensor')} in the files but not in the model: {_names(extra)}")
    if packed:
        integers = [name for name in packed if found.stored[name].dtype in INTEGERS]
        small = [name for name in packed if name not in integers]
        kinds = ", ".join(dict.fromkeys(found.stored[name].dtype for name in small))
        parts += [f"{_counted(integers, 'weight')} stored as integers: {_names(integers)}"] if integers else []
        parts += [f"{_counted(small, 'weight')} stored in at most 8 bits ({kinds}): {_names(small)}"] if small else []
    return "; ".join(parts) or None


def _counted(names: Sequence[str], noun: str) -> str:
    return f"{len(names):,} {noun}{'s are' if len(names) > 1 else ' is'}"


def _names(names: Sequence[str]) -> str:
    """Return the first names, and how many more there are."""
    more = f", and {len(names) - _NAMED:,} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more


def _shape(sizes: Iterable[int]) -> str:
    return " x ".join(map(str, sizes)) or "a number"
