# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""Label rasters in their own CRS and grid."""

import hashlib
import os
from collections.abc import Iterable
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox

from ..errors import InputError
from .geo.grid import Box, box_in, clip, crop, hull, pixel_offset
from .geo.raster import PathLike, RasterFile, open_rasters
from .geo.region import region_map


class LabelRaster:
    """Class codes on one grid, from one file or a mosaic of files on that grid.

    Codes are never resampled: not between grids and not within one.

    Args:
        files: Files on one grid; where they overlap, the first that has data is taken.

    Raises:
        InputError: The files are not on one grid, or do not hold codes.
    """

    def __init__(self, files: Iterable[RasterFile]) -> None:
        self._files = tuple(files)
        first = self._files[0].geobox
        for file in self._files:
            bands = file.count - (file.alpha is not None)
            if bands != 1:
                raise InputError(
                    f'{file.path}: has {bands} bands; labels are one band of class codes'
                )
            if pixel_offset(file.geobox, first) is None:
                raise InputError(
                    f'{file.path}: is not on the grid of {self._files[0].path}'
                )
        #: the grid
        self.geobox = crop(first, hull([box_in(f.geobox, first) for f in self._files]))

    @classmethod
    def open(cls, paths: PathLike | Iterable[PathLike]) -> 'tuple[LabelRaster, ...]':
        """Open label files, one raster for each distinct grid.

        Args:
            paths: Files, folders or URLs that rasterio opens.

        Returns:
            Rasters in the order in which their grids first appear.

        Raises:
            InputError: A file cannot be used.
        """
        groups: list[list[RasterFile]] = []
        for file in open_rasters(paths):
            for group in groups:
                if pixel_offset(file.geobox, group[0].geobox) is not None:
                    group.append(file)
                    break
            else:
                groups.append([file])
        return tuple(cls(group) for group in groups)

    @property
    def paths(self) -> tuple[str, ...]:
        """The files, as they were given."""
        return tuple(file.path for file in self._files)

    @cached_property
    def number(self) -> int:
        """A number that no other raster has, but the same one opened again has.

        Of 63 bits, by paths and grid: processes and datasets that open a raster each
        agree on it without asking one another.
        """
        names = [os.path.abspath(p) if os.path.exists(p) else p for p in self.paths]
        box = self.geobox
        parts = names, tuple(box.shape), tuple(box.affine), str(box.crs)
        digest = hashlib.sha256(repr(parts).encode()).digest()
        return int.from_bytes(digest[:8], 'big') >> 1

    def fingerprint(self) -> str:
        """Digest of the files."""
        parts = [file.fingerprint() for file in self._files]
        return hashlib.sha256(repr(parts).encode()).hexdigest()

    def read(self, rows: slice, cols: slice) -> NDArray[np.int64]:
        """Read a window of codes.

        Args:
            rows: First and last + 1 row in the grid; below 0 and beyond the last row is
                outside (not counted from the end).
            cols: Columns, likewise.

        Returns:
            Raw codes, (h, w); -1 = no data, masked or outside.

        Raises:
            InputError: A file cannot be read, or holds values that are not codes.
        """
        window = crop(self.geobox, (rows.start, cols.start, rows.stop, cols.stop))
        codes = np.full(window.shape, -1, np.int64)
        for file in self._files:
            box = clip(box_in(file.geobox, window), *window.shape)
            top, left, bottom, right = box
            if top == bottom or left == right:
                continue
            found = _codes(file, box_in(crop(window, box), file.geobox))
            part = codes[top:bottom, left:right]
            np.copyto(part, found, where=part == -1)
        return codes

    def at(self, geobox: GeoBox) -> NDArray[np.int64]:
        """Look up the code at the centre of each pixel of another grid.

        Args:
            geobox: A grid in any CRS.

        Returns:
            Raw codes, (H, W); -1 = no data, masked or outside.
        """
        regions = region_map(geobox, self.geobox)
        codes = self.read(regions.rows, regions.cols).ravel()
        return np.concatenate([[-1], codes])[regions.mask_region]


def _codes(file: RasterFile, box: Box) -> NDArray[np.int64]:
    """Read codes of one file, -1 where it has none."""
    rows, cols = slice(box[0], box[2]), slice(box[1], box[3])
    band = 2 if file.alpha == 1 else 1
    values = file.read([band], rows, cols)[0]
    valid = np.ones(values.shape, bool)
    if file.masked or file.alpha is not None:
        valid &= file.read([band], rows, cols, mask=True)[0] > 0
    nodata = file.nodata[band - 1]
    if nodata is not None:
        valid &= values != nodata
    if values.dtype.kind == 'f':
        valid &= np.isfinite(values)
        whole = np.where(valid, values, 0)
        if (whole != np.rint(whole)).any():
            raise InputError(
                f'{file.path}: holds fractions; labels are whole class codes'
            )
        values = whole
    return np.where(valid, values.astype(np.int64), -1)
