"""Any tuner of the installed peft, configured by the fields of its own config."""

from __future__ import annotations

import dataclasses
import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any, get_args, get_type_hints

import torch
from peft import get_peft_model
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from torch import nn

from peftbench.errors import Unsupported, UserError
from peftbench.methods import (
    Method,
    lora_plus,
    lora_variants,
    method_of,
    peft_checkpoint,
    peft_fields,
    whole_text_prompts,
)
from peftbench.models import head, text_part
from peftbench.models.storage import is_packed
from peftbench.records import patterns

_REFUSALS = (ValueError, TypeError, NotImplementedError)
"""What peft raises if a tuner cannot be attached to a base model; any other exception is reported as an error."""

_WITH_TASKS = ("POLY", "MULTITASK_PROMPT_TUNING")
"""Tuners whose forward pass takes the task of each example."""

_SHAPES = (
    "shapes cannot be multiplied",
    "is invalid for input of size",
    "must match the size",
    "same dtype",
    "floating point",
)
"""Parts of torch's error messages for packed weights used as plain ones."""
_MISSING = "unimplemented operator"
"""The same of torchao, whose weights take part in few operations."""

_IGNORED = (
    "will be ignored when",
    "did not match any targeted module",
    "but no modules were excluded",
    "were set but no module was matched",
    "were set but no parameter was matched",
)
"""Parts of peft's warnings that a given setting has no effect."""

_PACKED = MappingProxyType(
    {
        **dict.fromkeys(("DEFT", "HRA", "PEANUT", "SUPERTUNING"), "computes with the base's weights, which are packed"),
        "UNILORA": "keeps its scales in the type of the base's weights, packed ones are whole numbers, "
        "so they are zero",
    }
)
"""Tuners of peft 0.21 that silently use int8 codes as weights, or have no effect on packed weights, and the reason."""


def attach(model: Any, rank: int | None, options: Mapping[str, Any]) -> nn.Module:
    """Attach the tuner that the options name, as ``peft.get_peft_model`` does.

    The tuner is peft's own, for causal language models. Only the loss differs: every method trains on the same
    cross-entropy, without terms that a tuner adds to the model's own loss (AdaLoRA's orthogonality, CPT's weights of
    the context, Shadow's auxiliary loss, the priors of KaSA and MonteCLoRA). Tuners that distinguish tasks (Poly,
    multitask prompt tuning) get task 0 for every example.

    Args:
        model: the frozen base model.
        rank: value of the config's size field (``r``, ``init_r``, ``num_virtual_tokens`` or ``adapter_len``); None for
            peft's default.
        options: ``peft_type`` and fields of that tuner's config; a field that is itself a config is given as a mapping.
            For LoRA also ``lora_plus_ratio``; see ``lora_fields`` for what each of its fields does.

    Returns:
        The base model wrapped by peft.

    Raises:
        UserError: if the config refuses the given fields, or a name matches nothing.
        Unsupported: if peft cannot attach this tuner to this base model, with peft's reason, or would ignore a field.
    """
    record = method_of("peft", options)
    fields = {name: value for name, value in options.items() if name != "peft_type"}
    if rank is not None:
        fields[record.rank_key] = rank
    ratio = fields.pop(lora_plus.OPTION, 1.0)
    config = _checked_config(record, rank, fields)
    if head.placed_in(model) is not None:
        config.task_type = peft_checkpoint.task_type(model)
    if hasattr(config, "adapters"):  # X-LoRA
        if not config.adapters:
            raise Unsupported(
                f"peft {record.variant} trains no adapter: it combines adapters that are already trained; "
                "name them with `adapters`"
            )
        model.config.use_cache = False  # it runs each forward pass twice, and refuses a cache
    packed = any(map(is_packed, model.parameters()))
    if packed and record.variant in _PACKED:
        raise Unsupported(f"peft {record.variant} {_PACKED[record.variant]}")
    lora = record.variant == peft_fields.LORA
    start = lora_variants.prepare(model, config) if lora else ""
    try:
        with _ignored_settings_refused(record.variant):
            tuned = _prepared(_attached(model, config))
    except _REFUSALS as error:
        raise _refused(record.variant, type(model).__name__, error) from error
    except RuntimeError as error:
        if not packed:
            raise
        raise _packed_weights(record.variant, error) from error
    _check_names(tuned, config, fields)
    if lora:
        lora_variants.finish(tuned, start, fields)
        lora_plus.mark(tuned, ratio)
    return _watched(tuned, record.variant) if packed else tuned


def _checked_config(record: Method, rank: int | None, fields: Mapping[str, Any]) -> Any:
    """Return a tuner's config, whose size is the one given."""
    if record.why_never:
        raise Unsupported(f"peft {record.variant}: {record.why_never}")
    with _ignored_settings_refused(record.variant):
        config = _config(record.variant, fields)
    if rank is not None and getattr(config, record.rank_key) != rank:
        made = f"{record.rank_key} of {rank} becomes {getattr(config, record.rank_key)}"
        raise UserError(f"peft {record.variant}: with these settings, {made}; give the settings that determine it")
    return config


def _config(tuner: str, fields: Mapping[str, Any]) -> Any:
    kind = PEFT_TYPE_TO_CONFIG_MAPPING[tuner]
    try:
        return kind(task_type="CAUSAL_LM", **_with_configs(kind, fields))
    except (*_REFUSALS, ImportError) as error:
        raise UserError(f"peft {tuner}: its config refuses these settings: {error}") from error


@contextmanager
def _ignored_settings_refused(tuner: str) -> Iterator[None]:
    """Turn peft's warnings that a given setting has no effect into an error; repeat the others."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
    for one in caught:
        text = " ".join(str(one.message).split())
        if any(words in text for words in _IGNORED):
            raise UserError(f"peft {tuner}: a setting has no effect: {text}")
        warnings.warn_explicit(one.message, one.category, one.filename, one.lineno)


def _check_names(tuned: Any, config: Any, given: Mapping[str, Any]) -> None:
    """Check that every listed module exists; peft ignores a name that matches nothing if others match.

    Args:
        tuned: the model as peft attached it.
        config: the tuner's config, in which peft has put the names that ``all-linear`` stands for.
        given: the fields of the block.

    Raises:
        UserError: for a name that matches nothing.
        Unsupported: for one that matches the head alone.
    """
    names = [name.removeprefix("base_model.model.") for name, _ in tuned.named_modules()]
    apart = {*head.modules(tuned.get_base_model())}
    for field in ("target_modules", "modules_to_save"):
        listed = getattr(config, field, None)
        for one in sorted(listed) if isinstance(listed, list | set | tuple) else ():
            found = {name for name in names if f".{name}".endswith(f".{one}")}
            if not found:
                raise UserError(f"peft {config.peft_type.value}: {field}: {one!r} matches no module of the base")
            if found <= apart and isinstance(given.get(field), list | set | tuple):
                text = f"{field}: {one!r} is the head, which trains as a whole with every method"
                raise Unsupported(f"peft {config.peft_type.value}: {text}")


def _attached(model: Any, config: Any) -> Any:
    """Return peft's model, which neither adapts nor trains the parts of the base that text does not pass through."""
    aside = text_part.left_out_modules(model)
    apart = {*head.modules(model), *head.outer(model)}
    if apart & {*(getattr(config, "modules_to_save", None) or ())}:
        raise UserError(
            f"peft: modules_to_save: {', '.join(sorted(apart))} is the head, which trains with every method"
        )
    if (aside or apart) and hasattr(config, "exclude_modules"):
        inside = "|".join(rf"{re.escape(name)}(\..*)?" for name in (*aside, *sorted(apart)))
        given = config.exclude_modules or ()
        listed = [] if isinstance(given, str) else [rf"(.*\.)?{re.escape(name)}" for name in given]
        config.exclude_modules = "|".join([f"({given})"] * isinstance(given, str) + listed + [inside])
    _check_expressions(model, config)
    tuned = get_peft_model(model, config)
    for name in aside:  # not every tuner can exclude modules
        tuned.get_base_model().get_submodule(name).requires_grad_(False)
    return whole_text_prompts.prepare(tuned)


def _check_expressions(model: nn.Module, config: Any) -> None:
    """Check that no regular expression of a config takes too long on the names of the base's modules.

    Raises:
        UserError: if one does; peft would match it without a limit.
    """
    names = [name for name, _ in model.named_modules()]
    for field in ("target_modules", "exclude_modules", "layers_pattern", "rank_pattern", "alpha_pattern"):
        given = getattr(config, field, None)
        wholes = [given] if isinstance(given, str) else []
        ends = [rf"(.*\.)?({pattern})$" for pattern in given] if isinstance(given, dict) else []
        for pattern in (*wholes, *ends):
            try:
                patterns.matches(pattern, names)
            except patterns.TooSlow as error:
                raise UserError(f"peft {config.peft_type.value}: {field}: {error}") from None
            except (re.error, ValueError, OverflowError):  # peft has words of its own
                continue


def load(model: nn.Module, folder: Path) -> nn.Module:
    """Return a freshly loaded base model with the tuner of ``folder`` attached, frozen."""
    return _prepared(peft_checkpoint.load(model, folder))


def _prepared(tuned: Any) -> Any:
    """Let a tuner be called like any model, without task ids."""
    if tuned.active_peft_config.peft_type in _WITH_TASKS:
        generate = tuned.generate
        tuned.register_forward_pre_hook(_with_task, with_kwargs=True)
        tuned.generate = lambda **given: generate(**{"task_ids": _first_task(given["input_ids"]), **given})
    peft_checkpoint.keep_tied(tuned)
    return tuned


def _watched(tuned: Any, tuner: str) -> Any:
    """Detect a tuner that uses packed weights as plain ones: its first forward pass fails because of their shape."""
    own = vars(tuned).get("forward")  # with a head that of ``whole_text_prompts``
    after = tuned.forward

    def first(*args: Any, **given: Any) -> Any:
        try:
            out = after(*args, **given)
        except RuntimeError as error:
            raise _packed_weights(tuner, error) from error
        del tuned.forward
        if own is not None:
            tuned.forward = own
        return out

    tuned.forward = first
    return tuned


def _refused(tuner: str, family: str, error: Exception) -> Exception:
    """Return ``Unsupported`` with peft's reason, or with what torchao's weights lack."""
    if _MISSING in str(error):
        return _packed_weights(tuner, error)
    return Unsupported(f"peft {tuner} on {family}: {_line(error)}")


def _packed_weights(tuner: str, error: Exception) -> Exception:
    """Return ``Unsupported`` for an error due to packed weights; any other error, such as out of memory, unchanged."""
    if not any(words in str(error) for words in (*_SHAPES, _MISSING)):
        return error
    said = _line(error).partition(", types=")[0]  # of torchao, the types of all operands follow
    return Unsupported(f"peft {tuner} computes with the base's weights, which are packed here: {said}")


def _line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]


def _with_task(module: nn.Module, args: Any, given: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Forward pre-hook: add task ids of 0 to the keyword arguments."""
    ids = args[0] if args else given["input_ids"]  # lm-eval passes ids by position
    return args, {"task_ids": _first_task(ids), **given}


def _first_task(ids: torch.Tensor) -> torch.Tensor:
    """Return task 0 for each example of ids of shape (b, t)."""
    return torch.zeros(ids.shape[0], dtype=torch.long, device=ids.device)


def _with_configs(config_class: Any, fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields, with mappings turned into configs if peft accepts only a config (``eva_config``)."""
    hints = get_type_hints(config_class)
    made = {}
    for name, value in fields.items():
        kinds = (hints[name], *get_args(hints[name]))
        config = next((kind for kind in kinds if dataclasses.is_dataclass(kind)), None)
        wanted = isinstance(value, dict) and config is not None and dict not in kinds
        made[name] = config(**value) if wanted and isinstance(config, type) else value
    return made


def after_step(model: Any, step: int) -> None:
    """Call the update of a tuner that changes while it trains, such as AdaLoRA's ranks; gradients still exist.

    Args:
        model: the tuned model.
        step: number of optimizer steps before this one.
    """
    update = getattr(getattr(model, "base_model", None), "update_and_allocate", None)
    if update is not None:
        update(step)
