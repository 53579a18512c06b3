"""Data files with odd values and damaged bytes, and suites whose task reads them in odd ways."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

CELLS: tuple[Any, ...] = (
    *("red", "green", "blue sky", "", " ", "\n", "two\nlines", "a,b", 'say "yes"', '"', "''", "\t", "é", "\U0001f600"),
    *(
        "1",
        "1.0",
        "-1",
        "1e999",
        "nan",
        "NULL",
        "None",
        "true",
        "\u2212 5",
        "1,234.5",
        "½",
        "=1+1",
        "\\",
        "{{ x }}",
        "<s>",
    ),
    *(
        "\u2028",
        "\u0085",
        "\x0b",
        "\ufeff",
        "\u202e",
        "x" * 300,
        "word " * 400,
        "\x00",
        "\ud800",
        "<|endoftext|>",
        "####",
    ),
    *(None, True, False, 0, -1, 1.0, 2.5, 2**40, 10**30, math.nan, math.inf, -0.0),
    *([], [1], ["red", "green"], [None], {}, {"a": 1}, {"text": ["red"], "answer_start": [3]}, [[["deep"]]]),
    *(
        [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}],
        [{"role": "user"}],
        [{"from": "gpt"}],
    ),
    *([{"from": "human", "value": "hi"}, {"from": "gpt", "value": None}], [{"role": "tool", "content": ["x"]}]),
)
"""Values of a record."""
PLAIN = ("red", "green", "blue", "a longer text", "7", "18 %")
FIELDS = (
    "thing",
    "colour",
    "messages",
    "conversations",
    "Class Index",
    "",
    " ",
    "label",
    "row",
    "self",
    "é",
    "a.b",
    "1",
    "set",
)
TEMPLATES = (
    *(
        "{{ thing }}",
        "{{ colour }}",
        "{{ row['Class Index'] }}",
        "{{ thing or '' }}",
        "{{ row }}",
        "{{ messages }}",
        "text",
    ),
    *(
        "{{ thing | tojson }}",
        "{{ missing }}",
        "{{ thing.x }}",
        "{{ thing[0] }}",
        "{{ thing | length }}",
        "{{ 1 / label }}",
    ),
    *(
        "{% for x in thing %}{{ x }}{% endfor %}",
        "{% if thing %}{{ thing }}",
        "{{ thing * 1000000 }}",
        "{{ label + 1 }}",
    ),
    *(
        "{{ thing | join(',') }}",
        "{{ thing | int }}",
        "{{ thing.upper() }}",
        "{{ thing.split()[3] }}",
        "{{ colour | random }}",
    ),
    *(
        "{{ thing.__class__ }}",
        "{{ self }}",
        "{{ row.items() }}",
        "{{ namespace() }}",
        "{{ dict() }}",
        "{{ range(10**9) | list }}",
    ),
    *(
        "{{ thing | default(colour) }}",
        "{{ thing | replace('r', colour) }}",
        "{{ '%d' % label }}",
        "{{ [thing, colour] }}",
    ),
    *(
        "{{ thing | sort }}",
        "{{ thing | round }}",
        "{{ thing | batch(0) | list }}",
        "{{ thing | wordwrap(0) }}",
        "{{ a.b.c }}",
    ),
    *(
        "{{ lipsum() }}",
        "{{ cycler() }}",
        "{{ joiner()() }}",
        "{% include 'x' %}",
        "{% set thing = 1 %}{{ thing }}",
        "  ",
        "\x00",
    ),
)
OPTIONS: dict[str, tuple[Any, ...]] = {
    "encoding": (
        "cp1252",
        "utf-16",
        "utf-8",
        "utf-7",
        "rot13",
        "base64",
        "idna",
        "punycode",
        "undefined",
        "nothing",
        "unicode_escape",
    ),
    "delimiter": (",", ";", "\t", "|", " ", '"', "\n", "é", "\\t", "\x00"),
    "quoting": ("minimal", "none"),
    "columns": (["thing", "colour"], ["a"], ["thing", "thing"], [""], ["thing", "colour", "label"] * 3),
    "kind": ("choice", "exact_match", "generation", "language_modelling"),
    "template": ("alpaca", "classification", "dolly", "e2e", "gsm8k", "messages", "sharegpt", "sst2", "text", "trec"),
    "messages": FIELDS,
    "prompt": TEMPLATES,
    "target": TEMPLATES,
    "choices": (["red", "green"], ["red"], ["", "red"], ["red", "red "], ["x" * 5000, "y"], ["\n", "a"], ["a", "ab"]),
    "labels": ({"0": "red"}, {"red": "r", "green": "g"}, {"": "x"}, {"red": "r", "blue": "r"}),
    "several_references": (True, False),
    "validation_fraction": (0.0, 0.1, 0.5, 0.99),
    "test_fraction": (0.0, 0.3, 0.99),
    "separator": ("\n", "", " ", "red", "\x00"),
    "chunk_characters": (1, 7, 10**9),
    "chat": (True, False),
    "system": ("be brief", "", "{{ thing }}"),
    "max_new_tokens": (1, 4, 10**6),
    "limit": (1, 2, 1000),
    "answer_pattern": ("number", "gsm8k", "(a)", "a", "(", "(.*)", "((a)|b)", "(a+)+$", ""),
    "stop": (["\n"], [], [""], ["red", "green"], ["\n\n"], ["x" * 9000]),
    "num_fewshot": (0, 1, 3, 100),
    "metric": ("accuracy", "accuracy_norm", "exact_match", "rouge_l", "f1"),
}
"""Keys of a task, each with values that are right for some data."""
ONLY = {
    "choice": ("choices", "labels", "metric", "prompt", "chat", "num_fewshot"),
    "exact_match": ("answer_pattern", "stop", "max_new_tokens", "prompt", "chat", "num_fewshot", "messages"),
    "generation": ("several_references", "stop", "max_new_tokens", "prompt", "chat", "num_fewshot", "messages"),
    "language_modelling": ("separator", "chunk_characters", "template"),
}
"""Keys that are only for tasks of these kinds."""
ENDINGS = (
    ".csv",
    ".tsv",
    ".json",
    ".jsonl",
    ".ndjson",
    ".parquet",
    ".txt",
    ".CSV",
    ".jsonl.gz",
    ".csv.bz2",
    ".txt.xz",
    ".zst",
)


def data_input(place: Path, draw: random.Random) -> list[str]:
    """Write data files and a suite whose task reads them, and return the command that plans it."""
    names = [f"d{number}{draw.choice(ENDINGS)}" for number in range(draw.choice((1, 1, 2)))]
    for name in names:
        content = _content(name, _records(draw), draw)
        (place / name).write_bytes(_spoiled(content, draw) if draw.random() < 0.2 else content)
    task: dict[str, Any] = {"train": names[0], "test": names[-1], "prompt": "{{ thing }}", "target": "{{ colour }}"}
    task |= {"kind": draw.choice(OPTIONS["kind"])}
    task |= {"choices": ["red", "green"]} if task["kind"] == "choice" else {}
    if task["kind"] == "language_modelling":
        del task["prompt"]
    foreign = [
        key for kind, keys in ONLY.items() if kind != task["kind"] for key in keys if key not in ONLY[task["kind"]]
    ]
    allowed = list(OPTIONS) if draw.random() < 0.2 else [key for key in OPTIONS if key not in foreign]
    for key in draw.sample(allowed, draw.choice((0, 1, 2, 3))):
        task[key] = draw.choice(OPTIONS[key])
    for key in draw.sample(sorted(task), draw.choice((0, 0, 1))):
        del task[key]
    suite = {"base": "nano", "seeds": 1, "tasks": {"t": task}, "train": {"steps": 2}, "methods": ["lora"]}
    if draw.random() < 0.2:
        suite["evaluate"] = {"retention": {"file": names[0], "field": draw.choice(("thing", "x")), "limit": 2}}
    if draw.random() < 0.02:
        suite["base"] = {"shape": "llama-3.2-1b"}
    (place / "x.yaml").write_text(json.dumps(suite) if draw.random() < 0.5 else yaml.safe_dump(suite))
    return ["plan", "x.yaml"]


def _records(draw: random.Random) -> list[Any]:
    """Return a few records: mostly of the same fields, some with odd values, fields missing or no record at all."""
    fields = ["thing", "colour", *draw.sample(FIELDS, draw.choice((0, 0, 2)))]
    odd = draw.choice((0.0, 0.02, 0.3))
    found: list[Any] = []
    for _ in range(draw.choice((0, 1, 2, 12, 40, 40))):
        row = {name: draw.choice(CELLS if draw.random() < odd else PLAIN) for name in fields}
        row["colour"] = draw.choice(("red", "green")) if row["colour"] in PLAIN else row["colour"]
        if draw.random() < 0.01:
            row.pop(draw.choice(fields), None)
        found.append(draw.choice((None, 1, "x", [], [row])) if draw.random() < 0.003 else row)
    return found


def _content(name: str, rows: list[Any], draw: random.Random) -> bytes:
    """Return a file's bytes in the format of its name, or now and then of another."""
    stem, _, last = name.lower().rpartition(".")
    packers: dict[str, Callable[[bytes], bytes]] = {"gz": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress}
    if last in packers:
        return packers[last](_content(stem, rows, draw))
    kind = draw.choice(("csv", "json", "jsonl", "txt", "parquet")) if draw.random() < 0.05 else last
    if kind == "parquet":
        return _parquet(rows)
    if kind in ("csv", "tsv"):
        text = _separated(rows, draw.choice((",", ";", "|", "\t") if kind == "csv" else ("\t",)), draw)
    elif kind in ("jsonl", "ndjson"):
        text = "".join(json.dumps(row, ensure_ascii=draw.random() < 0.5) + "\n" for row in rows)
    elif kind == "json":
        text = json.dumps(draw.choice((rows, rows, {"data": rows}, {"thing": rows}, rows[:1])))
    else:
        text = "\n\n".join(str(row) for row in rows)
    mark = draw.choice(("", "", "", "\ufeff"))
    ends = draw.choice(("\n", "\n", "\r\n", "\r"))
    encoding = draw.choice(("utf-8", "utf-8", "utf-8", "utf-16", "cp1252"))
    errors = "replace" if encoding == "cp1252" else "surrogatepass"
    return (mark + text.replace("\n", ends)).encode(encoding, errors)


def _separated(rows: list[Any], delimiter: str, draw: random.Random) -> str:
    """Return lines of fields, quoted in one of the ways that are found in files."""
    quoted = draw.choice((0.0, 0.5, 1.0))
    names = list(dict.fromkeys(name for row in rows if isinstance(row, dict) for name in row))

    def cell(value: Any) -> str:
        text = str(value)
        return '"' + text.replace('"', '""') + '"' if draw.random() < quoted else text

    lines = [names] if draw.random() < 0.9 else []
    lines += [[row.get(name, "") for name in names] if isinstance(row, dict) else [row] for row in rows]
    return "".join(delimiter.join(map(cell, line)) + "\n" for line in lines)


def _parquet(rows: list[Any]) -> bytes:
    """Return the records as Parquet; with values that no column can hold together as text."""
    import io

    import pyarrow as pa
    import pyarrow.parquet as pq

    records = [row for row in rows if isinstance(row, dict)] or [{"thing": "x"}]
    names = list(dict.fromkeys(name for row in records for name in row))
    columns = {}
    for name in names:
        values = [row.get(name) for row in records]
        try:
            columns[name] = pa.array(values)
        except (pa.ArrowException, UnicodeError, OverflowError, ValueError):
            columns[name] = pa.array([None if value is None else ascii(value) for value in values])
    out = io.BytesIO()
    try:
        pq.write_table(pa.table(columns), out)
    except pa.ArrowException:  # a structure without fields
        out = io.BytesIO()
        pq.write_table(pa.table({"thing": ["x"]}), out)
    return out.getvalue()


def _spoiled(content: bytes, draw: random.Random) -> bytes:
    """Return bytes with some lost, changed or repeated."""
    for _ in range(draw.choice((1, 1, 4))):
        at = draw.randrange(len(content) + 1)
        some = bytes(
            draw.choice((b"\x00", b"\xff", b'"', b"\n", b",", b"{", b"}", b"[", b"\\", b"\xed\xa0\x80", b"\r"))
        )
        cut = draw.choice((0, 0, 1, 30))
        content = content[:at] + draw.choice((some, some * 3, content[at : at + 30] * 2)) + content[at + cut :]
    return content
