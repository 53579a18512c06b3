"""Give the command line thousands of wrong inputs and check that each has a message and an exit code, and no traceback.

    python -m tools.validation.fuzz --inputs 20000 [--first 0]

Each number is a seed that draws one input: a suite whose values, keys or characters are changed; options; or a results
folder with damaged, foreign or missing files. Nothing is trained: suites are planned, results are reported and
compared. A fault is an exception that leaves ``peftbench.cli.main`` (``PEFTBENCH_TRACEBACK`` is set, so none is turned
into a message), an exit code that is not documented, exit code 2 without a message, or an input that takes longer than
``SLOW`` seconds. About thirty inputs a second on an idle machine.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import io
import json
import os
import random
import shutil
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

SLOW = 20.0
"""Longest time of one input in seconds, on a machine that is busy with other work."""
CODES = (0, 1, 2)
_STRETCH = 200
"""Inputs between two lines of progress."""
SUITES = (
    """
base: nano
description: one line
tasks: {judge: {limit: 5}, compute: {limit: 5, max_new_tokens: 4}}
seeds: 2
threads: 1
timeout_seconds: 60
precision: [fp32, bf16]
train: {steps: 3, batch_size: 4, sequence_length: 64, learning_rate: 1e-3, data: {judge: 1.0}}
evaluate: {batch_size: 4, retention: false, inference: false}
methods: {base: null, lora: {rank: [2, 4], alpha: 8}, adapter: [{rank: 4}, {rank: 8}], full: null}
""",
    """
base: {source: nano}
tasks:
  mine:
    kind: choice
    train: data.jsonl
    validation_fraction: 0.2
    test: data.jsonl
    prompt: "{{ thing }} is"
    target: "{{ colour }}"
    choices: [red, green]
    limit: 3
search: {seeds: 1, share: 0.5}
train: {epochs: 1, learning_rate: [1e-3, 1e-4], packing: true}
evaluate: {split: test, retention: {file: text.txt, limit: 3}}
methods: [prefix_tuning, {M}]
""".replace("{M}", "prompt_tuning"),
    """
base: {shape: llama-3.2-1b}
tasks: {t: {kind: language_modelling, train: text.txt, test: text.txt, separator: "\\n"}}
match: {trainable_parameters: {method: lora, rank: 4}}
profile: paper
audit: strict
methods: {lora: {target_modules: [q_proj]}, peft: {peft_type: VERA, r: 4}}
""",
)
ODD = (
    *(None, True, False, 0, -1, 1, 2**31, 2**63, 10**30, 10**400, 0.0, -0.0, 1e-320, 1e308, float("nan"), float("inf")),
    *(
        "",
        " ",
        "x" * 5000,
        "\x00",
        "\ud800",
        "é" * 300,
        "\U0001f600",
        "~nobody/x",
        "..",
        "/",
        "/dev/null",
        "./data.jsonl",
    ),
    *(
        "${X}",
        "${X:-y}",
        "${",
        "$${",
        "{{",
        "{{ x }}",
        "{% for %}",
        "{{ 1/0 }}",
        "{{ 'a' * 10**9 }}",
        "null",
        "1e-3",
        "%s",
    ),
    *(
        [],
        {},
        [[]],
        [[1]],
        [None],
        [1e-5, None],
        {"a": None},
        {"": 1},
        {"\ud800": 1},
        ["lora", "lora"],
        [1, "1"],
        "device",
    ),
    *(
        list(range(2000)),
        {"a": {"b": {"c": {"d": {"e": {}}}}}},
        "lora",
        "nano",
        "nf4",
        "2026-01-01",
        "*",
        "a\nb",
        "(",
        "[",
        "\\",
    ),
)
KEYS = (
    "rank",
    "steps",
    "lora",
    "judge",
    "kind",
    "",
    " ",
    "0",
    "\ud800",
    "x.y",
    "learning_rate",
    "chat",
    "limit",
    "stop",
)


@dataclass
class Tally:
    """Counts by kind of input and exit code, and the faults found."""

    counts: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)


def _odd(draw: random.Random) -> Any:
    """Return an odd value, a new one each time, since what is put into a suite is changed in turn."""
    return copy.deepcopy(draw.choice(ODD))


def _paths(data: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the paths of all values."""
    items = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    return [path, *(found for key, item in items for found in _paths(item, (*path, key)))]


def _mutate(data: Any, draw: random.Random) -> Any:
    """Return a suite with one value or key changed."""
    path = draw.choice(_paths(data)[1:] or [()])
    if not path:
        return _odd(draw)
    holder = data
    for part in path[:-1]:
        holder = holder[part]
    kind = draw.random()
    if kind < 0.15:
        del holder[path[-1]]
    elif kind < 0.3 and isinstance(holder, dict):
        holder[draw.choice(KEYS)] = _odd(draw)
    elif kind < 0.4 and isinstance(holder, dict):
        holder[draw.choice(KEYS)] = holder.pop(path[-1])
    elif kind < 0.5:
        holder[path[-1]] = [holder[path[-1]], _odd(draw)]
    else:
        holder[path[-1]] = _odd(draw)
    return data


def _damaged(text: str, draw: random.Random) -> str:
    """Return a text with some characters changed, lost or repeated."""
    for _ in range(draw.choice((1, 1, 3, 10))):
        at = draw.randrange(len(text) + 1)
        kind = draw.random()
        if kind < 0.4:
            text = text[:at] + draw.choice(":{}[]-#&*!|>'\"%@`,?\t\n \x00\x07é\ufeff<=") + text[at:]
        elif kind < 0.7:
            text = text[:at] + text[at + draw.choice((1, 1, 5, 40)) :]
        else:
            text = text[:at] + text[at : at + 30] * draw.choice((2, 2, 50)) + text[at:]
    return text


def suite_input(place: Path, draw: random.Random) -> list[str]:
    """Write a wrong suite and return the command that plans it."""
    text = draw.choice(SUITES)
    if draw.random() < 0.7:
        data = yaml.safe_load(text)
        for _ in range(draw.choice((1, 1, 2, 4))):
            data = _mutate(data, draw)
        text = json.dumps(data) if draw.random() < 0.5 else _dumped(data)
    else:
        text = _damaged(text, draw)
    content = text.encode("utf-8", "surrogatepass")
    if draw.random() < 0.05:
        at = draw.randrange(len(content) + 1)
        content = content[:at] + bytes([draw.randrange(256)]) + content[at:]
    (place / "x.yaml").write_bytes(content)
    more = _options(draw) if draw.random() < 0.2 else []
    return ["plan", "x.yaml", *more]


def _dumped(data: Any) -> str:
    try:
        return str(yaml.safe_dump(data, allow_unicode=True))
    except (ValueError, yaml.YAMLError):  # an integer too long to be written
        return repr(data)


def _options(draw: random.Random) -> list[str]:
    """Return some options of plan, mostly wrong."""
    value = draw.choice(
        ["", "1", "-1", "1e9", "x", "16GiB", "device", "0", "1,2", "nan", "é", "\udcff", "10**9", "9" * 5000]
    )
    key = draw.choice(["train.steps", "base", "methods.lora.rank", "a.b.c", ".", "", "tasks", "methods.adapter.0.rank"])
    odd = draw.choice([json.dumps(v) for v in ODD if v != 10**400])
    found = [
        *(["--set", f"{key}={odd}"], ["--set", value], ["--only", f"method={value}"], ["--only", value]),
        *(["--seeds", value], ["--smoke"], ["--budget", value], ["--reserve", value], ["--fit", "batch_size"]),
    ]
    return [word for each in draw.sample(found, draw.choice((1, 1, 2))) for word in each]


def option_input(place: Path, draw: random.Random) -> list[str]:
    """Return a command with wrong options on a good suite or no suite at all."""
    (place / "x.yaml").write_text(SUITES[0])
    odd = [str(value) for value in ODD if isinstance(value, str) and "\x00" not in value]
    commands = (
        ["plan", "x.yaml", *_options(draw)],
        ["plan", draw.choice(odd)],
        ["list", draw.choice(("methods", "tasks", "x")), draw.choice(odd)],
        ["report", draw.choice(odd), "--format", draw.choice(("text", "csv", "x"))],
        ["compare", draw.choice(odd), draw.choice(odd)],
        [draw.choice(("run", "plan", "report", "x", "--version", ""))],
    )
    return draw.choice(commands)


def results_input(place: Path, draw: random.Random) -> list[str]:
    """Write a damaged results folder and return the command that reports or compares it."""
    from tests.support import odd_results

    good = place.parent / f"good{draw.randrange(8)}"
    if not good.exists():
        odd_results.make(good, int(good.name[4:]))
    folder = place / "r"
    shutil.copytree(good, folder)
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    for _ in range(draw.choice((1, 1, 2))):
        _spoil(draw.choice(files), folder, draw)
    if draw.random() < 0.3:
        return ["compare", *draw.sample(["r", str(good)], 2)]
    return ["report", "r", "--format", draw.choice(("text", "brief", "csv", "ranks"))]


def _spoil(path: Path, folder: Path, draw: random.Random) -> None:
    """Damage one file of a results folder, or put one there that does not belong."""
    content = path.read_bytes() if path.is_file() else b""
    at = draw.randrange(len(content) + 1)
    kinds: list[Callable[[], Any]] = [
        lambda: path.write_bytes(content[:at]),
        lambda: path.write_bytes(content[:at] + bytes([draw.randrange(256)]) + content[at + 1 :]),
        lambda: path.write_bytes(b""),
        lambda: path.unlink(missing_ok=True),
        lambda: (folder / draw.choice(("trials", "steps", "examples")) / "x.txt").write_text("x"),
        lambda: (folder / "trials" / "x.parquet").mkdir(exist_ok=True),
        lambda: (folder / "trials" / "loop.parquet").symlink_to("loop.parquet"),
        lambda: (folder / "grid.json").write_text(json.dumps(draw.choice([v for v in ODD if v != 10**400]))),
        lambda: (folder / "grid.json").write_text(
            json.dumps({"keys": draw.choice(ODD[:40]), "command": None}, default=str)
        ),
        lambda: (folder / "grid.json").write_text("[" * 100_000),
        lambda: shutil.rmtree(folder / draw.choice(("trials", "steps", "examples")), ignore_errors=True),
        lambda: _foreign(folder / "trials" / "foreign.parquet", draw),
    ]
    with contextlib.suppress(FileExistsError, FileNotFoundError, IsADirectoryError, ValueError):
        draw.choice(kinds)()


def _foreign(path: Path, draw: random.Random) -> None:
    """Write a parquet file that is almost one of peftbench."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    version = draw.choice((b"", b"x", b"\xff", "²".encode(), b"-1", b"1.0", b"9" * 6000, b"99", b"1", b"2"))
    columns = draw.choice(
        ({"a": [1]}, {"key": ["k"]}, {"key": [1], "status": [2], "finished_at": [3]}, {"key": [None]})
    )
    metadata = {b"peftbench.kind": draw.choice((b"trials", b"steps", b"\xff")), b"peftbench.schema_version": version}
    pq.write_table(pa.table(columns).replace_schema_metadata(metadata), path)


KINDS: dict[str, Callable[[Path, random.Random], list[str]]] = {
    "suite": suite_input,
    "options": option_input,
    "results": results_input,
}


def fuzz(place: Path, seeds: range) -> Tally:
    """Run the inputs of these seeds inside a folder."""
    from peftbench import cli

    tally, before = Tally(), Path.cwd()
    os.environ["PEFTBENCH_TRACEBACK"] = "1"
    for seed in seeds:
        draw = random.Random(seed)
        kind = draw.choices(list(KINDS), (6, 2, 2))[0]
        work = place / "work"
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir(parents=True)
        rows = [{"thing": f"thing {n}", "colour": ("red", "green")[n % 2]} for n in range(20)]
        (work / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        (work / "text.txt").write_text("one text\n\nanother text\n" * 5)
        os.chdir(work)
        try:
            line = KINDS[kind](work, draw)
            _one(cli.main, line, f"seed {seed} ({kind})", kind, tally)
        finally:
            os.chdir(before)
    return tally


def _one(main: Callable[[list[str]], int], line: list[str], where: str, kind: str, tally: Tally) -> None:
    """Run one command and count its exit code."""
    out, error = io.StringIO(), io.StringIO()
    began = time.monotonic()
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(error):
            code: Any = main(line)
    except SystemExit as end:  # argparse
        code = end.code
    except BaseException:
        tally.faults.append(f"{where}: {ascii(line)[:300]}\n{traceback.format_exc()[-3000:]}")
        tally.counts[f"{kind}, exception"] += 1
        return
    took = time.monotonic() - began
    tally.counts[f"{kind}, exit code {code}"] += 1
    if code not in CODES or (code == 2 and not error.getvalue().strip()) or took > SLOW:
        tally.faults.append(
            f"{where}: {ascii(line)[:300]}: exit code {code} after {took:.1f} s: {error.getvalue()[:200]}"
        )


def main() -> int:
    """Run the inputs and print the counts; return 1 if a fault was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=20_000)
    parser.add_argument("--first", type=int, default=0)
    asked = parser.parse_args()
    warnings.simplefilter("ignore")
    tally, last = Tally(), asked.first + asked.inputs
    with tempfile.TemporaryDirectory() as name:
        for first in range(asked.first, last, _STRETCH):
            found = fuzz(Path(name), range(first, min(first + _STRETCH, last)))
            tally.counts += found.counts
            tally.faults += found.faults
            print(
                "\n".join([*found.faults, f"{sum(tally.counts.values()):,} inputs, {len(tally.faults)} faults"]),
                flush=True,
            )
    print(", ".join(f"{count:,} {what}" for what, count in sorted(tally.counts.items())))
    return 1 if tally.faults else 0


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    sys.exit(main())
