# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

from typing import Any

import kornia.augmentation as K
import numpy as np
import pytest
import torch
from matplotlib import pyplot as plt
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from pyproj import Transformer
from rasterio.enums import Resampling
from rasterio.transform import Affine
from rasterio.warp import reproject

from torchgeo_mapsr.datasets import Crosswalk, Legend, fine
from torchgeo_mapsr.datasets.fine import FineLabelPair
from torchgeo_mapsr.datasets.labels import LabelRaster
from torchgeo_mapsr.datasets.query import ChipQuery
from torchgeo_mapsr.datasets.unlabelled import ManyImagery
from torchgeo_mapsr.errors import InputError
from torchgeo_mapsr.samplers import ChipSampler, PatchSampler

from .conftest import HR, UTM, Write

RNG = np.random.default_rng(0)
S2 = HR * Affine.scale(10)
IMAGE = RNG.integers(1, 4000, (3, 30, 26)).astype('uint16')
# patches of labels, so that many pixels have a majority and some do not
LABELS = np.kron(RNG.choice([0, 1, 2, 3, 4], (40, 35)), np.ones((3, 3), int))
LABELS = LABELS.astype('uint8')
SAME = Crosswalk.load('land-cover-4', 'land-cover-4')


@pytest.fixture
def imagery(write: Write) -> str:
    return write('s2.tif', IMAGE, S2)


def literal(
    grid: GeoBox, codes: NDArray[Any], transform: Affine, crs: str, least: float
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Majority and shares, label by label, with pyproj; codes are 0..4."""
    project = Transformer.from_crs(crs, str(grid.crs), always_xy=True)
    votes = np.zeros((5, *grid.shape), int)
    for i, j in np.ndindex(codes.shape):
        x, y = project.transform(*(transform * (j + 0.5, i + 0.5)))
        col, row = ~grid.affine * (x, y)
        row, col = int(np.floor(row + 1e-8)), int(np.floor(col + 1e-8))
        if 0 <= row < grid.height and 0 <= col < grid.width:
            votes[codes[i, j], row, col] += 1
    voted = votes[1:].sum(0)
    known = (voted > 0) & (voted >= least * votes.sum(0))
    share = np.where(known, votes[1:] / np.maximum(voted, 1), 0)
    return np.where(known, 1 + votes[1:].argmax(0), -1), share


@pytest.mark.parametrize(
    ('transform', 'crs'),
    [
        (HR * Affine.translation(-7, -11) * Affine.scale(2.5), UTM),
        (HR * Affine.scale(4), UTM),
        (Affine.translation(*(HR * (-5, -30))) * Affine.rotation(10)
         * Affine.scale(3, -3), UTM),
        (Affine(4, 0, 1339185 + 190, 0, -4, 1736145 + 90), 'EPSG:5070'),
    ],
)  # fmt: skip
@pytest.mark.parametrize('least', [0.0, 0.8])
def test_votes_are_those_of_the_centres(
    write: Write, imagery: str, transform: Affine, crs: str, least: float
) -> None:
    labels = write('fine.tif', LABELS, transform, crs, nodata=0)
    pair = FineLabelPair(imagery, labels, SAME, shares=True, least=least)
    grid = pair.imagery.geobox[2:20, 3:25]
    sample = pair.sample(ChipQuery(0, grid))
    # beyond the raster there are labels too, of no class
    around = np.pad(LABELS, 40), transform * Affine.translation(-40, -40)
    mask, share = literal(grid, *around, crs, least)
    if least == 0 and crs == UTM:
        assert (mask > 0).mean() > 0.4
    np.testing.assert_array_equal(sample['mask'], mask)
    np.testing.assert_allclose(sample['mask_share'], share, atol=1e-6)
    assert len(np.unique(mask)) > 3
    np.testing.assert_array_equal(sample['image'], IMAGE[:, 2:20, 3:25])


def test_aligned_grids_agree_with_gdal(write: Write, imagery: str) -> None:
    """Mode where it is the only one, average everywhere, of 4 × 4 labels a pixel."""
    transform = HR * Affine.scale(2.5)
    codes = RNG.choice([1, 2, 3, 4], (120, 104), p=[0.4, 0.3, 0.2, 0.1])
    codes = codes.astype('uint8')
    labels = write('fine.tif', codes, transform)
    pair = FineLabelPair(imagery, labels, SAME, shares=True)
    sample = pair.sample(ChipQuery(0, pair.imagery.geobox))

    def warp(values: NDArray[Any], how: Resampling) -> NDArray[Any]:
        out = np.zeros((30, 26), values.dtype)
        reproject(
            values, out, src_transform=transform, dst_transform=S2, src_crs=UTM,
            dst_crs=UTM, resampling=how,
        )  # fmt: skip
        return out

    for k in range(4):
        average = warp((codes == k + 1).astype('float32'), Resampling.average)
        np.testing.assert_allclose(sample['mask_share'][k], average, atol=1e-6)
    shares = sample['mask_share'].sort(0).values
    single = (shares[-1] > shares[-2]).numpy()
    assert 0.5 < single.mean() < 1
    mode = warp(codes, Resampling.mode)
    np.testing.assert_array_equal(sample['mask'].numpy()[single], mode[single])


def test_ties_go_to_the_first_class_and_nodata_has_no_vote(write: Write) -> None:
    image = write('one.tif', np.ones((1, 5), 'uint8'), S2)
    pixels = [[2, 1, 2, 1], [4, 4, 0, 0], [0, 0, 0, 3], [0, 0, 0, 0], [9, 9, 9, 2]]
    codes = np.concatenate([np.array(p).reshape(2, 2) for p in pixels], 1)
    labels = write('fine.tif', codes.astype('uint8'), HR * Affine.scale(5), nodata=0)
    for least, expected in ((0.5, [1, 4, -1, -1, -1]), (0, [1, 4, 3, -1, 2])):
        pair = FineLabelPair(image, labels, SAME, shares=True, least=least)
        sample = pair.sample(ChipQuery(0, pair.imagery.geobox))
        assert sample['mask'][0].tolist() == expected
        known = sample['mask'] > 0
        torch.testing.assert_close(sample['mask_share'].sum(0), known.float())


def test_votes_are_in_classes_of_the_target(write: Write) -> None:
    """Two kinds of field (2, 3) outvote industry (1), which beats each alone."""
    image = write('one.tif', np.ones((1, 1), 'uint8'), S2)
    codes = np.array([[1, 1, 1], [1, 2, 2], [2, 3, 3]], 'uint8')
    labels = write('fine.tif', codes, HR * Affine.scale(10 / 3), nodata=0)
    own = Crosswalk.load('five-billion-pixels', 'five-billion-pixels')
    four = Crosswalk.load('five-billion-pixels', 'land-cover-4')
    for crosswalk, code in ((own, 1), (four, 3)):
        pair = FineLabelPair(image, labels, crosswalk)
        assert pair.sample(ChipQuery(0, pair.imagery.geobox))['mask'].item() == code


def test_chunks_change_nothing(
    write: Write, imagery: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Memory does not grow with the labels, and each of them votes once."""
    transform = Affine.translation(*(HR * (-5, -30))) * Affine.rotation(10)
    labels = write('fine.tif', LABELS, transform * Affine.scale(3, -3), nodata=0)
    (raster,) = LabelRaster.open(labels)
    grid = FineLabelPair(imagery, labels, SAME).imagery.geobox
    whole = fine.count_votes(grid, raster, SAME)
    read = []
    original = LabelRaster.read

    def watch(self: LabelRaster, rows: slice, cols: slice) -> NDArray[np.int64]:
        read.append((rows.stop - rows.start) * (cols.stop - cols.start))
        return original(self, rows, cols)

    monkeypatch.setattr(LabelRaster, 'read', watch)
    monkeypatch.setattr(fine, 'CHUNK', 500)
    parts = fine.count_votes(grid, raster, SAME)
    np.testing.assert_array_equal(parts.count, whole.count)
    np.testing.assert_array_equal(parts.labels, whole.labels)
    assert len(read) > 10
    assert max(read) <= 500


def test_several_grids_and_beyond_the_imagery(write: Write, imagery: str) -> None:
    half = np.full((60, 52), 2, 'uint8')
    near = write('near.tif', half[:30], HR * Affine.scale(5), nodata=0)
    far = write('far.tif', half + 1, HR * Affine.scale(4.99), nodata=0)
    pair = FineLabelPair(imagery, [near, far], SAME)
    sample = pair.sample(ChipQuery(0, pair.imagery.geobox.pad(3)))
    inside = sample['mask'][3:-3, 3:-3]
    assert (inside[:15] == 2).all()
    assert (inside[15:29] == 3)[:, :25].all()
    assert (sample['mask'][:3] == -1).all()
    assert not sample['mask_valid'][:3].any()


def test_augmentations_carry_labels_along(write: Write, imagery: str) -> None:
    labels = write('fine.tif', LABELS, HR * Affine.scale(2.5), nodata=0)
    pair = FineLabelPair(imagery, labels, SAME, shares=True)
    sample = pair.sample(ChipQuery(0, pair.imagery.geobox))
    keys = ('image', 'mask', 'mask_share', 'mask_valid')
    flip = K.AugmentationSequential(
        K.RandomHorizontalFlip(p=1), data_keys=None, keepdim=True
    )
    masks = {k: sample[k][None] for k in keys}
    flipped = flip(masks)
    for key in keys:
        expected = sample[key].flip(-1)
        torch.testing.assert_close(flipped[key].reshape(expected.shape), expected)


def test_samplers_and_plots(write: Write, imagery: str) -> None:
    labels = write('fine.tif', LABELS, HR * Affine.scale(2.5), nodata=0)
    pairs = ManyImagery([FineLabelPair(imagery, labels, SAME)])
    queries = list(ChipSampler(pairs, 16))
    samples = [pairs[query] for query in queries]
    assert [s['mask'].shape for s in samples] == [(16, 16)] * 4
    assert len(PatchSampler(pairs, _footprint(pairs))) == 1
    plt.close(pairs.plot(samples[0]))
    with pytest.raises(InputError, match='no LR cells'):
        pairs.lr_cells(0)


def _footprint(pairs: ManyImagery) -> Any:
    return pairs.index.reset_index(drop=True)


@pytest.mark.parametrize('case', ['coarse', 'elsewhere', 'least'])
def test_mistakes(write: Write, imagery: str, case: str) -> None:
    place = HR * Affine.translation(1e5, 0) if case == 'elsewhere' else HR
    scale = 30 if case == 'coarse' else 2.5
    labels = write('fine.tif', LABELS, place * Affine.scale(scale))
    message = {'coarse': 'use LRHRPair', 'elsewhere': 'does not overlap'}
    with pytest.raises(InputError, match=message.get(case, 'least')):
        FineLabelPair(imagery, labels, SAME, least=2 if case == 'least' else 0.5)


def test_legend_of_five_billion_pixels() -> None:
    legend = Legend.load('five-billion-pixels')
    assert len(legend) == 24
    assert legend.class_names[15] == 'Snow'
