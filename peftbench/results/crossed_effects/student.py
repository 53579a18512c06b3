"""Student's t: critical values and p values, also for degrees of freedom that are no whole number."""

from __future__ import annotations

from typing import overload

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtr, stdtrit  # type: ignore[import-untyped]

Array = NDArray[np.float64]
LEVEL = 0.05
"""Significance level of all tests; intervals have the confidence 1 - ``LEVEL``."""


@overload
def t_quantile(degrees_of_freedom: float, level: float = LEVEL) -> float: ...
@overload
def t_quantile(degrees_of_freedom: Array, level: float = LEVEL) -> Array: ...
def t_quantile(degrees_of_freedom: Array | float, level: float = LEVEL) -> Array | float:
    """Return the two-sided critical value of Student's t, which scales a standard error to a half width.

    Args:
        degrees_of_freedom: one or many, above 0; infinity gives the normal distribution.
        level: probability outside of the interval.
    """
    # scipy.stats has the same number, but takes a second to import
    found = stdtrit(np.minimum(degrees_of_freedom, 1e9), 1 - level / 2)
    return float(found) if np.ndim(found) == 0 else found


def p_value(value: float, error: float, degrees_of_freedom: float) -> float:
    """Return the two-sided p value of a t statistic; 1 for no difference, 0 for a difference without any variance."""
    if value == 0:
        return 1.0
    return float(2 * stdtr(min(degrees_of_freedom, 1e9), -abs(value) / error)) if error > 0 else 0.0
