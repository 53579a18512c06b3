"""The likely cause if a base model's weights are not those of its config, and what to do. No torch."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator

from peftbench.models.loading_report import (
    LAYER,
    QUANTIZED,
    WRAPPERS,
    Comparison,
    count_layers,
    differences,
    layer_of,
)

_LORA = re.compile(r"\.(lora_[AB]|lora_embedding_[AB]|lora_magnitude_vector|hada_w\d_[ab]|ia3_l|oft_r)(\.|$)")
_META = re.compile(r"(tok_embeddings\.weight|layers\.\d+\.attention\.w[qkvo]\.weight)")
"""Tensors of Meta's own format."""
_BY = {"base_model.model": " of peft", "base_layer": " of peft", "_orig_mod": " of torch.compile"}
_CLASSIFIER = re.compile("Classification|Reward|QuestionAnswering|MultipleChoice")
_SCORES = re.compile(r"(score|classifier|v_head|value_head|regression_head|reward_head|qa_outputs)\.")
"""Beginnings of the names of heads that are not output embeddings."""
_MOST = 0.5
"""The share of the missing tensors beyond which a cause explains them."""
_FEW = 0.1
"""The share of a model's tensors up to which a file is incomplete rather than another model's."""


def why_refused(found: Comparison) -> str | None:
    """Return why a base model's weights are refused, with the likely cause; None if they are those of its config."""
    problem = differences(found)
    return problem and f"its weights are not those of its config.json: {problem}; likely cause: {next(_causes(found))}"


def _causes(found: Comparison) -> Iterator[str]:
    """Yield likely causes with the way out, the surest first; the last one always."""
    yield from _of_format(found)
    yield from _of_heads(found)
    yield from _of_wrappers(found)
    yield from _of_beginnings(found)
    gone = [name for name in found.missing if name in found.index]
    if gone:
        yield (
            f"a broken or partial copy, as the index says that {gone[0]} is in {found.index[gone[0]]}, which does not "
            "have it; fetch the weights again"
        )
    yield from _of_sizes(found)
    if found.missing and not found.extra and len(found.missing) < _FEW * len(found.expected.parameters):
        yield "the files are not complete; fetch the weights again, or save them again with save_pretrained"
    yield (
        "the weights were saved from another architecture or with another config than this one "
        f"(model_type {found.config.get('model_type')!r}); give the config.json that was saved with them"
    )


def _of_format(found: Comparison) -> Iterator[str]:
    if any(_LORA.search(name) for name in found.stored):
        yield (
            "the files contain an adapter's tensors that were not merged; merge them (peft: merge_and_unload()) and "
            "save the model again"
        )
    if found.packed or any(QUANTIZED.search(name) for name in found.extra):
        yield (
            "the weights are stored quantized, though config.json has no quantization_config, and without its scales "
            "they are other numbers; give the unquantized original, with precision nf4, fp4 or int8 for quantized "
            "training"
        )
    if any(_META.fullmatch(name) for name in found.stored):
        yield "the names are those of Meta's own format; convert with transformers' convert_llama_weights_to_hf.py"


def _of_heads(found: Comparison) -> Iterator[str]:
    """Yield that the files are a classifier's, if only the output embeddings are missing."""
    saved = found.config.get("architectures")
    named = [str(name) for name in saved] if isinstance(saved, list) else []
    if found.missing == [found.expected.head] and (
        any(_CLASSIFIER.search(name) for name in named) or any(_SCORES.match(name) for name in found.stored)
    ):
        yield (
            "the model was saved as a classifier or reward model, which has no output embeddings; give the language "
            "model that it was made from"
        )


def _of_wrappers(found: Comparison) -> Iterator[str]:
    """Yield the wrapper whose name is in the names of the files."""
    wanted = found.missing or found.extra
    plain: dict[str, str] = {}
    for name in found.stored:
        for wrapper in WRAPPERS:
            without = f".{name}".replace(f".{wrapper}.", ".").removeprefix(".")
            if without != name:
                plain.setdefault(without, wrapper)
    wrapped = Counter(plain[name] for name in wanted if name in plain)
    if not found.missing:
        inner = ((w, name.removeprefix(f"{w}.")) for name in wanted for w in WRAPPERS if name.startswith(f"{w}."))
        wrapped = Counter(wrapper for wrapper, name in inner if name in found.expected.names)
    if wrapped.total() > _MOST * len(wanted):
        wrapper = wrapped.most_common(1)[0][0]
        yield (
            f"the names in the files contain {wrapper + '.'!r}, as they do when a model is saved from inside a "
            f"wrapper{_BY.get(wrapper, '')}; save the model inside it with save_pretrained, or rename the tensors"
        )


def _of_beginnings(found: Comparison) -> Iterator[str]:
    """Yield with what the names in the files begin, if the model's begin differently and end equally."""
    theirs = {m.group("index", "rest"): m["list"] for m in map(LAYER.fullmatch, found.stored) if m}
    begins: Counter[tuple[str, str]] = Counter()
    for match in map(LAYER.fullmatch, found.missing):
        if match and theirs.get(match.group("index", "rest"), match["list"]) != match["list"]:
            begins[match["list"], theirs[match.group("index", "rest")]] += 1
    if begins.total() > _MOST * len(found.missing):
        own, other = begins.most_common(1)[0][0]
        yield (
            f"the names in the files begin with '{other}.' where the model's begin with '{own}.'; save the model with "
            "save_pretrained, or rename the tensors"
        )


def _of_sizes(found: Comparison) -> Iterator[str]:
    expected, wrong = found.expected, found.mismatched
    tables = [each for each in wrong if each[0] in (expected.embeddings, expected.head)]
    if tables and len(tables) == len(wrong):
        _, stored, own = tables[0]
        yield (
            f"the embeddings were resized to {stored[0]:,} rows after config.json was written, which has vocab_size "
            f"{own[0]:,}; set vocab_size to the number of rows in the files"
        )
    if found.missing == [expected.head]:
        yield (
            "the output embeddings were not saved, or are the input embeddings: then set tie_word_embeddings: true in "
            "config.json"
        )
    known = expected.names
    stored_names = [*found.stored, *(f"{expected.prefix}.{name}" for name in found.stored)]
    layers = (layer_of(name, known, expected.prefix) for name in (*found.missing, *found.extra))
    for where in dict.fromkeys(layer[0] for layer in layers if layer):
        own_count, other_count = count_layers(where, known), count_layers(where, stored_names)
        if other_count and own_count != other_count:
            yield (
                f"config.json asks for {own_count} layers ({where}), and the files have {other_count}; set "
                "num_hidden_layers to the files' number, or fetch all weight files"
            )
    if wrong:
        yield (
            "sizes in config.json (hidden_size, intermediate_size, heads) are another model's; give the config.json "
            "that was saved with the weights"
        )
