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


def welch_half_width(one: Array | float, other: Array | float, freedoms: tuple[Array | float, Array | float]) -> Array:
    """Return the half width of the interval of a difference of two means (Welch 1947, Biometrika 34:28).

    With the squared standard errors a and b of means with n and m degrees of freedom, Student's t has
    (a + b)^2 / (a^2 / n + b^2 / m) of them.

    Args:
        one: squared standard error of one mean, or of many; these need not be of equal size, but broadcast.
        other: that of the other mean.
        freedoms: degrees of freedom of each.

    Returns:
        The half width; 0 where both errors are 0.
    """
    variance = np.asarray(one + other, np.float64)
    # shares, because the squares of very small variances would vanish
    total = np.where(variance > 0, variance, 1.0)
    shares = np.where(variance > 0, one / total, 1.0), other / total
    freedom = 1 / (shares[0] ** 2 / freedoms[0] + shares[1] ** 2 / freedoms[1])
    return np.asarray(t_quantile(freedom) * np.sqrt(variance))


def p_value(value: float, error: float, degrees_of_freedom: float) -> float:
    """Return the two-sided p value of a t statistic; 1 for no difference, 0 for a difference without any variance."""
    if value == 0:
        return 1.0
    return float(2 * stdtr(min(degrees_of_freedom, 1e9), -abs(value) / error)) if error > 0 else 0.0
