"""A suite with one choice task of a few lines, and its data."""

from __future__ import annotations

import json
from pathlib import Path

COLOURS = {"sky": "blue", "grass": "green", "sea": "blue", "rose": "red", "leaf": "green", "blood": "red"}
FILE = "colours.jsonl"
"""The name of the data file in ``suite``."""
DATA = "".join(json.dumps({"thing": thing, "colour": colour}) + "\n" for thing, colour in COLOURS.items())


def suite(base: str, rest: str) -> str:
    """Return the text of a suite: its base model, the task, one seed, and the rest of the keys."""
    return f"""\
base: {base}
tasks:
  colour:
    kind: choice
    train: {FILE}
    test: {FILE}
    prompt: "the colour of {{{{ thing }}}} ?"
    target: "{{{{ colour }}}}"
    choices: [red, green, blue]
seeds: 1
threads: 1
{rest}"""


def with_validation(folder: Path, rest: str) -> None:
    """Write ``x.yaml``, a suite of a tiny base and a task with a validation split, and the rest of the keys."""
    from tests.support import tiny_base

    tiny_base.make(folder / "tiny")
    rows = [{"p": "one " * (i % 7), "t": ("red", "blue")[i % 2]} for i in range(40)]
    (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    text = """\
base: ./tiny
tasks:
  colour:
    kind: choice
    train: train.jsonl
    test: train.jsonl
    validation_fraction: 0.25
    prompt: "the {{ p }}"
    target: "{{ t }}"
    choices: [red, blue]
    limit: 4
evaluate: {inference: false}
"""
    (folder / "x.yaml").write_text(text + rest)
