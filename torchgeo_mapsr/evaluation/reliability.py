# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""Whether a confidence of 80 % is right 80 times in a hundred."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..datasets.geo.grid import blocks_of, crop
from ..datasets.labels import LabelRaster, first_code
from ..datasets.legends.crosswalk import Crosswalk
from ..errors import InputError
from .class_maps import one_grid

_BLOCK = 1024

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
    bins: int = BINS,
) -> Reliability:
    """Compare a map's confidence with labels, block by block.

    Args:
        map_path: The map.
        confidence_path: Its confidence in percent, on the same grid.
        reference: Labels, HR or LR; see
            :func:`~torchgeo_mapsr.datasets.labels.first_code`.
        map_crosswalk: From the map's legend to the one that is compared.
        crosswalk: From the labels' legend to the same.
        bins: Number of bins.

    Returns:
        The sums over all pixels that have all three.

    Raises:
        InputError: If a file cannot be read, or the two are not on one grid.
    """
    mapped, percent = one_grid(map_path), one_grid(confidence_path)
    if percent.geobox != mapped.geobox:
        raise InputError(f'{confidence_path}: is not on the grid of {map_path}.')
    total = Reliability.of(np.zeros(0), np.zeros(0), bins)
    for rows, cols in blocks_of(mapped.geobox, _BLOCK):
        block = crop(mapped.geobox, (rows.start, cols.start, rows.stop, cols.stop))
        confidence = percent.read(rows, cols)
        truth = crosswalk.index(first_code(reference, block))
        index = map_crosswalk.index(mapped.read(rows, cols))
        valid = (truth >= 0) & (index >= 0) & (confidence >= 0)
        total += Reliability.of(confidence[valid] / 100, (truth == index)[valid], bins)
    return total
