"""What hypothesis invents: suites by their schema, records in every format, templates by their grammar."""

from __future__ import annotations

import contextlib
import csv
import io
import json
from typing import Any

import yaml
from hypothesis import strategies as st

from peftbench.methods import METHODS
from peftbench.models.precision import PRECISIONS
from peftbench.tasks import TASKS
from tools.validation.fuzz.readers import SUFFIXES

_NUMBERS = st.one_of(
    st.integers(-2, 300), st.integers(), st.floats(), st.floats(1e-6, 1.0), st.sampled_from([0, 1, 2, 2**31, 10**20])
)
_WORDS = st.text(max_size=12)
_SCALARS = st.one_of(_NUMBERS, _WORDS, st.booleans(), st.none())
_ANY = st.recursive(
    _SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_WORDS, inner, max_size=4), max_leaves=12
)


def _axis(values: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Return values, lists of them, and now and then anything."""
    return st.one_of(values, st.lists(values, min_size=1, max_size=3), values, _ANY)


_COUNTS = st.integers(1, 64)
_TRAIN = {
    "steps": _axis(_COUNTS),
    "epochs": _axis(_COUNTS),
    "batch_size": _axis(_COUNTS),
    "micro_batch_size": _axis(_COUNTS),
    "sequence_length": _axis(_COUNTS),
    "learning_rate": _axis(st.floats(1e-6, 1.0)),
    "optimizer": _axis(st.sampled_from(["adamw", "sgd", "lion", "adam8bit"])),
    "warmup_ratio": _axis(st.floats(0, 1)),
    "packing": _axis(st.booleans()),
    "clip_norm": _axis(st.floats(0, 10)),
    "validate_every": _axis(_COUNTS),
}
_METHOD = {
    "rank": _axis(_COUNTS),
    "alpha": _axis(st.integers(1, 64)),
    "dropout": _axis(st.floats(0, 0.9)),
    "target_modules": _axis(st.sampled_from(["all-linear", "attention"])),
    "learning_rate": _axis(st.floats(1e-6, 1.0)),
    "rank_pattern": st.dictionaries(_WORDS, _COUNTS, max_size=2),
}
_TASK = {
    "kind": st.sampled_from(["choice", "exact_match", "generation", "language_modelling"]),
    "train": st.just("data.jsonl"),
    "test": st.just("data.jsonl"),
    "prompt": st.sampled_from(["{{ thing }}", "{{ row }}", "{{ thing"]) | _WORDS,
    "target": st.just("{{ colour }}"),
    "choices": st.lists(_WORDS, max_size=3),
    "limit": _axis(_COUNTS),
    "answer_pattern": st.sampled_from(["number", "gsm8k", "(a)", "(", "(a+)+$"]) | _WORDS,
    "stop": st.lists(_WORDS, max_size=2),
    "labels": st.dictionaries(_WORDS, _WORDS, max_size=2),
    "validation_fraction": st.floats(0, 1),
    "max_new_tokens": _axis(_COUNTS),
}


def _block(keys: dict[str, st.SearchStrategy[Any]]) -> st.SearchStrategy[Any]:
    """Return mappings of some of the keys, and of one that does not exist."""
    return st.fixed_dictionaries({}, optional={**keys, "made_up": _ANY})


_TASKS = st.one_of(
    st.lists(st.sampled_from(sorted(TASKS)), min_size=1, max_size=3),
    st.dictionaries(st.sampled_from(sorted(TASKS)), st.none() | _block(_TASK), min_size=1, max_size=2),
    st.dictionaries(st.sampled_from(["mine", "other", "a b", ""]), _block(_TASK), min_size=1, max_size=2),
    _ANY,
)
_METHODS = st.one_of(
    st.lists(st.sampled_from(sorted(METHODS)), min_size=1, max_size=3),
    st.dictionaries(
        st.sampled_from(sorted(METHODS)),
        st.none() | _block(_METHOD) | st.lists(_block(_METHOD), max_size=2),
        max_size=3,
    ),
    _ANY,
)
SUITES = st.fixed_dictionaries(
    {
        "base": st.sampled_from(["nano", "nano", "nano", {"source": "nano"}, {"shape": "llama-3.2-1b"}]) | _ANY,
        "tasks": _TASKS,
        "methods": _METHODS,
    },
    optional={
        "seeds": _COUNTS | _ANY,
        "train": _block(_TRAIN),
        "precision": _axis(st.sampled_from(sorted(PRECISIONS))),
        "rank": _axis(_COUNTS),
        "search": st.booleans() | st.fixed_dictionaries({}, optional={"seeds": _COUNTS, "share": st.floats(0, 1)}),
        "evaluate": _block({"batch_size": _axis(_COUNTS), "retention": _ANY, "inference": _ANY, "split": _WORDS}),
        "timeout_seconds": _NUMBERS,
        "most_trials": _NUMBERS,
        "watch": _block({"judge": _ANY, "speed_percent": _NUMBERS, "score_points": _NUMBERS}),
        "match": _ANY,
        "profile": st.sampled_from(["paper", "shared"]) | _ANY,
        "device": st.sampled_from(["cpu", "cuda", "auto"]) | _ANY,
        "made_up": _ANY,
    },
)


@st.composite
def suite_texts(draw: st.DrawFn) -> bytes:
    """Draw the text of a suite: YAML as PyYAML writes it, JSON, or text."""
    data = draw(SUITES)
    way = draw(st.integers(0, 9))
    if way == 0:
        return draw(st.text(max_size=300)).encode("utf-8", "surrogatepass")
    text = json.dumps(data) if way < 4 else yaml.safe_dump(data, allow_unicode=True, default_flow_style=way < 6 or None)
    return text.encode("utf-8", "surrogatepass")


_CELLS = st.one_of(st.text(max_size=20), st.text("\",;\t\r\n'|\\ ab\ufeff\u2028\x00", max_size=8), _SCALARS, _ANY)
_RECORDS = st.lists(
    st.dictionaries(st.sampled_from(["thing", "colour", "", "é", "a b"]), _CELLS, max_size=3), max_size=6
)


@st.composite
def data_files(draw: st.DrawFn) -> bytes:
    """Draw a data file, of which the first two bytes say its kind and how it is read."""
    number, how, rows = draw(st.integers(0, 4)), draw(st.integers(0, 255)), draw(_RECORDS)
    suffix = SUFFIXES[number]
    if suffix in (".csv", ".tsv"):
        out = io.StringIO()
        names = list(dict.fromkeys(name for row in rows for name in row))
        quoting = draw(st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONE]))
        marks = {"delimiter": draw(st.sampled_from(",;\t|")), "escapechar": "\\", "quoting": quoting}
        writer = csv.writer(out, lineterminator=draw(st.sampled_from(["\n", "\r\n", "\r"])), **marks)
        with contextlib.suppress(csv.Error):  # what cannot be written without quotes
            writer.writerows([names, *([str(row.get(name, "")) for name in names] for row in rows)])
        text = out.getvalue()
    elif suffix == ".txt":
        text = "\n".join(str(row) for row in rows)
    else:
        text = json.dumps(rows) if suffix == ".json" else "\n".join(map(json.dumps, rows))
    encoding = draw(st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "cp1252", "utf-32"]))
    return bytes((number, how)) + text.encode(encoding, "replace" if encoding == "cp1252" else "surrogatepass")


_NAMES = st.sampled_from(["thing", "colour", "label", "list", "raw", "x", "row", "missing", "loop.index", "varargs"])
_FILTERS = st.sampled_from(
    ["upper", "tojson", "join(',')", "length", "int", "float", "default('a')", "replace('e', thing)", "batch(2)",
     "center(9)", "wordwrap(3)", "title", "map('string') | list", "sort", "unique | list", "first", "last", "round",
     "indent(3)", "truncate(3)", "groupby('b') | list", "striptags", "urlize", "slice(2) | list", "sum", "max"]
)  # fmt: skip
_ATTRIBUTES = st.sampled_from(
    ["__class__", "upper()", "split()", "format(label)", "b", "items()", "encode()", "decode()", "expandtabs(9)",
     "append(1)", "__init__.__globals__", "join(list)", "ljust(10**9)", "to_bytes(9)", "mro()", "real"]
)  # fmt: skip
_LITERALS = st.sampled_from(
    ["1", "10**9", "'a'", "[1, 'b']", "{'a': 1}", "none", "true", "1.5", "(1, 2)", "range(9)", "-3"]
)


def _wider(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.one_of(
        st.builds(
            "({} {} {})".format, inner, st.sampled_from(["+", "*", "%", "~", "==", "in", "**", "//", "<"]), inner
        ),
        st.builds("{} | {}".format, inner, _FILTERS),
        st.builds("({}).{}".format, inner, _ATTRIBUTES),
        st.builds("({})[{}]".format, inner, inner),
        st.builds("[{}, {}]".format, inner, inner),
        st.builds("({} if {} else {})".format, inner, inner, inner),
    )


_EXPRESSIONS = st.recursive(_NAMES | _LITERALS, _wider, max_leaves=8)


def _blocks(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.one_of(
        st.builds("{{% for x in {} %}}{}{{% endfor %}}".format, _EXPRESSIONS, inner),
        st.builds("{{% if {} %}}{}{{% else %}}{}{{% endif %}}".format, _EXPRESSIONS, inner, inner),
        st.builds("{{% set x = {} %}}{}".format, _EXPRESSIONS, inner),
        st.builds("{{% macro f(a) %}}{}{{% endmacro %}}{{{{ f({}) }}}}".format, inner, _EXPRESSIONS),
        st.builds("{{% filter upper %}}{}{{% endfilter %}}".format, inner),
        st.builds("{}{}".format, inner, inner),
    )


TEMPLATES = st.recursive(st.builds("{{{{ {} }}}}".format, _EXPRESSIONS) | st.text(max_size=9), _blocks, max_leaves=5)
INVENTED: dict[str, st.SearchStrategy[bytes]] = {
    "suite text": suite_texts(),
    "data file": data_files(),
    "template": TEMPLATES.map(lambda text: text.encode("utf-8", "replace")),
}
"""Name of a target, and what is invented for it."""
