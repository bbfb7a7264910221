# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

import numpy as np
import pytest
import torch
from odc.geo.geobox import GeoBox
from torch import Tensor
from torchgeo_mapsr.tasks.evidence import batch_evidence, cell_coordinates

from torchgeo_mapsr._compat import Sample
from torchgeo_mapsr.datasets import Crosswalk, LRHRPair, collate_pairs, lr_coordinates
from torchgeo_mapsr.datasets.geo.region import region_map
from torchgeo_mapsr.datasets.scene.scene import Scene
from torchgeo_mapsr.models.head.prior import evidence, label_shares, reach_of
from torchgeo_mapsr.tasks.cells import BatchCells

FREQUENCY = torch.tensor([0.1, 0.4, 0.3, 0.2])
CROSSWALK = Crosswalk.load('nlcd', 'land-cover-4')


@pytest.fixture(scope='module')
def pair(made_scene: Scene) -> LRHRPair:
    return LRHRPair(made_scene.imagery, made_scene.labels)


def cells_of(*samples: Sample) -> BatchCells:
    return BatchCells.of(collate_pairs(samples), CROSSWALK)


def exact(pair: LRHRPair, grid: GeoBox) -> Tensor:
    """Places on the chip's window of LR cells, by pyproj."""
    window = region_map(grid, pair.labels[0].geobox).window
    at = lr_coordinates(grid, pair.labels[0].geobox)
    return torch.from_numpy(np.moveaxis(at, 0, -1) - window[:2]).float()


@pytest.mark.parametrize(
    ('size', 'error'), [((384, 448), 0.01), ((128, 128), 0.05), ((100, 70), 0.15)]
)
def test_coordinates_are_those_of_the_projection(
    pair: LRHRPair, size: tuple[int, int], error: float
) -> None:
    grid = pair.imagery.geobox[37 : 37 + size[0], 11 : 11 + size[1]]
    cells = cells_of(pair.sample(grid))
    found = cell_coordinates(cells.region, cells.share)[0]
    # in cells of 30 pixels; a chip of two cells has few centres to go by
    torch.testing.assert_close(found, exact(pair, grid), atol=error, rtol=0)


def test_coordinates_of_a_chip_in_one_cell() -> None:
    region = torch.ones(1, 4, 6, dtype=torch.int64)
    found = cell_coordinates(region, torch.tensor([[[0.1]]]))
    assert (found == 0.5).all()
    nothing = cell_coordinates(torch.zeros_like(region), torch.zeros(1, 2, 2))
    assert nothing.isfinite().all()


@pytest.mark.parametrize('sigma', [0.5, 1.0])
def test_same_as_from_the_rasters(pair: LRHRPair, sigma: float) -> None:
    """Where the smoothing does not reach beyond the window of the chip."""
    grids = [pair.imagery.geobox[:256, :256], pair.imagery.geobox[100:356, 190:446]]
    cells = cells_of(*(pair.sample(grid) for grid in grids))
    found = batch_evidence(cells.label, cells.region, cells.share, FREQUENCY, sigma)
    reach = reach_of(sigma)
    for i, grid in enumerate(grids):
        shares, support = label_shares(grid, pair.labels, CROSSWALK, sigma)
        wanted = evidence(shares, support, FREQUENCY)
        window = region_map(grid, pair.labels[0].geobox).window
        row, col = exact(pair, grid).unbind(-1)
        inside = (row > reach + 1) & (row < window[2] - reach - 1)
        inside &= (col > reach + 1) & (col < window[3] - reach - 1)
        assert inside.float().mean() > 0.1
        error = (found[i] - wanted)[:, inside].abs()
        assert error.mean() < 0.02
        assert error.max() < 0.5
        agree = found[i].argmax(0) == wanted.argmax(0)
        assert agree[inside].float().mean() > 0.99


@pytest.mark.parametrize('turns', [1, 2, 3])
def test_turns_with_the_chip(pair: LRHRPair, turns: int) -> None:
    sample = pair.sample(pair.imagery.geobox[:200, :260])
    turned = sample | {
        key: torch.rot90(sample[key], turns, (-2, -1)).flip(-1)
        for key in ('image', 'mask_region', 'mask_valid')
    }
    plain, other = (
        batch_evidence(c.label, c.region, c.share, FREQUENCY)
        for c in (cells_of(sample), cells_of(turned))
    )
    expected = torch.rot90(plain, turns, (-2, -1)).flip(-1)
    torch.testing.assert_close(other, expected, atol=1e-3, rtol=1e-3)


def test_no_label_says_nothing() -> None:
    region = torch.arange(1, 17).view(4, 4).repeat_interleave(9, 0)
    region = region.repeat_interleave(9, 1)[None]
    label, share = torch.full((1, 4, 4), -1), torch.ones(1, 4, 4)
    assert not batch_evidence(label, region, share, FREQUENCY).any()
    label[0, 0, 0] = 2
    found = batch_evidence(label, region, share, FREQUENCY)[0]
    assert found[:, :9, :9].argmax(0).eq(2).all()
    assert not found[:, 32:, 32:].any()
