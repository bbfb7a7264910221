# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

from math import exp, log

import numpy as np
import pytest
import torch
from odc.geo.geobox import GeoBox
from pyproj import Transformer
from rasterio.transform import Affine
from torch import Tensor
from torch.nn.functional import avg_pool2d, cross_entropy

from torchgeo_mapsr.datasets import region_map
from torchgeo_mapsr.losses import RegionCrossEntropy


def blocks(size: int, n: int) -> Tensor:
    """Regions of n × n pixels, numbered row by row."""
    row = torch.arange(size) // n
    return (row[:, None] * (size // n) + row + 1)[None]


def test_pooling_is_the_special_case() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 5, 24, 24, generator=generator)
    label = torch.randint(5, (2, 4, 4), generator=generator)
    share = torch.ones(2, 4, 4)
    region = blocks(24, 6).expand(2, -1, -1)
    pooled = avg_pool2d(logits, 6)
    mean = RegionCrossEntropy()(logits, region, label, share)
    torch.testing.assert_close(mean, cross_entropy(pooled, label))
    summed = RegionCrossEntropy('sum')(logits / 9, region, label, share)
    torch.testing.assert_close(summed, cross_entropy(4 * pooled, label))


def test_rotated_grid_and_fractional_ratio() -> None:
    """Against a loop over pixels that projects each centre by itself."""
    hr = GeoBox((41, 37), Affine(0.7, 0, 325e3, 0, -0.7, 4.21e6), 'EPSG:26918')
    lr = GeoBox((9999, 9999), Affine(7.3, 0, 1.69e6, 0, -7.3, 1.9e6), 'EPSG:5070')
    regions = region_map(hr, lr)
    top, left, height, width = regions.window
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(1, 3, *hr.shape, generator=generator)
    label = torch.randint(-1, 3, (1, height, width), generator=generator)
    valid = torch.rand(1, *hr.shape, generator=generator) > 0.2
    share = torch.from_numpy(regions.share).float().view(1, height, width)

    to_albers = Transformer.from_crs(26918, 5070, always_xy=True)
    found: dict[tuple[int, int], list[Tensor]] = {}
    for i in range(hr.height):
        for j in range(hr.width):
            x, y = to_albers.transform(
                325e3 + 0.7 * (j + 0.5), 4.21e6 - 0.7 * (i + 0.5)
            )
            cell = int((1.9e6 - y) // 7.3) - top, int((x - 1.69e6) // 7.3) - left
            if valid[0, i, j]:
                found.setdefault(cell, []).append(logits[0, :, i, j])
    assert len(found) > 20
    for reduction in ('sum', 'mean'):
        total = weights = 0.0
        for (row, col), pixels in found.items():
            c, weight = int(label[0, row, col]), float(share[0, row, col])
            if c < 0:
                continue
            scores = [float(v) for v in sum(pixels)]  # type: ignore[union-attr, arg-type]
            if reduction == 'mean':
                scores = [v / len(pixels) for v in scores]
            total -= weight * (scores[c] - log(sum(exp(v) for v in scores)))
            weights += weight
        loss = RegionCrossEntropy(reduction)  # type: ignore[arg-type]
        mask_region = torch.from_numpy(regions.mask_region)[None]
        value = loss(logits, mask_region, label, share, valid)
        assert float(value) == pytest.approx(total / weights, rel=1e-4)


def test_cut_cells_weigh_by_their_share() -> None:
    logits = torch.zeros(1, 2, 1, 4)
    logits[0, 0] = torch.tensor([3.0, 3.0, 3.0, -2.0])
    region = torch.tensor([[[1, 1, 1, 2]]])
    label = torch.zeros(1, 1, 2, dtype=torch.long)
    loss = RegionCrossEntropy()
    ends = [
        float(loss(logits, region, label, torch.tensor([[[1.0, s]]])))
        for s in (0, 1, 1 / 3)
    ]
    whole, cut = log(1 + exp(-3)), log(1 + exp(2))
    expected = [whole, (whole + cut) / 2, (whole + cut / 3) / (4 / 3)]
    assert ends == pytest.approx(expected, rel=1e-5)


def test_weights_of_classes() -> None:
    generator = torch.Generator().manual_seed(2)
    logits = torch.randn(1, 3, 8, 8, generator=generator)
    label = torch.tensor([[[0, 1], [2, -1]]])
    weight = [0.5, 1.0, 4.0]
    pooled = avg_pool2d(logits, 4)
    expected = cross_entropy(
        pooled, label, weight=torch.tensor(weight), ignore_index=-1
    )
    loss = RegionCrossEntropy(weight=weight)
    assert not loss.state_dict()
    value = loss(logits, blocks(8, 4), label, torch.ones(1, 2, 2))
    torch.testing.assert_close(value, expected)
    # and in any precision, or that of the buffer
    for one in (loss, RegionCrossEntropy(weight=weight).double()):
        double = one(logits.double(), blocks(8, 4), label, torch.ones(1, 2, 2))
        torch.testing.assert_close(double, expected.double(), rtol=1e-6, atol=1e-6)
    single = loss.double()(logits, blocks(8, 4), label, torch.ones(1, 2, 2))
    torch.testing.assert_close(single, expected)


def test_gradient() -> None:
    generator = torch.Generator().manual_seed(3)
    logits = torch.randn(
        2, 3, 6, 6, generator=generator, dtype=torch.float64, requires_grad=True
    )
    region = torch.randint(0, 6, (2, 6, 6), generator=generator)
    label = torch.randint(-1, 3, (2, 1, 5), generator=generator)
    share = torch.rand(2, 1, 5, generator=generator, dtype=torch.float64)
    for loss in (RegionCrossEntropy('sum'), RegionCrossEntropy('mean')):
        assert torch.autograd.gradcheck(lambda x: loss(x, region, label, share), logits)  # noqa: B023


def test_without_a_label_it_is_zero() -> None:
    """So is its gradient: a process whose chips have no label waits for nobody."""
    logits = torch.randn(1, 3, 4, 4, requires_grad=True)
    region, share = torch.zeros(1, 4, 4, dtype=torch.long), torch.zeros(1, 1, 2)
    for label in (torch.tensor([[[0, 1]]]), torch.tensor([[[-1, -1]]])):
        value = RegionCrossEntropy()(logits, region, label, share)
        value.backward()
        assert float(value) == 0
        assert not logits.grad.any()


def test_half_precision_adds_up_in_single() -> None:
    logits = torch.full((1, 2, 64, 64), 1.0, dtype=torch.bfloat16)
    logits[:, 1] = 1.0078125
    label, share = torch.ones(1, 1, 1, dtype=torch.long), torch.ones(1, 1, 1)
    region = torch.ones(1, 64, 64, dtype=torch.long)
    value = RegionCrossEntropy('sum')(logits, region, label, share)
    assert float(value) == pytest.approx(np.log1p(np.exp(-32)), abs=1e-6)
    assert value.dtype == torch.float32
