"""Outcomes per example of metrics that belong to a whole split: Pearson's and Matthews' correlation, macro F1.

A score is the mean of its outcomes, and intervals and paired tests come from them. Such a metric has no outcomes of its
own, so an example gets the metric plus its influence on it: n times the derivative of the metric in the example's
weight. The influences add up to zero, so the mean is the metric itself; their variance over examples gives the
metric's standard error for many examples, and their differences that of a difference on the same examples.

References:
    Jaeckel 1972, "The infinitesimal jackknife"; Efron 1982, "The Jackknife, the Bootstrap and Other Resampling Plans",
    chapter 6.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

_Metric = Callable[[np.ndarray], float]
"""A metric of a confusion matrix of shares (targets, predictions)."""
_ROUNDING = 1e-6
"""Largest spread of predictions, relative to the largest of them, that is rounding."""
_STEP = 1e-6
"""Share of a cell by which it is changed for a derivative."""


def pearson(targets: Sequence[float], predictions: Sequence[float]) -> tuple[float | None, list[float]]:
    """Return Pearson's correlation and an outcome per example; None, and zeros, if one of the two does not vary.

    Predictions are 32-bit numbers of batches of several shapes: that they differ by rounding is no variation.

    With z-scores a and b, the influence of an example is a b - r (a^2 + b^2) / 2.
    """
    pair = np.asarray(targets, dtype=float), np.asarray(predictions, dtype=float)
    spreads = [x.std() for x in pair]
    rounding = 1e-12, _ROUNDING
    if any(s <= least * abs(x).max() for s, x, least in zip(spreads, pair, rounding, strict=True)):
        return None, [0.0] * len(targets)
    a, b = ((x - x.mean()) / spread for x, spread in zip(pair, spreads, strict=True))
    r = float((a * b).mean())
    return r, [float(x) for x in r + a * b - r * (a**2 + b**2) / 2]


def of_classes(metric: str, targets: Sequence[int], predictions: Sequence[int], classes: int) -> list[float]:
    """Return an outcome per example of ``matthews`` or ``f1_macro``.

    Args:
        metric: its name.
        targets: index of the right class of each example.
        predictions: index of the class that was predicted.
        classes: number of classes; those that occur nowhere do not count.
    """
    shares = np.zeros((classes, classes))
    np.add.at(shares, (targets, predictions), 1 / len(targets))
    value = _METRICS[metric](shares)
    slopes = {(t, p): _slope(_METRICS[metric], shares, t, p) for t, p in {*zip(targets, predictions, strict=True)}}
    centre = sum(share * slope for (t, p), slope in slopes.items() if (share := shares[t, p]))
    return [value + slopes[pair] - centre for pair in zip(targets, predictions, strict=True)]


def _slope(metric: _Metric, shares: np.ndarray, target: int, prediction: int) -> float:
    """Return the derivative of a metric in one cell, the difference to both sides: the cell holds an example."""
    ends = []
    for step in (_STEP, -_STEP):
        changed = shares.copy()
        changed[target, prediction] += step * shares[target, prediction]
        ends.append(metric(changed / changed.sum()))
    return (ends[0] - ends[1]) / (2 * _STEP * shares[target, prediction])


def _matthews(shares: np.ndarray) -> float:
    """Return Matthews' correlation for any number of classes (Gorodkin 2004); 0 if one of the two does not vary."""
    right, asked, said = np.trace(shares), shares.sum(1), shares.sum(0)
    spread = (1 - (said**2).sum()) * (1 - (asked**2).sum())
    return float((right - (asked * said).sum()) / math.sqrt(spread)) if spread > 1e-12 else 0.0


def _f1_macro(shares: np.ndarray) -> float:
    """Return the mean of the classes' F1, over classes that occur among targets or predictions."""
    both = shares.sum(1) + shares.sum(0)
    return float((2 * np.diag(shares)[both > 0] / both[both > 0]).mean())


_METRICS: dict[str, _Metric] = {"matthews": _matthews, "f1_macro": _f1_macro}
