"""The memory of loading a base model, counted by the ledger: every storage but those of tensors without values."""

from __future__ import annotations

from pathlib import Path
from unittest import mock

import torch

from peftbench.measure.ledger import Ledger
from peftbench.models import load, unreached
from peftbench.models.precision import effective
from peftbench.records import Category


class RealLedger(Ledger):
    """Counts no tensors on ``meta``, which take no memory."""

    def track(self, tensor: torch.Tensor, category: Category, *, move: bool = True) -> None:
        """Count a tensor's storage."""
        if not tensor.is_meta:
            super().track(tensor, category, move=move)


def measured(folder: Path, precision: str, *, forward: bool = False, trains_base: bool = False, **where) -> int:
    """Return the most bytes of tensors at one moment while a base model is loaded.

    Args:
        folder: the base model.
        precision: name of the precision.
        forward: whether to count the pass over a few tokens that follows.
        trains_base: whether its own weights will train.
        **where: as for ``load``.
    """
    ledger = RealLedger()
    place = {"device": "cpu", "trust_remote_code": False} | where
    names = unreached.names if forward else lambda *_: frozenset()
    # transformers then reads tensors in this thread, where the ledger sees them
    one_thread = mock.patch.dict("os.environ", {"HF_DEACTIVATE_ASYNC_LOAD": "1"})
    with one_thread, mock.patch.object(unreached, "names", names), ledger:
        load.load(folder, effective(precision, {}), trains_base, True, **place)
    return ledger.bytes.peak_bytes
