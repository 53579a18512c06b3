"""The generated parts of ``docs/gpu.md``: what was measured on a GPU, beside the CPU, the planner and publications."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from peftbench.results.store import read
from tools.docs.suite_document import NONE, table
from tools.validation.gpu import claims, keep, right

QUICKSTART = keep.FOLDER.parent / "quickstart"
NOTHING = "**Nothing has run on a GPU yet.**"
ABSENT = "Not measured yet."
_GB, _WORST = 1e9, 5
Row = Mapping[str, Any]


def _rows(folder: Path, part: str) -> list[dict[str, Any]]:
    """Return the trials of a part, with the losses of their steps."""
    if not (folder / part / "trials").is_dir():
        return []
    found = read(folder / part)
    losses = {str(key): steps.sort_values("step") for key, steps in found.steps.groupby("key")}
    rows = found.trials.astype(object).to_dict("records")
    plain = [{str(k): None if _missing(v) else v for k, v in row.items()} for row in rows]
    return [row | {"steps": losses.get(row["key"])} for row in plain]


def _missing(value: Any) -> bool:
    return bool(pd.isna(value)) if pd.api.types.is_scalar(value) else False


def others(folder: Path) -> dict[str, Any]:
    """Return what is no trial."""
    path = folder / keep.OTHERS
    found: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {}
    return found


def part(make: Callable[[Path], str], folder: Path = keep.FOLDER) -> str:
    """Return a generated part, or that nothing was measured."""
    return make(folder) if folder.is_dir() else NOTHING if make is machine else ABSENT


def machine(folder: Path) -> str:
    """Return a sentence on the device and the versions."""
    found = others(folder)["machine"]
    device = found["device"]
    packages = ", ".join(
        f"{name} {found['packages'][name]}" for name in ("torch", "transformers", "peft", "bitsandbytes")
    )
    rate = device["matrix_flops_per_second"]
    rates = (
        f"its best bf16 matrix product {rate / 1e12:.3g} TFLOP/s"
        if rate
        else "its best bf16 matrix product is not known"
    )
    copied = device.get("copied_bytes_per_second")
    rates += f", copies within its memory {copied / 1e12:.3g} TB/s" if copied else ""
    driver = ", ".join(gpu.get("driver_version", "") for gpu in found["gpus"] or ())
    told = f", driver {driver}" if driver else ""
    return (
        f"On {device['name']}{told}, with {packages} and Python {found['python']}; {rates}, measured before the parts."
    )


def losses(folder: Path) -> str:
    """Return each cell's losses on the device beside those on the CPU."""
    rows = _rows(folder, "right")
    beside = {_cell(row): row for row in rows if row["device"] == "cpu"}
    measured = [row for row in rows if row["device"] != "cpu"] or rows
    lines = []
    for row in measured:
        other = beside.get(_cell(row))
        differences = _differences(row, other)
        lines.append(
            (
                f"`{row['method']}`",
                row["precision"],
                _status(row),
                _number(row["last_loss"], ".4f"),
                _number(other["last_loss"] if other else None, ".4f"),
                _number(differences[0] if differences else None, ".1e"),
                _number(max(differences) if differences else None, ".1e"),
                str(row["attention_kernels"] or NONE),
            )
        )
    head = ("method", "precision", "status", "last loss", "on the CPU", "first step differs by", "largest", "attention")
    return table(lines, head)


def _differences(row: Row, other: Row | None) -> list[float]:
    """Return the relative difference of each step's loss."""
    if other is None or row["steps"] is None or other["steps"] is None:
        return []
    pairs = zip(row["steps"]["loss"], other["steps"]["loss"], strict=False)
    return [abs(a / b - 1) for a, b in pairs]


def continued(folder: Path) -> str:
    """Return a sentence on the trial that was killed and continued."""
    line = others(folder)["right"].get(right.RESUMED)
    if line is None:
        return "A killed trial was not continued."
    found = line["found"]
    pairs = [(a, b) for a, b in found["losses"].values() if a is not None]
    largest = max((abs(a / b - 1) for a, b in pairs), default=None)
    return (
        f"A trial of LoRA in bf16 with dropout was killed and continued ({found['resumes'] or 0} times): it ended "
        f"{found['statuses'][1]}, and the losses of its {len(pairs)} recorded steps differ from those of the same "
        f"trial without interruption by at most {_number(largest, '.1e')}."
    )


def planner(folder: Path) -> str:
    """Return predicted beside measured peaks, the worst first."""
    rows = sorted(_rows(folder, "planner"), key=lambda row: -abs(_error(row) or 0.0))
    lines = [
        (
            row["base"],
            f"`{row['method']}`",
            row["precision"],
            "yes" if _recomputes(row) else "no",
            _gigabytes(row["predicted_train_bytes"]),
            _gigabytes(row["peak_train_bytes"]),
            _number(_error(row), "+.2%"),
            _gigabytes(row["peak_train_reserved_bytes"]),
            _gigabytes(row["device_used_bytes"] if row["workers"] == 1 else None),
            _status(row),
        )
        for row in rows
    ]
    head = ("base", "method", "precision", "recomputes", "predicted, GB", "allocated, GB", "error")
    return table(lines, (*head, "reserved, GB", "device, GB", "status"))


def planner_errors(folder: Path) -> str:
    """Return a sentence on the errors of the predictions."""
    rows = {_error(row): row for row in _rows(folder, "planner") if _error(row) is not None}
    if not rows:
        return "No cell has both a prediction and a measured peak."
    errors = sorted(map(abs, rows))
    worst = sorted(rows, key=lambda error: -abs(error))[:_WORST]
    named = "; ".join(f"{error:+.2%} {rows[error]['base']} {rows[error]['cell']}" for error in worst)
    return (
        f"{len(_rows(folder, 'planner'))} cells; the median error of the predicted peak is "
        f"{errors[len(errors) // 2]:.2%}, the largest {errors[-1]:.2%}. The worst: {named}."
    )


def speed(folder: Path) -> str:
    """Return the tokens a second of the three loops."""
    found = others(folder)["speed"]
    lines = []
    for row in _rows(folder, "speed"):
        name = f"{row['base']}, {row['cell']}, {row['device']}: "
        loops = {
            each: line.get("found")
            for each in ("bare loop", "Trainer")
            for n, line in found.items()
            if n.endswith(name + each)
        }
        ours = row["processed_tokens_per_second"]
        rates = {each: (one or {}).get("tokens_per_second") for each, one in loops.items()}
        used = None
        if ours and row["train_flops_per_token"] and row["device_flops_per_second"]:
            used = ours * row["train_flops_per_token"] / row["device_flops_per_second"]
        kernels = [row["attention_kernels"], *((one or {}).get("attention_kernels") for one in loops.values())]
        lines.append(
            (
                row["base"],
                f"`{row['method']}` {row['precision']}",
                _number(ours, ",.0f"),
                *(_number(rates.get(each), ",.0f") for each in ("bare loop", "Trainer")),
                *(_number(_ratio(ours, rates.get(each)), ".2f") for each in ("bare loop", "Trainer")),
                _number(used, ".0%"),
                " / ".join(dict.fromkeys(kernel or NONE for kernel in kernels)),
            )
        )
    head = (
        "base",
        "method",
        "tokens/s",
        "bare loop",
        "`Trainer`",
        "to the bare loop",
        "to `Trainer`",
        "of the best matrix product",
    )
    return table(lines, (*head, "attention"))


def published(folder: Path) -> str:
    """Return published numbers beside measured ones, with what differs."""
    rows = [row for row in _rows(folder, "claims") if row["status"] == "ok"]
    card = others(folder)["machine"]["device"]["name"]
    lines = []
    for method, gigabytes, minutes in (("llama_adapter", 22, 162), ("lora", 21, 192)):
        row = _one(rows, claims.LIT, "llama-7b", method)
        badge = _badge(
            row,
            f"card (A100 40GB; here {card})",
            "data (Alpaca; here texts of drawn lengths)",
            "weights drawn at random",
        )
        what = f"lit-llama, LLaMA-7B, `{method}`"
        peaks = "GB: not said which" if row is None else _peaks(row)
        lines.append((f"{what}: memory", f"{gigabytes} GB", peaks, badge))
        taken = None if row is None or not row["median_step_seconds"] else _minutes(row)
        lines.append(
            (f"{what}: {claims.ITERATIONS:,} iterations", f"{minutes} min", _number(taken, ".0f") + " min", badge)
        )
    for shape, limit in claims.GIGABYTES.items():
        row = _one(rows, claims.PEAKS, shape, "qlora")
        badge = _badge(row, f"card ({limit} GB; here {card})", "weights drawn at random")
        lines.append((f"QLoRA, {shape}: fits", f"{limit} GB", NONE if row is None else _peaks(row), badge))
    return table(lines, ("claim", "published", "measured", "protocol"))


def _one(rows: Sequence[Row], group: str, base: str, method: str) -> Row | None:
    return next(
        (r for r in rows if str(r["suite"]).startswith(group) and r["base"] == base and r["method"] == method), None
    )


def _badge(row: Row | None, *differs: str) -> str:
    return "not measured" if row is None else f"differs: {'; '.join(differs)}"


def _peaks(row: Row) -> str:
    named = {
        "allocated": row["peak_train_bytes"],
        "reserved": row["peak_train_reserved_bytes"],
        "device": row["device_used_bytes"],
    }
    return ", ".join(f"{_gigabytes(value)} GB {name}" for name, value in named.items() if value is not None)


def _minutes(row: Row) -> float:
    """Return the minutes of the published number of iterations, at the mean duration of a steady step."""
    steady = row["steps"][~row["steps"]["untimed"].astype(bool)]
    return float(steady["seconds"].mean()) * claims.ITERATIONS / 60


def claimed(folder: Path) -> str:
    """Return all trials of the part with the claims: predicted and measured peaks, and the duration of a step."""
    lines = [
        (
            row["base"],
            f"{row['suite']}: `{row['cell']}`",
            _status(row),
            _gigabytes(row["predicted_train_bytes"]),
            _gigabytes(row["peak_train_bytes"]),
            _number(_error(row), "+.2%"),
            _number(row["median_step_seconds"], ".3f"),
            _number(row["train_energy_joules"], ",.0f"),
        )
        for row in _rows(folder, "claims")
    ]
    head = ("base", "cell", "status", "predicted, GB", "allocated, GB", "error", "step, s", "energy, J")
    return table(lines, head)


def inference(folder: Path) -> str:
    """Return the rates of generation with the method, without it and merged into the weights."""
    lines = []
    for row in _rows(folder, "claims"):
        if row["prefill_tokens_per_second"] is None:
            continue
        bare = _bare_rate(row)
        lines.append(
            (
                f"{row['base']} `{row['cell']}`",
                _number(row["prefill_tokens_per_second"], ",.0f"),
                _number(row["merged_prefill_tokens_per_second"], ",.0f"),
                _number(row["decode_tokens_per_second"], ",.1f"),
                _number(row["merged_decode_tokens_per_second"], ",.1f"),
                _number(bare, ",.1f"),
                _number(row["largest_merge_logit_difference"], ".2g"),
            )
        )
    head = (
        "cell",
        "prefill, tokens/s",
        "merged",
        "decoding, tokens/s",
        "merged",
        "without the method",
        "merging changes a logit by",
    )
    return table(lines, head)


def _bare_rate(row: Row) -> float | None:
    """Return the decoded tokens a second of the base without the method, from the raw seconds."""
    seconds = json.loads(row["inference_json"] or "{}").get("seconds", {}).get("bare", {})
    batch = max(seconds, key=int, default=None)
    times = sorted(t for repeat in seconds.get(batch, ()) for t in repeat[1:])
    return int(batch) / times[len(times) // 2] if batch and times else None


def quickstart(folder: Path) -> str:
    """Return the quickstart's scores and peaks beside those of the same seed on the CPU."""
    here = {row["cell"]: row for row in _rows(folder, "quickstart")}
    cpu = {row["cell"]: row for row in _rows(QUICKSTART.parent, QUICKSTART.name) if row["seed"] in (None, 0)}
    tasks = sorted({name for row in here.values() for name in json.loads(row["scores_json"] or "{}")})
    lines = []
    for cell, row in here.items():
        other = cpu.get(cell, {})
        shown = []
        for task in tasks:
            scores = [json.loads(each.get("scores_json") or "{}").get(task, {}).get("value") for each in (row, other)]
            shown.append(" / ".join(_number(None if s is None else 100 * s, ".1f") for s in scores))
        seconds = " / ".join(_number(each.get("train_seconds"), ".2f") for each in (row, other))
        lines.append((f"`{cell}`", _status(row), *shown, seconds))
    return table(lines, ("cell", "status", *(f"{task}, % (CPU's)" for task in tasks), "training, s (CPU's)"))


def ladder(folder: Path) -> str:
    """Return a table for each group of cells: the memory ladder's, savings alone, more examples in a pass."""
    rows = sorted(_rows(folder, "ladder"), key=lambda row: -(row["predicted_train_bytes"] or 0))
    groups = dict.fromkeys(sorted((str(row["suite"]) for row in rows), key=_place))
    return "\n\n".join(f"{group}:\n\n{_savings([row for row in rows if row['suite'] == group])}" for group in groups)


def _place(group: str) -> tuple[int, int, str]:
    """Return what sorts the groups: ladders, savings alone, then by the number of examples."""
    word = group.split()[0]
    kinds = ("ladder", "savings")
    return (kinds.index(word) if word in kinds else len(kinds), int(word) if word.isdigit() else 0, group)


def _savings(rows: Sequence[Row]) -> str:
    lines = [
        (
            f"`{row['cell']}`",
            _gigabytes(row["predicted_train_bytes"]),
            _gigabytes(row["peak_train_bytes"]),
            _number(_error(row), "+.2%"),
            _gigabytes(row["peak_offloaded_bytes"]),
            _number(row["median_step_seconds"] if row["workers"] == 1 else None, ".3f"),  # else of a shared device
            _status(row),
        )
        for row in rows
    ]
    heads = ("cell", "predicted, GB", "allocated, GB", "error", "on the host, GB", "s per step", "status")
    return table(lines, heads)


def _cell(row: Row) -> tuple[Any, ...]:
    return row["method"], row["cell"], row["precision"]


def _status(row: Row) -> str:
    told = "" if row["status"] == "ok" else f" ({row['phase']}: {row['message']})"
    return f"{row['status']}{told}"[:200].replace("\n", " ")


def _error(row: Row) -> float | None:
    predicted, measured = row["predicted_train_bytes"], row["peak_train_bytes"]
    return predicted / measured - 1 if predicted and measured else None


def _recomputes(row: Row) -> bool:
    return bool(json.loads(row["settings_json"]).get("training", {}).get("gradient_checkpointing"))


def _ratio(one: float | None, other: float | None) -> float | None:
    return one / other if one and other else None


def _gigabytes(value: Any) -> str:
    return _number(None if value is None else value / _GB, ".2f")


def _number(value: Any, form: str) -> str:
    return NONE if value is None else format(value, form)


PARTS: dict[str, Callable[[Path], str]] = {
    "gpu machine": machine,
    "gpu losses": losses,
    "gpu continued": continued,
    "gpu errors": planner_errors,
    "gpu peaks": planner,
    "gpu speed": speed,
    "gpu published": published,
    "gpu claims": claimed,
    "gpu inference": inference,
    "gpu quickstart": quickstart,
    "gpu ladder": ladder,
}
"""Marker of a generated part of the document to what makes it from the kept results."""
