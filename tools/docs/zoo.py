"""The tables of ``docs/peft_zoo.md``: the committed run of suites/peft_zoo.yaml, by tuner and variant of LoRA."""

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
VARIANTS: Mapping[str, tuple[str, Any]] = {
    "aLoRA": ("alora_invocation_tokens", [28]),
    "Arrow": ("arrow_config", {}),
    "BD-LoRA": ("use_bdlora", {"target_modules_bd_b": ["q_proj", "v_proj"], "nblocks": 2}),
    "bias of B": ("lora_bias", True),
    "CorDA": ("init_lora_weights", "corda"),
    "DoRA": ("use_dora", True),
    "EVA": ("init_lora_weights", "eva"),
    "Gaussian start": ("init_lora_weights", "gaussian"),
    "KaSA": ("kasa_config", {}),
    "LoftQ": ("init_lora_weights", "loftq"),
    "LoRA+": ("lora_plus_ratio", 16),
    "LoRA-GA": ("init_lora_weights", "lora_ga"),
    "MiCA": ("init_lora_weights", "mica"),
    "MonteCLoRA": ("monteclora_config", {}),
    "OLoRA": ("init_lora_weights", "olora"),
    "orthogonal start": ("init_lora_weights", "orthogonal"),
    "PiSSA": ("init_lora_weights", "pissa"),
    "QA-LoRA": ("use_qalora", True),
    "rsLoRA": ("use_rslora", True),
    "VeLoRA": ("velora_config", {}),
}
"""Name of a variant of LoRA -> the setting in which its block differs from that of plain LoRA."""


def variant(options: Mapping[str, Any]) -> str:
    """Return the name of the variant of LoRA that a block of the zoo has; empty for plain LoRA and other tuners."""
    names = VARIANTS.items() if options["peft_type"] == "LORA" else ()
    return next((name for name, (key, value) in names if options.get(key) == value), "")


@cache
def trials() -> pd.DataFrame:
    """Return the trials of the method peft, with the added columns ``tuner`` and ``variant``, sorted by them."""
    found = collect(RESULTS).trials
    tuned = found[found["method"] == "peft"].copy()
    options = [json.loads(text)["options"] for text in tuned["settings_json"]]
    tuned["tuner"] = [one["peft_type"] for one in options]
    tuned["variant"] = [variant(one) for one in options]
    in_order = tuned["variant"].str.lower()
    return tuned.assign(in_order=in_order).sort_values(["tuner", "in_order"], kind="stable")


def rows(precision: str) -> dict[str, Mapping[str, Any]]:
    """Return the rows of a precision by their tuner, without LoRA's variants."""
    found = trials()
    mine = found[(found["precision"] == precision) & (found["variant"] == "")]
    return {row["tuner"]: row for row in mine.to_dict("records")}


def variants(precision: str) -> dict[str, Mapping[str, Any]]:
    """Return the rows of LoRA's variants in a precision by their name."""
    found = trials()
    mine = found[(found["precision"] == precision) & (found["variant"] != "")]
    return {row["variant"]: row for row in mine.to_dict("records")}


def counts() -> str:
    """Return the counts of statuses in each precision, and the versions of the packages."""
    found = trials()
    lines = []
    for precision in ("fp32", *QUANTIZED):
        mine = found[found["precision"] == precision]
        flat = len(rows_without_progress(mine))
        tuners, of_lora = _ended(mine[mine["variant"] == ""]), _ended(mine[mine["variant"] != ""])
        lines.append(
            f"- {precision}: {tuners[0]} tuners, {tuners[1]}; {of_lora[0]} variants of LoRA, {of_lora[1]}; {flat} of "
            "those ok did not lower their loss."
        )
    packages = {name: {read_json(text)["packages"][name] for text in found["environment_json"]} for name in PACKAGES}
    versions = ", ".join(f"{name} {' and '.join(sorted(each))}" for name, each in packages.items())
    return "\n".join([*lines, f"- {versions}."])


def _ended(found: pd.DataFrame) -> tuple[int, str]:
    return len(found), ", ".join(f"{n} {status}" for status, n in found["status"].value_counts().sort_index().items())


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


def variants_in_fp32() -> str:
    """Return a table with a row per variant of LoRA, beside plain LoRA."""
    plain = rows("fp32")["LORA"]
    lines = [
        "| variant | setting | first loss | last loss | largest change of a logit | trainable parameters "
        "| tensors moved | checkpoint, KiB |",
        "|---|---|---:|---:|---:|---:|---:|---:|",
    ]
    for name, row in {"plain LoRA": plain, **variants("fp32")}.items():
        setting = "" if row is plain else _setting(*VARIANTS[name])
        if row["status"] == "ok":
            beside = [_beside(row, plain, key) for key in ("first_loss", "last_loss", "largest_logit_change")]
            lines.append(
                f"| {name} | {setting} | {' | '.join(beside)} | {row['trainable_parameters']:,} "
                f"| {row['moved_tensors']} of {row['trainable_tensors']} | {row['checkpoint_bytes'] / 1024:,.1f} |"
            )
        else:
            lines.append(f"| {name} | {setting} | {_trouble(row)} | {' | '.join([fmt.MISSING] * 5)} |")
    return "\n".join(lines)


def variants_quantized() -> str:
    """Return a table with a row per variant of LoRA that fp32 has, and a column per kind of quantized base model."""
    found = [{"plain LoRA": rows(precision)["LORA"], **variants(precision)} for precision in QUANTIZED]
    lines = [f"| variant | {' | '.join(QUANTIZED)} |", "|---|---|---|"]
    for name in found[0]:
        if name in VARIANTS and variants("fp32")[name]["status"] != "ok":
            continue
        first, second = (
            _beside(each[name], each["plain LoRA"], "last_loss")
            if each[name]["status"] == "ok"
            else _trouble(each[name])
            for each in found
        )
        lines.append(f"| {name} | {first} | {'the same' if first == second else second} |")
    return "\n".join(lines)


def _setting(key: str, value: Any) -> str:
    """Return a setting as the suite has it."""
    shown = value if isinstance(value, str) else json.dumps(value).replace('"', "")
    return f"`{key}: {shown}`"


def _beside(row: Mapping[str, Any], plain: Mapping[str, Any], key: str) -> str:
    """Return a number of a row, and in brackets its difference from plain LoRA's."""
    difference = row[key] - plain[key]
    alike = "" if row is plain else " (the same)"
    return f"{row[key]:.4f} ({difference:+.4f})" if abs(difference) >= 5e-5 else f"{row[key]:.4f}{alike}"


def _losses(row: Mapping[str, Any]) -> str:
    return f"{row['first_loss']:.2f} to {row['last_loss']:.2f}"


def _trouble(row: Mapping[str, Any]) -> str:
    told = str(row["message"]).removeprefix(f"peft {row['tuner']}").lstrip(": ")
    return f"{row['status']}: {told}"
