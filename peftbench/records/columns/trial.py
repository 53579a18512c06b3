"""The columns of ``trials`` that identify a trial: what ran, with which settings and inputs, and how it ended."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from peftbench.records.columns.group import ColumnGroup

SCHEMA_VERSION = 2
"""History: 1 (2026-11) first schema."""


@dataclass(frozen=True, kw_only=True)
class IdentityColumns(ColumnGroup):
    """What the trial is."""

    key: Annotated[str, "hash of everything that decides the numbers; the row's identity"]
    suite: Annotated[str, "the suite's name"]
    base: Annotated[str, "base model as named in the suite; of a local folder its last part"]
    method: Annotated[str, "method name"]
    cell: Annotated[str, "readable name of the grid cell: method, rank and its options that are axes, precision"]
    precision: Annotated[str, "precision name"]
    rank: Annotated[int | None, "LoRA's r, an adapter's width, or virtual tokens; null if the method has no rank"]
    seed: Annotated[int | None, "seed of initialisation, data order and dropout; null for the untuned base model"]


@dataclass(frozen=True, kw_only=True)
class OutcomeColumns(ColumnGroup):
    """How the trial ended."""

    status: Annotated[str, "ok unsupported oom diverged inert corrupt killed timeout error skipped"]
    phase: Annotated[str | None, "phase in which a trial that is not ok ended"] = None
    message: Annotated[str | None, "why a trial is not ok"] = None


@dataclass(frozen=True, kw_only=True)
class SettingsColumns(ColumnGroup):
    """What the suite asked for."""

    settings_json: Annotated[str, "every resolved setting as JSON; nested keys as in the suite"] = "{}"
    learning_rate: Annotated[float | None, "peak learning rate"] = None
    learning_rate_source: Annotated[
        str | None,
        "where the rate is from. suite: given; search: selected on validation; paper: profile; recipe: the method's, "
        "tuned on the built-in base; rule: default by method and width, untuned",
    ] = None
    defaults_json: Annotated[
        str | None, "as JSON, settings that the suite does not give and that follow from base and data, each with why"
    ] = None
    optimizer: Annotated[str | None, "optimizer name"] = None
    batch_size: Annotated[int | None, "examples per optimizer step"] = None
    micro_batch_size: Annotated[int | None, "examples per forward pass"] = None
    sequence_length: Annotated[int | None, "longest training example, tokens"] = None
    device: Annotated[str | None, "cpu or cuda"] = None
    threads: Annotated[int | None, "CPU threads of the trial"] = None
    workers: Annotated[
        int | None, "trials that ran at the same time on this machine; on a cluster, how many its node can run"
    ] = None
    protocol: Annotated[int | None, "version of the measuring protocol; rows of different versions do not compare"] = (
        None
    )
    schema_version: Annotated[int, "version of this schema"] = SCHEMA_VERSION


@dataclass(frozen=True, kw_only=True)
class InputColumns(ColumnGroup):
    """Hashes of what went in."""

    base_sha256: Annotated[str | None, "SHA-256 of the base model's config, weights and tokenizer files"] = None
    data_sha256: Annotated[str | None, "SHA-256 of the tasks' examples"] = None
    batches_sha256: Annotated[
        str | None, "SHA-256 of the training batches in order; equal for all methods of a seed"
    ] = None
