# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch
from affine import Affine
from odc.geo.geobox import GeoBox
from pyproj import Transformer

from torchgeo_mapsr.datasets.geo.plan import Plan
from torchgeo_mapsr.datasets.geo.region import region_map
from torchgeo_mapsr.datasets.imagery import Imagery
from torchgeo_mapsr.datasets.labels import LabelRaster
from torchgeo_mapsr.datasets.legends.crosswalk import Crosswalk
from torchgeo_mapsr.errors import InputError
from torchgeo_mapsr.mapping.collect import (
    Piece,
    Samples,
    gather,
    labelled_places,
    read_labelled,
)
from torchgeo_mapsr.models.backbones.identity import Identity

SHAPE = (300, 410)
NLCD = Crosswalk.load('nlcd', 'land-cover-4')


def write(path: Path, values: np.ndarray, grid: GeoBox, nodata: float) -> Path:
    profile = {
        'driver': 'GTiff',
        'dtype': values.dtype,
        'count': len(values),
        'height': grid.height,
        'width': grid.width,
        'crs': str(grid.crs),
        'transform': grid.affine,
        'nodata': nodata,
    }
    with rasterio.open(path, 'w', **profile) as dataset:
        dataset.write(values)
    return path


@pytest.fixture
def imagery(tmp_path: Path) -> Imagery:
    values = np.random.default_rng(0).normal(size=(2, *SHAPE)).astype(np.float32)
    values[:, :20, :90] = -9999
    grid = GeoBox(SHAPE, Affine(1, 0, 3.7e5, 0, -1, 4.3e6), 'EPSG:26918')
    return Imagery(write(tmp_path / 'imagery.tif', values, grid, -9999))


@pytest.fixture
def labels(tmp_path: Path) -> LabelRaster:
    """NLCD on a rotated grid that covers the left three quarters."""
    x, y = Transformer.from_crs(26918, 5070, always_xy=True).transform(3.7e5, 4.3e6)
    grid = GeoBox((16, 12), Affine(30, 0, x - 70, 0, -30, y + 90), 'EPSG:5070')
    codes = np.random.default_rng(1).choice([11, 41, 82, 0], (1, 16, 12))
    return LabelRaster.open(write(tmp_path / 'lr.tif', codes.astype('uint8'), grid, 0))[
        0
    ]


def plan(imagery: Imagery) -> Plan:
    return Plan(imagery.geobox, 96, 512, overlap=24, halo=6)


def collect(
    imagery: Imagery, labels: list[LabelRaster], pixels: int = 10**6
) -> Samples:
    part = plan(imagery)
    pieces = []
    backbone = Identity(2)
    for place in labelled_places([part], labels, 0):
        chip = read_labelled(imagery, part, place.chip, labels)
        if len(chip.codes):
            tokens = backbone(torch.from_numpy(chip.image)[None])
            seed = 0, place.chip.row, place.chip.col
            pieces.append(Piece.of(chip, tokens, pixels, seed))
    return gather(pieces, NLCD)


def dense(imagery: Imagery, labels: LabelRaster) -> dict[tuple[int, int], tuple]:
    """Code, mean, pixels and share of every labelled cell, from the whole raster."""
    image, valid = imagery.read(imagery.geobox)
    region = region_map(imagery.geobox, labels.geobox)
    codes = labels.read(region.rows, region.cols).ravel()
    cells = {}
    for cell, code in enumerate(codes):
        inside = region.mask_region == cell + 1
        usable = inside & valid
        if code < 0 or not usable.any():
            continue
        row, col = divmod(cell, region.window[3])
        share = region.share[cell] * usable.sum() / inside.sum()
        place = row + region.window[0], col + region.window[1]
        cells[place] = code, image[:, usable].mean(1), usable, share
    return cells


def test_cells_are_whole_whatever_the_chips(
    imagery: Imagery, labels: LabelRaster
) -> None:
    samples = collect(imagery, [labels])
    expected = dense(imagery, labels)
    cells, pixels = samples.cells, samples.pixels
    assert len(cells) == len(expected) > 60
    for i, (number, row, col) in enumerate(cells.place.tolist()):
        code, mean, _, share = expected[row, col]
        assert number == 0
        assert samples.codes[i] == code
        assert cells.label[i] == NLCD.index(code)
        np.testing.assert_allclose(cells.features[i], mean, atol=1e-5)
        np.testing.assert_allclose(cells.share[i], share, atol=1e-6)
    whole = sum(share == 1 for *_, share in expected.values())
    assert cells.usable.sum() == whole > 30
    # every pixel of a labelled cell once, with the cell's class
    image, _ = imagery.read(imagery.geobox)
    for label in range(3):
        inside = np.logical_or.reduce(
            [use for code, _, use, _ in expected.values() if NLCD.index(code) == label]
            or [np.zeros(SHAPE, bool)]
        )
        found = pixels.features[pixels.label == label, 0].sort().values
        np.testing.assert_allclose(found, np.sort(image[0, inside]), atol=1e-6)


def test_pixels_are_limited_and_seeded(imagery: Imagery, labels: LabelRaster) -> None:
    some, again = (collect(imagery, [labels], pixels=20) for _ in range(2))
    assert 200 < len(some.pixels) <= 20 * 30
    torch.testing.assert_close(
        some.pixels.features, again.pixels.features, rtol=0, atol=0
    )
    assert torch.equal(some.pixels.label, again.pixels.label)


def test_first_label_raster_counts(
    imagery: Imagery, labels: LabelRaster, tmp_path: Path
) -> None:
    other = write(
        tmp_path / 'other.tif',
        np.full((1, 40, 50), 22, np.uint8),
        GeoBox((40, 50), Affine(10, 0, 3.7e5, 0, -10, 4.3e6), 'EPSG:26918'),
        0,
    )
    second = LabelRaster.open(other)[0]
    alone, both = collect(imagery, [labels]), collect(imagery, [labels, second])
    first = both.cells.place[:, 0] == 0
    assert torch.equal(both.cells.place[first], alone.cells.place)
    torch.testing.assert_close(both.cells.features[first], alone.cells.features)
    assert (both.codes[~first.numpy()] == 22).all()
    _, valid = imagery.read(imagery.geobox)
    assert len(both.pixels) == valid.sum()


def test_cells_larger_than_chips_are_put_together(
    imagery: Imagery, tmp_path: Path
) -> None:
    grid = GeoBox((2, 3), Affine(130, 0, 3.7e5 + 5, 0, -130, 4.3e6 - 25), 'EPSG:26918')
    codes = np.array([[[11, 41, 82], [82, 11, 41]]], np.uint8)
    labels = LabelRaster.open(write(tmp_path / 'big.tif', codes, grid, 0))
    samples = collect(imagery, list(labels))
    assert samples.codes.tolist() == codes.ravel().tolist()
    assert samples.cells.usable.all()
    image, _ = imagery.read(imagery.geobox)
    for i, (row, col) in enumerate(np.ndindex(2, 3)):
        window = image[:, 25 + 130 * row :, 5 + 130 * col :][:, :130, :130]
        np.testing.assert_allclose(
            samples.cells.features[i], window.mean((1, 2)), atol=1e-5
        )


def test_order_is_spread_and_seeded(imagery: Imagery, labels: LabelRaster) -> None:
    grid = GeoBox((3000, 3000), Affine(1, 0, 3.7e5, 0, -1, 4.3e6), 'EPSG:26918')
    big = Plan(grid, 96, 512, overlap=24)
    over = LabelRaster.open(labels.paths)[0]
    places = labelled_places([big], [over], 0)
    assert places == labelled_places([big], [over], 0)
    assert places != labelled_places([big], [over], 1)
    # only chips under the labels: 480 m × 360 m of 3 km × 3 km
    assert 15 < len(places) < 100
    rows = np.array([place.chip.row for place in places])
    middle = np.median(rows)
    for count in (6, 12):
        part = rows[:count]
        assert 0.2 < (part > middle).mean() + (part == middle).mean() / 2 < 0.8


def test_no_overlap(imagery: Imagery, tmp_path: Path) -> None:
    far = write(
        tmp_path / 'far.tif',
        np.ones((1, 5, 5), np.uint8),
        GeoBox((5, 5), Affine(30, 0, 5e6, 0, -30, 4e6), 'EPSG:5070'),
        0,
    )
    with pytest.raises(InputError, match='do not overlap'):
        labelled_places([plan(imagery)], LabelRaster.open(far), 0)
