"""The columns of ``trials`` about parameters and files: the base model's, the method's, and what was saved."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from peftbench.records.columns.group import ColumnGroup


@dataclass(frozen=True, kw_only=True)
class SizeColumns(ColumnGroup):
    """Counts of parameters, and bytes of weights and files."""

    base_parameters: Annotated[
        int | None, "parameters of the base model without a head for whole texts, tied ones once"
    ] = None
    left_out_modules: Annotated[
        str | None, "modules of the base model that text does not pass through, such as vision towers: they stay frozen"
    ] = None
    left_out_parameters: Annotated[int | None, "their parameters, part of base_parameters"] = None
    trainable_parameters: Annotated[int | None, "parameters that are trained, without those of a head"] = None
    largest_turn_parameters: Annotated[
        int | None,
        "the most of trainable_parameters that train in one step, of layers that train in turns; null where all do",
    ] = None
    head_parameters: Annotated[
        int | None, "parameters of the head for whole texts, which trains with every method; null without such a head"
    ] = None
    adapted_share: Annotated[
        float | None, "share of the parameters in the base model's weight matrices (no embedding, no head) it adapts"
    ] = None
    unadapted_matrices: Annotated[
        str | None, "names of the weight matrices that it does not adapt, * for a layer's number"
    ] = None
    stored_parameters: Annotated[int | None, "parameters in the saved weight files"] = None
    base_weights_bytes: Annotated[
        int | None, "base weights and quantization state as loaded, tied ones once, bytes"
    ] = None
    base_bits_per_weight: Annotated[float | None, "base_weights_bytes x 8 / base_parameters"] = None
    loaded_dtypes: Annotated[
        str | None, "storage types of the base model's weights, each with its share of the parameters"
    ] = None
    checkpoint_bytes: Annotated[
        int | None, "saved weight files of the adapter (of the whole model for full fine-tuning), bytes"
    ] = None
