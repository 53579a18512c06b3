"""Full fine-tuning of all weights or some of them, and the untuned base model."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from peftbench.errors import Unsupported, UserError, unknown
from peftbench.models import attention, head, padding_rows, text_part
from peftbench.models.layers import check_layers, decoder_layers_for
from peftbench.training import turns

_CONFIG, _WEIGHTS = "partial_config.json", "partial_model.safetensors"


def attach(model: Any, rank: int | None, options: Mapping[str, Any]) -> Any:
    """Make every weight of the base model trainable, or only those selected by ``layers`` and ``modules``.

    Towers for images or sound stay frozen, since text does not pass through them (``models.text_part``). If both
    options are given, a weight must be selected by both. Frozen weights are stored in the dtype of trainable ones, so
    in ``bf16`` they are fp32 too: partial fine-tuning saves gradients and optimizer state, but no weight memory.

    Args:
        model: the base model.
        rank: not used.
        options: ``layers``: number of topmost decoder layers that train, without embeddings, final norm and head.
            ``modules``: ``norms`` (all parameters of normalization layers), ``biases`` (every bias, including those of
            norms), or a list of these and of module name endings; a parameter trains if any entry selects it.
            ``turns``: ``lisa`` or ``badam``, by which decoder layers train in turns (``training.turns``), ``turn_size``
            layers at a time for ``turn_steps`` steps. With ``badam`` what is no decoder layer stays frozen.

    Returns:
        The same model; only the selected weights require gradients.

    Raises:
        UserError: if a module name ending matches nothing, naming the modules there are.
        Unsupported: if the base model has no such parameters, or fewer layers; or if layers that are to train in turns
            share parameters.

    References:
        ``modules: biases`` is BitFit, Ben Zaken et al. 2021, arXiv:2106.10199, section 3. Differs from it: no task
        head is trained, since a causal language model has none.
    """
    layers, modules = options.get("layers"), options.get("modules")
    model.requires_grad_(False)
    aside = text_part.left_out_parameters(model)
    chosen = {id(p): p for p in model.parameters() if id(p) not in aside}
    if layers is not None:
        every = decoder_layers_for("full", model)
        check_layers(layers, len(every), "full")
        above = {id(p) for layer in every[-layers:] for p in layer.parameters()}
        chosen = {key: p for key, p in chosen.items() if key in above}
    if modules is not None:
        named = [modules] if isinstance(modules, str) else modules
        wanted = {id(p) for name in named for p in _parameters(model, name)}
        if wanted <= head.apart(model):
            raise Unsupported(f"full: modules {modules}: this is the head, which trains as a whole with every method")
        if wanted <= aside:
            raise Unsupported(f"full: modules {modules} are outside of the part of the base that text passes through")
        chosen = {key: p for key, p in chosen.items() if key in wanted}
    if not chosen:
        raise Unsupported(f"full: the {layers} topmost layers have none of modules {modules}")
    for parameter in chosen.values():
        parameter.requires_grad_(True)
    if options.get("turns", "none") != "none":
        _in_turns(model, options)
    if layers is not None or modules is not None:
        model.peftbench_partial = {"layers": layers, "modules": modules}
    return model


def _in_turns(model: Any, options: Mapping[str, Any]) -> None:
    """Let the decoder layers train in turns."""
    kind, every = options["turns"], decoder_layers_for("full", model)
    if kind == turns.BADAM:
        inside = {id(p) for layer in every for p in layer.parameters()}
        for parameter in model.parameters():
            parameter.requires_grad_(parameter.requires_grad and id(parameter) in inside)
    size, steps = options.get("turn_size") or turns.SIZES[kind], options.get("turn_steps") or turns.STEPS[kind]
    turns.mark(model, turns.Turns(kind, size, steps, len(every), torch.initial_seed()), every)


def _parameters(model: nn.Module, name: str) -> list[nn.Parameter]:
    """Return the parameters selected by one entry of ``modules``; raise if there are none."""
    if name == "biases":
        found = [p for n, p in model.named_parameters() if n.rpartition(".")[2] == "bias"]
        reason = "the base has no biases, so BitFit has nothing to train"
    elif name == "norms":
        found = [p for m in model.modules() if "norm" in type(m).__name__.lower() for p in m.parameters(recurse=False)]
        reason = "the base's norms have no parameters"
    else:
        return _of_modules(model, name)
    if not found:
        raise Unsupported(f"full: modules {name}: {reason}")
    return found


def _of_modules(model: nn.Module, ending: str) -> list[nn.Parameter]:
    found = [p for n, m in model.named_modules() if f".{n}".endswith(f".{ending}") for p in m.parameters()]
    if not found:
        there = {n.rpartition(".")[2] for n, m in model.named_modules() if any(True for _ in m.parameters())}
        names = {n for n in there if n and not n.isdigit()} | {"norms", "biases"}
        raise UserError("full: modules: " + unknown("module", ending, names))
    return found


def attach_nothing(model: Any, rank: int | None, options: Mapping[str, Any]) -> Any:
    """Return the base model unchanged, with every weight frozen."""
    model.requires_grad_(False)
    return model


def save(model: Any, folder: Path) -> None:
    """Write the whole model as safetensors, or only the weights that trained, in the dtype in which they trained."""
    partial = getattr(model, "peftbench_partial", None)
    if partial is None:
        model.save_pretrained(folder)
        return
    folder.mkdir(parents=True, exist_ok=True)
    config = {"library": "peftbench", "base_model_name_or_path": model.name_or_path, **partial}
    (folder / _CONFIG).write_text(json.dumps(config, indent=2) + "\n")
    state = {name: p.detach().cpu().contiguous() for name, p in _trained(model)}
    save_file(state, folder / _WEIGHTS, metadata={"format": "pt"})


def _trained(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    return ((name, p) for name, p in model.named_parameters() if p.requires_grad)


def load(model: Any, folder: Path) -> Any:
    """Return the model of ``folder`` in the dtype and on the device of the given base model.

    If only some weights were saved, they are copied into the given model, which is returned frozen.
    """
    if not (folder / _WEIGHTS).is_file():
        tuned = type(model).from_pretrained(folder, dtype=model.dtype, use_safetensors=True)
        attention.use(tuned, attention.of(model))
        padding_rows.restore(tuned, folder)
        return tuned.to(model.device)
    own = dict(model.named_parameters())
    with torch.no_grad():
        for name, tensor in load_file(folder / _WEIGHTS).items():
            own[name].copy_(tensor)
    return model.requires_grad_(False)
