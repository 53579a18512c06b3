"""Trials on one device and on several: run, and compared."""

from __future__ import annotations

import pytest

from peftbench.records import Status
from peftbench.runner.executor import local

TOLERANCE = 1e-5
"""Largest relative difference of losses and gradient norms in fp32: sums are added up in another order."""


def finished(jobs):
    """Run jobs, and return their results in order."""
    found = {e.job.key: e.result for e in local.run(jobs, workers=1) if e.result is not None}
    return [found[job.key] for job in jobs]


def same_training(one, other, tolerance=TOLERANCE):
    """Check that two results are of the same training, up to rounding."""
    assert other.row.status == Status.OK, other.row.message
    assert other.row.batches_sha256 == one.row.batches_sha256
    for a, b in zip(one.steps, other.steps, strict=True):
        assert b.loss == pytest.approx(a.loss, rel=tolerance)
        assert b.gradient_norm == pytest.approx(a.gradient_norm, rel=10 * tolerance)
        assert (a.validation_loss is None) == (b.validation_loss is None)
        if a.validation_loss is not None:
            assert b.validation_loss == pytest.approx(a.validation_loss, rel=tolerance)
        assert (a.loss_tokens, a.nonpadding_tokens) == (b.loss_tokens, b.nonpadding_tokens)
    for name in ("trainable_parameters", "stored_parameters", "checkpoint_bytes", "moved_tensors", "stalled_tensors"):
        assert getattr(one.row, name) == getattr(other.row, name), name
    assert [s.value for s in one.scores] == pytest.approx([s.value for s in other.scores], abs=0.13)
