# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""What a finished map holds, and whether it agrees with the LR labels it came from."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox

from ..datasets.geo.areas import PixelAreas
from ..datasets.geo.grid import Window, blocks_of, pixel_ratio
from ..datasets.geo.raster import RasterFile
from ..datasets.geo.region import cell_diameter, region_map
from ..datasets.labels import LabelRaster
from ..datasets.legends.crosswalk import Crosswalk
from ..datasets.legends.legend import Legend
from ..datasets.legends.statistics import JointStatistics
from ..errors import InputError
from .class_maps import known_index

_BLOCK = 1024

# Least standard deviation of a class share, as JointStatistics.posterior takes it.
_FLOOR = 0.02

#: What has to be said beside every figure that needs no HR labels.
WARNING = (
    'Agreement with coarse labels does not rank maps: a copy of the labels agrees best. '
    'It finds gross mistakes. To compare maps, label points (sample, area).'
)


@dataclass(frozen=True)
class MapSummary:
    """Counts by class of one map.

    Args:
        legend: The map's classes.
        pixels: Pixels of each class, (C,).
        hectares: Their area, (C,).
        nodata: Pixels without data.
        cells: LR cells of each class that have mapped pixels, (C,).
        weights: Sum of the shares of them that are mapped, (C,).
        agreeing: The same of those where the most frequent class of the map's pixels
            is the cell's class, (C,).
    """

    legend: Legend
    pixels: NDArray[np.int64]
    hectares: NDArray[np.float64]
    nodata: int
    cells: NDArray[np.int64]
    weights: NDArray[np.float64]
    agreeing: NDArray[np.float64]

    def to_dict(self) -> dict[str, Any]:
        """Everything as JSON types; agreement without a cell is null."""

        def share(part: float, total: float) -> float | None:
            return round(part / total, 4) if total else None

        mapped = int(self.pixels.sum())
        cells, weights = self.cells.tolist(), self.weights.tolist()
        agreeing = self.agreeing.tolist()
        return {
            'pixels': mapped,
            'nodata_pixels': self.nodata,
            'hectares': round(float(self.hectares.sum()), 4),
            'lr_cells': sum(cells),
            'lr_agreement': share(sum(agreeing), sum(weights)),
            'classes': [
                {
                    'code': c.code,
                    'name': c.name,
                    'pixels': int(self.pixels[i]),
                    'hectares': round(float(self.hectares[i]), 4),
                    'share': share(int(self.pixels[i]), mapped),
                    'lr_cells': cells[i],
                    'lr_agreement': share(agreeing[i], weights[i]),
                }
                for i, c in enumerate(self.legend.classes)
            ],
        }


def summarise(
    path: Path,
    legend: Legend,
    labels: Sequence[LabelRaster] = (),
    crosswalk: Crosswalk | None = None,
) -> MapSummary:
    """Count a map's pixels, areas and agreement with LR labels, window by window.

    A cell is judged once, by the window that its first pixel lies in, row by row;
    windows are read with a margin that is wider than a cell, so that they see it whole.
    In the agreement it counts by the share of it that is mapped: the map's edge cuts some.
    Where label rasters overlap, the first that has a code counts.

    Args:
        path: Map of the legend's codes.
        legend: Its legend.
        labels: LR labels.
        crosswalk: From the labels' legend to the map's; needed if there are labels.

    Returns:
        The counts.
    """
    n = len(legend)
    pixels, cells = (np.zeros(n, np.int64) for _ in range(2))
    hectares, weights, agreeing = (np.zeros(n) for _ in range(3))
    nodata = 0
    mapped = LabelRaster([RasterFile.open(path)])
    areas = PixelAreas(mapped.geobox)
    pixel = _cells_a_pixel(mapped, labels)
    for part in _parts(mapped, legend, labels if crosswalk is not None else ()):
        index = part.index[part.inner]
        place = index.ravel() + 1
        area = areas(*part.window).ravel() / 1e4
        counts = np.bincount(place, minlength=n + 1)
        nodata += int(counts[0])
        pixels += counts[1:]
        hectares += np.bincount(place, area, n + 1)[1:]
        for i, raster in enumerate(labels if crosswalk is not None else ()):
            assert crosswalk is not None
            codes, counts = part.cells(raster, n, labels[:i])
            truth = crosswalk.index(codes)
            counts, truth = counts[truth >= 0], truth[truth >= 0]
            same = counts.argmax(1) == truth
            weight = np.minimum(counts.sum(1) * pixel[i], 1)
            cells += np.bincount(truth, minlength=n)
            weights += np.bincount(truth, weight, n)
            agreeing += np.bincount(truth[same], weight[same], n)
    return MapSummary(legend, pixels, hectares, nodata, cells, weights, agreeing)


@dataclass(frozen=True, eq=False)
class Composition:
    """What the LR cells of each class hold in maps.

    Sums over cells, so that maps add up (``+``). As in joint statistics that are
    measured, a cell counts by the share of it that is mapped.

    Args:
        source: LR legend, L classes.
        target: The maps' legend, C classes.
        cells: Cells of each LR class, (L,).
        weights: Sum of their weights, (L,).
        shares: Weighted sum of the shares of the map's classes in them, (L, C).
        squares: Weighted sum of the squares of the shares, (L, C).
    """

    source: Legend
    target: Legend
    cells: NDArray[np.int64]
    weights: NDArray[np.float64]
    shares: NDArray[np.float64]
    squares: NDArray[np.float64]

    def __add__(self, other: 'Composition') -> 'Composition':
        return Composition(
            self.source,
            self.target,
            self.cells + other.cells,
            self.weights + other.weights,
            self.shares + other.shares,
            self.squares + other.squares,
        )

    @cached_property
    def mean(self) -> NDArray[np.float64]:
        """Mean share of each class of the map, (L, C); NaN without a cell."""
        return self.shares / np.where(self.cells > 0, self.weights, np.nan)[:, None]

    def z_scores(
        self, statistics: JointStatistics
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """How far the cells' shares are from what joint statistics expect.

        The z-score of a cell of LR class l is (share_c − η_lc) / ρ_lc (Malkin et al.
        2019, section 2).

        Args:
            statistics: η and ρ of the same legends.

        Returns:
            Weighted mean of the cells' z-scores (0 if there is no bias), and the root of
            that of their squares (1 if they scatter as expected), both (L, C).

        Raises:
            InputError: If the statistics are for other legends.
        """
        for legend, expected in (
            (self.source, statistics.source),
            (self.target, statistics.target),
        ):
            if legend.words != expected.words:
                raise InputError(
                    f'The statistics {statistics.name!r} are for the legend '
                    f'{expected.name!r}, not {legend.name!r}; give others with --statistics.'
                )
        deviation = np.maximum(statistics.std, _FLOOR)
        offset = self.mean - statistics.mean
        total = np.where(self.cells > 0, self.weights, np.nan)[:, None]
        variance = np.maximum(self.squares / total - self.mean**2, 0)
        return offset / deviation, np.sqrt(variance + offset**2) / deviation

    def to_dict(self, statistics: JointStatistics | None = None) -> dict[str, Any]:
        """Everything as JSON types.

        Args:
            statistics: Adds the z-scores.
        """

        def numbers(row: NDArray[np.float64]) -> list[float | None]:
            return [None if np.isnan(v) else round(float(v), 4) for v in row]

        scores = None if statistics is None else self.z_scores(statistics)
        rows = []
        for i, item in enumerate(self.source.classes):
            if self.cells[i]:
                row = {'code': item.code, 'name': item.name}
                row |= {'cells': int(self.cells[i]), 'shares': numbers(self.mean[i])}
                if scores is not None:
                    row |= {'mean_z': numbers(scores[0][i])}
                    row |= {'rms_z': numbers(scores[1][i])}
                rows.append(row)
        content = {'classes': list(self.target.class_names), 'lr_classes': rows}
        if statistics is not None:
            content['statistics'] = statistics.name
        return content


def composition(
    path: str | Path, legend: Legend, labels: Sequence[LabelRaster], lr_legend: Legend
) -> Composition:
    """Find what the LR cells of each class hold in a map.

    Of several label rasters the first that has a code at a pixel counts.

    Args:
        path: Map of the legend's codes.
        legend: Its legend, C classes.
        labels: LR labels.
        lr_legend: Their legend, L classes.

    Returns:
        Sums over the cells.
    """
    length, n = len(lr_legend), len(legend)
    cells, weights = np.zeros(length, np.int64), np.zeros(length)
    shares, squares = np.zeros((length, n)), np.zeros((length, n))
    mapped = LabelRaster([RasterFile.open(path)])
    pixel = _cells_a_pixel(mapped, labels)
    for part in _parts(mapped, legend, labels):
        for i, raster in enumerate(labels):
            codes, counts = part.cells(raster, n, labels[:i])
            index = lr_legend.index(codes)
            counts, index = counts[index >= 0], index[index >= 0]
            total = counts.sum(1, keepdims=True)
            share, weight = counts / total, np.minimum(total * pixel[i], 1)
            cells += np.bincount(index, minlength=length)
            np.add.at(weights, index, weight[:, 0])
            np.add.at(shares, index, weight * share)
            np.add.at(squares, index, weight * share**2)
    return Composition(lr_legend, legend, cells, weights, shares, squares)


def _cells_a_pixel(
    mapped: LabelRaster, labels: Sequence[LabelRaster]
) -> NDArray[np.float64]:
    """Area of a map's pixel in cells of each label raster, (R,).

    1 where the map reaches beyond the labels' CRS: cells count as whole.
    """
    ratios = [pixel_ratio(mapped.geobox, raster.geobox) for raster in labels]
    return np.nan_to_num(ratios, nan=1)


@dataclass(frozen=True, eq=False)
class _Part:
    """A window of a map with a margin that is wider than a cell.

    Args:
        geobox: Grid of the window with its margin.
        index: Class index of its pixels, (H, W); -1 = no data.
        window: Rows and columns of the window in the map.
        inner: Rows and columns of the window here.
    """

    geobox: GeoBox
    index: NDArray[np.int64]
    window: Window
    inner: Window

    def cells(
        self, labels: LabelRaster, classes: int, before: Sequence[LabelRaster] = ()
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """LR cells whose first pixel lies in the window.

        Args:
            labels: LR labels.
            classes: Number of classes of the map, C.
            before: Rasters that go before: pixels under a code of theirs are left out.

        Returns:
            The code of each that has one and mapped pixels, (n,), and its pixels by
            class of the map, (n, C).
        """
        region = region_map(self.geobox, labels.geobox)
        codes = labels.read(region.rows, region.cols).ravel()
        size = codes.size
        if not (codes >= 0).any():
            return np.zeros(0, np.int64), np.zeros((0, classes), np.int64)

        cell = region.mask_region.ravel() - 1
        # In reversed order, so that the first pixel of a cell is assigned last and stays;
        # cell -1 (outside) goes to the last place.
        first = np.full(size + 1, -1)
        first[cell[::-1]] = np.arange(cell.size)[::-1]
        row, col = np.divmod(first[:-1], region.mask_region.shape[1])
        rows, cols = self.inner
        inside = (
            (first[:-1] >= 0)
            & (row >= rows.start)
            & (row < rows.stop)
            & (col >= cols.start)
            & (col < cols.stop)
        )
        index = self.index
        for other in before:
            index = np.where(other.at(self.geobox) >= 0, -1, index)
        index = index.ravel()
        both = (cell >= 0) & (index >= 0)
        pairs = np.bincount(
            cell[both] * classes + index[both], minlength=size * classes
        )
        counts = pairs.reshape(size, classes)
        judged = inside & (codes >= 0) & (counts.sum(1) > 0)
        return codes[judged], counts[judged]


def _parts(
    mapped: LabelRaster, legend: Legend, labels: Sequence[LabelRaster]
) -> Iterator[_Part]:
    """All windows of a map, each with the margin that its LR cells need."""
    geobox = mapped.geobox
    height, width = geobox.shape
    for rows, cols in blocks_of(geobox, _BLOCK):
        window = geobox[rows, cols]
        margin = max((cell_diameter(window, r.geobox) for r in labels), default=0)
        top, left = max(rows.start - margin, 0), max(cols.start - margin, 0)
        wide = (
            slice(top, min(rows.stop + margin, height)),
            slice(left, min(cols.stop + margin, width)),
        )
        index = known_index(mapped.read(*wide), legend, mapped.paths[0])
        inner = (
            slice(rows.start - top, rows.stop - top),
            slice(cols.start - left, cols.stop - left),
        )
        yield _Part(geobox[wide], index, (rows, cols), inner)
