# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""Whether a confidence of 80 % is right 80 times in a hundred, and how to make it so."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq

from ..datasets.geo.grid import crop
from ..datasets.labels import LabelRaster
from ..datasets.legends.crosswalk import Crosswalk
from .class_maps import blocks_of

_BLOCK = 1024

# Least probability, so that powers of 0 and products of it stay numbers.
_LEAST = 1e-6

# Makes the stream of random numbers this module's own.
_STREAM = 51942

#: Bins of a reliability diagram.
BINS = 10


@dataclass(frozen=True, eq=False)
class Reliability:
    """How often pixels of each confidence are right.

    Sums by bin of confidence, so that files add up (``+``).

    Args:
        pixels: Pixels of each bin, (B,).
        confidence: Sum of their confidence, 0 to 1 each, (B,).
        right: How many of them are right, (B,).

    >>> result = Reliability.of(np.array([0.9, 0.9, 0.9, 0.3]), np.array([1, 1, 0, 0]))
    >>> round(result.ece, 4)
    0.25
    """

    pixels: NDArray[np.int64]
    confidence: NDArray[np.float64]
    right: NDArray[np.float64]

    @classmethod
    def of(
        cls, confidence: NDArray[Any], right: NDArray[Any], bins: int = BINS
    ) -> 'Reliability':
        """Sort pixels into bins of equal width.

        Args:
            confidence: Probability of the mapped class, 0 to 1, any shape.
            right: Whether it is the true class, of the same shape.
            bins: Number of bins, B.
        """
        values = np.asarray(confidence, np.float64).ravel()
        hits = np.asarray(right, float).ravel()
        place = np.clip((values * bins).astype(np.int64), 0, bins - 1)
        return cls(
            np.bincount(place, minlength=bins),
            np.bincount(place, values, minlength=bins).astype(float),
            np.bincount(place, hits, minlength=bins).astype(float),
        )

    def __add__(self, other: 'Reliability') -> 'Reliability':
        return Reliability(
            self.pixels + other.pixels,
            self.confidence + other.confidence,
            self.right + other.right,
        )

    @cached_property
    def ece(self) -> float:
        """Expected calibration error: mean |accuracy − confidence| over pixels, by bin.

        Guo et al. 2017, On calibration of modern neural networks, ICML, eq. 3.
        """
        total = self.pixels.sum()
        return (
            float(np.abs(self.right - self.confidence).sum() / total)
            if total
            else np.nan
        )

    def to_dict(self) -> dict[str, Any]:
        """Everything as JSON types; an empty bin's figures are null."""

        def mean(sums: NDArray[np.float64]) -> list[float | None]:
            pairs = zip(sums.tolist(), self.pixels.tolist(), strict=True)
            return [round(s / n, 4) if n else None for s, n in pairs]

        return {
            'ece': None if np.isnan(self.ece) else round(self.ece, 4),
            'pixels': self.pixels.tolist(),
            'confidence': mean(self.confidence),
            'accuracy': mean(self.right),
        }

    def save_png(self, path: str | Path, against: str) -> None:
        """Draw the reliability diagram.

        Args:
            path: PNG file to write.
            against: What accuracy is measured against.
        """
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        figure = Figure(figsize=(4, 4), dpi=120)
        FigureCanvasAgg(figure)
        axes = figure.add_subplot()
        used = self.pixels > 0
        mean = self.confidence[used] / self.pixels[used]
        right = self.right[used] / self.pixels[used]
        axes.plot([0, 100], [0, 100], color='grey', linestyle=':')
        size = 20 + 200 * self.pixels[used] / self.pixels.sum()
        axes.plot(100 * mean, 100 * right, color='tab:blue')
        axes.scatter(100 * mean, 100 * right, size, color='tab:blue')
        axes.set(xlim=(0, 102), ylim=(0, 102), xlabel='confidence (%)')
        axes.set_ylabel(f'right, by {against} (%)')
        axes.set_title(f'ECE {100 * self.ece:.1f} %', size=10)
        figure.tight_layout()
        figure.savefig(path, format='png')


def map_reliability(
    map_path: str | Path,
    confidence_path: str | Path,
    reference: Sequence[LabelRaster],
    map_crosswalk: Crosswalk,
    crosswalk: Crosswalk,
) -> Reliability:
    """Compare a map's confidence with labels, block by block.

    Args:
        map_path: The map.
        confidence_path: Its confidence in percent, on the same grid.
        reference: Labels, HR or LR; the first that has one at a pixel's centre counts.
        map_crosswalk: From the map's legend to the one that is compared.
        crosswalk: From the labels' legend to the same.

    Returns:
        The sums over all pixels that have all three.
    """
    (mapped,), (percent,) = (
        LabelRaster.open(map_path),
        LabelRaster.open(confidence_path),
    )
    total = Reliability.of(np.zeros(0), np.zeros(0))
    for rows, cols in blocks_of(mapped.geobox, _BLOCK):
        block = crop(mapped.geobox, (rows.start, cols.start, rows.stop, cols.stop))
        confidence = percent.read(rows, cols)
        truth = np.full(block.shape, -1)
        for raster in reference:
            truth = np.where(truth < 0, crosswalk.index(raster.at(block)), truth)
        index = map_crosswalk.index(mapped.read(rows, cols))
        valid = (truth >= 0) & (index >= 0) & (confidence >= 0)
        total += Reliability.of(confidence[valid] / 100, (truth == index)[valid])
    return total


def held_out_cells(
    shape: tuple[int, int], block: int = 4, share: float = 1 / 3, seed: int = 0
) -> NDArray[np.bool_]:
    """Choose LR cells that a fit does not see, in blocks.

    Errors of coarse maps are alike over neighbours, and a smoothed prior carries labels
    to them: single cells would be predicted by their neighbours' labels.

    Args:
        shape: Rows and columns of the labels.
        block: Height and width of a block in cells.
        share: Share of the blocks that is held out.
        seed: Seed of the choice.

    Returns:
        True where a cell is held out, of that shape.
    """
    rows, cols = (-(-size // block) for size in shape)
    chosen = np.random.default_rng([_STREAM, seed]).random((rows, cols)) < share
    return chosen.repeat(block, 0).repeat(block, 1)[: shape[0], : shape[1]]


@dataclass(frozen=True, eq=False)
class Calibration:
    """Makes probabilities as sure as they should be.

    p' ∝ (s · p)^(1/T): temperature scaling (Guo et al. 2017, section 4.2) after an
    optional shift of the classes' prior (Saerens et al. 2002, Neural Computation 14,
    eq. 2.4). Without a shift the best class stays the best.

    Args:
        temperature: T, above 1 if the probabilities are too sure.
        shift: s, a factor for each class, (C,); none by default.
        description: How it was found, for people.

    >>> Calibration(2.0).apply(np.array([0.9, 0.1])).round(2).tolist()
    [0.75, 0.25]
    """

    temperature: float = 1.0
    shift: NDArray[np.float64] | None = None
    description: str = 'not calibrated'

    def apply(self, probabilities: NDArray[Any]) -> NDArray[Any]:
        """Calibrate probabilities.

        Args:
            probabilities: Probability of each class, (C, …); whatever adds up to one.

        Returns:
            The same shape and data type, adding up to one.
        """
        values = np.maximum(probabilities, _LEAST)
        if self.shift is not None:
            factors = self.shift.reshape(-1, *[1] * (values.ndim - 1))
            values = values * factors.astype(values.dtype)
        values = values ** (1 / self.temperature)
        return (values / values.sum(0)).astype(probabilities.dtype)

    def to_dict(self) -> dict[str, Any]:
        """As JSON types, for a report."""
        return {
            'temperature': round(self.temperature, 4),
            'shift': None if self.shift is None else self.shift.round(4).tolist(),
            'description': self.description,
        }


def fit_temperature(
    probabilities: NDArray[Any],
    held_out: NDArray[np.int64],
    labels: NDArray[np.int64],
    shift: NDArray[np.float64] | None = None,
) -> Calibration:
    """Find the temperature from LR cells that a fit has not seen. No HR label is needed.

    The mean confidence of the map becomes the share of pixels in held-out cells that
    are mapped as the cell is labelled. Two things make that share differ from the
    accuracy, and they pull against each other: a pixel may rightly differ from its cell,
    and map and label may make the same mistake. Measured on five real scenes with
    labels like NLCD's, the calibration error against HR truth fell from .143, .128, .086,
    .335 and .238 to .065, .068, .028, .163 and .112. In cells that a fit *has* seen, and whose
    labels are its prior, the share is .94 to .98 whatever the accuracy: it says nothing.

    Args:
        probabilities: Of a sample of the map's pixels, (C, n): what is to be calibrated,
            prior and all.
        held_out: Class index that a fit without those labels gives to pixels of the
            held-out cells (:func:`held_out_cells`), (m,); -1 is left out.
        labels: Class index of each one's cell, (m,); -1 is left out.
        shift: Factors of the classes, see :func:`fit_shift`; applied first.

    Returns:
        The calibration; it changes nothing where there is no held-out pixel.
    """
    both = (held_out >= 0) & (labels >= 0)
    if not both.any() or not probabilities.size:
        return Calibration(description='not calibrated: no coarse cell was held out')
    # Not above what no temperature reaches, nor below an even draw.
    classes = len(probabilities)
    agreement = float((held_out[both] == labels[both]).mean())
    target = min(max(agreement, 1 / classes + 0.01), 0.999)
    values = np.asarray(probabilities, np.float64)

    def excess(log_temperature: float) -> float:
        calibration = Calibration(float(np.exp(log_temperature)), shift)
        return float(calibration.apply(values).max(0).mean()) - target

    low, high = np.log(0.2), np.log(50)
    if excess(low) <= 0:
        root = low
    elif excess(high) >= 0:
        root = high
    else:
        root = brentq(excess, low, high, xtol=1e-4)
    temperature = float(np.exp(root))
    description = (
        f'temperature {temperature:.2f}: in {int(both.sum())} pixels of coarse cells '
        f'that a fit had not seen, {100 * agreement:.1f} % were mapped as the cell is '
        'labelled'
    )
    return Calibration(temperature, shift, description)


def fit_shift(
    probabilities: NDArray[Any], expected: NDArray[np.float64], rounds: int = 200
) -> NDArray[np.float64]:
    """Find factors of the classes that give their expected shares.

    Args:
        probabilities: Of a sample of the map's pixels, (C, n).
        expected: Share of each class that joint statistics expect of the LR labels in
            the place, (C,); adds up to one.
        rounds: Most rounds of scaling.

    Returns:
        Factors s with mean(s p / Σ s p) = expected, of geometric mean one, (C,). A class
        without any share gets a very small one.
    """
    values = np.maximum(np.asarray(probabilities, np.float64), _LEAST)
    target = np.maximum(expected, 1e-6)
    factors = np.ones(len(values))
    for _ in range(rounds):
        scaled = values * factors[:, None]
        ratio = target / (scaled / scaled.sum(0)).mean(1)
        factors *= ratio
        factors /= np.exp(np.log(factors).mean())
        if np.abs(ratio - 1).max() < 1e-4:
            break
    return factors
