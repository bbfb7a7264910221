# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""The estimators give the published worked examples, to the last printed digit."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import binomtest

from torchgeo_mapsr.errors import InputError
from torchgeo_mapsr.evaluation.estimation import (
    Accuracy,
    StratifiedSample,
    allocate,
    sample_size,
)

# Olofsson et al. 2014, table 8: rows are map classes (deforestation, forest gain, stable
# forest, stable non-forest), columns are reference classes.
COUNTS = np.array([[66, 0, 5, 4], [0, 55, 8, 12], [1, 0, 153, 11], [2, 1, 9, 313]])
PIXELS = np.array([200_000, 150_000, 3_200_000, 6_450_000])
HECTARES = PIXELS * 0.09  # Landsat pixels of 30 m


def of_counts(counts: np.ndarray, hectares: np.ndarray) -> StratifiedSample:
    mapped, reference = (index.ravel() for index in np.indices(counts.shape))
    mapped, reference = (np.repeat(i, counts.ravel()) for i in (mapped, reference))
    return StratifiedSample(mapped, mapped, reference, hectares, len(counts))


OLOFSSON = of_counts(COUNTS, HECTARES)


def test_olofsson_areas() -> None:
    """Section 5.2: hectares, and half the width of their 95 % intervals."""
    areas = [round(area.value) for area in OLOFSSON.areas]
    assert areas == [21158, 11686, 285770, 581386]
    assert [round(a.half_width) for a in OLOFSSON.areas] == [6158, 3756, 15510, 16282]


def test_olofsson_error_matrix_and_standard_error() -> None:
    """Table 9, and S(p̂) = 0.0035 with 68,418 pixels for deforestation.

    The paper prints S(Â) = 34,097 pixels beside it: two digits are swapped, since
    68,418 / 1.96 = 34,907.
    """
    printed = [
        [0.0176, 0, 0.0013, 0.0011],
        [0, 0.0110, 0.0016, 0.0024],
        [0.0019, 0, 0.2967, 0.0213],
        [0.0040, 0.0020, 0.0179, 0.6212],
    ]
    np.testing.assert_array_equal(OLOFSSON.matrix.round(4), printed)
    deforestation = OLOFSSON.areas[0] * (1 / 0.09)
    assert round(deforestation.value) == 235_086
    assert round(deforestation.half_width) == 68_418
    assert round(deforestation.standard_error) == 34_907
    assert round(deforestation.standard_error / 1e7, 4) == 0.0035


def test_olofsson_accuracies() -> None:
    """Section 5.2. Two printed half widths of the producer's accuracy do not follow.

    The paper prints 0.23 for forest gain and 0.01 for stable non-forest; its own eq. 7
    gives 0.25 and 0.02 (the closed form is the next test).
    """
    rounded = [
        [(round(e.value, 2), round(e.half_width, 2)) for e in figures]
        for figures in (OLOFSSON.users_accuracy, OLOFSSON.producers_accuracy)
    ]
    assert rounded[0] == [(0.88, 0.07), (0.73, 0.10), (0.93, 0.04), (0.96, 0.02)]
    assert rounded[1] == [(0.75, 0.21), (0.85, 0.25), (0.93, 0.03), (0.96, 0.02)]
    overall = OLOFSSON.overall_accuracy
    assert (round(overall.value, 2), round(overall.half_width, 2)) == (0.95, 0.02)


def test_ratio_estimator_is_olofssons_closed_form() -> None:
    """Eq. 5, 6, 7 and 10, written as printed."""
    rng = np.random.default_rng(0)
    for counts in (COUNTS, rng.integers(1, 40, (5, 5))):
        size = len(counts)
        area = rng.random(size) * 1e4
        sample = of_counts(counts, area)
        n, w = counts.sum(1), area / area.sum()
        share = counts / n[:, None]
        user, p = np.diag(share), w[:, None] * share
        producer = np.diag(p) / p.sum(0)
        overall = np.sum(w**2 * user * (1 - user) / (n - 1))
        np.testing.assert_allclose(sample.overall_accuracy.standard_error**2, overall)
        for k in range(size):
            column = w**2 * share[:, k] * (1 - share[:, k]) / (n - 1)
            np.testing.assert_allclose(
                (sample.areas[k].standard_error / area.sum()) ** 2, column.sum()
            )
            figure = sample.users_accuracy[k]
            np.testing.assert_allclose(figure.value, user[k])
            np.testing.assert_allclose(
                figure.standard_error**2, user[k] * (1 - user[k]) / (n[k] - 1)
            )
            others = np.arange(size) != k
            variance = w[k] ** 2 * (1 - producer[k]) ** 2
            variance *= user[k] * (1 - user[k]) / (n[k] - 1)
            variance += producer[k] ** 2 * column[others].sum()
            figure = sample.producers_accuracy[k]
            np.testing.assert_allclose(figure.value, producer[k])
            np.testing.assert_allclose(
                figure.standard_error**2, variance / p.sum(0)[k] ** 2
            )


# Stehman 2014, table 2: 40 points in strata of 40 000, 30 000, 20 000 and 10 000 pixels.
STRATUM = np.repeat([0, 1, 2, 3], 10)
MAPPED = ['ABCD'.index(c) for c in 'AAAAAAABBBABBBBBBBBBBBCCCCCCBBDDDDDDDDDD']
REFERENCE = ['ABCD'.index(c) for c in 'AAAAACBABCABBBBBAABBCCCCCDDBBADDDDDDDCCB']
STEHMAN = StratifiedSample(
    STRATUM,
    MAPPED,
    REFERENCE,
    [40_000, 30_000, 20_000, 10_000],
    4,
    strata_pixels=np.array([40_000, 30_000, 20_000, 10_000]),
)


def test_stehman() -> None:
    """Pages 4932 to 4936.

    The paper prints 0.114 for the standard error of the producer's accuracy of B, where
    it takes the variance of x in stratum 4 as 0; its table 3 has 0.1 there, which gives
    0.117.
    """
    matrix = STEHMAN.matrix
    assert matrix[1, 2].round(2) == 0.08
    np.testing.assert_allclose(matrix.sum(), 1)
    rounded = [
        (round(estimate.value, 3), round(estimate.standard_error, 3))
        for estimate in (
            STEHMAN.areas[0] * 1e-5,
            STEHMAN.areas[2] * 1e-5,
            STEHMAN.overall_accuracy,
            STEHMAN.users_accuracy[1],
            STEHMAN.producers_accuracy[1],
        )
    ]
    assert rounded == [
        (0.35, 0.082),
        (0.2, 0.064),
        (0.63, 0.085),
        (0.574, 0.125),
        (0.794, 0.117),
    ]


def test_stehmans_slip_explains_his_figure() -> None:
    """With no variance of x in stratum 4, the formula (eq. 28) gives his 0.114."""
    stratum, reference = STEHMAN.stratum, STEHMAN.reference
    x = reference == 1
    y = x & (STEHMAN.mapped == 1)
    ratio = STEHMAN.producers_accuracy[1].value
    sizes, total = np.array([4e4, 3e4, 2e4, 1e4]), 0.0
    for h, size in enumerate(sizes):
        here = stratum == h
        both = np.cov(y[here].astype(float), x[here].astype(float))
        x_variance = 0 if h == 3 else both[1, 1]
        part = both[0, 0] + ratio**2 * x_variance - 2 * ratio * both[0, 1]
        total += size**2 * (1 - 10 / size) * part / 10
    denominator = sum(size * x[stratum == h].mean() for h, size in enumerate(sizes))
    assert round(total**0.5 / denominator, 3) == 0.114


def test_a_class_that_nobody_saw_is_undefined() -> None:
    sample = StratifiedSample([0, 0], [0, 0], [0, 0], [1.0], 2)
    assert np.isnan(sample.users_accuracy[1].value)
    assert sample.users_accuracy[1].to_dict()['value'] is None
    assert sample.areas[1].value == 0


def test_one_point_has_no_variance() -> None:
    with pytest.raises(InputError, match=r'Stratum number 2 has 1 .* at least 2'):
        StratifiedSample([0, 0, 1], [0, 0, 1], [0, 0, 1], [1.0, 1.0], 2)


def test_a_stratum_of_one_pixel_is_known() -> None:
    sample = StratifiedSample(
        [0, 0, 1], [0, 0, 1], [0, 1, 1], [9.0, 1.0], 2, strata_pixels=np.array([900, 1])
    )
    expected = 0.9**2 * 0.5 / 2 * (1 - 2 / 900)
    np.testing.assert_allclose(sample.overall_accuracy.standard_error**2, expected)


def test_all_pixels_leave_no_error() -> None:
    """The correction for finite populations."""
    sample = StratifiedSample(
        [0] * 4, [0] * 4, [0, 1, 0, 1], [1.0], 2, strata_pixels=np.array([4])
    )
    assert sample.overall_accuracy == Accuracy(0.5, 0.0)
    assert sample.overall_accuracy.interval == (0.5, 0.5)
    assert sample.users_accuracy[1].to_dict()['interval'] == [None, None]


@pytest.mark.parametrize(('right', 'points'), [(0, 8), (3, 8), (48, 50), (50, 50)])
@pytest.mark.parametrize('confidence', [0.8, 0.95])
def test_interval_of_an_accuracy_is_wilsons(
    right: int, points: int, confidence: float
) -> None:
    share = right / points
    error = (share * (1 - share) / points) ** 0.5
    interval = Accuracy(share, error, confidence, points).interval
    expected = binomtest(right, points).proportion_ci(confidence, 'wilson')
    # 1.96 and the like are rounded as in the papers
    np.testing.assert_allclose(interval, expected, atol=5e-4)


def test_interval_of_a_class_without_an_error_is_not_a_point() -> None:
    mapped = np.repeat([0, 1], 50)
    sample = StratifiedSample(mapped, mapped, mapped, [10.0, 90.0], 2)
    expected = binomtest(50, 50).proportion_ci(method='wilson')
    for accuracy in sample.users_accuracy:
        assert accuracy.standard_error == 0
        np.testing.assert_allclose(accuracy.interval, expected, atol=5e-4)


def test_an_omission_that_no_point_saw_is_not_certain() -> None:
    """Nothing of class 0 was found in the other stratum, which may hold 7 % of it."""
    mapped = np.repeat([0, 1], 50)
    sample = StratifiedSample(mapped, mapped, mapped, [10.0, 90.0], 2)
    most = 90 * binomtest(0, 50).proportion_ci(method='wilson').high
    area, producers = sample.areas[0], sample.producers_accuracy[0]
    assert (area.value, area.half_width, producers.value) == (10, 0, 1)
    np.testing.assert_allclose(area.interval[1] - 10, most, rtol=1e-3)
    assert producers.interval[0] <= 10 / (10 + most) <= producers.interval[0] + 0.01
    # of nothing at all in several strata, all may be where that is most
    sample = StratifiedSample(mapped, 0 * mapped, 0 * mapped, [40.0, 60.0], 2)
    expected = 60 * binomtest(0, 50).proportion_ci(method='wilson').high
    np.testing.assert_allclose(sample.areas[1].interval, (0, expected), rtol=1e-3)
    # nothing is unseen where every pixel was looked at
    known = replace(sample, strata_pixels=np.array([50, 50]))
    assert known.areas[1].interval == (0, 0)


@pytest.mark.parametrize(
    ('share', 'omitted'), [(0.01, 0.002), (0.02, 0.004), (0.005, 0.002), (0.05, 0.005)]
)
def test_intervals_of_a_rare_class_cover_the_truth(
    share: float, omitted: float
) -> None:
    """46 to 80 % of the intervals did that counted what was not seen as certain."""
    rng, covered = np.random.default_rng(0), np.zeros(2)
    stratum = np.repeat([0, 1], [50, 350])
    truth = share * 0.95 + (1 - share) * omitted
    for _ in range(400):
        rare = rng.random(400) < np.where(stratum == 0, 0.95, omitted)
        sample = StratifiedSample(
            stratum, stratum, np.where(rare, 0, 1), [share, 1 - share], 2
        )
        pairs = (
            (sample.areas[0], truth),
            (sample.producers_accuracy[0], share * 0.95 / truth),
        )
        for i, (estimate, value) in enumerate(pairs):
            low, high = estimate.interval
            covered[i] += low <= value <= high
    assert (covered / 400 > 0.93).all(), covered


def test_sample_size_is_olofssons() -> None:
    """Section 5.1.1 and table 5: 641 points; equal and proportional allocation."""
    weights = np.array([0.02, 0.015, 0.32, 0.645])
    assert sample_size(weights, [0.7, 0.6, 0.9, 0.95], 0.01) == 641
    assert allocate(641, weights, 0).tolist() == [13, 10, 205, 413]
    # a small population needs fewer: Cochran, eq. 5.25
    assert sample_size([1], [0.5], 0.05, 1000) == 91


@pytest.mark.parametrize('size', [3, 10, 137, 640])
def test_allocation(size: int) -> None:
    rng = np.random.default_rng(size)
    weights = rng.dirichlet(np.ones(6) / 2)
    points = allocate(size, weights, 20)
    assert points.min() >= 20
    assert points.sum() == max(size, 120)
    # no stratum has more points than pixels
    points = allocate(size, weights, 20, [5, *[10_000] * 5])
    assert points[0] <= 5
    assert points.sum() == max(size, 105)


def test_intervals_cover_the_truth() -> None:
    """300 samples of a known population, strata other than the map's classes."""
    rng = np.random.default_rng(0)
    size = 60_000
    stratum = rng.choice(3, size, p=[0.7, 0.2, 0.1])
    reference = rng.binomial(1, np.array([0.1, 0.5, 0.8])[stratum])
    mapped = np.where(rng.random(size) < 0.8, reference, 1 - reference)
    members = [np.flatnonzero(stratum == h) for h in range(3)]
    areas = np.array([len(m) for m in members], float)
    right = reference == mapped
    truth = (
        reference.sum(),
        right.mean(),
        right[mapped == 1].mean(),
        right[reference == 1].mean(),
    )
    covered = np.zeros(4)
    for _ in range(300):
        drawn = np.concatenate([rng.choice(m, 80, replace=False) for m in members])
        sample = StratifiedSample(
            stratum[drawn], mapped[drawn], reference[drawn], areas, 2
        )
        estimates = (
            sample.areas[1],
            sample.overall_accuracy,
            sample.users_accuracy[1],
            sample.producers_accuracy[1],
        )
        for i, (estimate, value) in enumerate(zip(estimates, truth, strict=True)):
            low, high = estimate.interval
            covered[i] += low <= value <= high
    # four binomial deviations of 300 draws about 0.95
    assert (np.abs(covered / 300 - 0.95) < 0.05).all(), covered / 300


def test_intervals_rest_on_no_more_points_than_there_are() -> None:
    """Korn and Graubard 1998: a small standard error is no larger sample."""
    rng, covered = np.random.default_rng(0), 0
    weights, errors = np.array([0.999, 0.001]), np.array([0.02, 0.5])
    stratum = np.repeat([0, 1], 50)
    for _ in range(400):
        wrong = rng.random(100) < errors[stratum]
        sample = StratifiedSample(stratum, 0 * stratum, wrong, weights, 2)
        low, high = sample.overall_accuracy.interval
        covered += low <= 1 - weights @ errors <= high
    assert covered >= 0.9 * 400
    with_pixels = replace(sample, strata_pixels=np.array([10**6, 51]))
    assert 100 < with_pixels.overall_accuracy.points < 100.1
