# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""One signal predicted from another, by least squares that change does not bend."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from .signal_pair import SignalPair

# Values that the robust fit holds in memory (64 MB with copies): all of a scene up to
# 600 000 pixels of three bands, an even share of the pixels of a larger one.
_SAMPLE = 4_000_000

# Residuals above so many medians weigh less, in inverse proportion to their size (Huber).
# Of normal errors in one band one in six is.
_OUTLIER = 2.0

# In the last fits residuals above so many times that weigh in inverse proportion to their
# square.
_FAR = 4.0

# Fits with new weights, at most. Where a share c of a class has changed, each leaves
# c / (1 − c) of the error: 20 fits if 0.4 of a class has changed, three if a tenth has.
_ROUNDS = 30

#: Least difference that counts: of imagery as a share of its median absolute deviation
#: (half a grey level of an aerial picture, whose windows differ from those of the picture
#: warped to another grid by up to a twentieth of one), of scores in percent.
LEAST_IMAGERY, LEAST_SCORES = 0.02, 1.0


@dataclass(frozen=True, eq=False)
class PixelSample:
    """Pixels that a calibration is fitted on.

    Args:
        moments: Sums over all pixels of (x, 1)ᵀ (x, 1, y), (B + 1, 2 B + 1).
        before: First signal x of some of them, (B, n).
        after: Second signal y, (B, n).
        scores: Whether they are scores in percent.
    """

    moments: NDArray[np.float64]
    before: NDArray[np.float64]
    after: NDArray[np.float64]
    scores: bool = False

    @classmethod
    def draw(
        cls, pair: SignalPair, tick: Callable[[], None] = lambda: None
    ) -> 'PixelSample':
        """Go through the pixels that both rasters have.

        Args:
            pair: The signals.
            tick: Called after each block.

        Raises:
            InputError: If there is no such pixel.
        """
        most = max(_SAMPLE // (2 * len(pair.bands)), 8 * len(pair.bands))
        share = most / (pair.geobox.height * pair.geobox.width)
        moments: Any = 0.0
        drawn: list[tuple[NDArray[Any], NDArray[Any]]] = []
        for rows, cols, before, after, valid in pair.blocks():
            x, y = before[:, valid].astype(float), after[:, valid].astype(float)
            x_one = np.concatenate([x, np.ones((1, x.shape[1]))])
            moments = moments + np.concatenate([x_one @ x_one.T, x_one @ y.T], 1)
            if share < 1:
                # The same pixels in every run.
                rng = np.random.default_rng([rows.start, cols.start])
                taken = rng.random(x.shape[1]) < share
                x, y = x[:, taken], y[:, taken]
            drawn.append((x, y))
            tick()
        if moments[-1, len(pair.bands)] == 0:
            raise InputError('The two rasters have no pixels in common that have data.')
        before, after = (np.concatenate(parts, 1) for parts in zip(*drawn, strict=True))
        return cls(moments, before, after, pair.scores)

    @cached_property
    def least(self) -> float:
        """Least difference that counts, in the units of the signal."""
        if self.scores:
            return LEAST_SCORES
        if not self.after.size:
            return 1e-9
        deviation = np.abs(self.after - np.median(self.after, axis=1, keepdims=True))
        spread = np.median(deviation, axis=1)
        # The median is 0 where most pixels are equal, as in a mask: the mean is taken then.
        spread = np.where(spread > 0, spread, deviation.mean(1))
        return LEAST_IMAGERY * float(spread.mean()) + 1e-9


@dataclass(frozen=True, eq=False)
class LinearCalibration:
    """What one signal is expected to be, given the other: y = A x + b.

    Args:
        matrix: A, (B, B).
        offset: b, (B,).
    """

    matrix: NDArray[np.float64]
    offset: NDArray[np.float64]

    @classmethod
    def fit(cls, pixels: PixelSample) -> 'LinearCalibration':
        """Fit signals with what has changed among them, place ignored.

        Least squares would be bent by what has changed, and then differences show
        everywhere (a flood over a tenth of the made scene of the tests raised what is left
        elsewhere from 1.9 to 4.4). Therefore a pixel whose mean absolute difference r is
        larger than k, twice the median, counts k / r, and the fit is repeated with these
        weights until it stays the same (Huber 1964, by iterated least squares); then, from
        there, those further off than 4 k count 4 k / r of that, which takes out what they
        still bend.

        No weight is ever 0. Without the pixels that are far off, a class would be left
        out as a whole where a commoner one does not differ at all: then its column of A is
        anything. What the sample says nothing of stays as least squares over all pixels
        have it.

        Args:
            pixels: The pixels.
        """
        result = cls.least_squares(pixels.moments)
        x, y = pixels.before, pixels.after
        x_one = np.concatenate([x, np.ones((1, x.shape[1]))])
        residual = y - result(x)
        for far in (np.inf, _FAR) if residual.size else ():
            for _ in range(_ROUNDS):
                size = np.abs(residual).mean(0)
                # Bounded below: weights of 1e-6 would leave a singular system.
                most = max(_OUTLIER * float(np.median(size)), 0.1 * pixels.least)
                weight = most / np.maximum(size, most)
                weight *= np.minimum(far * weight, 1)
                weighted = x_one * weight
                step = cls.least_squares(
                    np.concatenate([weighted @ x_one.T, weighted @ residual.T], 1)
                )
                result = cls(result.matrix + step.matrix, result.offset + step.offset)
                change = step(x)
                residual -= change
                if np.abs(change).mean() < 0.01 * pixels.least:
                    break
        return result

    @classmethod
    def least_squares(cls, moments: NDArray[np.float64]) -> 'LinearCalibration':
        """Least squares by sums of products.

        Args:
            moments: Sums of w (x, 1)ᵀ (x, 1, y), (B + 1, 2 B + 1); w is a pixel's weight.
        """
        count = len(moments) - 1
        mean = moments[-1] / moments[-1, count]
        products = moments[:count] / moments[-1, count]
        covariance = products[:, :count] - np.outer(mean[:count], mean[:count])
        crossed = products[:, count + 1 :] - np.outer(mean[:count], mean[count + 1 :])
        # Bands are scaled by their spread, since one may be of 1 and another of 10 000; a
        # spread below the rounding of the products is none.
        spread = np.sqrt(np.diag(covariance).clip(0))
        spread[spread**2 <= 1e-12 * np.diag(products)] = np.inf
        # Scores add up to 100, so that there are many solutions: lstsq takes the smallest.
        solution = np.linalg.lstsq(
            covariance / np.outer(spread, spread), crossed / spread[:, None], rcond=1e-9
        )[0]
        matrix = (solution / spread[:, None]).T
        return cls(matrix, mean[count + 1 :] - matrix @ mean[:count])

    def __call__(self, signal: NDArray[Any]) -> NDArray[np.float64]:
        """Calibrate a signal, (B, ...)."""
        moved = np.tensordot(self.matrix, signal, 1)
        return moved + self.offset.reshape(-1, *[1] * (signal.ndim - 1))
