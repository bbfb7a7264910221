# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

import torch

from torchgeo_mapsr.models.head.samples import BLOCK, CellSamples, PixelSamples


def cells(place: list[tuple[int, int, int]]) -> CellSamples:
    n = len(place)
    return CellSamples(
        torch.arange(2.0 * n).view(n, 2),
        torch.arange(n) % 3 - 1,
        torch.linspace(0.99, 1, n),
        torch.tensor(place),
    )


def test_usable_cells_are_whole_and_labelled() -> None:
    samples = CellSamples(
        torch.zeros(4, 1),
        torch.tensor([0, -1, 2, 1]),
        torch.tensor([1.0, 1.0, 0.9995, 0.99]),
        torch.zeros(4, 3, dtype=torch.int64),
    )
    assert samples.usable.tolist() == [True, False, True, False]


def test_blocks_partition_each_raster_into_squares() -> None:
    """By definition: same raster, and the same quotient of row and column."""
    place = [
        (raster, row, col)
        for raster in (0, 2)
        for row in range(-7, 8)
        for col in range(-4, 5)
    ]
    block = cells(place).block
    for i in range(0, len(place), 7):
        for j in range(len(place)):
            same = (
                place[i][0] == place[j][0]
                and place[i][1] // BLOCK == place[j][1] // BLOCK
                and place[i][2] // BLOCK == place[j][2] // BLOCK
            )
            assert bool(block[i] == block[j]) == same
    # Numbered without gaps, at most BLOCK² cells each; negative rows are no exception.
    count = torch.bincount(block)
    assert count.min() >= 1
    assert count.max() == BLOCK**2


def test_some_of_the_cells() -> None:
    samples = cells([(0, i, i) for i in range(6)])
    for index in (torch.tensor([4, 0]), samples.label == 1):
        some = samples[index]
        assert len(some) == 2
        assert torch.equal(some.features, samples.features[index])
        assert torch.equal(some.label, samples.label[index])
        assert torch.equal(some.share, samples.share[index])
        assert torch.equal(some.place, samples.place[index])


def test_pixels_have_a_length() -> None:
    assert len(PixelSamples(torch.zeros(5, 3), torch.zeros(5, dtype=torch.int64))) == 5
