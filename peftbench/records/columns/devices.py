"""The columns of ``trials`` about several devices that share one trial."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from peftbench.records.columns.group import ColumnGroup


@dataclass(frozen=True, kw_only=True)
class DevicesColumns(ColumnGroup):
    """Null for a trial on one device. Its peaks elsewhere are then those of the rank with the highest one."""

    devices: Annotated[str | None, "how several devices share the trial: strategy, count, offload"] = None
    rank_processes: Annotated[int | None, "processes of the trial, one for each device"] = None
    rank_backend: Annotated[str | None, "how they exchange tensors: gloo (cpu), nccl (cuda)"] = None
    total_train_bytes: Annotated[int | None, "peak_train_bytes of all ranks together"] = None
    total_evaluate_bytes: Annotated[int | None, "peak_evaluate_bytes of all ranks together"] = None
    ranks_json: Annotated[str | None, "as JSON, rank -> its columns on memory, without those that are null"] = None
