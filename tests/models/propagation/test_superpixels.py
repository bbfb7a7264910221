# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

import pytest
import torch
from scipy import ndimage
from torch import Tensor

from torchgeo_mapsr.models.propagation.superpixels import superpixels


def fields(bands: int, size: tuple[int, int] = (48, 60)) -> tuple[Tensor, Tensor]:
    """An image of four noisy fields, and the field of each pixel."""
    generator = torch.Generator().manual_seed(bands)
    rows, cols = torch.meshgrid(*(torch.arange(n) for n in size), indexing='ij')
    field = (rows > 0.4 * cols + 11).long() * 2 + (cols > 33).long()
    colours = torch.rand(4, bands, generator=generator) * 100
    noise = torch.randn(bands, *size, generator=generator)
    return colours[field].permute(2, 0, 1) + noise, field


@pytest.mark.parametrize('bands', [1, 3, 4, 7])
def test_segments(bands: int) -> None:
    image, field = fields(bands)
    label = superpixels(image, 6, 0.2)
    assert label.dtype == torch.int64
    n = int(label.max())
    assert label.unique().tolist() == list(range(1, n + 1))
    assert 0.5 < n / (48 * 60 / 6**2) < 1.5
    # Each is one piece, and lies in one field but for a few pixels.
    for i in range(1, n + 1):
        assert ndimage.label(label.numpy() == i)[1] == 1
    shares = torch.zeros(n + 1, 4).index_put_(
        (label.flatten(), field.flatten()), torch.tensor(1.0), accumulate=True
    )
    assert shares.amax(1).sum() / shares.sum() > 0.985


def test_units_do_not_matter() -> None:
    image, _ = fields(3)
    scaled = image * torch.tensor([100.0, 0.5, 8.0])[:, None, None] + 64
    assert torch.equal(superpixels(image, 6, 0.2), superpixels(scaled, 6, 0.2))


def test_compactness() -> None:
    image, _ = fields(3)
    rows, cols = torch.meshgrid(torch.arange(48), torch.arange(60), indexing='ij')

    def width(label: Tensor) -> float:
        count = torch.bincount(label.flatten())[1:]
        spread = torch.tensor(0.0)
        for axis in (rows, cols):
            place = axis.flatten().double()
            mean = torch.bincount(label.flatten(), place)[1:] / count
            square = torch.bincount(label.flatten(), place**2)[1:] / count
            spread = spread + ((square - mean**2) * count).sum() / count.sum()
        return float(spread)

    assert width(superpixels(image, 6, 100)) < width(superpixels(image, 6, 0.01))


def test_invalid_pixels_are_in_none() -> None:
    image, _ = fields(3)
    valid = torch.ones(48, 60)
    valid[:20, 25:] = 0
    valid[40, 3] = 0
    broken = torch.where(valid > 0, image, torch.nan)
    label = superpixels(broken, 6, 0.2, valid)
    assert torch.equal(label == 0, valid == 0)
    assert label.unique().tolist() == list(range(int(label.max()) + 1))
    assert not superpixels(image, 6, 0.2, torch.zeros(48, 60)).any()


@pytest.mark.parametrize('size', [(1, 1), (1, 7), (3, 2), (30, 40)])
def test_little_to_see(size: tuple[int, int]) -> None:
    label = superpixels(torch.full((3, *size), 7.0), 10, 0.2)
    assert label.shape == size
    assert label.min() == 1
    assert label.unique().tolist() == list(range(1, int(label.max()) + 1))
