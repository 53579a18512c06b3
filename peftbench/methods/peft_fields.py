"""The tuners of the installed peft and the fields of their configs, read from its source, as importing takes seconds.

The source of information is peft's own registration, ``register_peft_method(name=..., config_cls=...)`` in each tuner's
package, and the dataclasses that it names. A test compares the result with the imported peft.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, Union

from peftbench.errors import UserError
from peftbench.methods import METHODS, Method, Setting, lora_fields, lora_settings

TYPE = "peft_type"
"""The key of a block that names the tuner."""
_OURS = (TYPE, "task_type", "auto_mapping", "base_model_name_or_path", "revision", "peft_version", "inference_mode")
"""Fields of a config that the trial sets itself."""
LORA = "LORA"
_CACHES = ("PREFIX_TUNING", "CARTRIDGE")
"""Tuners that pass a cache to the base model."""
CHOOSING: Mapping[str, str | None] = MappingProxyType({"ADALORA": None, "ADAMSS": "use_asa"})
"""Tuners that choose after each step, by weights and gradients, what is pruned -> the field that asks for it; None if
they always do."""
CHANGED = ("FROD", "HRA", "SHIRA", "SUPERTUNING")
"""Tuners that multiply by weights that they have changed and do not call the base model's layer."""
_NO_MEAN = (
    "it prunes by weights and gradients after each step; the averaged weights that are scored would still contain what "
    "was pruned, and the optimizer overwrites the gradients"
)
_RANK_FIELDS = {"init_r": "rank at the start", "num_virtual_tokens": "virtual tokens", "adapter_len": "prompt length"}
"""Size fields of tuners without ``r``, and what they mean."""
_KINDS = {"str": str, "int": int, "float": float, "bool": bool, "dict": dict, "list": list, "List": list, "Any": Any}
_NO_LITERAL = object()
"""Stands for a default that is computed."""


@dataclass(frozen=True)
class _Class:
    """A dataclass in peft's source: the names of its bases, and each field's annotation and default."""

    bases: tuple[str, ...]
    fields: Mapping[str, tuple[ast.expr, ast.expr | None]]


def tuners() -> tuple[str, ...]:
    """Return the name of every tuner of the installed peft, sorted: ``ADALORA``, ``VERA``, ..."""
    return tuple(sorted(_registered()))


def tuner_like(name: str) -> str | None:
    """Return the tuner of the installed peft that a name means, however it is written (``ia3``, ``ln-tuning``).

    None if there is none of this name, if it is rather a method's (``LoRA``), or without peft.
    """
    try:
        known = {_letters(tuner): tuner for tuner in tuners()}
    except UserError:
        return None
    methods = {_letters(method) for method in METHODS}
    return name if name in known.values() else known.get(_letters(name)) if _letters(name) not in methods else None


def how_to_write(name: str) -> str | None:
    """Return how a suite names a tuner of peft that was given as a method; None if the name is no tuner's."""
    tuner = tuner_like(name)
    if tuner is None:
        return None
    return (
        f"peft has this tuner; write peft: {{{TYPE}: {tuner}}} under methods (its settings: peftbench list methods "
        f"{tuner})"
    )


def _letters(name: str) -> str:
    return "".join(char for char in name.upper() if char.isalnum())


@cache
def fields(tuner: str) -> Mapping[str, Setting]:
    """Return the fields that a suite may give for the config of a tuner.

    Args:
        tuner: one of ``tuners()``.
    """
    found = {name: field for name, field in _all_fields(_registered()[tuner]).items() if name not in _OURS}
    return MappingProxyType({name: _setting(annotation, default) for name, (annotation, default) in found.items()})


def variants(given: Any) -> tuple[tuple[Method, Any], ...]:
    """Return the records that a block or a trial's options describe, one per tuner, each with its part of the block.

    Args:
        given: the block as written. ``peft_type`` may be a list of tuners; the other keys apply to all of them.

    Raises:
        UserError: if peft is not installed, or registers its tuners in a way that cannot be read.
    """
    asked = given.get(TYPE) if isinstance(given, Mapping) else None
    names = asked if isinstance(asked, list) else [asked]
    known = all(isinstance(name, str) and name in tuners() for name in names)
    if not names or not known:  # reported as a wrong value; its other keys cannot be checked
        only = {TYPE: asked} if isinstance(given, Mapping) and TYPE in given else {}
        return ((replace(METHODS["peft"], options=MappingProxyType(_type())), only),)
    return tuple((_with_fields(_variant(name), given), {**given, TYPE: name}) for name in names)


def _with_fields(record: Method, given: Mapping[str, Any]) -> Method:
    """Return a tuner's record with what its fields forbid."""
    if record.variant in CHOOSING:
        asks = CHOOSING[record.variant]
        return replace(record, why_no_mean=_NO_MEAN if asks is None or given.get(asks) else "")
    if record.variant != LORA:
        return record
    return replace(
        record,
        why_never=lora_fields.refusal(given) or "",
        why_no_packing=lora_fields.why_no_packing(given),
        why_no_checkpointing=lora_fields.why_no_checkpointing(given),
    )


@cache
def _variant(tuner: str) -> Method:
    record, settings = METHODS["peft"], dict(fields(tuner))
    if tuner == LORA:
        settings["lora_plus_ratio"] = lora_settings.PLUS
        for name, why in lora_fields.REFUSED.items():
            settings[name] = replace(settings[name], doc=f"refused: {why}")
    rank_key = _rank_field(settings)
    size = settings.pop(rank_key) if rank_key else None
    return replace(
        record,
        variant=tuner,
        rank_meaning=None if rank_key is None else _RANK_FIELDS.get(rank_key, "rank r"),
        rank_key=rank_key or record.rank_key,
        default_rank=None if size is None else size.default,
        options=MappingProxyType({**_type(), **settings}),
        virtual_tokens=rank_key == "num_virtual_tokens",
        why_no_checkpointing=METHODS["prefix_tuning"].why_no_checkpointing if tuner in _CACHES else "",
    )


def _type() -> dict[str, Setting]:
    return {TYPE: Setting(Literal[tuners()], None, "name of the tuner in peft")}  # type: ignore[valid-type]


def _rank_field(settings: Mapping[str, Setting]) -> str | None:
    """Return the field that gives a tuner's size, or None. A default ``r`` of 0 (OFT) means another field decides."""
    for name in _RANK_FIELDS:
        if name in settings:
            return name
    default = settings["r"].default if "r" in settings else None
    return "r" if isinstance(default, int) and default > 0 else None


@cache
def _folder() -> Path:
    spec = find_spec("peft")
    if spec is None or not spec.submodule_search_locations:
        raise UserError("the method peft needs the package peft, which is not installed")
    return Path(spec.submodule_search_locations[0])


@cache
def _registered() -> Mapping[str, str]:
    """Return each tuner's name with the name of its config class."""
    found = {}
    for path in sorted((_folder() / "tuners").glob("*/__init__.py")):
        for call in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(call, ast.Call) and getattr(call.func, "id", "") == "register_peft_method":
                given = {word.arg: word.value for word in call.keywords}
                name, config = given.get("name"), given.get("config_cls")
                if isinstance(name, ast.Constant) and isinstance(config, ast.Name):
                    found[str(name.value).upper()] = config.id
    if not found:
        raise UserError("the method peft: the installed peft registers its tuners in a way that peftbench cannot read")
    return MappingProxyType(found)


@cache
def _classes() -> Mapping[str, _Class]:
    """Return every class in peft's config modules by name."""
    tuners = _folder() / "tuners"
    sources = (_folder() / "config.py", *tuners.glob("*_utils.py"), *sorted(tuners.glob("*/config.py")))
    trees = [ast.parse(path.read_text(encoding="utf-8")) for path in sources]
    return {node.name: _class(node) for tree in trees for node in tree.body if isinstance(node, ast.ClassDef)}


def _class(node: ast.ClassDef) -> _Class:
    fields = {
        line.target.id: (line.annotation, line.value)
        for line in node.body
        if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name)
    }
    return _Class(tuple(base.id for base in node.bases if isinstance(base, ast.Name)), fields)


def _all_fields(name: str) -> dict[str, tuple[ast.expr, ast.expr | None]]:
    """Return a class's fields, inherited ones first."""
    found = _classes().get(name)
    if found is None:
        return {}
    inherited = [item for base in found.bases for item in _all_fields(base).items()]
    return {**dict(inherited), **found.fields}


def _setting(annotation: ast.expr, default: ast.expr | None) -> Setting:
    value, doc = _default(default)
    kind = _kind(annotation)
    return Setting(kind | None if value is None else kind, value, doc, "computed" if value is _NO_LITERAL else None)


def _default(node: ast.expr | None) -> tuple[Any, str]:
    """Return default and help text of ``x`` or ``field(default=x, metadata=...)``; _NO_LITERAL if it is computed."""
    metadata: Any = None
    if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "field":
        given = {word.arg: word.value for word in node.keywords}
        metadata, node = _literal(given.get("metadata")), given.get("default")
    has_help = isinstance(metadata, dict) and "help" in metadata
    return _literal(node), " ".join(str(metadata["help"]).split()) if has_help else ""


def _literal(node: ast.expr | None) -> Any:
    try:
        return _NO_LITERAL if node is None else ast.literal_eval(node)
    except ValueError:
        return _NO_LITERAL


def _kind(node: ast.expr) -> Any:
    """Return the type of the values that a suite may give for an annotated field.

    Configs are given as mappings, members of enumerations as text, tuples as lists. A Literal that describes a family
    of names (``pissa_niter_[number of iters]``) allows any text.
    """
    if isinstance(node, ast.Constant):
        return None if node.value is None else _kind(ast.parse(str(node.value), mode="eval").body)
    if isinstance(node, ast.BinOp):
        return _kind(node.left) | _kind(node.right)
    if isinstance(node, ast.Subscript):
        return _subscript(node)
    name = node.id if isinstance(node, ast.Name) else getattr(node, "attr", "")
    return _KINDS.get(name, dict if name.endswith("Config") else str)


def _subscript(node: ast.Subscript) -> Any:
    name = getattr(node.value, "id", None) or getattr(node.value, "attr", "")
    parts: Iterable[ast.expr] = node.slice.elts if isinstance(node.slice, ast.Tuple) else (node.slice,)
    if name == "Literal":
        names = tuple(_literals(parts))
        return str if any("[" in str(found) for found in names) else Literal[names]  # type: ignore[valid-type]
    kinds = tuple(_kind(part) for part in parts)
    if name == "Optional":
        return kinds[0] | None
    if name == "Union":
        return Union[kinds]  # noqa: UP007
    if name in ("list", "List", "tuple", "Tuple"):
        return list[kinds[0]]  # type: ignore[valid-type]
    return dict if name in ("dict", "Dict") else Any


def _literals(parts: Iterable[ast.expr]) -> Iterator[Any]:
    return (part.value for part in parts if isinstance(part, ast.Constant))
