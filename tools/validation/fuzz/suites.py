"""Wrong suites, and wrong options of commands."""

from __future__ import annotations

import copy
import json
import random
from pathlib import Path
from typing import Any

import yaml

SUITES = (
    """
base: nano
description: one line
tasks: {judge: {limit: 5}, compute: {limit: 5, max_new_tokens: 4}}
seeds: 2
threads: 1
timeout_seconds: 60
precision: [fp32, bf16]
train: {steps: 3, batch_size: 4, sequence_length: 64, learning_rate: 0.001, data: {judge: 1.0}}
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
train: {epochs: 1, learning_rate: [0.001, 0.0001]}
evaluate: {split: test, retention: {file: text.txt, limit: 3}}
methods: [prefix_tuning, prompt_tuning]
""",
    """
base: {shape: llama-3.2-1b}
tasks: {t: {template: text, train: text.txt, test: text.txt, separator: "\\n"}}
match: {trainable_parameters: {method: lora, rank: 4}}
profile: paper
audit: strict
train: {steps: 3}
evaluate: {inference: false}
methods: {lora: {target_modules: [q_proj]}, peft: {peft_type: VERA, r: 4, learning_rate: 0.01}}
""",
)
"""Suites that plan without an error; the wrong ones are made from them."""
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
PLAUSIBLE = (
    *(
        1,
        2,
        3,
        4,
        7,
        16,
        100,
        10_000,
        0.1,
        0.5,
        1e-3,
        1e-12,
        5.0,
        True,
        False,
        None,
        "fp32",
        "nf4",
        "int8",
        "bf16-true",
    ),
    *("lora", "adapter", "full", "judge", "compute", "auto", "cuda", "cpu", "validation", "test", "search", "base"),
    *("data.jsonl", "text.txt", "x.yaml", "choice", "exact_match", "generation", "alpaca", "gsm8k", "number", "all"),
    *([1, 2], [0.1, 0.2], [True, False], ["fp32", "bf16"], ["lora", "full"], ["\n"], [4, None], [2, 2.0], [[4, 8]]),
    *({"steps": 2}, {"file": "text.txt"}, {"a": 1}, {"0": "red"}, {"method": "full", "rank": 1}, {"rank": [1, 2]}),
    *(
        "{{ row }}",
        "{{ thing }}",
        "{{ row['colour'] }}",
        "llama-7b",
        "mixtral-8x7b",
        "all-linear",
        ".*q_proj",
        "(a)",
        "(a",
    ),
)
"""Values that are right at some keys: with them a wrong suite gets further than with odd ones."""
MORE = (
    *(
        "rank",
        "precision",
        "seeds",
        "device",
        "workers",
        "most_trials",
        "match",
        "profile",
        "search",
        "train",
        "evaluate",
    ),
    *("steps", "epochs", "tokens", "seconds", "batch_size", "micro_batch_size", "sequence_length", "learning_rate"),
    *("optimizer", "schedule", "warmup_ratio", "clip_norm", "packing", "validate_every", "score", "loss_on", "data"),
    *(
        "template",
        "kind",
        "train",
        "test",
        "dataset",
        "splits",
        "columns",
        "encoding",
        "delimiter",
        "quoting",
        "messages",
    ),
    *(
        "prompt",
        "target",
        "choices",
        "labels",
        "several_references",
        "validation_fraction",
        "test_fraction",
        "separator",
    ),
    *(
        "chunk_characters",
        "chat",
        "system",
        "max_new_tokens",
        "limit",
        "answer_pattern",
        "stop",
        "num_fewshot",
        "metric",
    ),
    *("lm_eval", "max_length", "split", "test_seed", "generation", "inference", "retention", "alpha", "target_modules"),
    *("rank_pattern", "initialization", "kind", "layers", "modules", "gate", "dropout", "revision", "weights", "shape"),
)
"""Keys that exist somewhere in a suite."""


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
    elif kind < 0.35 and isinstance(holder, dict):
        holder[draw.choice(MORE)] = copy.deepcopy(draw.choice(PLAUSIBLE))
    elif kind < 0.4 and isinstance(holder, dict):
        holder[draw.choice(KEYS)] = holder.pop(path[-1])
    elif kind < 0.5:
        holder[path[-1]] = [holder[path[-1]], _odd(draw)]
    elif kind < 0.75:
        holder[path[-1]] = copy.deepcopy(draw.choice(PLAUSIBLE))
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
    text = draw.choices(SUITES, (6, 6, 1))[0]  # a known shape takes seconds
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
