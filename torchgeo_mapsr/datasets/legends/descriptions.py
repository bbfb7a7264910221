# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""From a class's description to the mean and spread of the shares in its cells."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from ...errors import InputError

Interval = tuple[float, float]


def described_shares(
    intervals: Mapping[int, Interval], classes: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and standard deviation of the shares that a description allows.

    A share between two bounds is taken to be uniform, so it has the mean (a + b) / 2
    and the standard deviation (b − a) / √12 (Malkin et al. 2019, appendix F). What they
    leave of the cell, R = 1 − Σ cᵢ, belongs to the m classes without bounds; it is
    split among them evenly distributed over all ways to do so (flat Dirichlet), so that
    each has

        mean E[R] / m        variance 2 E[R²] / (m (m + 1)) − (E[R] / m)²

    In the paper's example of medium intensity, impervious is uniform in 0.5 .. 0.8,
    forest and field share the rest, and water is about 0.

    Args:
        intervals: Least and largest share by class index.
        classes: Number of HR classes, C.

    Returns:
        Means and standard deviations, of shape (C,).

    Raises:
        InputError: The bounds are none, or leave less or more than nothing.
    """
    low, high = np.zeros(classes), np.zeros(classes)
    described = np.zeros(classes, dtype=bool)
    for index, (least, most) in intervals.items():
        if not 0 <= least <= most <= 1:
            raise InputError(
                f'a share lies between two bounds of 0 to 1, not {least} and {most}'
            )
        low[index], high[index], described[index] = least, most, True
    mean, variance = (low + high) / 2, (high - low) ** 2 / 12

    left, rest = 1 - mean.sum(), ~described
    if left < -0.01 or (left > 0.01 and not rest.any()):
        raise InputError(
            f'the middles of the described shares add up to {1 - left:.2f}; they may not '
            'exceed 1, and have to reach it where no class is left without bounds'
        )
    left, m = max(left, 0.0), int(rest.sum())
    if m:
        square = left**2 + variance.sum()
        mean[rest] = left / m
        variance[rest] = 2 * square / (m * (m + 1)) - (left / m) ** 2
    return mean, np.sqrt(variance)
