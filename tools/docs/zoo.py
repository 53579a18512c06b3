"""The tables of ``docs/peft_zoo.md``: the committed run of suites/peft_zoo.yaml, one row for each tuner of peft."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd

from peftbench.records import units as fmt
from peftbench.report.collect import collect, read_json
from peftbench.results.rows import rows_without_progress

RESULTS = Path(__file__).resolve().parents[2] / "results" / "reference" / "peft_zoo"
PACKAGES = ("peft", "transformers", "torch", "bitsandbytes")
QUANTIZED = ("int8", "nf4")


@cache
def trials() -> pd.DataFrame:
    """Return the trials of the tuners, sorted by the added column ``tuner``."""
    found = collect(RESULTS).trials
    tuned = found[found["method"] == "peft"].copy()
    tuned["tuner"] = [json.loads(text)["options"]["peft_type"] for text in tuned["settings_json"]]
    return tuned.sort_values("tuner", kind="stable")


def rows(precision: str) -> dict[str, Mapping[str, Any]]:
    """Return the rows of a precision by their tuner."""
    found = trials()
    return {row["tuner"]: row for row in found[found["precision"] == precision].to_dict("records")}


def counts() -> str:
    """Return the counts of statuses in each precision, and the versions of the packages."""
    found = trials()
    lines = []
    for precision in ("fp32", *QUANTIZED):
        mine = found[found["precision"] == precision]
        ended = ", ".join(f"{n} {status}" for status, n in mine["status"].value_counts().items())
        flat = len(rows_without_progress(mine))
        lines.append(f"- {precision}: {len(mine)} tuners, {ended}; {flat} of those ok did not lower their loss.")
    packages = {name: {read_json(text)["packages"][name] for text in found["environment_json"]} for name in PACKAGES}
    versions = ", ".join(f"{name} {' and '.join(sorted(each))}" for name, each in packages.items())
    return "\n".join([*lines, f"- {versions}."])


def in_fp32() -> str:
    """Return a table with a row per tuner."""
    lines = [
        "| tuner | status | loss, first to last | fell | trainable parameters | tensors moved | checkpoint, KiB |",
        "|---|---|---|---|---:|---:|---:|",
    ]
    for tuner, row in rows("fp32").items():
        if row["status"] == "ok":
            lines.append(
                f"| {tuner} | ok | {_losses(row)} | {'yes' if row['last_loss'] < row['first_loss'] else 'no'} "
                f"| {row['trainable_parameters']:,} | {row['moved_tensors']} of {row['trainable_tensors']} "
                f"| {row['checkpoint_bytes'] / 1024:,.1f} |"
            )
        else:
            lines.append(f"| {tuner} | {_trouble(row)} | {' | '.join([fmt.MISSING] * 5)} |")
    return "\n".join(lines)


def quantized() -> str:
    """Return a table with a row per tuner and a column per kind of quantized base model."""
    found = [rows(precision) for precision in QUANTIZED]
    lines = [f"| tuner | {' | '.join(QUANTIZED)} |", "|---|---|---|"]
    for tuner in found[0]:
        first, second = (
            _losses(each[tuner]) if each[tuner]["status"] == "ok" else _trouble(each[tuner]) for each in found
        )
        lines.append(f"| {tuner} | {first} | {'the same' if first == second else second} |")
    return "\n".join(lines)


def _ended(row: Mapping[str, Any]) -> str:
    return _losses(row) if row["status"] == "ok" else _trouble(row)


def _losses(row: Mapping[str, Any]) -> str:
    return f"{row['first_loss']:.2f} to {row['last_loss']:.2f}"


def _trouble(row: Mapping[str, Any]) -> str:
    name = f"peft {row['tuner']} "
    return f"{row['status']}: {str(row['message']).removeprefix(name)}"
