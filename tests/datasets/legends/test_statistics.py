# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import norm

from torchgeo_mapsr.datasets.geo.region import region_map
from torchgeo_mapsr.datasets.labels import LabelRaster
from torchgeo_mapsr.datasets.legends.crosswalk import Crosswalk
from torchgeo_mapsr.datasets.legends.legend import Legend, LegendClass
from torchgeo_mapsr.datasets.legends.statistics import JointStatistics, class_counts
from torchgeo_mapsr.errors import InputError

NLCD, FOUR = Legend.load('nlcd'), Legend.load('land-cover-4')


def test_malkin_is_the_printed_table() -> None:
    statistics = JointStatistics.load('malkin2019')
    assert (statistics.source, statistics.target) == (NLCD, FOUR)
    assert 'Malkin' in statistics.reference
    measured = statistics.frequency > 0
    # 15 of 20 classes: no ice, none of Alaska's
    assert measured.sum() == 15
    assert set(NLCD.codes[~measured]) == {12, 51, 72, 73, 74}
    assert np.isnan(statistics.mean[~measured]).all()
    # rounded to two places
    np.testing.assert_allclose(statistics.mean[measured].sum(axis=1), 1, atol=0.0101)
    assert (statistics.std[measured] > 0).all()
    # no share of 0 to 1 spreads wider than a coin's, printed digits aside
    coin = np.sqrt(np.clip(statistics.mean + 0.005, 0, 1) * (1 - statistics.mean))
    assert (statistics.std[measured] < coin[measured] + 0.03).all()
    open_space = int(NLCD.index(21))
    # the example that the paper's appendix B spells out
    np.testing.assert_allclose(statistics.mean[open_space, 1:3], [0.42, 0.46])
    assert statistics.frequency[int(NLCD.index(41))] == 0.262


def test_proportions_sum_to_one_and_are_unknown_where_nothing_was_measured() -> None:
    statistics = JointStatistics.load('malkin2019')
    codes = np.array([[11, 21], [12, 999]])
    portion = statistics.proportions(codes)
    assert portion.shape == (2, 2, 4)
    np.testing.assert_allclose(portion[0].sum(axis=-1), 1)
    np.testing.assert_allclose(portion[0, 0, 0], 0.97 / 1.01)
    assert np.isnan(portion[1]).all()


@st.composite
def cells_with_labels(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    n = draw(st.integers(0, 12))
    index = draw(arrays(np.int64, n, elements=st.integers(-1, len(NLCD) - 1)))
    counts = draw(arrays(np.int64, (n, 4), elements=st.integers(0, 900)))
    share = draw(arrays(np.float64, n, elements=st.sampled_from([0.125, 0.5, 1.0])))
    return index, counts, share


@settings(max_examples=50, deadline=None)
@given(cells_with_labels())
def test_estimate_against_a_literal_loop(
    made: tuple[np.ndarray, np.ndarray, np.ndarray],
) -> None:
    index, counts, share = made
    statistics = JointStatistics.estimate(NLCD, FOUR, index, counts, share)
    used = [i for i in range(len(index)) if index[i] >= 0 and counts[i].sum() > 0]
    total = sum(share[i] for i in used)
    for row in range(len(NLCD)):
        mine = [i for i in used if index[i] == row]
        weight = sum(share[i] for i in mine)
        if not mine:
            assert statistics.frequency[row] == 0
            assert np.isnan(statistics.mean[row]).all()
            assert np.isnan(statistics.std[row]).all()
            continue
        assert statistics.frequency[row] == pytest.approx(weight / total)
        for column in range(4):
            shares = [counts[i, column] / counts[i].sum() for i in mine]
            mean = sum(share[i] * x for i, x in zip(mine, shares, strict=True)) / weight
            variance = sum(
                share[i] * (x - mean) ** 2 for i, x in zip(mine, shares, strict=True)
            )
            assert statistics.mean[row, column] == pytest.approx(mean)
            assert statistics.std[row, column] == pytest.approx(
                np.sqrt(variance / weight), abs=1e-7
            )


def test_counts_against_a_literal_loop() -> None:
    generator = np.random.default_rng(0)
    region = generator.integers(0, 7, (20, 30))
    index = generator.integers(-1, 4, (20, 30))
    expected = np.zeros((6, 4), dtype=np.int64)
    for cell, class_ in zip(region.flat, index.flat, strict=True):
        if cell > 0 and class_ >= 0:
            expected[cell - 1, class_] += 1
    np.testing.assert_array_equal(class_counts(region, index, 6, 4), expected)


def test_estimates_of_a_real_pair(shared: Path) -> None:
    walk = Crosswalk.load('chesapeake-7', 'land-cover-4')
    indices, counts, shares = [], [], []
    for folder in sorted((shared / 'data' / 'chesapeake_wv').iterdir()):
        (hr,) = LabelRaster.open(folder / 'hr.tif')
        (lr,) = LabelRaster.open(folder / 'lr.tif')
        height, width = hr.geobox.shape
        truth = walk.index(hr.read(slice(0, height), slice(0, width)))
        regions = region_map(hr.geobox, lr.geobox)
        cells = len(regions.share)
        indices.append(NLCD.index(lr.read(regions.rows, regions.cols)).ravel())
        counts.append(class_counts(regions.mask_region, truth, cells, len(FOUR)))
        shares.append(regions.share)
    statistics = JointStatistics.estimate(
        NLCD,
        FOUR,
        np.concatenate(indices),
        np.concatenate(counts),
        np.concatenate(shares),
    )
    # West Virginia: deciduous forest is most of it, and mostly forest
    forest = int(NLCD.index(41))
    assert statistics.frequency.argmax() == forest
    # Maryland's table is close where there are enough cells
    table = JointStatistics.load('malkin2019')
    np.testing.assert_allclose(statistics.mean[forest], table.mean[forest], atol=0.1)


def test_saved_statistics_come_back_exactly(tmp_path: Path) -> None:
    own = Legend(
        'own', (LegendClass(3, 'a', (1, 2, 3)), LegendClass(9, 'b', (4, 5, 6)))
    )
    generator = np.random.default_rng(1)
    index = generator.integers(-1, 1, 50)
    counts = generator.integers(0, 100, (50, 4))
    statistics = JointStatistics.estimate(
        own, FOUR, index, counts, name='mine', reference='made up'
    )
    path = tmp_path / 'statistics.yaml'
    statistics.save(path)
    loaded = JointStatistics.load(path)
    assert (loaded.source, loaded.target) == (own, FOUR)
    assert (loaded.name, loaded.reference) == ('mine', 'made up')
    for name in ('mean', 'std', 'frequency'):
        np.testing.assert_array_equal(getattr(loaded, name), getattr(statistics, name))
    assert loaded.frequency[1] == 0


def test_posterior_is_bayes_rule() -> None:
    statistics = JointStatistics.load('malkin2019')
    portion = np.array([[0.9, 0.05, 0.05, 0], [0, 0.4, 0.45, 0.15], [0, 0, 0.1, 0.9]])
    posterior = statistics.posterior(portion, floor=0.05)
    assert posterior.shape == (3, 20)
    np.testing.assert_allclose(posterior.sum(axis=1), 1)
    assert NLCD.codes[posterior.argmax(axis=1)].tolist() == [11, 21, 24]
    expected = np.zeros((3, 20))
    for i in range(3):
        for row in np.flatnonzero(statistics.frequency):
            expected[i, row] = statistics.frequency[row] * np.prod(
                norm.pdf(
                    portion[i],
                    statistics.mean[row],
                    np.maximum(statistics.std[row], 0.05),
                )
            )
    expected /= expected.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(posterior, expected, atol=1e-12)


def test_posterior_of_what_no_class_expects_is_still_a_distribution() -> None:
    statistics = JointStatistics.load('malkin2019')
    posterior = statistics.posterior(np.array([[0.25, 0.25, 0.25, 0.25]]), floor=1e-3)
    np.testing.assert_allclose(posterior.sum(), 1)


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('source: nlcd\ntarget: nlcd2\nclasses: {}', "no 'nlcd2'"),
        ('source: nlcd\nclasses: {}', "check 'target'"),
        (
            (
                'source: nlcd\ntarget: land-cover-4\n'
                'classes: {13: {frequency: 1, mean: [1, 0, 0, 0], std: [1, 1, 1, 1]}}'
            ),
            "code 13 is not in legend 'nlcd'",
        ),
        (
            (
                'source: nlcd\ntarget: land-cover-4\n'
                'classes: {11: {frequency: 1, mean: [1, 0, 0], std: [1, 1, 1]}}'
            ),
            "'frequency', 'mean' and 'std'",
        ),
    ],
)
def test_mistakes_in_a_file(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / 'statistics.yaml'
    path.write_text(text)
    with pytest.raises(InputError) as error:
        JointStatistics.load(path)
    assert message in str(error.value)


def test_missing_are_classes_without_a_row() -> None:
    statistics = JointStatistics.load('malkin2019')
    codes = np.array([[11, 74, 12], [12, 999, -1], [41, 0, 255]])
    assert statistics.missing(codes) == (12, 74)
    assert statistics.missing([[11, 95]]) == ()
    assert statistics.missing([]) == ()
