# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

import math

import numpy as np
import pytest
import torch
from scipy.ndimage import convolve
from torch import Tensor

from torchgeo_mapsr.models.head.prior import (
    PIXELS,
    TRUST,
    choose_prior,
    choose_weight,
    neighbour_weights,
)


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


def grid(side: int) -> Tensor:
    rows, cols = np.divmod(np.arange(side * side), side)
    return torch.from_numpy(np.stack([0 * rows, rows, cols], 1))


def halves(side: int = 40) -> Tensor:
    """Labels of two classes: the halves of a scene."""
    return (grid(side)[:, 2] >= side // 2).long()


def lots(side: int = 40) -> Tensor:
    """Labels that are drawn by lot."""
    rng = np.random.default_rng(0)
    return torch.from_numpy(rng.integers(0, 2, side * side))


def chosen(label: Tensor, knowledge: float) -> float:
    """The weight, where imagery says so much of each cell's label."""
    generator = torch.Generator().manual_seed(0)
    n = len(label)
    logits = torch.randn(n, 2, generator=generator)
    logits[torch.arange(n), label] += knowledge
    frequency = torch.bincount(label, minlength=2) / n
    weight, _ = choose_prior(
        logits.log_softmax(1),
        label,
        grid(math.isqrt(n)),
        torch.arange(n),
        frequency,
        torch.full((n,), 1 / n).double(),
    )
    return weight


def test_weight_grows_with_what_labels_know() -> None:
    # Useless imagery, and neighbours that are nearly always right: all that is allowed.
    assert chosen(halves(), 0.0) == pytest.approx(TRUST * 4 * PIXELS)
    # Useful imagery, and neighbours that say nothing.
    assert chosen(lots(), 3.0) < 0.1
    # Imagery that is right, and neighbours that are as well: no more than the cut.
    assert chosen(halves(), 8.0) <= TRUST * PIXELS


def test_weight_without_neighbours_is_zero() -> None:
    label = halves(4)
    log_p = torch.zeros(16, 2).log_softmax(1)
    weight, loss = choose_weight(
        log_p,
        torch.zeros(2, 16),
        torch.zeros(16),
        label,
        torch.tensor([0.5, 0.5]),
        torch.full((16,), 1 / 16).double(),
    )
    assert (weight, loss) == (0, pytest.approx(math.log(2)))
