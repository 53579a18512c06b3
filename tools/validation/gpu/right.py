"""Part 1, whether it is right: methods and precisions on the built-in base, on the device and on the CPU beside it.

Each cell is a whole trial: it trains, is checked for liveness, saves and loads, and is scored. Its losses are compared
with those of the same trial on the CPU, which runs at the same time. Then the dtypes that occur at each precision are
recorded, and a trial that is killed is continued.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import replace
from itertools import zip_longest
from pathlib import Path
from typing import Any

from tools.validation.gpu import grids
from tools.validation.gpu.results import Kept
from tools.validation.gpu.scale import Scale

NAME = "right"
PRECISIONS = "dtypes at each precision"
RESUMED = "continued after it was killed"
_STEPS = 20
_LONG, _KILLED_AT = 60, 20  # a third of both if not every cell is measured
"""Steps of the trial that is killed, and after how many."""


def suite(scale: Scale) -> dict[str, Any]:
    """Return seven methods in bf16, nf4 and int8, and LoRA in the other precisions."""
    frozen = ["bf16", "nf4", "int8"]
    methods: dict[str, Any] = {
        "qlora": {"precision": ["nf4"], "learning_rate": 3e-3},
        "lora": {"precision": ["bf16", "int8", "fp32", "fp16", "bf16-true"], "learning_rate": 3e-3},
        "full": {"precision": ["bf16"], "learning_rate": 5e-4},
        "adapter": {"precision": frozen, "rank": 16, "learning_rate": 1e-2},
        "llama_adapter": {"precision": frozen, "learning_rate": 1e-1},
        "prefix_tuning": {"precision": frozen, "rank": 16, "learning_rate": 3e-1},
        "prompt_tuning": {"precision": frozen, "rank": 20, "learning_rate": 1e-1},
    }
    return {
        "base": "nano",
        "threads": 1,
        "seeds": 1,
        "workers": scale.workers,
        "tasks": {"describe": {"limit": 8}, "compute": {"limit": 8}, "judge": {"limit": 16}},
        "train": {"steps": _STEPS if scale.whole else 3, "batch_size": 16, "sequence_length": 64}
        | ({} if scale.pages else {"optimizer": "adamw"}),
        "evaluate": {"inference": scale.whole, **({} if scale.whole else {"retention": False})},
        "methods": scale.few(methods),
    }


def groups(scale: Scale) -> list[grids.Cells]:
    """Return the cells on the device, and those on the CPU if that is another one."""
    cells = grids.Cells("right", suite(scale), scale.device, scale.workers)
    return [cells] + ([] if scale.device == "cpu" else [replace(cells, name="right on the CPU", device="cpu")])


def measure(scale: Scale, kept: Kept, work: Path) -> Iterator[str]:
    """Measure what is missing and yield what each cell gave."""
    pairs = zip_longest(*(grids.jobs(cells, work).items() for cells in groups(scale)))
    named = dict(item for pair in pairs for item in pair if item is not None)
    yield from grids.measure(kept, NAME, named, scale.workers)
    if PRECISIONS not in kept.done(NAME):
        try:
            kept.add(NAME, PRECISIONS, "ok", found=grids.apart(dtypes, scale.device, scale.whole))
        except RuntimeError as error:
            kept.add(NAME, PRECISIONS, "error", message=str(error))
        yield PRECISIONS
    if RESUMED not in kept.done(NAME):
        yield _resumed(scale, kept, work)


def dtypes(device: str, whole: bool) -> dict[str, Any]:
    """Return the record of ``precision_table`` for a device; of one precision alone if not ``whole``."""
    from importlib.metadata import version

    import torch

    from tools.validation import precision_table

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        tiny, wide = precision_table.bases(Path(folder))
        if not whole:
            return precision_table.look(tiny, Path(folder), "qlora", "nf4", device)
        return {
            "versions": {library: version(library) for library in precision_table.VERSIONS},
            "name": torch.cuda.get_device_name() if device == "cuda" else None,
            **precision_table.everything(tiny, wide, Path(folder), device),
        }


def _resumed(scale: Scale, kept: Kept, work: Path) -> str:
    """Compare a trial that is killed and continued with the same one that was not."""
    block = {"precision": "bf16", "learning_rate": 3e-3, "dropout": 0.1}
    text = suite(scale) | {
        "tasks": {"judge": {"limit": 4}},
        "train": {"steps": _LONG if scale.whole else _LONG // 3, "batch_size": 8, "sequence_length": 64},
        "evaluate": {"inference": False, "retention": False},
        "methods": {"lora": block},
        "checkpoint_every_seconds": 0.1,
    }
    cells = grids.Cells("resumed", text, scale.device, predicts=False)
    fresh = Path(tempfile.mkdtemp(dir=work))  # without the state that an earlier attempt has left
    (killed,) = grids.jobs(cells, fresh).values()
    (alone,) = grids.jobs(replace(cells, name="not interrupted"), fresh).values()
    first, second = grids.until_killed(killed, _KILLED_AT if scale.whole else _KILLED_AT // 3)
    losses = {step.step: step.loss for step in second.steps}
    (whole,) = [event.result for event in grids.local.run([alone], 1) if event.result is not None]
    expected = {step.step: step.loss for step in whole.steps}
    statuses = [first.row.status, second.row.status, whole.row.status]
    same = {step: (losses.get(step), loss) for step, loss in expected.items()}
    told = {"statuses": statuses, "resumes": second.row.resumes, "losses": same, "messages": _messages(second, whole)}
    kept.add(NAME, RESUMED, "ok" if second.row.status == whole.row.status == "ok" else "error", found=told)
    return f"{RESUMED}: {statuses}, {second.row.resumes} times"


def _messages(*results: Any) -> list[str]:
    return [result.row.message for result in results if result.row.message]
