# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

from collections.abc import Callable

import numpy as np
import pytest
import torch
from rasterio.transform import Affine
from torch.utils.data import DataLoader

from torchgeo_mapsr.datasets import ExemplarLabels
from torchgeo_mapsr.errors import InputError

Write = Callable[..., str]


@pytest.fixture
def labels() -> np.ndarray:
    return np.random.default_rng(0).integers(1, 5, (50, 70)).astype('uint8')


def test_chips_are_windows_of_the_labels(write: Write, labels: np.ndarray) -> None:
    data = ExemplarLabels(write('a.tif', labels), size=32)
    # every 16 pixels, and the last ones end with the raster
    assert len(data) == 3 * 4
    expected = torch.from_numpy(labels[18:50, 38:70].astype(np.int64)) - 1
    assert torch.equal(data[len(data) - 1]['mask'], expected)
    (batch,) = DataLoader(data, batch_size=12)
    assert batch['mask'].shape == (12, 32, 32)
    shares = np.bincount(labels.ravel(), minlength=5)[1:] / labels.size
    np.testing.assert_allclose(data.shares, shares)
    assert data.absent == ()


def test_incomplete_chips_are_left_out(write: Write, labels: np.ndarray) -> None:
    labels[5, 5] = 0
    elsewhere = Affine(1, 0, 0, 0, -1, 100)
    paths = [
        write('a.tif', labels, nodata=0),
        write('b.tif', labels[:20, :20], elsewhere, nodata=0),
    ]
    data = ExemplarLabels(paths, size=32, stride=32)
    assert len(data) == 5
    assert all((data[i]['mask'] >= 0).all() for i in range(5))


def test_draws_turn_and_repeat(write: Write, labels: np.ndarray) -> None:
    data = ExemplarLabels(write('a.tif', labels[:32, :32]), size=32)
    generator = torch.Generator().manual_seed(0)
    drawn = data.draw(64, generator)
    (chip,) = (data[0]['mask'],)
    ways = [torch.rot90(c, k) for k in range(4) for c in (chip, chip.flip(1))]
    seen = {next(i for i, w in enumerate(ways) if torch.equal(d, w)) for d in drawn}
    assert seen == set(range(8))
    again = data.draw(64, torch.Generator().manual_seed(0))
    assert torch.equal(drawn, again)


def test_other_legends_are_brought_to_the_model(write: Write) -> None:
    codes = np.array([[1, 2], [3, 6]], 'uint8').repeat(8, 0).repeat(8, 1)
    path = write('a.tif', codes, nodata=15)
    data = ExemplarLabels(path, 16, legend='chesapeake-7')
    assert data[0]['mask'][::8, ::8].tolist() == [[0, 1], [2, 3]]
    codes[codes == 2] = 1
    data = ExemplarLabels(write('b.tif', codes), 16, legend='chesapeake-7')
    assert data.absent == ('Forest',)


class TestMistakes:
    def test_other_classes(self, write: Write) -> None:
        path = write('a.tif', np.full((16, 16), 41, 'uint8'))
        with pytest.raises(InputError, match="code 41, which is no class of 'land-co"):
            ExemplarLabels(path, 16)
        with pytest.raises(InputError, match="no crosswalk from legend 'nlcd' to"):
            ExemplarLabels(path, 16, legend='nlcd', target='openearthmap')

    def test_no_chip(self, write: Write) -> None:
        path = write('a.tif', np.ones((16, 16), 'uint8'))
        with pytest.raises(InputError, match='no chip of 17 × 17 pixels'):
            ExemplarLabels(path, 17)
