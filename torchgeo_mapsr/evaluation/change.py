# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""Change between two dates, by calibrated signals.

Malkin et al. 2019, Label super-resolution networks, ICLR, appendix D. One signal (imagery, class scores or classes) is calibrated to the other by least squares,
which takes out what changes everywhere alike (light, season, sensor); the mean absolute
difference that is left, in windows of 240 m, is the change.
"""

import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import rasterio
import rasterio.shutil
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from rasterio.enums import Resampling
from rasterio.errors import NodataShadowWarning
from rasterio.features import shapes
from rasterio.io import MemoryFile
from rasterio.transform import Affine
from rasterio.vrt import WarpedVRT
from rasterio.windows import Window
from shapely.geometry import shape

from ..datasets.geo.grid import blocks_of, crop, row_areas
from ..datasets.geo.raster import PathLike, address_of, open_rasters
from ..datasets.labels import LabelRaster
from ..datasets.legends.legend import Legend
from ..errors import InputError
from .accuracy import pixel_metres

_BLOCK = 1024

# Pixels further off than so many medians are left out of the calibration. Of normal
# errors 1 in 140 is.
_OUTLIER = 4.0

# Pixels of a block that the median is taken of.
_SAMPLE = 20_000

#: Robust standard deviations above the median from which on a window is reported.
DEVIATIONS = 6.0


class SignalPair:
    """Two rasters of the same place, read block by block on the grid of the second.

    Args:
        before: Raster of the first date; warped where its grid is another.
        after: Raster of the second date.
        bands: Bands that are compared, from 1; all by default.
        legend: Makes the signals of class maps: one channel a class, 0 or 1.

    Raises:
        InputError: If a file cannot be read, or they have other bands.
    """

    def __init__(
        self,
        before: PathLike,
        after: PathLike,
        bands: Sequence[int] | None = None,
        legend: Legend | None = None,
    ) -> None:
        self.files = tuple(open_rasters([path])[0] for path in (before, after))
        self.geobox = self.files[1].geobox
        self.legend = legend
        counts = [file.count for file in self.files]
        if bands is None and counts[0] != counts[1]:
            raise InputError(
                f'{before} has {counts[0]} bands and {after} has {counts[1]}; choose '
                'those that are compared with --bands.'
            )
        self.bands = list(bands or range(1, counts[0] + 1))
        if min(self.bands) < 1 or max(self.bands) > min(counts):
            raise InputError(
                f'--bands are from 1 to {min(counts)}, which both files have.'
            )

    def blocks(
        self, size: int
    ) -> Iterator[tuple[slice, slice, NDArray[np.float64], NDArray[np.float64], Any]]:
        """Go through the second raster.

        Args:
            size: Height and width of a block, in pixels.

        Yields:
            Rows, columns, both signals, (B, h, w), and which pixels both have, (h, w).
        """
        grid = self.geobox
        warp = Resampling.nearest if self.legend else Resampling.bilinear
        with (
            warnings.catch_warnings(),
            rasterio.open(address_of(self.files[0].path)) as first,
            rasterio.open(address_of(self.files[1].path)) as after,
            WarpedVRT(
                first,
                crs=str(grid.crs.to_wkt()) if grid.crs else None,
                transform=grid.affine,
                width=grid.width,
                height=grid.height,
                resampling=warp,
            ) as before,
        ):
            # no data in the file goes before its fourth band, which GDAL calls alpha
            warnings.simplefilter('ignore', NodataShadowWarning)
            for rows, cols in blocks_of(grid, size):
                window = Window.from_slices(rows, cols)
                signals, valid = [], np.ones(
                    (rows.stop - rows.start, cols.stop - cols.start), bool
                )  # fmt: skip
                for source in (before, after):
                    masks = source.read_masks(self.bands, window=window)
                    values = source.read(self.bands, window=window)
                    if self.legend is not None:
                        index = self.legend.index(values[0].astype(np.int64))
                        valid &= (index >= 0) & (masks[0] > 0)
                        one_hot = index == np.arange(len(self.legend))[:, None, None]
                        signals.append(one_hot.astype(np.float64))
                        continue
                    values = values.astype(np.float64)
                    valid &= (masks > 0).all(0) & np.isfinite(values).all(0)
                    signals.append(np.nan_to_num(values))
                yield rows, cols, signals[0], signals[1], valid


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
    def fit(
        cls, pair: SignalPair, tick: Callable[[], None] = lambda: None
    ) -> 'LinearCalibration':
        """Least squares over the pixels that both rasters have, place ignored.

        What has changed would bend the calibration, and then differences show
        everywhere. Therefore it is fitted twice more without the pixels that are further
        off than :data:`_OUTLIER` times the median (a flood over a tenth of the made
        scene of the tests raised what is left elsewhere from 1.9 to 4.4).

        Args:
            pair: The signals.
            tick: Called after each block of the first fit.

        Raises:
            InputError: If there is no such pixel.
        """
        result = cls._fit(pair, None, np.inf, tick)
        for _ in range(2):
            result = cls._fit(pair, result, _OUTLIER * result._median(pair))
        return result

    @classmethod
    def _fit(
        cls,
        pair: SignalPair,
        earlier: 'LinearCalibration | None',
        most: float,
        tick: Callable[[], None] = lambda: None,
    ) -> 'LinearCalibration':
        """Least squares over the pixels that an earlier fit is at most so far off."""
        moments: Any = 0.0
        for _, _, before, after, valid in pair.blocks(_BLOCK):
            if earlier is not None:
                valid = valid & (np.abs(earlier(before) - after).mean(0) <= most)
            x = np.concatenate([before[:, valid], np.ones((1, int(valid.sum())))])
            moments = moments + np.concatenate([x @ x.T, x @ after[:, valid].T], 1)
            tick()
        channels = len(moments) - 1
        if moments[-1, channels] == 0:
            raise InputError('The two rasters have no pixels in common that have data.')
        # Columns of class scores add up to one: the least of the solutions is taken.
        solution = np.linalg.lstsq(
            moments[:, : channels + 1], moments[:, channels + 1 :], rcond=1e-10
        )[0]
        return cls(solution[:-1].T, solution[-1])

    def _median(self, pair: SignalPair) -> float:
        """Median of the mean absolute difference over pixels, from a sample of them."""
        apart = []
        for rows, cols, before, after, valid in pair.blocks(_BLOCK):
            # A few thousand pixels of each block, the same in every run.
            rng = np.random.default_rng([rows.start, cols.start])
            drawn = valid & (rng.random(valid.shape) < _SAMPLE / valid.size)
            offset = np.abs(self(before) - after).mean(0)
            apart.append(offset[drawn])
        values = np.concatenate(apart)
        # A little more than equal: maps that are alike nearly everywhere differ by 0.
        return float(np.median(values)) + 1e-6 if values.size else np.inf

    def __call__(self, signal: NDArray[np.float64]) -> NDArray[np.float64]:
        """Calibrate a signal, (B, h, w)."""
        moved = np.tensordot(self.matrix, signal, 1)
        return moved + self.offset[:, None, None]


@dataclass(frozen=True, eq=False)
class ChangeMap:
    """Mean absolute difference in windows.

    Args:
        geobox: Grid of the windows.
        difference: Mean over the pixels and channels of a window, (h, w); NaN where less
            than half of it has data.
        threshold: From which on a window has changed.
        calibration: How the first signal was calibrated.
    """

    geobox: GeoBox
    difference: NDArray[np.float64]
    threshold: float
    calibration: LinearCalibration

    @cached_property
    def changed(self) -> NDArray[np.bool_]:
        """Windows that have changed, (h, w)."""
        return np.nan_to_num(self.difference, nan=-1) >= self.threshold

    @cached_property
    def hectares(self) -> float:
        """Area of the windows that have changed."""
        return float(self.changed.sum(1) @ row_areas(self.geobox) / 1e4)

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
                dataset.update_tags(THRESHOLD=repr(self.threshold))
            rasterio.shutil.copy(memory.name, path, driver='COG', compress='deflate')

    def polygons(self) -> geopandas.GeoDataFrame:
        """Windows that have changed and touch, as one polygon each.

        Returns:
            ``difference`` (the mean), ``largest`` and ``hectares`` of each; may be empty.
        """
        rows: list[dict[str, Any]] = []
        number = np.zeros(self.changed.shape, np.int32)
        outlines = shapes(
            self.changed.astype(np.uint8), self.changed, 8, self.geobox.affine
        )
        area = row_areas(self.geobox) / 1e4
        for count, (outline, _) in enumerate(outlines, 1):
            polygon = shape(outline)
            inside = rasterio.features.geometry_mask(
                [outline], number.shape, self.geobox.affine, invert=True
            )
            values = self.difference[inside & self.changed]
            rows.append(
                {
                    'change': count,
                    'difference': float(values.mean()),
                    'largest': float(values.max()),
                    'hectares': float((inside & self.changed).sum(1) @ area),
                    'geometry': polygon,
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
        InputError: If a window is smaller than a pixel, or none has data.
    """
    grid = pair.geobox
    high, wide = (max(round(window / side), 1) for side in pixel_metres(grid))
    if window < max(pixel_metres(grid)):
        raise InputError(f'--window {window:g} m is smaller than a pixel.')
    calibration = LinearCalibration.fit(pair, tick)
    height, width = -(-grid.height // high), -(-grid.width // wide)
    sums, counts = np.zeros((height, width)), np.zeros((height, width))
    for rows, cols, before, after, valid in pair.blocks(_BLOCK):
        apart = np.abs(calibration(before) - after).mean(0)
        row = np.arange(rows.start, rows.stop) // high
        col = np.arange(cols.start, cols.stop) // wide
        place = (row[:, None] * width + col)[valid]
        sums += np.bincount(place, apart[valid], sums.size).reshape(sums.shape)
        counts += np.bincount(place, minlength=sums.size).reshape(sums.shape)
        tick()
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
        threshold = choose_threshold(difference)
    return ChangeMap(windows, difference, threshold, calibration)


def choose_threshold(difference: NDArray[np.float64]) -> float:
    """A threshold from the windows themselves, most of which have not changed.

    The median of the differences plus :data:`DEVIATIONS` robust standard deviations
    (1.4826 times the median absolute deviation), and no less than one and a half times
    the median: a handful of windows has no spread to speak of. Where nothing has changed
    no window is reported, unlike with a threshold that always splits the windows in two
    (Otsu's).

    Args:
        difference: Differences of windows; NaN is left out.

    >>> round(choose_threshold(np.array([0.10, 0.11, 0.12, 0.10, 0.90])), 3)
    0.199
    """
    values = difference[np.isfinite(difference)]
    middle = float(np.median(values))
    spread = 1.4826 * float(np.median(np.abs(values - middle)))
    return middle + max(DEVIATIONS * spread, 0.5 * middle, 1e-9)


@dataclass(frozen=True, eq=False)
class Transitions:
    """Area by class before (row) and after (column).

    Args:
        legend: The classes.
        hectares: Areas, (C, C).
    """

    legend: Legend
    hectares: NDArray[np.float64]

    def to_dict(self) -> dict[str, Any]:
        """Everything as JSON types."""
        total, same = self.hectares.sum(), np.trace(self.hectares)
        return {
            'classes': list(self.legend.class_names),
            'hectares': self.hectares.round(4).tolist(),
            'total_hectares': round(float(total), 4),
            'changed_hectares': round(float(total - same), 4),
        }


def transitions(before: PathLike, after: PathLike, legend: Legend) -> Transitions:
    """Areas that went from class to class, on the grid of the second map.

    Args:
        before: Class map of the first date; looked up at pixel centres.
        after: Class map of the second date.
        legend: Their legend.

    Raises:
        InputError: If they have no pixels in common.
    """
    old, new = (LabelRaster(open_rasters([path])) for path in (before, after))
    size = len(legend)
    areas, total = row_areas(new.geobox) / 1e4, np.zeros(size * size)
    for rows, cols in blocks_of(new.geobox, _BLOCK):
        block = crop(new.geobox, (rows.start, cols.start, rows.stop, cols.stop))
        one, two = legend.index(old.at(block)), legend.index(new.read(rows, cols))
        valid = (one >= 0) & (two >= 0)
        weight = np.broadcast_to(areas[rows, None], one.shape)
        total += np.bincount((one * size + two)[valid], weight[valid], size * size)
    if not total.any():
        raise InputError(f'{before} and {after} have no pixels in common.')
    return Transitions(legend, total.reshape(size, size))
