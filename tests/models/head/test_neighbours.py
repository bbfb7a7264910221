# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

import numpy as np
import pytest
import torch
from scipy.ndimage import convolve
from torch import Tensor

from torchgeo_mapsr.models.head.neighbours import neighbour_weights


def scattered(seed: int = 0) -> Tensor:
    """Places of some cells of three rasters, in any order."""
    rng = np.random.default_rng(seed)
    place = np.array(
        [
            (raster, row + offset, col - offset)
            for raster, offset in ((0, 0), (1, -7), (4, 1000))
            for row in range(9)
            for col in range(11)
            if rng.random() < 0.8
        ]
    )
    rng.shuffle(place)
    return torch.from_numpy(place)


@pytest.mark.parametrize(('sigma', 'reach'), [(0.5, 2), (1.0, 2), (1.0, 3)])
def test_neighbours_equal_a_dense_convolution(sigma: float, reach: int) -> None:
    place = scattered()
    values = np.random.default_rng(1).random(len(place))
    around = neighbour_weights(place, sigma, reach) @ values
    offset = np.arange(-reach, reach + 1)
    kernel = np.exp(-(offset[:, None] ** 2 + offset**2) / (2 * sigma**2))
    kernel[reach, reach] = 0
    kernel /= kernel.sum()
    for number in (0, 1, 4):
        members = (place[:, 0] == number).numpy()
        at = place[members, 1:].numpy()
        rows, cols = (at - at.min(0)).T
        full = np.zeros((rows.max() + 1, cols.max() + 1))
        full[rows, cols] = values[members]
        expected = convolve(full, kernel, mode='constant')[rows, cols]
        np.testing.assert_allclose(around[members], expected, atol=1e-9)


def test_neighbours_are_symmetric_and_without_the_cell() -> None:
    weights = neighbour_weights(scattered(1), 1.0, 2)
    assert abs(weights - weights.T).max() < 1e-12
    assert weights.diagonal().max() == 0
    assert weights.sum(1).max() <= 1 + 1e-9
