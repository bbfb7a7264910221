# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

import warnings
from pathlib import Path

import geopandas
import numpy as np
import pandas
import pytest
import rasterio
import shapely
import torch
from affine import Affine
from torch.utils.data import DataLoader
from torchgeo.datasets import RasterDataset, roi_split, stack_samples

from tests.data.chesapeake_pairs.data import make_rasters
from torchgeo_mapsr.datasets import make_scene
from torchgeo_mapsr.datasets.collate import collate_pairs
from torchgeo_mapsr.datasets.mosaic import LRHRPairs
from torchgeo_mapsr.datasets.patches import class_shares, write_footprints
from torchgeo_mapsr.datasets.query import ChipQuery
from torchgeo_mapsr.errors import InputError, InputWarning
from torchgeo_mapsr.samplers import PatchSampler


@pytest.fixture(scope='module')
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two tiles of 192 pixels, in two UTM zones, and their HR labels as maps."""
    folder: Path = tmp_path_factory.mktemp('rasters')
    make_rasters(folder)
    return folder


@pytest.fixture(scope='module')
def dataset(root: Path) -> LRHRPairs:
    return LRHRPairs.from_files(root / 'naip', root / 'nlcd', root / 'lc')


def test_chips_are_the_patches(root: Path, dataset: LRHRPairs, tmp_path: Path) -> None:
    """Pixel by pixel, in both zones, by way of the file."""
    table = class_shares(root / 'lc', 64)
    some = table.sample(10, random_state=0)
    write_footprints(some, tmp_path / 'some.gpkg')
    sampler = PatchSampler(dataset, tmp_path / 'some.gpkg', shuffle=False)
    queries = list(sampler)
    assert len(queries) == len(sampler) == len(some)
    grids = [pair.imagery.geobox for pair in dataset.pairs]
    assert len({grid.crs for grid in grids}) == 2
    tiles = [grid.extent.to_crs(table.crs).geom for grid in grids]
    for query, (_, patch) in zip(queries, some.iterrows(), strict=True):
        sample = dataset[query]
        centre = patch.geometry.centroid
        (pair,) = [
            pair
            for pair, tile in zip(dataset.pairs, tiles, strict=True)
            if tile.contains(centre)
        ]
        row, col = patch['row'], patch['col']
        expected = pair.sample(
            ChipQuery(0, pair.imagery.geobox[row : row + 64, col : col + 64])
        )
        torch.testing.assert_close(sample['image'], expected['image'])
        torch.testing.assert_close(sample['mask'], expected['mask'])


def test_size_is_that_of_the_footprint_or_another(
    root: Path, dataset: LRHRPairs
) -> None:
    table = class_shares(root / 'lc', 64)
    for size, expected in ((None, 64), (40, 40)):
        sampler = PatchSampler(dataset, table, size)
        shapes = {dataset[query]['image'].shape[1:] for query in sampler}
        assert shapes == {(expected, expected)}


def test_order_length_and_generator(root: Path, dataset: LRHRPairs) -> None:
    table = class_shares(root / 'lc', 64)

    def draw(seed: int, length: int | None = None) -> list[str]:
        generator = torch.Generator().manual_seed(seed)
        sampler = PatchSampler(dataset, table, length=length, generator=generator)
        return [str(query) for query in sampler]

    fixed = [str(q) for q in PatchSampler(dataset, table, shuffle=False)]
    assert draw(1) == draw(1) != draw(2)
    assert sorted(draw(1)) == sorted(fixed)
    assert draw(1) != fixed
    long = draw(1, length=2 * len(fixed) + 3)
    counts = [long.count(query) for query in fixed]
    assert len(long) == 2 * len(fixed) + 3
    assert set(counts) == {2, 3}
    assert len(draw(1, length=5)) == 5


def test_patches_elsewhere_are_left_out(root: Path, dataset: LRHRPairs) -> None:
    table = class_shares(root / 'lc', 64)
    moved = table.copy()
    moved['geometry'] = moved.geometry.translate(0, 1e6)
    with pytest.raises(InputError, match='none of the'):
        PatchSampler(dataset, moved)
    both = pandas.concat([table, moved])
    assert len(PatchSampler(dataset, both)) == len(table)


def test_with_torchgeos_datasets(root: Path, tmp_path: Path) -> None:
    """And their collation, whatever torchgeo is installed."""
    path = min((root / 'naip').iterdir())
    dataset = RasterDataset(path)
    table = class_shares(root / 'lc', 64)
    sampler = PatchSampler(dataset, table)
    assert 0 < len(sampler) < len(table)
    batches = list(DataLoader(dataset, 4, sampler=sampler, collate_fn=stack_samples))
    images = torch.cat([b['image'] for b in batches])
    assert images.shape == (len(sampler), 4, 64, 64)
    assert np.isfinite(images).all()


def test_in_a_loader(root: Path, dataset: LRHRPairs) -> None:
    sampler = PatchSampler(dataset, class_shares(root / 'lc', 64), 32)
    batches = list(DataLoader(dataset, 5, sampler=sampler, collate_fn=collate_pairs))
    assert sum(len(b['image']) for b in batches) == len(sampler)


@pytest.mark.parametrize('name', ['size', 'length'])
@pytest.mark.parametrize('number', [0, -4])
def test_numbers_are_checked(
    root: Path, dataset: LRHRPairs, name: str, number: int
) -> None:
    table = class_shares(root / 'lc', 64)
    with pytest.raises(InputError, match=f'{name} must be 1 or more, not {number}'):
        PatchSampler(dataset, table, **{name: number})  # type: ignore[arg-type]


@pytest.mark.filterwarnings('ignore::torchgeo_mapsr.errors.InputWarning')
def test_rasters_of_other_pixels(tmp_path: Path) -> None:
    """A patch has its own size on the ground, whatever the first raster's pixels are."""
    scenes = [make_scene(tmp_path / str(i), seed=i, size=(64, 64)) for i in (1, 2)]
    with rasterio.open(scenes[1].imagery) as source:
        values, profile = source.read(), source.profile
    place = profile['transform']
    fine = tmp_path / 'fine.tif'
    affine = Affine.translation(500, 0) * place * Affine.scale(0.5)
    with rasterio.open(fine, 'w', **{**profile, 'transform': affine}) as out:
        out.write(values)
    labels = tmp_path / 'labels.tif'
    moved = Affine.translation(500, 0) * place * Affine.scale(8)
    size = {'height': 8, 'width': 8, 'count': 1, 'transform': moved}
    with rasterio.open(labels, 'w', **{**profile, **size}) as out:
        out.write(np.full((1, 8, 8), 41, np.uint8))
    pairs = LRHRPairs.from_files([scenes[0].imagery, fine], [scenes[0].labels, labels])
    x, y = affine * (32, 32)
    patch = geopandas.GeoDataFrame(
        geometry=[shapely.box(x - 8, y - 8, x + 8, y + 8)], crs=str(profile['crs'])
    )
    (query,) = PatchSampler(pairs, patch)
    sample = pairs[query]
    assert sample['image'].shape[1:] == (32, 32)
    torch.testing.assert_close(
        sample['image'], torch.from_numpy(values[:, 16:48, 16:48].astype('float32'))
    )


def test_rasters_that_overlap(tmp_path: Path) -> None:
    """A patch is of the one that holds most of it; of two of one place a line tells."""
    profile = {'driver': 'GTiff', 'dtype': 'uint8', 'count': 1, 'crs': 'EPSG:32617'}

    def made(name: str, left: float, width: int, pixel: float, value: int) -> Path:
        height = round(100 / pixel)
        affine = Affine(pixel, 0, 5e5 + left, 0, -pixel, 4e6)
        with rasterio.open(
            tmp_path / name,
            'w',
            height=height,
            width=width,
            transform=affine,
            **profile,
        ) as out:
            out.write(np.full((1, height, width), value, np.uint8))
        return tmp_path / name

    labels = made('lr.tif', 0, 8, 25, 11)
    west, east = made('w.tif', 0, 100, 1, 1), made('e.tif', 70, 100, 1, 2)
    again = made('a.tif', 0, 100, 1, 3)
    # their centres are in both; the second reaches beyond the first raster
    lefts = (72, 84)
    patches = geopandas.GeoDataFrame(
        geometry=[
            shapely.box(5e5 + x, 4e6 - 40, 5e5 + x + 20, 4e6 - 20) for x in lefts
        ],
        crs=32617,
    )
    for rasters, values in (([west, east], [1, 2]), ([east, west], [2, 2])):
        pairs = LRHRPairs.from_files(rasters, labels)
        with warnings.catch_warnings():
            warnings.simplefilter('error', InputWarning)
            queries = list(PatchSampler(pairs, patches, shuffle=False))
        samples = [pairs[query] for query in queries]
        assert [int(s['image'].max()) for s in samples] == values
        assert all(s['mask_valid'].all() for s in samples)
    with pytest.warns(InputWarning, match='2 of the patches lie in several rasters'):
        PatchSampler(LRHRPairs.from_files([west, again], labels), patches)


def test_patches_without_a_pixel_of_the_split(dataset: LRHRPairs) -> None:
    """Their centre is in it: beside the corner of a triangle, or on its edge."""
    left, _, _, top = dataset.index.geometry.iloc[0].bounds
    triangle = [(left + 40, top - 40), (left + 140, top - 60), (left + 40, top - 90)]
    (part,) = roi_split(dataset, [shapely.Polygon(triangle)])
    places = [(139.9, 60.0), (140.0, 60.0), (60.0, 60.0)]
    boxes = [shapely.box(left + x, top - y, left + x, top - y) for x, y in places]
    table = geopandas.GeoDataFrame(
        geometry=[box.buffer(0.5, cap_style='square') for box in boxes], crs=dataset.crs
    )
    (query,) = PatchSampler(part, table, 1, shuffle=False)
    assert part[query]['mask_valid'].all()
    assert len(PatchSampler(part, table, 6)) == 3
    with pytest.raises(InputError, match='none of the 2 patches has a pixel'):
        PatchSampler(part, table[:2], 1)
