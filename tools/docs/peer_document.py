"""The generated parts of ``docs/peer.md``, from what ``peer_statements`` recorded of the peer's result files."""

from __future__ import annotations

import json
from typing import Any

from tools.docs.crossed_document import markdown
from tools.validation.peer_statements import PATH


def recorded() -> dict[str, Any]:
    """Return what was computed from the files."""
    found: dict[str, Any] = json.loads(PATH.read_text())
    return found


def best() -> str:
    """Return the table of the two highest experiments in both months."""
    head = ("files", "Lily, rank 140", "LoRA, rank 64, rsLoRA", "difference", "95 % interval", "p")
    lines = []
    for row in recorded()["best"]:
        low, high = row["gap"] - row["half_width"], row["gap"] + row["half_width"]
        values = f"{row['first']:.1f} %", f"{row['second']:.1f} %", f"{row['gap']:+.1f} points"
        lines.append((row["state"], *values, f"{low:+.1f} to {high:+.1f}", f"{row['p']:.2f}"))
    return markdown(head, lines)


def memory() -> str:
    """Return the table of LoRA-FA's memory in both months."""
    head = ("files", "LoRA-FA, rank 32", "LoRA, rank 32", "saved")
    lines = [
        (row["state"], f"{row['lora_fa']:.2f} GB", f"{row['lora']:.2f} GB", f"{row['saved_percent']:.1f} %")
        for row in recorded()["memory"]
    ]
    return markdown(head, lines)


def time() -> str:
    """Return how much longer full fine-tuning takes than LoRA, by what is shown and by the steps alone."""
    found = recorded()["time"]
    return (
        f"Full fine-tuning takes {found['shown']:.2f} times as long as LoRA of rank 32 by the time that is shown, and "
        f"{found['steps']:.2f} times by the training steps alone. At the median, {found['rest_percent']:.0f} % of the "
        "time that is shown is no training step."
    )


def noise() -> str:
    """Return the table of how far runs of the same experiment differ."""
    found = recorded()
    head = ("runs of the same experiment", "pairs", "mean change", "fell", "SD of one run", "largest change")
    kinds = (
        ("with the same versions of torch and transformers", found["reruns"]["same_versions"]),
        ("with other versions", found["reruns"]["other_versions"]),
        ("June and July, settings compared", found["months"]),
    )
    lines = [
        (
            name,
            row["pairs"],
            f"{row['mean']:+.2f} points",
            f"{row['fell']} of {row['pairs']}",
            f"{row['sd_of_a_run']:.2f} points",
            f"{row['largest']:.1f} points",
        )
        for name, row in kinds
    ]
    return markdown(head, lines)


def gaps() -> str:
    """Return which gaps of the table of all runs are noise."""
    found = recorded()
    table = found["table"]
    return (
        f"Of {table['cells'] - 1} other experiments, {len(table['like_best'])} cannot be told from the best, "
        f"`{table['best']}` (unpaired z tests over {found['questions']:,} questions, Holm-adjusted p ≥ 0.05). The "
        f"difference of the two highest is known to ± {table['half_width']:.1f} points. Between neighbours among the "
        f"{table['top']} highest the median gap is {table['median_gap']:.2f} points, and of these {table['top'] - 1} "
        f"gaps {table['neighbours_that_differ'] or 'none'} is significant, even without a correction for their number."
    )
