# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""Labels of the whole Earth: what lies beyond one edge of them is at the other."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import rasterio
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from pyproj import Transformer
from rasterio.transform import Affine

from torchgeo_mapsr.datasets.chip import read_chip
from torchgeo_mapsr.datasets.fine import count_votes
from torchgeo_mapsr.datasets.geo.grid import box_in, coverage, pixel_ratio
from torchgeo_mapsr.datasets.geo.plan import Plan
from torchgeo_mapsr.datasets.geo.region import region_map
from torchgeo_mapsr.datasets.imagery import Imagery
from torchgeo_mapsr.datasets.labelled_chips import LabelledChips
from torchgeo_mapsr.datasets.labels import LabelRaster
from torchgeo_mapsr.datasets.legends.crosswalk import Crosswalk
from torchgeo_mapsr.datasets.legends.legend import Legend
from torchgeo_mapsr.datasets.measured import measure_statistics
from torchgeo_mapsr.datasets.pair import LRHRPair
from torchgeo_mapsr.errors import InputError
from torchgeo_mapsr.evaluation.consistency import composition

from .conftest import Write

pytestmark = pytest.mark.filterwarnings('ignore:Geometry is in a geographic CRS')

# Where labels begin, and where images lie: across 180°, over and beside a pole, all
# round, and such that corners or the whole outline are in the sky.
ORIGINS = (-180, 0)
IMAGES: dict[str, tuple[str, Affine, tuple[int, int]]] = {
    'Fiji': ('EPSG:32701', Affine(5000, 0, 80000, 0, -5000, 8100000), (96, 128)),
    'degrees': ('EPSG:4326', Affine(0.05, 0, 177, 0, -0.05, 10), (96, 128)),
    'pole': ('EPSG:3031', Affine(10000, 0, -640000, 0, -10000, 640000), (128, 128)),
    'by a pole': ('EPSG:3413', Affine(10000, 0, -9e5, 0, -10000, 3e5), (128, 128)),
    'Earth': ('EPSG:6933', Affine(27e4, 0, -17367530, 0, -27e4, 7314540), (54, 128)),
    'oval': ('ESRI:54009', Affine(27e4, 0, -18040095, 0, -27e4, 9020047), (66, 133)),
    'disk': (
        '+proj=geos +h=35785831 +lon_0=160 +datum=WGS84',
        Affine(9e4, 0, -5.5e6, 0, -9e4, 5.5e6),
        (122, 122),
    ),
}


@pytest.fixture(params=ORIGINS)
def world(request: pytest.FixtureRequest, write: Write) -> str:
    """Codes 1 to 8 in cells of three degrees."""
    codes = np.random.default_rng(0).integers(1, 9, (60, 120)).astype('uint8')
    return write(
        'world.tif', codes, Affine(3, 0, request.param, 0, -3, 90), 'EPSG:4326'
    )


@pytest.fixture(params=list(IMAGES))
def image(request: pytest.FixtureRequest, write: Write) -> str:
    crs, transform, shape = IMAGES[request.param]
    values = np.random.default_rng(1).integers(1, 255, (3, *shape)).astype('uint8')
    return write('image.tif', values, transform, crs)


def cells_under(image: str, world: str) -> NDArray[np.int64]:
    """Row and column of the cell at each pixel's centre, point by point; -1 = none."""
    with rasterio.open(image) as hr, rasterio.open(world) as lr:
        col, row = np.meshgrid(np.arange(hr.width) + 0.5, np.arange(hr.height) + 0.5)
        crs = hr.crs.to_wkt(version='WKT2_2019')
        lon, lat = Transformer.from_crs(crs, 'EPSG:4326', always_xy=True).transform(
            *(hr.transform * (col, row))
        )
        seen = np.isfinite(lon)
        lon = (np.where(seen, lon, 0) - lr.transform.c) % 360 / 3
        lat = (90 - np.where(seen, lat, 0)) / 3
    cells = np.floor([lat, lon]).astype(int)
    return np.where(seen, cells, -1)


def codes_under(image: str, world: str) -> NDArray[np.int64]:
    cells = cells_under(image, world)
    with rasterio.open(world) as lr:
        return np.where(cells[0] >= 0, lr.read(1)[tuple(cells)].astype(int), -1)


def test_every_pixel_gets_its_label(image: str, world: str) -> None:
    imagery, labels = Imagery(image), LabelRaster.open(world)
    expected = codes_under(image, world)
    np.testing.assert_array_equal(labels[0].at(imagery.geobox), expected)
    found = np.full(expected.shape, -1)
    for plan_rows, plan_cols in (
        (slice(r, r + 32), slice(c, c + 32))
        for r in range(0, expected.shape[0], 32)
        for c in range(0, expected.shape[1], 32)
    ):
        own = (
            slice(plan_rows.start, min(plan_rows.stop, expected.shape[0])),
            slice(plan_cols.start, min(plan_cols.stop, expected.shape[1])),
        )
        # two rasters: one that lies elsewhere is not asked
        chip = read_chip(imagery, imagery.geobox[own], labels * 2, own)
        codes = np.concatenate([[-1], chip.code.numpy()])
        found[own] = codes[chip.region.numpy()]
    np.testing.assert_array_equal(found, expected)


def test_pieces_of_cells_add_up(image: str, world: str) -> None:
    """Chips side by side name a cell alike, also where it is cut by two of them."""
    imagery, (labels,) = Imagery(image), LabelRaster.open(world)
    pieces: Counter[tuple[int, ...]] = Counter()
    sizes: dict[tuple[int, ...], float] = {}
    height, width = imagery.geobox.shape
    for row in range(0, height, 32):
        for col in range(0, width, 32):
            own = slice(row, min(row + 32, height)), slice(col, min(col + 32, width))
            chip = read_chip(imagery, imagery.geobox[own], [labels], own)
            region = chip.region.numpy()
            counts = np.bincount(region.ravel(), minlength=len(chip.code) + 1)[1:]
            for i in np.flatnonzero(counts).tolist():
                place = tuple(chip.place[i].tolist())
                pieces[place] += int(counts[i])
                sizes[place] = float(chip.cell_pixels[i])
    assert all(sizes.values())
    if imagery.geobox.crs is not None and imagery.geobox.crs.epsg in (3031, 3413):
        return  # on the meridian opposite to the image's middle cells stay in pieces
    cells = cells_under(image, world)
    counts = np.unique(cells[:, cells[0] >= 0], axis=1, return_counts=True)[1]
    assert sorted(pieces.values()) == sorted(counts.tolist())


def test_chips_over_labels(image: str, world: str) -> None:
    imagery, labels = Imagery(image), LabelRaster.open(world)
    labelled = codes_under(image, world) >= 0
    plan = Plan(imagery.geobox, 32, 64, 8)
    chosen = set(LabelledChips([plan], [labels], 0))
    for chip in plan.lattice():
        if labelled[plan.own(chip)].any():
            assert (0, chip) in chosen
    assert coverage(imagery.geobox, labels[0].geobox) > 0.99
    assert len(LRHRPair(image, labels).lr_labels) == 1


def test_counts_of_labels(image: str, world: str) -> None:
    """Of an area, the codes of the cells that lie about it."""
    (labels,) = LabelRaster.open(world)
    counted, _ = labels.count_codes([Imagery(image).geobox])
    under = np.unique(cells_under(image, world).reshape(2, -1), axis=1).shape[1]
    assert under - 1 <= counted.total() <= 60 * 120


@pytest.mark.parametrize('name', ['Fiji', 'degrees', 'pole', 'by a pole'])
def test_what_is_measured(write: Write, tmp_path: Path, name: str, world: str) -> None:
    """Of a map across 180° each pixel is in the cell that it lies in."""
    legend = Legend.load(
        {
            'name': 'eight',
            'classes': [{'code': i, 'name': f'c{i}'} for i in range(1, 9)],
        }
    )
    crs, transform, shape = IMAGES[name]
    image = write('map.tif', np.ones(shape, 'uint8'), transform, crs)
    codes = codes_under(image, world)
    path = write('map.tif', codes.astype('uint8'), transform, crs)
    found = composition(path, legend, LabelRaster.open(world), legend)
    np.testing.assert_allclose(found.shares, np.diag(found.weights))
    cells = np.unique(cells_under(path, world).reshape(2, -1), axis=1).shape[1]
    assert found.cells.sum() == cells
    crosswalk = Crosswalk('', legend, legend, {i: i for i in range(1, 9)})
    measured = measure_statistics(world, path, legend, crosswalk)
    assert measured.reference == f'measured on {cells} LR cells'


def test_fine_labels_over_a_pole(write: Write, world: str) -> None:
    """Each label votes in the pixel that holds its centre, once."""
    image = write(
        'image.tif',
        np.ones((20, 20), 'uint8'),
        Affine(300000, 0, -3e6, 0, -300000, 3e6),
        'EPSG:3031',
    )
    (labels,) = LabelRaster.open(world)
    legend = Legend.load(
        {
            'name': 'eight',
            'classes': [{'code': i, 'name': f'c{i}'} for i in range(1, 9)],
        }
    )
    votes = count_votes(
        Imagery(image).geobox,
        labels,
        Crosswalk('', legend, legend, {i: i for i in range(1, 9)}),
    )
    with rasterio.open(image) as hr, rasterio.open(world) as lr:
        row, col = np.indices(lr.shape) + 0.5
        x, y = Transformer.from_crs(4326, 3031, always_xy=True).transform(
            *(lr.transform * (col, row))
        )
        col, row = np.floor(~hr.transform * (x, y))
        inside = (row >= 0) & (row < 20) & (col >= 0) & (col < 20)
        expected = np.zeros((8, 20, 20), int)
        place = lr.read(1)[inside] - 1, row[inside].astype(int), col[inside].astype(int)
        np.add.at(expected, place, 1)
    np.testing.assert_array_equal(votes.count, expected)


def test_a_pole_lies_within() -> None:
    """The box of a grid that holds a pole reaches to it, and all round."""
    grid = GeoBox((100, 100), Affine(10000, 0, -5e5, 0, -10000, 5e5), 'EPSG:3031')
    world = GeoBox((360, 720), Affine(0.5, 0, -180, 0, -0.5, 90), 'EPSG:4326')
    _, left, bottom, right = box_in(grid, world)
    assert bottom == 360
    assert 720 <= right - left <= 722
    # a cell of half a degree at the middle distance from the pole, to a factor of two
    assert 0.5 < pixel_ratio(grid, world) / (1e8 / (55.6e3 * 55.6e3 * 0.06)) < 2


@pytest.mark.parametrize(('west', 'width'), [(0, 360), (170, 30)])
@pytest.mark.parametrize('stack', [False, True])
def test_imagery_goes_once_round(
    write: Write, west: float, width: int, stack: bool
) -> None:
    """Ground that would be mapped twice is a line; a turn in two halves is none."""
    first = write('a.tif', np.ones((9, 360)), Affine(1, 0, -180, 0, -1, 9), 'EPSG:4326')
    place = Affine(1, 0, west, 0, -1, 9)
    second = write('b.tif', np.ones((9, width)), place, 'EPSG:4326')
    with pytest.raises(InputError, match='further than once round the Earth'):
        Imagery([first, second], stack=stack)
    halves = [
        write(f'{lon}.tif', np.ones((9, 180)), Affine(1, 0, lon, 0, -1, 9), 'EPSG:4326')
        for lon in (0, 180)
    ]
    assert Imagery(halves).geobox.width == 360


def test_labels_that_do_not_come_round(write: Write) -> None:
    """Columns that do not fit into the turn have nothing beyond the edge."""
    codes = np.ones((10, 100), 'uint8')
    path = write('odd.tif', codes, Affine(3.59, 0, -180, 0, -3.59, 18), 'EPSG:4326')
    (labels,) = LabelRaster.open(path)
    assert (labels.read(slice(0, 10), slice(100, 110)) == -1).all()
    regions = region_map(labels.geobox, labels.geobox)
    assert regions.window == (0, 0, 10, 100)
