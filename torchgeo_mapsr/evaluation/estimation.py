# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""Accuracy and area from a stratified random sample of reference points.

Sources: Olofsson et al. 2014, *Good practices for estimating area and assessing accuracy
of land change*, Remote Sensing of Environment 148, 42-57; Stehman 2014, *Estimating area
and map accuracy for stratified random sampling when the strata are different from the
map classes*, International Journal of Remote Sensing 35, 4923-4939; Cochran 1977,
*Sampling Techniques*, 3rd edition; Wilson 1927, *Probable inference, the law of
succession, and statistical inference*, Journal of the American Statistical Association
22, 209-212; Korn and Graubard 1998, *Confidence intervals for proportions with small
expected number of positive counts estimated from survey data*, Survey Methodology 24,
193-201.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import norm

from ..errors import InputError


@dataclass(frozen=True)
class Estimate:
    """An estimate with its standard error.

    A standard error counts a stratum as certain in which all points are alike. Of a class
    of 1 % of the area of which the map omits as much as was found, 46 to 82 % of normal
    95 % intervals covered the area, because half of the samples saw no omission. So an
    interval reaches as far, too, as what no point has seen may: the most that the stratum
    may hold where that is most (with no point in several strata, the upper limit of their
    sum is that of one of them).

    Args:
        value: The estimate; NaN where it is not defined.
        standard_error: Its standard error, in the same unit.
        confidence: Coverage of the interval, 0 to 1.
        below: What may lack although no point lacks it, in the same unit.
        above: What there may be although no point has it.

    >>> Estimate(0.5, 0.1).interval
    (0.304, 0.696)
    >>> Estimate(10.0, 0.0, above=7.0).interval
    (10.0, 17.0)
    """

    value: float
    standard_error: float
    confidence: float = 0.95
    below: float = field(default=0.0, kw_only=True)
    above: float = field(default=0.0, kw_only=True)

    @property
    def _deviations(self) -> float:
        """Standard deviations of a normal variable within which the confidence is."""
        # 1.96 for 95 %, which the last digits of the papers' examples depend on.
        return float(round(norm.ppf(0.5 + self.confidence / 2), 2))

    @property
    def half_width(self) -> float:
        """Half the width of the normal interval, as the papers print it."""
        return self._deviations * self.standard_error

    @property
    def interval(self) -> tuple[float, float]:
        """Lower and upper end of the confidence interval; not cut at 0."""
        return (
            self.value - float(np.hypot(self.half_width, self.below)),
            self.value + float(np.hypot(self.half_width, self.above)),
        )

    def __mul__(self, factor: float) -> 'Estimate':
        return Estimate(
            self.value * factor,
            self.standard_error * factor,
            self.confidence,
            below=self.below * factor,
            above=self.above * factor,
        )

    def to_dict(self, digits: int = 6) -> dict[str, Any]:
        """As JSON types; what is undefined is null."""

        def number(value: float) -> float | None:
            return None if np.isnan(value) else round(float(value), digits)

        low, high = self.interval
        return {
            'value': number(self.value),
            'standard_error': number(self.standard_error),
            'interval': [number(low), number(high)],
        }


@dataclass(frozen=True)
class Accuracy(Estimate):
    """A share of right pixels, whose interval is not symmetric.

    Normal intervals are short of what they promise where few points are wrong: of 962
    samples 91.6 % covered the user's accuracy of a class of 50 points, and with no
    wrong point at all their width is 0. This is the score interval of Wilson 1927 for
    as many points as would have this standard error if they were drawn plainly, but no
    more than there are (Korn and Graubard 1998): where a stratum of little weight has
    nearly all that is wrong, that would be hundreds of times as many, and 56 % of
    intervals covered. ``python -m benchmarks coverage`` counts how many cover.

    Args:
        value: The estimate; NaN where it is not defined.
        standard_error: Its standard error.
        confidence: Coverage of the interval, 0 to 1.
        below: How much less it may be by what no point has seen.
        above: How much more.
        points: Points that it rests on, or more where they are a part of few pixels;
            infinite where they are all there is.

    >>> low, high = Accuracy(1.0, 0.0, points=50).interval
    >>> round(low, 3), high
    (0.929, 1.0)
    """

    points: float = np.inf

    @property
    def interval(self) -> tuple[float, float]:
        """Lower and upper end of the confidence interval, 0 to 1."""
        p, error = self.value, self.standard_error
        size = min(p * (1 - p) / error**2, self.points) if error > 0 else self.points
        z = self._deviations
        shrink = z**2 / size
        centre = (p + shrink / 2) / (1 + shrink)
        half = z * np.sqrt(p * (1 - p) / size + shrink / size / 4) / (1 + shrink)
        # Rounding must not put an estimate of 0 or 1 outside of its interval.
        low, high = p - min(centre - half, p), max(centre + half, p) - p
        low, high = np.hypot(low, self.below), np.hypot(high, self.above)
        return float(max(p - low, 0)), float(min(p + high, 1))


@dataclass(frozen=True, eq=False)
class StratifiedSample:
    """Reference points drawn at random within strata, with map and reference class.

    All figures are (ratios of) stratified means of indicators: Stehman 2014, eq. 1 to 3
    and 25 to 27. Where the strata are the map classes they are the same numbers as
    Olofsson et al. 2014, eq. 2, 3 and 5 to 11 (the tests compare both).

    Args:
        stratum: Stratum of each point, 0 to H - 1, (n,).
        mapped: Map class index of each point, 0 to C - 1, (n,).
        reference: Reference class index of each point, (n,).
        strata_areas: Area of each stratum in hectares, (H,).
        classes: Number of classes, C.
        strata_pixels: Pixels of each stratum, (H,), for the correction for finite
            populations; none by default, as in Olofsson et al.
        confidence: Coverage of the intervals, 0 to 1.

    Raises:
        InputError: If a stratum has fewer than two points, and more pixels than points:
            it has no variance then; or more points than pixels.

    >>> sample = StratifiedSample([0, 0, 1, 1], [0, 0, 1, 1], [0, 1, 1, 1], [6, 4], 2)
    >>> sample.overall_accuracy.value
    0.7
    >>> [area.value for area in sample.areas]
    [3.0, 7.0]
    """

    stratum: NDArray[np.int64]
    mapped: NDArray[np.int64]
    reference: NDArray[np.int64]
    strata_areas: NDArray[np.float64]
    classes: int
    strata_pixels: NDArray[np.int64] | None = None
    confidence: float = 0.95

    def __post_init__(self) -> None:
        for name in ('stratum', 'mapped', 'reference'):
            object.__setattr__(self, name, np.asarray(getattr(self, name), np.int64))
        areas = np.asarray(self.strata_areas, np.float64)
        object.__setattr__(self, 'strata_areas', areas)
        lacking = (self._count < 2) & (areas > 0)
        if self.strata_pixels is not None:
            # A stratum whose every pixel is labelled is known.
            lacking &= (self._count == 0) | (self._count < self.strata_pixels)
        few = np.flatnonzero(lacking)
        if few.size:
            raise InputError(
                f'Stratum number {few[0] + 1} has {self._count[few[0]]} labelled points '
                'and needs at least 2; label more of its points.'
            )
        if self.strata_pixels is not None and (self._count > self.strata_pixels).any():
            raise InputError('A stratum has more labelled points than it has pixels.')

    @cached_property
    def _count(self) -> NDArray[np.int64]:
        """Points of each stratum, (H,)."""
        return np.bincount(self.stratum, minlength=len(self.strata_areas))

    @cached_property
    def _weight(self) -> NDArray[np.float64]:
        """Area of each stratum as a share of the whole, W_h, (H,)."""
        return self.strata_areas / self.strata_areas.sum()

    @cached_property
    def area(self) -> float:
        """Area of all strata in hectares."""
        return float(self.strata_areas.sum())

    def _means(self, values: NDArray[Any]) -> NDArray[np.float64]:
        """Mean of a value of the points in each stratum, (H,)."""
        total = np.bincount(self.stratum, values, minlength=len(self._weight))
        return np.divide(
            total, self._count, out=np.zeros(len(self._weight)), where=self._count > 0
        )

    def _mean(self, values: NDArray[Any]) -> float:
        """Stratified mean Σ W_h ȳ_h (Stehman 2014, eq. 1)."""
        return float(self._weight @ self._means(values))

    def _variance(self, values: NDArray[Any]) -> float:
        """Σ W_h² (1 − n_h/N_h) s_h² / n_h (Stehman 2014, eq. 25; Cochran 1977, 5.7)."""
        mean = self._means(values)
        offset = values - mean[self.stratum]
        used = self._count > 1
        squares = np.bincount(self.stratum, offset**2, minlength=len(self._weight))[
            used
        ]
        count = self._count[used]
        variance = squares / (count - 1) / count
        if self.strata_pixels is not None:
            variance *= 1 - count / np.asarray(self.strata_pixels, np.float64)[used]
        return float(self._weight[used] ** 2 @ variance)

    def proportion(self, values: ArrayLike) -> Estimate:
        """Share of the area where an indicator of the points is true.

        Args:
            values: 0 or 1 of each point, (n,).

        Returns:
            Olofsson et al. 2014, eq. 9 and 10; Stehman 2014, eq. 1 and 25.
        """
        y = np.asarray(values, np.float64)
        every = np.ones(len(y))
        return Estimate(
            self._mean(y),
            self._variance(y) ** 0.5,
            self.confidence,
            below=self._unseen(1 - y, every),
            above=self._unseen(y, every),
        )

    def _unseen(self, seen: NDArray[Any], among: NDArray[Any]) -> float:
        """Largest share of the area that may have what no point of a stratum has.

        Where points are drawn from strata, and none of n_h has it, the upper limit of
        Σ W_h p_h is that of the stratum whose own is largest: at one likelihood
        Π (1 − p_h)^n_h, it is largest with all in one. That of a stratum is the score
        interval's, z² / (n_h + z²).

        Args:
            seen: 1 where a point has it, (n,).
            among: 1 where a point could have it, (n,).
        """
        strata = len(self._weight)
        count = np.bincount(self.stratum, among, minlength=strata)
        none = (count > 0) & (np.bincount(self.stratum, seen, minlength=strata) == 0)
        if not none.any():
            return 0.0
        drawn = self._count[none]
        left = np.ones(len(drawn))
        if self.strata_pixels is not None:
            left -= drawn / np.asarray(self.strata_pixels, np.float64)[none]
        square = Estimate(0, 0, self.confidence)._deviations ** 2 * left
        share = self._weight[none] * count[none] / drawn
        return float((share * square / (count[none] + square)).max())

    def accuracy(
        self,
        numerator: ArrayLike,
        denominator: ArrayLike,
        elsewhere: ArrayLike | None = None,
    ) -> Accuracy:
        """Share of one indicator's area that another, which implies it, takes.

        Args:
            numerator: y of each point, 0 or 1, (n,).
            denominator: x of each point, 0 or 1, 1 where y is, (n,).
            elsewhere: 1 where x may be and y not, (n,): of producer's accuracy, points
                that are mapped as other classes. None where x is known of all ground.

        Returns:
            R = ȳ / x̄ and the standard error of its residuals y − R x
            (Stehman 2014, eq. 27 to 29); NaN where no point has the denominator. Where
            every point has it, the same as :meth:`proportion`.
        """
        y, x = np.asarray(numerator, np.float64), np.asarray(denominator, np.float64)
        mean = self._mean(x)
        if mean == 0:
            return Accuracy(np.nan, np.nan, self.confidence)
        value = self._mean(y) / mean
        error = self._variance(y - value * x) ** 0.5 / mean
        below = 0.0
        if elsewhere is None:
            rests_on = x
        else:
            # Points that turned out to be of another class count too: with those of the
            # class alone, 98 % of the "95 %" intervals of a common class covered.
            among = np.asarray(elsewhere, np.float64)
            rests_on = np.maximum(x, among)
            unseen = self._unseen(x * among, among)
            below = value * unseen / (mean + unseen)
        points = float(np.count_nonzero(rests_on))
        strata = np.unique(self.stratum[rests_on > 0])
        if self.strata_pixels is not None:
            drawn = self._count[strata].sum() / np.sum(
                np.take(self.strata_pixels, strata)
            )
            points = points / (1 - drawn) if drawn < 1 else np.inf
        return Accuracy(value, error, self.confidence, points, below=below)

    @cached_property
    def matrix(self) -> NDArray[np.float64]:
        """Share of the area by map class (row) and reference class, (C, C).

        Olofsson et al. 2014, eq. 4; Stehman 2014, eq. 24.
        """
        pair = self.mapped * self.classes + self.reference
        weight = np.divide(
            self._weight, self._count, out=np.zeros(len(self._weight)),
            where=self._count > 0,
        )  # fmt: skip
        flat = np.bincount(pair, weight[self.stratum], minlength=self.classes**2)
        return flat.astype(float).reshape(self.classes, self.classes)

    @cached_property
    def counts(self) -> NDArray[np.int64]:
        """Points by map class (row) and reference class, (C, C)."""
        pair = self.mapped * self.classes + self.reference
        flat = np.bincount(pair, minlength=self.classes**2)
        return flat.reshape(self.classes, self.classes)

    @cached_property
    def overall_accuracy(self) -> Accuracy:
        """Share of the area that is mapped right (Olofsson et al. 2014, eq. 1 and 5)."""
        right = self.mapped == self.reference
        return self.accuracy(right, np.ones(len(right)))

    @cached_property
    def users_accuracy(self) -> tuple[Accuracy, ...]:
        """Share of each mapped class that is right (Olofsson et al. 2014, eq. 2, 6)."""
        right = self.mapped == self.reference
        return tuple(
            self.accuracy(right & (self.mapped == k), self.mapped == k)
            for k in range(self.classes)
        )

    @cached_property
    def producers_accuracy(self) -> tuple[Accuracy, ...]:
        """Share of each true class that is mapped so (Olofsson et al. 2014, eq. 3, 7)."""
        right = self.mapped == self.reference
        return tuple(
            self.accuracy(
                right & (self.reference == k), self.reference == k, self.mapped != k
            )
            for k in range(self.classes)
        )

    @cached_property
    def areas(self) -> tuple[Estimate, ...]:
        """Hectares of each true class (Olofsson et al. 2014, eq. 9 to 11)."""
        return tuple(
            self.proportion(self.reference == k) * self.area
            for k in range(self.classes)
        )


def sample_size(
    weights: ArrayLike,
    accuracies: ArrayLike,
    standard_error: float,
    population: float = np.inf,
) -> int:
    """Points for a standard error of the overall accuracy.

    n = (Σ W_i S_i)² / (S(Ô)² + Σ W_i S_i² / N), S_i = √(U_i (1 − U_i)): Cochran 1977,
    eq. 5.25, as in Olofsson et al. 2014, eq. 13.

    Args:
        weights: Area of each stratum as a share of the whole, (H,).
        accuracies: User's accuracy that is expected in each, 0 to 1, (H,).
        standard_error: Standard error that is wanted, 0 to 1.
        population: Pixels of all strata, N.

    Returns:
        The number of points, rounded up.

    >>> sample_size([0.02, 0.015, 0.32, 0.645], [0.7, 0.6, 0.9, 0.95], 0.01)
    641
    """
    share, expected = np.asarray(weights, float), np.asarray(accuracies, float)
    variance = expected * (1 - expected)
    size = (share @ np.sqrt(variance)) ** 2
    size /= standard_error**2 + share @ variance / population
    # 100.0000000001, a whole number but for rounding, stays 100.
    return max(int(np.ceil(size - 1e-9)), 1)


def allocate(
    size: int,
    weights: ArrayLike,
    minimum: int = 50,
    population: Sequence[int] | None = None,
) -> NDArray[np.int64]:
    """Share points among strata.

    In proportion to area, but no stratum below the minimum: rare strata get it, and
    the rest goes to the others in proportion (Olofsson et al. 2014, section 5.1.2).

    Args:
        size: Points in all; more, if the minimum asks for them.
        weights: Area of each stratum as a share of the whole, (H,).
        minimum: Least points of a stratum.
        population: Pixels of each stratum; none gets more than it has.

    Returns:
        Points of each stratum, (H,).

    >>> allocate(640, [0.02, 0.015, 0.32, 0.645], 75).tolist()
    [75, 75, 162, 328]
    """
    share = np.asarray(weights, float)
    most = np.full(len(share), np.inf) if population is None else np.asarray(population)
    least = np.minimum(minimum, most)
    result, free = least.copy().astype(float), np.ones(len(share), bool)
    while free.any():
        room = max(size - result[~free].sum(), 0)
        sizes = room * share[free] / max(share[free].sum(), 1e-300)
        result[free] = np.clip(sizes, least[free], most[free])
        fixed = np.zeros(len(share), bool)
        fixed[free] = sizes < least[free]
        if not fixed.any():
            fixed[free] = sizes > most[free]
        if not fixed.any():
            break
        free &= ~fixed
    points = np.floor(result + 1e-9).astype(np.int64)
    # What rounding down leaves goes to the largest remainders.
    left = round(result.sum()) - int(points.sum())
    order = np.argsort(points - result, kind='stable')
    for i in order[: max(left, 0)]:
        points[i] += 1
    return np.minimum(points, most).astype(np.int64)
