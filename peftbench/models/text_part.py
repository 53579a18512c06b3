"""The part of a base model that text passes through; towers for images or sound and unused weights are left out.

Every task here is text, so a tower of a vision-language model never runs and never gets a gradient, as do some weights
of text models (``unreached``). Methods adapt and train the rest only. What is left out stays in memory and in saved
full models, frozen.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from torch import nn

_OTHER_SENSE = re.compile(r"vision|visual|image|video|audio|speech|^vq")
"""Parts of the names of sub-configs and modules that are not for text: ``vision_tower``, ``vq_config``, and inside a
decoder ``vision_moe`` (experts for image tokens)."""
_NUMBER = re.compile(r"\.\d+(?=\.|$)")


def mark_unreached(model: Any, names: frozenset[str]) -> None:
    """Keep with a base model the names of the parameters that a pass of text does not use (``unreached.names``)."""
    model.peftbench_unreached = names


def left_out_parameters(model: Any) -> set[int]:
    """Return the ``id`` of every parameter that no method may adapt or train, because text does not use it.

    They are, besides those that a pass of text was found not to use:

    - what is outside of the text decoder, if the config has a text config (gemma3's tower and projector);
    - towers: modules whose own config is the sub-config of one (chameleon's image tokenizer), and modules that are
      named after images or sound in a model that has such a sub-config.

    Embeddings and head are never among them, nor weights that they share.

    Args:
        model: a base model before a method is attached.
    """
    own = dict(model.named_parameters())
    found = {id(own[name]) for name in getattr(model, "peftbench_unreached", ()) if name in own}
    found |= {id(p) for module in _beside_decoder(model).values() for p in module.parameters()}
    return found - {id(p) for module in _ends(model) for p in module.parameters()}


def left_out_modules(model: Any) -> list[str]:
    """Return the names of the topmost modules all of whose parameters are left out."""
    return [name for name, found in _covered(model, "", left_out_parameters(model)) if isinstance(found, nn.Module)]


def left_out_names(model: Any) -> list[str]:
    """Return the names of the topmost modules that are left out and of parameters beside them, * for numbers."""
    found = _covered(model, "", left_out_parameters(model))
    return list(dict.fromkeys(_NUMBER.sub(".*", name) for name, _ in found))


def left_out_leaves(model: Any) -> list[str]:
    """Return the names of the modules without children, such as linear layers, whose parameters are left out."""
    aside = left_out_parameters(model)
    held = ((n, m, list(m.parameters())) for n, m in model.named_modules() if not any(True for _ in m.children()))
    return [name for name, _, own in held if own and all(id(p) in aside for p in own)]


def _covered(module: nn.Module, path: str, aside: set[int]) -> Iterator[tuple[str, nn.Module | nn.Parameter]]:
    """Yield the topmost modules inside one whose parameters are all among these, and such parameters beside them."""
    for name, parameter in module.named_parameters(recurse=False):
        if id(parameter) in aside:
            yield f"{path}{name}", parameter
    for name, child in module.named_children():
        own = list(child.parameters())
        if own and all(id(p) in aside for p in own):
            yield f"{path}{name}", child
        else:
            yield from _covered(child, f"{path}{name}.", aside)


def _beside_decoder(model: Any) -> dict[str, nn.Module]:
    """Return the topmost modules with parameters outside of the text decoder, and towers inside of it, by name."""
    config = model.config
    text = _text_config(config)
    decoder = model.get_decoder() if hasattr(model, "get_decoder") else model
    if text is config or decoder is model:
        return towers(model)
    needed = {id(module) for module in (*_ends(model), decoder)}
    return dict(_topmost(model, "", needed, _tower_configs(config), outside=True))


def towers(model: Any) -> dict[str, nn.Module]:
    """Return the topmost modules that belong to towers by their config or name, by name."""
    kinds = _tower_configs(model.config)
    return {} if kinds is None else dict(_topmost(model, "", {id(module) for module in _ends(model)}, kinds))


def _text_config(config: Any) -> Any:
    try:
        return config.get_text_config()
    except ValueError:  # several text configs
        return config


def _tower_configs(config: Any) -> tuple[type, ...] | None:
    """Return the classes of the sub-configs of towers, without those that are plain mappings; None if there are none.

    A model's own code may have sub-configs that it does not declare, so every attribute is read.
    """
    named = {name: value for name, value in vars(config).items() if _OTHER_SENSE.search(name)}
    found = [value for value in named.values() if isinstance(value, dict) or hasattr(value, "model_type")]
    return tuple({type(value) for value in found} - {dict}) if found else None


def _ends(model: Any) -> Iterator[nn.Module]:
    """Yield embeddings and heads, through which text passes in any case."""
    for name in ("get_input_embeddings", "get_output_embeddings"):
        try:
            found = getattr(model, name)()
        except (AttributeError, NotImplementedError):
            continue
        if isinstance(found, nn.Module):
            yield found
    for name in getattr(getattr(model, "peftbench_head", None), "names", ()):  # a head for whole texts
        yield model.get_submodule(name.rpartition(".")[0])


def _topmost(
    module: nn.Module, path: str, needed: set[int], kinds: tuple[type, ...] | None, outside: bool = False
) -> Iterator[tuple[str, nn.Module]]:
    """Yield the topmost modules inside one that are left out, by name.

    Args:
        module: where to search.
        path: its name with a dot at the end; empty for the model.
        needed: ids of modules that text passes through.
        kinds: classes of the configs of towers; None in a model without towers.
        outside: whether ``module`` contains the decoder, so that what is beside the decoder is left out.
    """
    for name, child in module.named_children():
        inner = list(child.modules())
        alone = not any(id(m) in needed for m in inner) and any(True for _ in child.parameters())
        named = _OTHER_SENSE.search(name) is not None
        tower = kinds is not None and (named or isinstance(getattr(child, "config", None), kinds))
        if alone and (outside or tower):
            yield f"{path}{name}", child
        else:
            below = outside and id(child) not in needed
            yield from _topmost(child, f"{path}{name}.", needed, kinds, below)
