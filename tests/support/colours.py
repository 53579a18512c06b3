"""A suite with one choice task of a few lines, and its data."""

from __future__ import annotations

import json

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
