# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""Two rasters of one place, read on one grid: signals whose change is looked for."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox

from ..datasets.geo.grid import (
    blocks_of,
    clip,
    coverage,
    crop,
    pixel_offset,
    pixel_ratio,
)
from ..datasets.geo.names import PathLike
from ..datasets.geo.raster import open_rasters
from ..datasets.geo.region import bilinear_mean, lr_coordinates
from ..datasets.geo.round_earth import columns_round
from ..datasets.imagery import Imagery
from ..datasets.labels import LabelRaster
from ..datasets.legends.legend import Legend
from ..errors import InputError
from .class_maps import known_index, one_map

# Points of the first raster along a side of a pixel of the second, at most.
_POINTS = 32


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

    #: Height and width of a block that is read at once, in pixels; blocks are smaller
    #: where the first raster is finer.
    block = 1024

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
            second.descriptions.check(first.descriptions, after, before)
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
        self,
    ) -> Iterator[tuple[slice, slice, NDArray[Any], NDArray[Any], NDArray[np.bool_]]]:
        """Go through the second raster.

        Yields:
            Rows, columns, both signals, (B, h, w), and which pixels both have, (h, w).
        """
        for rows, cols in blocks_of(self.geobox, max(self.block // self._points, 1)):
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
            crosses_edge = offset[1] < 0 or offset[1] + block.width > grid.width
            if turn is None or not crosses_edge:
                return raster.read(block)
        place = lr_coordinates(block.zoom_out(1 / points), grid) - 0.5
        image, valid = self._between(place, block.shape.yx)
        # A raster of the whole Earth goes on beyond its left edge with its right one.
        for turned in () if turn is None else (-turn, turn):
            wrapped, wrapped_valid = self._between(
                place + np.array([0, turned])[:, None, None], block.shape.yx
            )
            np.copyto(image, wrapped, where=wrapped_valid & ~valid)
            valid |= wrapped_valid
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
