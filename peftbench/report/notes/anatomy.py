"""The anatomy of a base model in words, for the page and for a terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from peftbench.records.wording import plural, series

UNKNOWN = "not known"
MEANINGS: Mapping[str, str] = {
    "model": "transformers' class, its family, decoder layers, width of the residual stream, longest context",
    "tokenizer": "how texts become tokens, how many tokens it knows, and how many ids have an embedding",
    "positions": "how the model knows the order of tokens; theta is the base of the rotary angles",
    "attention": "MHA: each query head has keys and values of its own; GQA: groups of heads share them; MQA: all heads "
    "do; MLA: they are made of a latent vector",
    "normalization": "pre: of what attention and MLP read; post: of what they give",
    "MLP": "feed-forward block: activation, whether a second product gates it, inner width",
    "experts": "feed-forward blocks of a layer of which each token reads some",
    "layer": "whether attention and MLP of a layer read the same input, or MLP what attention made of it",
    "head": "output embeddings: the input embeddings again, or weights of their own",
    "parameters": "of all parts, each parameter once",
    "tokens per word": "tokens of the prompts and right answers of the scored examples, by words between spaces",
}
"""What the facts mean, by title."""


def facts(found: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the facts of an anatomy: titles, which are those of ``MEANINGS``, and texts.

    Args:
        found: the fields of ``models.anatomy.record.Anatomy`` as JSON values.
    """
    total = sum(found["parameters"].values())
    return [
        ("model", _model(found)),
        ("tokenizer", _tokenizer(found)),
        ("positions", _positions(found["positions"])),
        ("attention", _attention(found)),
        ("normalization", _normalization(found["normalization"])),
        ("MLP", _feed_forward(found)),
        ("experts", _experts(found)),
        ("layer", _layer(found["parallel"])),
        ("head", {True: "tied to the embeddings", False: "has weights of its own"}.get(found["tied"], UNKNOWN)),
        ("parameters", f"{total:,}" + "".join(f"; {name} {text}" for name, _, text in parts(found))),
    ]


def parts(found: Mapping[str, Any]) -> list[tuple[str, int, str]]:
    """Return the parts that have parameters: name, number, and number with its share as text."""
    each, total = found["parameters"], sum(found["parameters"].values())
    return [(name, count, f"{count:,} ({100 * count / total:.3g} %)") for name, count in each.items() if count]


def _model(found: Mapping[str, Any]) -> str:
    sizes = [
        plural(found["layers"], "layer") if found["layers"] else "",
        f"width {found['width']:,}" if found["width"] else "",
        f"context of {found['context']:,} tokens" if found["context"] else "no limit of the context in its config",
    ]
    return f"{found['model']} ({found['family'] or UNKNOWN}): {', '.join(filter(None, sizes))}"


def _tokenizer(found: Mapping[str, Any]) -> str:
    own, embedded = found["tokenizer"], found["embedded"]
    rows = f"{plural(embedded, 'id')} with an embedding" if embedded else ""
    if own is None:
        return "; ".join(filter(None, ("none in the folder", rows)))
    size = plural(own["tokens"], "token") if own["tokens"] else ""
    return f"{own['kind'] or f'kind {UNKNOWN}'}{', ' if size else ''}{size}{'; ' if rows else ''}{rows}"


def _positions(found: Mapping[str, Any]) -> str:
    if found["kind"] is None:
        return UNKNOWN
    each = [_rotary(one) for one in found["rotary"]]
    without = found["layers_without"]
    more = [f"none in {plural(without, 'layer')}"] if without else []
    return "; ".join([f"{found['kind']}{' ' if each else ''}{', '.join(each)}".strip(), *more])


def _rotary(one: Mapping[str, Any]) -> str:
    where = "" if one["layers"] == "all" else f"({one['layers'].replace('_', ' ')}) "
    texts = [f"theta {one['theta']:,.15g}" if one["theta"] is not None else f"theta {UNKNOWN}"]
    if one["share"] is not None and one["share"] != 1:
        texts.append(f"{100 * one['share']:.3g} % of each head")
    if one["scaling"]:
        texts.append(f"scaling {one['scaling']}" + (f" by {one['factor']:g}" if one["factor"] else ""))
    return f"{where}{', '.join(texts)}" if where else f"with {', '.join(texts)}"


def _attention(found: Mapping[str, Any]) -> str:
    own, layers = found["attention"], found["layers"]
    if own is None:
        return "none found in the decoder layers"
    texts = [own["kind"] or f"kind {UNKNOWN} or not the same in all layers"]
    if own["heads"]:
        width = f" of {own['head_dim']:,} dimensions" if own["head_dim"] else ""
        texts.append(f"{plural(own['heads'], 'head')}{width}")
    if own["key_value_heads"] and own["key_value_heads"] != own["heads"]:
        texts.append(f"{own['key_value_heads']:,} of keys and values")
    if own["latent"]:
        texts.append(f"latent vector of {own['latent']:,}")
    if own["layers"] != layers:
        texts.append(f"in {own['layers']} of {layers} layers")
    if own["sliding_layers"]:
        size = f" of {own['sliding_window']:,} tokens" if own["sliding_window"] else ""
        texts.append(f"sliding window{size} in {own['sliding_layers']} of {layers} layers")
    return ", ".join(texts)


def _normalization(found: Mapping[str, Any]) -> str:
    eps = f", eps {found['eps']:.3g}" if found["eps"] is not None else ""
    place = f", {found['placement']}" if found["placement"] else f", where is {UNKNOWN}"
    keys = "; queries and keys have norms too" if found["queries_and_keys"] else ""
    return f"{found['kind'] or f'kind {UNKNOWN}'}{place}{eps}{keys}"


def _feed_forward(found: Mapping[str, Any]) -> str:
    own = found["feed_forward"]
    gate = {True: "gated", False: "not gated"}.get(own["gated"], f"gate {UNKNOWN}")
    width = f"inner width {own['width']:,}" if own["width"] else ""
    return ", ".join(filter(None, (own["activation"] or f"activation {UNKNOWN}", gate, width)))


def _experts(found: Mapping[str, Any]) -> str:
    own, layers = found["experts"], found["layers"]
    if own is None:
        return "none"
    texts = [f"{own['number']:,} a layer" if own["number"] else f"number {UNKNOWN}"]
    texts.append(f"{own['active']:,} read each token" if own["active"] else f"how many read a token is {UNKNOWN}")
    texts += [f"{own['shared']:,} shared"] if own["shared"] else []
    texts += [f"inner width {own['width']:,}"] if own["width"] else []
    texts += [f"in {own['layers']} of {layers} layers"] if own["layers"] and own["layers"] != layers else []
    return ", ".join(texts)


def _layer(parallel: bool | None) -> str:
    texts = {True: "attention and MLP in parallel, of the same input", False: "attention, then MLP"}
    return texts.get(parallel, UNKNOWN)  # type: ignore[arg-type]


def tokens_per_word(overall: float | None, each: Mapping[str, float]) -> str:
    """Return the tokens per word in words.

    Args:
        overall: of all tasks together; None if not known.
        each: by task.
    """
    if overall is None:
        return UNKNOWN
    tasks = series([f"{value:.2f} on {task}" for task, value in each.items()])
    return f"{overall:.2f}" + (f" ({tasks})" if len(each) > 1 else f" on {next(iter(each))}")
