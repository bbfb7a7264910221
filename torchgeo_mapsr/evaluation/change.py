# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""Change between two dates, by calibrated signals.

Malkin et al. 2019, Label super-resolution networks, ICLR, appendix D. One signal (imagery,
class scores or classes) is calibrated to the other by least squares, which takes out what
changes everywhere alike (light, season, sensor); the mean absolute difference that is
left, in windows of 240 m, is the change.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import rasterio
import rasterio.shutil
import shapely
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from rasterio.features import shapes
from rasterio.io import MemoryFile
from rasterio.transform import Affine
from scipy import ndimage
from shapely.geometry import shape

from ..datasets.geo.areas import PixelAreas, pixel_metres
from ..datasets.geo.grid import (
    blocks_of,
    clip,
    columns_round,
    coverage,
    crop,
    pixel_offset,
    pixel_ratio,
)
from ..datasets.geo.names import PathLike
from ..datasets.geo.raster import open_rasters
from ..datasets.geo.region import bilinear_mean, lr_coordinates
from ..datasets.imagery import Imagery
from ..datasets.labels import LabelRaster
from ..datasets.legends.legend import Legend
from ..errors import InputError
from .class_maps import known_index, one_map

_BLOCK = 1024

# Values that the robust fit holds: all of a scene up to 600 000 pixels of three bands, an
# even share of the pixels of a larger one. 64 MB, half of it copies.
_SAMPLE = 4_000_000

# Pixels further off than so many medians count for less in the calibration, in inverse
# proportion. Of normal errors in one band one in six is.
_OUTLIER = 2.0

# Those further off than so many times that, in inverse proportion to the square, at last.
_FAR = 4.0

# Fits with new weights, at most. Where a share c of a class has changed, each leaves
# c / (1 − c) of the error: 0.4 of a class needs 20 of them, a tenth three.
_ROUNDS = 30

# Points of the first raster along a side of a pixel of the second, at most.
_POINTS = 32

#: Robust standard deviations above the median from which on a window is reported.
DEVIATIONS = 6.0

#: Least difference above the median that is reported: of imagery as a share of its median
#: absolute deviation (half a grey level of an aerial picture, whose windows
#: differ from those of the picture warped to another grid by up to a twentieth of one), of
#: scores in percent, of class maps as a share of the pixels (two maps of one picture, made
#: with other options, differ by 0.02 in 20 to 33 % of the windows of 30 to 240 m, by 0.05
#: in 0 to 11 %; a road 12 m wide is 0.05 of a window of 240 m).
LEAST_IMAGERY, LEAST_SCORES, LEAST_CLASSES = 0.02, 1.0, 0.05

# Windows that a class must have most of, to have a threshold of its own.
_WINDOWS = 12


class SignalPair:
    """Two rasters of the same place, read block by block on the grid of the second.

    What has no data is decided as everywhere in the package (:class:`Imagery`,
    :class:`LabelRaster`), and so is what the first raster does not cover. The first is
    warped to the grid of the second, bilinear; class codes are looked up at the centres
    of the pixels.

    Args:
        before: Raster of the first date, or its tiles on one grid.
        after: Raster of the second date, likewise.
        bands: Bands that are compared, from 1; all but alpha by default.
        legend: Makes class maps of them: one channel, the index of the class.
        scores: They are scores of classes in percent, one band each; the fourth is none
            of transparency then, whatever GDAL calls it.

    Raises:
        InputError: If a file cannot be read, or they have other bands or no ground in
            common.
    """

    def __init__(
        self,
        before: PathLike | Sequence[PathLike],
        after: PathLike | Sequence[PathLike],
        bands: Sequence[int] | None = None,
        legend: Legend | None = None,
        scores: bool = False,
    ) -> None:
        self.legend = legend
        self.scores = scores
        self._labels: tuple[LabelRaster, ...] = ()
        self._images: tuple[Imagery, ...] = ()
        #: bands that are compared, from 1
        self.bands = [1]
        if legend is not None:
            self._labels = one_map(before), one_map(after)
        else:
            self._images = tuple(
                Imagery(paths, _all_bands(paths) if scores else bands)
                for paths in (before, after)
            )
            self.bands = self._common_bands()
        first, second = self._labels or self._images
        #: the grid of the second
        self.geobox = second.geobox
        if coverage(second.geobox, first.geobox) == 0:
            raise InputError(
                f'{first.paths[0]} and {second.paths[0]} have no pixels in common.'
            )
        # Points of the first raster along a side of a pixel, where it is finer.
        ratio = pixel_ratio(second.geobox, first.geobox)
        self._points = min(max(1, round(ratio**0.5)), _POINTS)

    def _common_bands(self) -> list[int]:
        """The bands of both.

        Raises:
            InputError: They have other bands.
        """
        first, second = self._images
        before, after = first.paths[0], second.paths[0]
        if first.band_indexes == second.band_indexes:
            return [index + 1 for index in second.band_indexes]
        if self.scores:
            raise InputError(
                f'{before} has scores of {first.bands} classes and {after} of '
                f'{second.bands}: make both maps of one legend (map --target), or give '
                '--signal classes.'
            )
        raise InputError(
            f'{before} has {first.bands} bands and {after} has {second.bands}; choose '
            'those that are compared with --bands.'
        )

    def blocks(
        self, size: int
    ) -> Iterator[tuple[slice, slice, NDArray[Any], NDArray[Any], NDArray[np.bool_]]]:
        """Go through the second raster.

        Args:
            size: Height and width of a block, in pixels; blocks are smaller where the
                first raster is finer.

        Yields:
            Rows, columns, both signals, (B, h, w), and which pixels both have, (h, w).
        """
        for rows, cols in blocks_of(self.geobox, max(size // self._points, 1)):
            block = crop(self.geobox, (rows.start, cols.start, rows.stop, cols.stop))
            if self.legend is not None:
                old, new = self._labels
                one = known_index(old.at(block), self.legend, old.paths[0])
                two = known_index(new.read(rows, cols), self.legend, new.paths[0])
                yield rows, cols, one[None], two[None], (one >= 0) & (two >= 0)
                continue
            before, covered = self._before(block)
            after, valid = self._images[1].read(block)
            yield rows, cols, before, after, valid & covered

    def _before(self, block: GeoBox) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Read the first raster on a part of the second one's grid.

        As :class:`Imagery` warps the files of a mosaic: bilinear over valid pixels, and
        the mean of several points where the raster is finer. But a mosaic has one grid
        for all, which a raster of a continent and one of a county do not have.
        """
        raster, points = self._images[0], self._points
        grid, turn = raster.geobox, columns_round(raster.geobox)
        offset = pixel_offset(block, grid)
        if offset is not None:
            beyond = offset[1] < 0 or offset[1] + block.width > grid.width
            if turn is None or not beyond:
                return raster.read(block)
        place = lr_coordinates(block.zoom_out(1 / points), grid) - 0.5
        image, valid = self._between(place, block.shape.yx)
        # A raster of the whole Earth goes on beyond its left edge with its right one.
        for turned in () if turn is None else (-turn, turn):
            other, there = self._between(
                place + np.array([0, turned])[:, None, None], block.shape.yx
            )
            np.copyto(image, other, where=there & ~valid)
            valid |= there
        return image, valid

    def _between(
        self, place: NDArray[np.float64], shape: tuple[int, int]
    ) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """The first raster at rows and columns between its pixels."""
        raster, points = self._images[0], self._points
        grid, place = raster.geobox, place.copy()
        image = np.zeros((len(self.bands), *shape), np.float32)
        defined = np.isfinite(place).all(0)
        if not defined.any():
            return image, np.zeros(shape, bool)
        place[:, ~defined] = -2  # outside
        low = np.floor(place[:, defined].min(1)).astype(int)
        high = np.ceil(place[:, defined].max(1)).astype(int) + 1
        top, left, bottom, right = clip((*low, *high), *grid.shape)
        if top >= bottom or left >= right:
            return image, np.zeros(shape, bool)
        values, valid = raster.read(crop(grid, (top, left, bottom, right)))
        place -= np.array([top, left])[:, None, None]
        return bilinear_mean(values, valid, place, points)

    @property
    def classes(self) -> int:
        """Number of classes of the first raster; 1 of imagery."""
        if self.legend is not None:
            return len(self.legend)
        return len(self.bands) if self.scores else 1

    def class_of(self, before: NDArray[Any]) -> NDArray[np.int64]:
        """Class of each pixel of the first signal, (h, w); of imagery 0.

        Args:
            before: The first signal, (B, h, w).
        """
        if self.legend is not None:
            index: NDArray[np.int64] = before[0].clip(0)
            return index
        if self.scores:
            return before.argmax(0)
        return np.zeros(before.shape[1:], np.int64)

    @property
    def half(self) -> float:
        """Difference of a window of which half has become another class for certain."""
        if self.legend is not None:
            return 0.5
        return 100 / len(self.bands) if self.scores else np.inf

    def difference(
        self, before: NDArray[Any], after: NDArray[Any]
    ) -> NDArray[np.float64]:
        """Difference of each pixel, (h, w).

        Args:
            before: The first signal, calibrated, (B, h, w).
            after: The second one, (B, h, w).

        Returns:
            The mean absolute difference of the bands; of classes 0 or 1, so that the mean
            of a window is the share of its pixels that have changed.
        """
        if self.legend is not None:
            return (before[0] != after[0]).astype(np.float64)
        mean: NDArray[np.float64] = np.abs(before - after).mean(0, dtype=np.float64)
        return mean


def _all_bands(paths: PathLike | Sequence[PathLike]) -> list[int]:
    """Bands of a file, from 1; one that is named is data, whatever the file calls it."""
    return list(range(1, open_rasters(paths)[0].count + 1))


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
        for rows, cols, before, after, valid in pair.blocks(_BLOCK):
            x, y = before[:, valid].astype(float), after[:, valid].astype(float)
            x_one = np.concatenate([x, np.ones((1, x.shape[1]))])
            moments = moments + np.concatenate([x_one @ x_one.T, x_one @ y.T], 1)
            if share < 1:
                # the same in every run
                rng = np.random.default_rng([rows.start, cols.start])
                some = rng.random(x.shape[1]) < share
                x, y = x[:, some], y[:, some]
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
        away = np.abs(self.after - np.median(self.after, axis=1, keepdims=True))
        spread = np.median(away, axis=1)
        # the median is 0 where most pixels are equal, as in a mask: then the mean serves
        spread = np.where(spread > 0, spread, away.mean(1))
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
        apart = y - result(x)
        for far in (np.inf, _FAR) if apart.size else ():
            for _ in range(_ROUNDS):
                size = np.abs(apart).mean(0)
                # not far below what counts: weights of 1e-6 leave nothing to solve with
                most = max(_OUTLIER * float(np.median(size)), 0.1 * pixels.least)
                weight = most / np.maximum(size, most)
                weight *= np.minimum(far * weight, 1)
                weighted = x_one * weight
                more = cls.least_squares(
                    np.concatenate([weighted @ x_one.T, weighted @ apart.T], 1)
                )
                result = cls(result.matrix + more.matrix, result.offset + more.offset)
                moved = more(x)
                apart -= moved
                if np.abs(moved).mean() < 0.01 * pixels.least:
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
        # In units of their spread, for bands may be of 1 and of 10 000; below rounding of
        # the products there is none.
        spread = np.sqrt(np.diag(covariance).clip(0))
        spread[spread**2 <= 1e-12 * np.diag(products)] = np.inf
        # Scores add up to 100: the least of the solutions is taken.
        solution = np.linalg.lstsq(
            covariance / np.outer(spread, spread), crossed / spread[:, None], rcond=1e-9
        )[0]
        matrix = (solution / spread[:, None]).T
        return cls(matrix, mean[count + 1 :] - matrix @ mean[:count])

    def __call__(self, signal: NDArray[Any]) -> NDArray[np.float64]:
        """Calibrate a signal, (B, ...)."""
        moved = np.tensordot(self.matrix, signal, 1)
        return moved + self.offset.reshape(-1, *[1] * (signal.ndim - 1))


@dataclass(frozen=True, eq=False)
class ChangeMap:
    """Mean absolute difference in windows.

    Args:
        geobox: Grid of the windows.
        difference: Mean over the pixels and channels of a window, (h, w); NaN where less
            than half of it has data.
        areas: Square metres of its pixels that have data, (h, w).
        threshold: From which on a window has changed.
        thresholds: The same of each window: higher where most of it is of a class that
            differs more everywhere, (h, w).
        calibration: How the first signal was calibrated; None of classes.
        grid: Grid of the pixels: windows of the last row and column reach beyond it.
    """

    geobox: GeoBox
    difference: NDArray[np.float64]
    areas: NDArray[np.float64]
    threshold: float
    thresholds: NDArray[np.float64]
    calibration: LinearCalibration | None
    grid: GeoBox

    @cached_property
    def changed(self) -> NDArray[np.bool_]:
        """Windows that have changed, (h, w)."""
        return np.nan_to_num(self.difference, nan=-1) >= self.thresholds

    @property
    def window(self) -> float:
        """Side of a square as large as a window, in metres: windows are whole pixels."""
        high, wide = pixel_metres(self.grid)
        pixels = ~self.grid.affine * self.geobox.affine
        return float((high * pixels.e * wide * pixels.a) ** 0.5)

    @cached_property
    def hectares(self) -> float:
        """Area of the windows that have changed, as far as they have data."""
        return float(self.areas[self.changed].sum() / 1e4)

    def save(self, path: Path) -> None:
        """Write a cloud-optimised GeoTIFF: the difference, and 1 where it is a change.

        Args:
            path: File to write.
        """
        height, width = self.difference.shape
        profile = {
            'driver': 'GTiff',
            'dtype': 'float32',
            'count': 2,
            'height': height,
            'width': width,
            'crs': str(self.geobox.crs.to_wkt()) if self.geobox.crs else None,
            'transform': self.geobox.affine,
            'nodata': np.nan,
        }
        changed = np.where(np.isnan(self.difference), np.nan, self.changed)
        with MemoryFile() as memory:
            with memory.open(**profile) as dataset:
                dataset.write(self.difference.astype(np.float32), 1)
                dataset.write(changed.astype(np.float32), 2)
                dataset.set_band_description(1, 'mean absolute difference')
                dataset.set_band_description(2, 'changed')
                dataset.update_tags(
                    THRESHOLD=repr(float(self.threshold)),
                    LARGEST_THRESHOLD=repr(float(self.thresholds.max())),
                )
            # In memory too: GDAL hides writes of a full disk that fail.
            with MemoryFile() as content:
                rasterio.shutil.copy(
                    memory.name, content.name, driver='COG', compress='deflate'
                )
                Path(path).write_bytes(content.read())

    def polygons(self) -> geopandas.GeoDataFrame:
        """Windows that have changed and share an edge, as one polygon each.

        Returns:
            ``difference`` (the mean), ``largest`` and ``hectares`` (of what has data) of
            each; may be empty. Polygons end where the raster does.
        """
        rows: list[dict[str, Any]] = []
        # Outlines are of whole windows; corners beyond the raster are moved to its edge.
        size = np.array([self.grid.width, self.grid.height])
        a, b, c, d, e, f = (~self.grid.affine * self.geobox.affine)[:6]

        def place(points: NDArray[np.float64]) -> NDArray[np.float64]:
            col, row = points.T
            edge = np.stack([a * col + b * row + c, d * col + e * row + f], 1).round()
            x, y = self.grid.pix2wld(*np.minimum(edge, size).T)
            return np.stack([x, y], 1)

        # By edges: an outline that meets itself at a corner would be no valid polygon.
        places, _ = ndimage.label(self.changed)
        boxes = ndimage.find_objects(places)
        outlines = shapes(places.astype(np.int32), self.changed, connectivity=4)
        for count, (outline, number) in enumerate(outlines, 1):
            box = boxes[int(number) - 1]
            inside = places[box] == number
            values = self.difference[box][inside]
            rows.append(
                {
                    'change': count,
                    'difference': float(values.mean()),
                    'largest': float(values.max()),
                    'hectares': float(self.areas[box][inside].sum() / 1e4),
                    'geometry': shapely.transform(shape(outline), place),
                }
            )
        columns = ['change', 'difference', 'largest', 'hectares', 'geometry']
        assert self.geobox.crs is not None
        return geopandas.GeoDataFrame(
            rows, columns=columns, geometry='geometry', crs=self.geobox.crs.proj
        )


def detect_change(
    pair: SignalPair,
    window: float = 240.0,
    threshold: float | None = None,
    tick: Callable[[], None] = lambda: None,
) -> ChangeMap:
    """Find the windows that have changed.

    Args:
        pair: The signals.
        window: Height and width of a window in metres.
        threshold: Mean absolute difference from which on a window has changed, in the
            signal's units; chosen from the windows by default.
        tick: Called after each block of both passes.

    Returns:
        The change.

    Raises:
        InputError: If a window is smaller than a pixel, or the rasters have no pixels
            with data in common.
    """
    grid = pair.geobox
    high, wide = (
        max(round(min(window / side, size)), 1)
        for side, size in zip(pixel_metres(grid), grid.shape.yx, strict=True)
    )
    if window < max(pixel_metres(grid)):
        raise InputError(f'--window {window:g} m is smaller than a pixel.')
    calibration: LinearCalibration | None = None
    least = LEAST_CLASSES
    if pair.legend is None:
        sample = PixelSample.draw(pair, tick)
        calibration, least = LinearCalibration.fit(sample), sample.least
    height, width = -(-grid.height // high), -(-grid.width // wide)
    sums, counts, areas = np.zeros((3, height, width))
    members = np.zeros((pair.classes, height, width))
    metres = PixelAreas(grid)
    for rows, cols, before, after, valid in pair.blocks(_BLOCK):
        expected = before if calibration is None else calibration(before)
        apart = pair.difference(expected, after)
        row = np.arange(rows.start, rows.stop) // high
        col = np.arange(cols.start, cols.stop) // wide
        place = (row[:, None] * width + col)[valid]
        area = metres(rows, cols)[valid]
        for total, values in ((sums, apart[valid]), (counts, None), (areas, area)):
            total += np.bincount(place, values, total.size).reshape(total.shape)
        place = place + pair.class_of(before)[valid] * sums.size
        members += np.bincount(place, minlength=members.size).reshape(members.shape)
        tick()
    if not counts.any():
        raise InputError('The two rasters have no pixels in common that have data.')
    pixels = np.outer(
        np.diff(np.minimum(np.arange(height + 1) * high, grid.height)),
        np.diff(np.minimum(np.arange(width + 1) * wide, grid.width)),
    )
    enough = (counts > 0) & (counts * 2 >= pixels)
    difference = np.where(enough, sums / np.maximum(counts, 1), np.nan)
    if not enough.any():
        raise InputError('No window has data in both rasters over half of its area.')
    windows = GeoBox((height, width), grid.affine * Affine.scale(wide, high), grid.crs)
    if threshold is None:
        # Where most windows have changed, their median says nothing of those that have not.
        threshold = min(choose_threshold(difference, least), pair.half)
        thresholds = np.full(difference.shape, threshold)
        # One class may differ more than the others everywhere: one that is confused more
        # often, say. As a whole it has not changed for it.
        for number in range(pair.classes):
            own = enough & (members.argmax(0) == number)
            if own.sum() >= _WINDOWS:
                higher = choose_threshold(difference[own], least)
                thresholds[own] = max(threshold, min(higher, pair.half))
    else:
        thresholds = np.full(difference.shape, threshold)
    return ChangeMap(
        windows, difference, areas, threshold, thresholds, calibration, grid
    )


def choose_threshold(difference: NDArray[np.float64], least: float = 1e-9) -> float:
    """A threshold from the windows themselves, most of which have not changed.

    The median of the differences plus :data:`DEVIATIONS` robust standard deviations
    (1.4826 times the median absolute deviation), and no less than one and a half times
    the median: a handful of windows has no spread to speak of. Where nothing has changed
    no window is reported, unlike with a threshold that always splits the windows in two
    (Otsu's). Where most windows are equal, neither median nor spread says anything: what
    is above the median by less than *least* is never reported.

    Args:
        difference: Differences of windows; NaN is left out.
        least: Least difference that counts, in the units of the signal.

    >>> round(choose_threshold(np.array([0.10, 0.11, 0.12, 0.10, 0.90])), 3)
    0.199
    """
    values = difference[np.isfinite(difference)]
    middle = float(np.median(values))
    spread = 1.4826 * float(np.median(np.abs(values - middle)))
    return middle + max(DEVIATIONS * spread, 0.5 * middle, least)
