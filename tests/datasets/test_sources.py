# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""What is taken of torchgeo datasets that are handed in."""

import shutil
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest
import rasterio
import shapely
import torch
from pyproj import CRS
from rasterio.transform import Affine
from torchgeo.datasets import (
    NLCD,
    IntersectionDataset,
    RasterDataset,
    random_grid_cell_assignment,
    roi_split,
    time_series_split,
)

from torchgeo_mapsr.datasets.mosaic import LRHRPairs
from torchgeo_mapsr.datasets.pair import LRHRPair
from torchgeo_mapsr.datasets.plot import per_pixel
from torchgeo_mapsr.datasets.unlabelled import UnlabelledImagery
from torchgeo_mapsr.errors import InputError
from torchgeo_mapsr.samplers import ChipSampler

from .conftest import HR, Write

ALBERS = Affine(30, 0, 1339185 - 90, 0, -30, 1736145 + 90)
RNG = np.random.default_rng(1)


class Naip(RasterDataset):
    filename_glob = 'm_*.tif'
    filename_regex = r'm_.*_(?P<date>\d{8})\.tif'
    all_bands = ('R', 'G', 'B')
    rgb_bands = ('R', 'G', 'B')


class Land(RasterDataset):
    filename_glob = 'land_*.tif'
    filename_regex = r'land_(?P<date>\d{4})\.tif'
    date_format = '%Y'
    is_image = False


@pytest.fixture
def folder(write: Write, tmp_path: Path) -> Path:
    """Imagery of two places and years, labels of three years with a code each."""
    for number, date in enumerate(('20110701', '20190612')):
        image = RNG.integers(1, 255, (3, 96, 96)).astype('uint8')
        shifted = HR * Affine.translation(96 * number, 0)
        write(f'm_{number}_{date}.tif', image, shifted)
    for year, code in ((2011, 11), (2016, 41), (2019, 82)):
        values = np.full((24, 24), code, 'uint8')
        # What a mix would fill from another year.
        values[::2] = 0
        write(f'land_{year}.tif', values, ALBERS, 'EPSG:5070', nodata=0)
    return tmp_path


def codes(dataset: Any, query: Any) -> set[int]:
    sample = dataset[query]
    return set(np.unique(per_pixel(sample['lr_label'], sample['mask_region'])).tolist())


def test_labels_are_of_the_imagerys_year(folder: Path) -> None:
    naip, land = Naip(str(folder)), Land(str(folder))
    pairs = LRHRPairs.from_files(naip, land)
    assert [time.left.year for time in pairs.index.index] == [2011, 2019]
    found = [codes(pairs, query) for query in ChipSampler(pairs, 96)]
    assert found == [{-1, 11}, {-1, 82}]
    times = pairs.bounds[2]
    first = pandas.Timedelta(days=1000)
    early, late = time_series_split(pairs, [first, times.stop - times.start - first])
    assert [
        [codes(part, q) for q in ChipSampler(part, 96)] for part in (early, late)
    ] == [[{-1, 11}], [{-1, 82}]]


def test_never_a_mix(folder: Path) -> None:
    land = Land(str(folder))
    with pytest.raises(InputError, match='has labels of 2011, 2016, 2019'):
        LRHRPair(min(folder.glob('m_0*')), land)
    # Imagery of two years at two places, in one pair: which year's labels are meant?
    with pytest.raises(InputError, match='give one date'):
        LRHRPair(Naip(str(folder)), land)
    only = Land([str(folder / 'land_2016.tif')])
    assert codes(LRHRPair(Naip(str(folder)), only), slice(None)) == {-1, 41}


def test_the_years_of_nlcd(folder: Path) -> None:
    """torchgeo's NLCD checks that a year is there, and reads all that is there."""
    names = {
        year: NLCD.filename_glob.replace('*', str(year)) for year in (2011, 2016, 2019)
    }
    there = folder / 'nlcd'
    there.mkdir()
    for year, name in names.items():
        suffix = '' if name.endswith('.tif') else '.tif'
        shutil.copy(folder / f'land_{year}.tif', there / f'{name}{suffix}')
    image = str(min(folder.glob('m_1*')))
    for year, code in ((2011, 11), (2016, 41), (2019, 82)):
        nlcd = NLCD(str(there), years=[year])
        assert len(nlcd) == 3
        assert codes(LRHRPair(image, nlcd), slice(None)) == {-1, code}
        # The year that was asked for, though the imagery is of another.
        pairs = LRHRPairs.from_files(Naip(str(folder)), nlcd)
        assert {frozenset(codes(pairs, q)) for q in ChipSampler(pairs, 96)} == {
            frozenset({-1, code})
        }
    both = NLCD(str(there), years=[2011, 2019])
    assert codes(LRHRPair(Naip([image]), both), slice(None)) == {-1, 82}
    with pytest.raises(InputError, match='asks for the years \\[2001\\]'):
        LRHRPair(image, NLCD(str(there), years=[2001]))


def test_crs_and_res_are_refused(folder: Path) -> None:
    land = [str(folder / 'land_2016.tif')]
    image = str(min(folder.glob('m_0*')))
    with pytest.raises(InputError, match='make it without crs and res'):
        LRHRPair(Naip([image], crs=CRS.from_epsg(5070)), land)
    with pytest.raises(InputError, match='nothing is resampled'):
        LRHRPair(Naip([image], res=2), land)
    nlcd = Land(land)
    naip = Naip([image])
    assert LRHRPair(naip, nlcd)
    # Sets crs and res of the second.
    IntersectionDataset(naip, nlcd, spatial_only=True)
    with pytest.raises(InputError, match='before any & or'):
        LRHRPair(naip, nlcd)
    with pytest.raises(InputError, match='one by one'):
        LRHRPair(naip & Naip([image]), land)


def test_transforms_are_refused(folder: Path) -> None:
    naip = Naip(str(folder), transforms=lambda sample: sample)
    with pytest.raises(InputError, match='has transforms'):
        UnlabelledImagery(naip)


def test_bands(folder: Path) -> None:
    image = str(min(folder.glob('m_0*')))
    dataset = UnlabelledImagery(Naip([image], bands=['B', 'G', 'R']))
    with rasterio.open(image) as file:
        np.testing.assert_array_equal(dataset[:]['image'], file.read([3, 2, 1]))
    assert dataset.bands == ('B', 'G', 'R')
    assert dataset.all_bands == dataset.rgb_bands == ('R', 'G', 'B')
    with pytest.raises(InputError, match='has no band'):
        UnlabelledImagery(Naip([image]), bands=[4])


def test_unions(folder: Path) -> None:
    first, second = (Naip([str(path)]) for path in sorted(folder.glob('m_*')))
    land = Land([str(folder / 'land_2016.tif')])
    union = first | second
    dataset = LRHRPair(union, land)
    files = LRHRPair(sorted(folder.glob('m_*')), land)
    assert torch.equal(dataset[:]['image'], files[:]['image'])
    assert [time.left.year for time in dataset.index.index] == [2011, 2019]
    with pytest.raises(InputError, match='give both the same'):
        LRHRPair(first | Naip(second.paths, bands=['R']), land)


def test_two_dates_of_one_place(folder: Path, write: Write) -> None:
    write('m_2_20150101.tif', np.ones((3, 96, 96), 'uint8'), HR)
    naip = Naip(str(folder))
    with pytest.raises(InputError, match='one place at two dates, 2011 and 2015'):
        UnlabelledImagery(naip)
    pairs = LRHRPairs.from_files(naip, Land([str(folder / 'land_2016.tif')]))
    assert len(pairs) == 3
    chips = [pairs[query]['image'].mean() for query in ChipSampler(pairs, 96)]
    assert [bool(chip == 1) for chip in chips] == [False, False, True]


def test_a_part_of_a_split(folder: Path) -> None:
    """What a split has left of the imagery, it leaves of the pair."""
    naip, land = Naip(str(folder)), Land([str(folder / 'land_2016.tif')])
    x, y, _ = naip.bounds
    middle = x.start + 60
    rois = [
        shapely.box(x.start, y.start, middle, y.stop),
        shapely.box(middle, y.start, x.stop, y.stop),
    ]
    left, right = roi_split(naip, rois)
    for part, columns in ((left, slice(0, 60)), (right, slice(60, 192))):
        for dataset in (LRHRPair(part, land), LRHRPairs.from_files(part, land)):
            total = sum(
                int(dataset[query]['mask_valid'].sum())
                for query in ChipSampler(dataset, 96, stride=96)
            )
            assert total >= 96 * (columns.stop - columns.start)
            for query in ChipSampler(dataset, 96):
                assert query[0].start >= x.start + columns.start - 36 - 1e-6
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        cells: Any = random_grid_cell_assignment(naip, [0.5, 0.5], 2)
    dataset = LRHRPair(cells[0], land)
    assert len(dataset) == 4
    assert dataset[:]['mask_valid'].sum() == 4 * 48 * 48
    small = roi_split(land, [land.index.geometry.iloc[0].buffer(-300)])[0]
    with pytest.raises(InputError, match='part of a split'):
        LRHRPair(naip, small)
