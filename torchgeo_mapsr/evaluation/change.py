# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""Change between two dates, by calibrated signals.

Malkin et al. 2019, Label super-resolution networks, ICLR, appendix D. One signal (imagery,
class scores or classes) is calibrated to the other by least squares, which takes out what
changes everywhere alike (light, season, sensor); the mean absolute difference that is
left, in windows of 240 m, is the change.
"""

from collections.abc import Callable
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
from ..errors import InputError
from .linear_calibration import LinearCalibration, PixelSample
from .signal_pair import SignalPair

#: Robust standard deviations above the median from which on a window is reported.
DEVIATIONS = 6.0

#: Least difference above the median that is reported of class maps, as a share of the
#: pixels (two maps of one picture, made with other options, differ by 0.02 in 20 to 33 % of
#: the windows of 30 to 240 m, by 0.05 in 0 to 11 %; a road 12 m wide is 0.05 of a window of
#: 240 m).
LEAST_CLASSES = 0.05

# A class has a threshold of its own if at least so many windows are mostly of it.
_WINDOWS = 12


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
            # The COG is made in memory, too: of a full disk GDAL does not tell.
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

        # Neighbours share an edge: an outline that touches itself at a corner is not valid.
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
    for rows, cols, before, after, valid in pair.blocks():
        expected = before if calibration is None else calibration(before)
        pixel_difference = pair.difference(expected, after)[valid]
        row = np.arange(rows.start, rows.stop) // high
        col = np.arange(cols.start, cols.stop) // wide
        place = (row[:, None] * width + col)[valid]
        area = metres(rows, cols)[valid]
        for total, values in ((sums, pixel_difference), (counts, None), (areas, area)):
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
        # Where most windows have changed, the threshold that they give is too high: no more
        # than the difference of a window of which half has changed.
        threshold = min(choose_threshold(difference, least), pair.half)
        thresholds = np.full(difference.shape, threshold)
        # A class that is confused more often than others differs more everywhere, which is
        # no change: it has a higher threshold of its own.
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
        difference: Differences of windows, of any shape; NaN is left out.
        least: Least difference that counts, in the units of the signal.

    >>> round(choose_threshold(np.array([0.10, 0.11, 0.12, 0.10, 0.90])), 3)
    0.199
    """
    values = difference[np.isfinite(difference)]
    middle = float(np.median(values))
    spread = 1.4826 * float(np.median(np.abs(values - middle)))
    return middle + max(DEVIATIONS * spread, 0.5 * middle, least)
