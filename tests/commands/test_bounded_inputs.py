"""Inputs made to fill the memory or never to end are refused with a message, before they do either."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from peftbench import cli

HEAD = "base: nano\nseeds: 1\nthreads: 1\ntrain: {steps: 2}\n"
LIST = ", ".join(map(str, range(1, 1001)))
METHODS = "methods: [lora]\n"
JUDGE = "tasks: {judge: {limit: 5}}\n"


def task(kind: str = "generation", file: str = "data.jsonl", target: str = "{{ colour }}", **more: str) -> str:
    """A suite whose only task reads a file."""
    given = {"kind": kind, "train": file, "test": file, "prompt": "{{ thing }}", "target": target, **more}
    return HEAD + METHODS + f"tasks: {{mine: {json.dumps(given)}}}\n"


def refusal(folder: Path, monkeypatch, capsys, text: str) -> str:
    """What ``plan`` says about a suite, which it must refuse."""
    monkeypatch.chdir(folder)
    rows = [{"thing": f"thing {n}", "colour": ("red", "green")[n % 2]} for n in range(4)]
    (folder / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "x.yaml").write_text(text)
    assert cli.main(["plan", "x.yaml"]) == 2
    return capsys.readouterr().err


SUITES = {
    "a million cells": (
        HEAD + JUDGE + f"methods: {{lora: {{rank: [{LIST}], alpha: [{LIST}]}}}}\n",
        "x.yaml: the grid has up to 1,000,000 trials",
    ),
    "a milliard cells": (
        HEAD.replace("2", f"[{LIST}]") + JUDGE + f"methods: {{lora: {{rank: [{LIST}], alpha: [{LIST}]}}}}\n",
        "x.yaml: the grid has up to 1,000,000,000 trials",
    ),
    "a milliard cells that the suite allows": (
        HEAD + JUDGE + METHODS + "most_trials: 1000000000\n",
        "x.yaml:7: most_trials: given 1000000000 (a whole number); allowed: a whole number from 1 to 1000000",
    ),
    "a milliard seeds": (HEAD.replace("seeds: 1", "seeds: 1000000000") + JUDGE + METHODS, "x.yaml:2: seeds: given"),
    "ten megabytes": (
        HEAD + JUDGE + METHODS + f"description: {'x' * 10_000_000}\n",
        "x.yaml: 10,000,106 bytes; allowed: at most 131,072",
    ),
    "aliases of aliases": (
        "a: &a [x, x, x, x, x, x, x, x, x]\n"
        + "".join(f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)),
        "too many values (does an alias repeat itself?)",
    ),
    "merged aliases": (
        "a: &a {x0: 1}\n"
        + "".join(
            f"{b}: &{b} {{<<: [{', '.join([f'*{a}'] * 9)}], x{b}: 1}}\n"
            for a, b in zip("abcdefgh", "bcdefghi", strict=True)
        ),
        "too many values (does an alias repeat itself?)",
    ),
    "lists in lists": ("a: " + "[" * 100_000, "x.yaml: nested too deeply"),
    "a loop": (task(prompt="{% for i in range(10**9) %}x{% endfor %}"), "Range too big"),
    "loops in loops": (
        task(prompt="{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"),
        "more than 200,000 operations",
    ),
    "a gigabyte": (task(prompt="{{ 'a' * 10**9 }}"), "more than 10,000,000 characters"),
    "a gigabyte as JSON": (
        task(
            prompt="{% set ns = namespace(x=1) %}{% for i in range(60) %}{% set ns.x = [ns.x, ns.x] %}{% endfor %}"
            "{{ ns.x | tojson }}"
        ),
        "more than 1,000,000 values within each other",
    ),
    "a class": (task(prompt="{{ thing.__class__ }}"), "access to attribute '__class__' of 'str' object is unsafe"),
    "globals": (task(prompt="{{ cycler.__init__.__globals__ }}"), "access to attribute '__init__'"),
    "globals by a filter": (task(prompt="{{ range | attr('__call__') }}"), "unsafe"),
    "an expression": (
        task("exact_match", target="aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaab", answer_pattern="(a+)+$"),
        "answer_pattern, target of test example 0: '(a+)+$' takes more than",
    ),
}


@pytest.mark.parametrize("case", SUITES)
def test_a_suite_is_refused(case, tmp_path, monkeypatch, capsys):
    text, part = SUITES[case]
    monkeypatch.setattr("peftbench.records.patterns.SECONDS", 0.1)
    assert part in refusal(tmp_path, monkeypatch, capsys, text)


BLOCK = b"a" * 2**20
BOMBS = {
    # several members, which decompress one after the other
    "b.csv.gz": gzip.compress(BLOCK * 16, 1) * 20,
    "b.json.bz2": bz2.compress(BLOCK * 4, 1) * 80,
    "b.txt.xz": lzma.compress(BLOCK * 16, preset=0) * 20,
}


def zstd() -> bytes:
    out = pa.BufferOutputStream()
    with pa.CompressedOutputStream(out, "zstd") as stream:
        for _ in range(300):
            stream.write(BLOCK[:-1] + b"\n")
    return out.getvalue().to_pybytes()


@pytest.mark.parametrize("name", [*BOMBS, "b.jsonl.zst"])
def test_what_decompresses_a_thousandfold_is_refused(name, tmp_path, monkeypatch, capsys):
    (tmp_path / name).write_bytes(BOMBS.get(name) or zstd())
    found = refusal(tmp_path, monkeypatch, capsys, task(file=name))
    assert f"{name}: 268,435,456 bytes and more, from " in found or f"{name} has a line of more than 67,1" in found


@pytest.mark.parametrize("name", ["one.csv", "one.tsv", "one.jsonl", "one.ndjson"])
def test_a_line_of_a_gigabyte_is_refused(name, tmp_path, monkeypatch, capsys):
    with (tmp_path / name).open("wb") as file:
        file.write(b"thing,colour\n")
        file.truncate(10**9)  # a hole of zeros, which takes no place on the disk
    assert f"{name} has a line of more than 67,108,864 bytes" in refusal(tmp_path, monkeypatch, capsys, task(file=name))


def test_a_file_larger_than_any_data_is_refused_unread(tmp_path, monkeypatch, capsys):
    with (tmp_path / "one.txt").open("wb") as file:
        file.truncate(2**43)
    assert "4,294,967,296 bytes and more" in refusal(tmp_path, monkeypatch, capsys, task(file="one.txt"))


def repeated(rows: int) -> pa.Array:
    return pa.DictionaryArray.from_arrays(pa.array([0] * rows, pa.int32()), pa.array(["x" * 100_000]))


@pytest.mark.parametrize(
    ("columns", "part"),
    [
        ({"thing": repeated(5000)}, "268,435,456 bytes and more, from "),
        ({"thing": repeated(5000).cast(pa.string())}, "268,435,456 bytes and more, from "),
        ({"thing": pa.StructArray.from_arrays([repeated(5000)], ["x"])}, "268,435,456 bytes and more, from "),
        ({"thing": pa.ListArray.from_arrays([0, *range(0, 5000, 5)], repeated(5000))}, "268,435,456 bytes and more"),
        ({"thing": pa.ListArray.from_arrays([0, 40_000_000], pa.nulls(40_000_000))}, "268,435,456 bytes and more"),
        ({"thing": pa.nulls(20_000_001)}, "20,000,001 records; allowed: at most 20,000,000"),
    ],
)
def test_parquet_that_repeats_one_value_is_refused(columns, part, tmp_path, monkeypatch, capsys):
    pq.write_table(pa.table(columns), tmp_path / "p.parquet", compression="zstd")
    assert (tmp_path / "p.parquet").stat().st_size < 200_000
    assert part in refusal(tmp_path, monkeypatch, capsys, task(file="p.parquet"))


@pytest.mark.parametrize("name", ["d.json", "d.jsonl"])
def test_json_nested_a_hundred_thousand_deep_is_refused(name, tmp_path, monkeypatch, capsys):
    (tmp_path / name).write_text("[" * 100_000)
    assert "its JSON is nested too deeply" in refusal(tmp_path, monkeypatch, capsys, task(file=name))


@pytest.mark.parametrize("name", ["r.txt.gz", "r.txt.bz2", "r.txt.xz", "r.txt.zst"])
def test_a_damaged_file_of_general_text_is_named(name, tmp_path, monkeypatch, capsys):
    """LZMA's and zlib's errors are neither of the system nor of a value."""
    pack = {"gz": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress, "zst": lambda _: zstd()}[name[6:]]
    whole = bytearray(pack(b"some text\n\nand more\n" * 500))
    whole[len(whole) // 2] ^= 255
    (tmp_path / name).write_bytes(whole)
    suite = HEAD + JUDGE + METHODS + f"evaluate: {{retention: {{file: {name}, limit: 2}}}}\n"
    assert f"{name} cannot be read as text: " in refusal(tmp_path, monkeypatch, capsys, suite)
