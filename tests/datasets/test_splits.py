# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""torchgeo's splits and samplers, on every dataset of chips in their own pixels."""

import copy
import pickle
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pandas
import pytest
import shapely
import torch
import torchgeo.samplers
from numpy.typing import NDArray
from rasterio.transform import Affine
from torchgeo.datasets import (
    RasterDataset,
    random_bbox_assignment,
    random_bbox_splitting,
    random_grid_cell_assignment,
    roi_split,
    time_series_split,
)

from tests.data.chesapeake_pairs.data import make_rasters
from torchgeo_mapsr.datasets.base import ChipDataset
from torchgeo_mapsr.datasets.fine import FineLabelPair
from torchgeo_mapsr.datasets.legends.crosswalk import Crosswalk
from torchgeo_mapsr.datasets.mosaic import LRHRPairs
from torchgeo_mapsr.datasets.pair import LRHRPair
from torchgeo_mapsr.datasets.query import ChipQuery
from torchgeo_mapsr.datasets.unlabelled import ManyImagery, UnlabelledImagery
from torchgeo_mapsr.errors import InputError
from torchgeo_mapsr.samplers import (
    BalancedChipSampler,
    ChipSampler,
    FitSampler,
    PatchSampler,
)

from .conftest import HR, Write

SIZE = 64


@pytest.fixture(scope='module')
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two tiles of 192² pixels, in two UTM zones."""
    folder = tmp_path_factory.mktemp('rasters')
    make_rasters(folder)
    return folder


def pair(root: Path) -> LRHRPair:
    """The first tile alone."""
    first = min((root / 'naip').iterdir())
    return LRHRPair(first, root / 'nlcd', root / 'lc')


def pairs(root: Path) -> LRHRPairs:
    return LRHRPairs.from_files(root / 'naip', root / 'nlcd', root / 'lc')


def unlabelled(root: Path) -> ManyImagery:
    return ManyImagery(
        UnlabelledImagery(path) for path in sorted((root / 'naip').iterdir())
    )


def fine(root: Path) -> FineLabelPair:
    first = min((root / 'naip').iterdir())
    walk = Crosswalk.load('chesapeake-7', 'land-cover-4')
    return FineLabelPair(first, min((root / 'lc').iterdir()), walk, shares=True)


DATASETS = {'pair': pair, 'pairs': pairs, 'unlabelled': unlabelled, 'fine': fine}


def half(dataset: ChipDataset) -> list[Any]:
    """Regions left and right of a line that is on no pixel's centre."""
    x, y, _ = dataset.bounds
    middle = x.start + 71.3
    return [
        shapely.box(x.start, y.start, middle, y.stop),
        shapely.box(middle, y.start, x.stop, y.stop),
    ]


def triangles(dataset: ChipDataset) -> list[Any]:
    """Regions on both sides of a diagonal."""
    x, y, _ = dataset.bounds
    corners = [(x.start, y.start), (x.stop, y.stop)]
    return [
        shapely.Polygon([*corners, (x.start, y.stop)]),
        shapely.Polygon([*corners, (x.stop, y.start)]),
    ]


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(3)


SPLITS: dict[str, Callable[[Any], list[Any]]] = {
    'splitting': lambda d: random_bbox_splitting(d, [0.6, 0.4], generator()),
    'cells': lambda d: random_grid_cell_assignment(d, [0.5, 0.5], 3, generator()),
    'roi': lambda d: roi_split(d, half(d)),
    'diagonal': lambda d: roi_split(d, triangles(d)),
}


def valid_pixels(dataset: ChipDataset) -> list[NDArray[np.bool_]]:
    """Pixels that some query of a dataset shows, by raster."""
    shown = {}
    for number, grid in enumerate(whole_grids(dataset)):
        sample = dataset[ChipQuery(number, grid)]
        shown[number] = sample['mask_valid'].numpy() > 0
    return list(shown.values())


def whole_grids(dataset: ChipDataset) -> list[Any]:
    places = getattr(dataset, 'pairs', (dataset,))
    return [place.imagery.geobox for place in places]


@pytest.mark.parametrize('split', SPLITS)
@pytest.mark.parametrize('name', DATASETS)
def test_parts_share_no_pixel(root: Path, name: str, split: str) -> None:
    dataset: Any = DATASETS[name](root)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        parts = SPLITS[split](dataset)
    full = valid_pixels(dataset)
    shown = [valid_pixels(part) for part in parts]
    for number, everything in enumerate(full):
        one, other = (part[number] for part in shown)
        assert not (one & other).any()
        # A centre on the line itself belongs to neither; here next to none is.
        missing = everything & ~one & ~other
        assert missing.sum() <= 2 * 192 * (split != 'roi')
    for part, pixels in zip(parts, shown, strict=True):
        assert any(p.any() for p in pixels)
        for query in ChipSampler(part, SIZE):
            sample, same = part[query], dataset[query]
            valid = sample['mask_valid'] > 0
            assert valid.any()
            torch.testing.assert_close(
                sample['image'] * valid, same['image'] * valid, rtol=0, atol=0
            )
            # Beyond the imagery a chip may be its mirror image.
            taken = ~valid & (same['mask_valid'] > 0)
            assert (sample['image'] * taken == 0).all()
            if 'mask' in sample:
                assert torch.equal(sample['mask'][valid], same['mask'][valid])
                assert (sample['mask'][~valid] == -1).all()
            if 'mask_region' in sample:
                assert torch.equal(
                    sample['mask_region'][valid], same['mask_region'][valid]
                )


def test_a_box_is_cut_at_the_pixel(root: Path) -> None:
    """Against the pixels whose centres are left of the line, counted by hand."""
    dataset = pair(root)
    left, right = roi_split(dataset, half(dataset))
    columns = np.arange(192) + 0.5 < 71.3
    (shown,), (rest,) = valid_pixels(left), valid_pixels(right)  # type: ignore[arg-type]
    (full,) = valid_pixels(dataset)
    np.testing.assert_array_equal(shown, full & columns)
    np.testing.assert_array_equal(rest, full & ~columns)
    assert [tile.shape.yx for tile in left.tiles] == [(192, 71)]  # type: ignore[attr-defined]
    assert [tile.shape.yx for tile in right.tiles] == [(192, 121)]  # type: ignore[attr-defined]


@pytest.mark.parametrize('name', ['pairs', 'unlabelled'])
def test_files_are_assigned_whole(root: Path, name: str) -> None:
    dataset: Any = DATASETS[name](root)
    parts: Any = random_bbox_assignment(dataset, [0.5, 0.5], generator())
    assert sorted(path for part in parts for path in part.paths) == sorted(
        dataset.paths
    )
    for part in parts:
        assert len(part.tiles) == len(part.paths) == len(part) == 1
        (query,) = ChipSampler(part, 192)
        assert torch.equal(part[query]['image'], dataset[query]['image'])
        (entire,) = torchgeo.samplers.PreChippedGeoSampler(part)
        assert part[entire]['mask_valid'].sum() == dataset[entire]['mask_valid'].sum()
    with pytest.raises(IndexError):
        parts[0][next(iter(ChipSampler(parts[1], 64)))]


def test_time_series_split(root: Path) -> None:
    dataset: Any = pairs(root)
    dataset.index.index = pandas.IntervalIndex.from_tuples(
        [
            (pandas.Timestamp(2014, 1, 1), pandas.Timestamp(2014, 12, 31)),
            (pandas.Timestamp(2018, 1, 1), pandas.Timestamp(2018, 12, 31)),
        ],
        'both',
        name='datetime',
    )
    early, late = time_series_split(dataset, [0.5, 0.5])
    assert [part.paths for part in (early, late)] == [[path] for path in dataset.paths]
    for part in (early, late):
        assert len([part[query] for query in ChipSampler(part, 96)]) == 4
    toi = pandas.Interval(pandas.Timestamp(2018, 3, 1), pandas.Timestamp(2018, 4, 1))
    (query,) = ChipSampler(dataset, 192, toi=toi)
    assert query[2].start == toi.left
    assert torch.equal(dataset[query]['image'], late[query]['image'])
    assert dataset[query]['mask_valid'].sum() > 0
    with pytest.raises(InputError, match='no pixels in this region and time'):
        ChipSampler(
            dataset, 64, toi=pandas.Interval(*pandas.to_datetime(['2015', '2016']))
        )


NAMES = ['GridGeoSampler', 'RandomGeoSampler', 'PreChippedGeoSampler']
NAMES += ['RandomBatchGeoSampler', 'GriddedPatchSampler', 'RandomPatchSampler']


@pytest.mark.parametrize('sampler', NAMES)
@pytest.mark.parametrize('name', DATASETS)
def test_torchgeos_samplers(root: Path, name: str, sampler: str) -> None:
    """Each chip of a part has pixels, and none of the other part's."""
    if not hasattr(torchgeo.samplers, sampler):
        pytest.skip('the installed torchgeo has no such sampler')
    dataset: Any = DATASETS[name](root)
    # torchgeo lays its lattice over the gap between tiles too, here of 400 km.
    regions = [shapely.box(*shape.bounds) for shape in dataset.index.geometry]
    parts: Any = roi_split(dataset, regions if len(regions) > 1 else half(dataset))
    options: dict[str, Any] = {} if sampler.startswith('Pre') else {'size': 48}
    if sampler == 'RandomBatchGeoSampler':
        options |= {'batch_size': 2, 'length': 4}
    elif sampler.startswith('Random'):
        options |= {'length': 4}
    shown = valid_pixels(parts[0])
    assert shown
    for part in parts:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            queries = list(getattr(torchgeo.samplers, sampler)(part, **options))
        assert queries
        for query in queries:
            for single in query if isinstance(query, list) else [query]:
                sample, same = part[single], dataset[single]
                valid = sample['mask_valid'] > 0
                # Of a tile in another zone, a corner may hold no pixel's centre.
                x, y = single[:2]
                box = shapely.box(x.start, y.start, x.stop, y.stop)
                sliver = part.index.geometry.intersection(box).area.sum()
                assert valid.any() or sliver < 0.01 * box.area
                assert torch.equal(sample['image'] * valid, same['image'] * valid)


def test_with_a_dataset_of_torchgeo(root: Path) -> None:
    """`&` gives both in the pixels of the pair; ChipSampler draws from it."""

    class Truth(RasterDataset):
        filename_glob = '*.tif'
        is_image = False

    dataset = pair(root)
    files = sorted(str(path) for path in (root / 'lc').iterdir())
    only = LRHRPair(dataset.imagery, root / 'nlcd')
    both: Any = only & Truth(files[:1])
    sampler = ChipSampler(both, SIZE, stride=50)
    assert len(sampler) == len(ChipSampler(only, SIZE, stride=50))
    for query in sampler:
        sample, own = both[query], only[query]
        assert torch.equal(sample['image'], own['image'])
        assert torch.equal(sample['lr_label'], own['lr_label'])
        expected = dataset[query]['mask']
        mask = sample['mask'].reshape(expected.shape)
        assert torch.equal(mask[expected >= 0], expected[expected >= 0])
    with pytest.raises(InputError, match='no LR cells to balance'):
        BalancedChipSampler(both, SIZE, 3)
    with pytest.raises(InputError, match='several label rasters'):
        dataset & only
    with pytest.raises(InputError, match='put them first'):
        Truth(files[1:]) & dataset


def test_union(root: Path) -> None:
    first, second = (
        LRHRPair(path, root / 'nlcd') for path in sorted((root / 'naip').iterdir())
    )
    with pytest.raises(InputError, match=r'LRHRPairs\(\[a, b\]\)'):
        first | second  # another UTM zone
    train, val = roi_split(first, half(first))
    union: Any = train | val
    for query in ChipSampler(union, SIZE):
        samples = [
            d[query] for d in (train, val) if len(d.index.cx[query[0], query[1]])
        ]
        most = max(int(sample['mask_valid'].sum()) for sample in samples)
        assert union[query]['mask_valid'].sum() == most


def test_region_of_interest(root: Path) -> None:
    dataset = pairs(root)
    frame = dataset.tiles[0].boundingbox
    roi = shapely.box(
        frame.left + 20, frame.top - 120, frame.left + 120, frame.top - 20
    )
    everywhere = {
        'all': ChipSampler(dataset, 50, roi=roi),
        'random': ChipSampler(dataset, 50, length=20, generator=generator(), roi=roi),
        'balanced': BalancedChipSampler(
            dataset, 50, 20, generator=generator(), roi=roi
        ),
    }
    assert len(list(everywhere['all'])) == 4
    for sampler in everywhere.values():
        for across, along, _ in sampler:
            box = shapely.box(across.start, along.start, across.stop, along.stop)
            assert roi.buffer(1e-6).contains(box)
    triangle = triangles(dataset)[0]
    for across, along, _ in ChipSampler(dataset, 20, length=30, roi=triangle):
        box = shapely.box(across.start, along.start, across.stop, along.stop)
        assert triangle.intersects(box)
    with pytest.raises(InputError, match='CRS of the dataset'):
        ChipSampler(dataset, 50, roi=shapely.box(0, 0, 1, 1))


def test_patches_of_a_part(root: Path) -> None:
    dataset: Any = pair(root)
    centres = [
        (dataset.bounds[0].start + i, dataset.bounds[1].start + 96) for i in (30, 130)
    ]
    boxes = [shapely.Point(place).buffer(16, cap_style='square') for place in centres]
    table = geopandas.GeoDataFrame(geometry=boxes, crs=dataset.crs)
    left, _ = roi_split(dataset, half(dataset))
    assert len(PatchSampler(dataset, table)) == 2
    (query,) = PatchSampler(left, table)
    assert (query[0].start + query[0].stop) / 2 == pytest.approx(centres[0][0])
    (query,) = PatchSampler(dataset, table, roi=half(dataset)[1])
    assert (query[0].start + query[0].stop) / 2 == pytest.approx(centres[1][0])


@pytest.mark.parametrize('name', DATASETS)
def test_copies(root: Path, name: str) -> None:
    """Pickled or copied, a part of a split stays that part."""
    dataset: Any = DATASETS[name](root)
    part: Any = roi_split(dataset, half(dataset))[0]
    sampler = ChipSampler(part, SIZE)
    for copied in (pickle.loads(pickle.dumps(part)), copy.deepcopy(part)):
        again = pickle.loads(pickle.dumps(copy.deepcopy(sampler)))
        assert list(again) == list(sampler)
        for query in again:
            for key in ('image', 'mask_valid'):
                assert torch.equal(copied[query][key], part[query][key])


def test_a_row_of_another_file(root: Path) -> None:
    dataset = pair(root)
    other = pairs(root)
    with pytest.raises(InputError, match='not in the dataset'):
        dataset.index = other.index


def test_a_split_of_a_stack(write: Write) -> None:
    """Two dates of one place as one image: the parts share no pixel."""
    values = np.random.default_rng(0).integers(1, 99, (2, 3, 128, 128), 'uint8')
    for year, image in zip((2020, 2021), values, strict=True):
        write(f'stack/s_{year}0101.tif', image)
    folder = Path(write('lr.tif', np.full((5, 5), 11, 'uint8'), HR * Affine.scale(30)))

    class Dates(RasterDataset):
        filename_glob = 's_*.tif'
        filename_regex = r's_(?P<date>\d{8})'
        date_format = '%Y%m%d'

    dataset = Dates(folder.parent / 'stack')
    left, bottom, right, top = dataset.index.total_bounds
    middle = left + 64
    parts = roi_split(
        dataset,
        [
            shapely.box(left, bottom, middle, top),
            shapely.box(middle, bottom, right, top),
        ],
    )
    seen = np.zeros((128, 128), int)
    for number, part in enumerate(parts):
        pair = LRHRPair(part, folder, stack=True)
        chip = pair.imagery.geobox
        assert pair.imagery.bands == 6
        sample = pair[ChipQuery(0, chip)]
        valid = sample['mask_valid'].numpy() > 0
        assert valid[:, 64 * number : 64 * number + 64].all()
        np.testing.assert_array_equal(
            sample['image'].numpy()[:, valid], values.reshape(6, 128, 128)[:, valid]
        )
        seen += valid
        assert all(pair[query]['mask_valid'].any() for query in ChipSampler(pair, 32))
    assert (seen == 1).all()


def test_a_fit_reads_no_chip_outside_of_its_part(root: Path) -> None:
    pair = LRHRPair(min((root / 'naip').iterdir()), root / 'nlcd')
    every = FitSampler(pair, 64)
    part, _ = roi_split(pair, half(pair))
    sampler = FitSampler(part, 64)
    inside = {(q.raster, q.chip) for q in every if part.meets(q)}
    assert {(q.raster, q.chip) for q in sampler} == inside
    assert 0 < len(sampler) == len(inside) < len(every)
    part.index = part.index.iloc[:0]
    with pytest.raises(InputError, match='no labels in this split'):
        FitSampler(part, 64)
