# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""Label cells recovered from a copy in finer pixels."""

import numpy as np
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from rasterio.transform import Affine

from .geo.grid import box_in, clip, crop
from .geo.names import PathLike
from .geo.raster import RasterFile
from .geo.region import region_map
from .labels import LabelRaster

#: Grid of the National Land Cover Database, all of it: EPSG:5070, 30 m.
NLCD_GRID = GeoBox(
    (104424, 161190), Affine(30, 0, -2493045, 0, -30, 3310005), 'EPSG:5070'
)


class RecoveredLabels(LabelRaster):
    """Labels in their native cells, from a file that was resampled to fine pixels.

    Some data sets ship coarse labels warped to the imagery's grid, nearest neighbour,
    so every pixel looks as if it had a label of its own. This puts them back: a cell of
    the native grid has the code of most of its pixels (the smallest of equals), -1 if
    none has one.

    Args:
        path: Labels in fine pixels.
        grid: The native grid, which may be larger than the file.

    Raises:
        InputError: The file cannot be used.
    """

    def __init__(self, path: PathLike, grid: GeoBox = NLCD_GRID) -> None:
        super().__init__([RasterFile.open(path)])
        self._fine = LabelRaster(self._files)
        self.geobox = crop(grid, box_in(self.geobox, grid))

    def read(self, rows: slice, cols: slice) -> NDArray[np.int64]:
        """Read a window of codes.

        Args:
            rows: First and last + 1 row in the native grid; may reach beyond it.
            cols: Columns, likewise.

        Returns:
            Raw codes, (h, w); -1 = no data or outside.
        """
        window = crop(self.geobox, (rows.start, cols.start, rows.stop, cols.stop))
        codes = np.full(window.shape, -1, np.int64)
        if not codes.size:
            return codes
        fine = self._fine.geobox
        box = clip(box_in(window, fine), *fine.shape)
        if box[0] == box[2] or box[1] == box[3]:
            return codes
        pixels = self._fine.read(slice(box[0], box[2]), slice(box[1], box[3]))
        regions = region_map(crop(fine, box), window)
        labelled = pixels >= 0
        kinds, kind = np.unique(pixels[labelled], return_inverse=True)
        if not kinds.size:
            return codes
        top, left, height, width = regions.window
        cell = regions.mask_region[labelled] - 1
        votes = np.bincount(
            cell * kinds.size + kind, minlength=height * width * kinds.size
        ).reshape(height, width, kinds.size)
        classes = np.where(votes.any(axis=2), kinds[votes.argmax(axis=2)], -1)

        # region_map's window is that of the pixels; what was asked for is a part of it
        first, start = max(top, 0), max(left, 0)
        last, stop = (
            min(top + height, codes.shape[0]),
            min(left + width, codes.shape[1]),
        )
        if first < last and start < stop:
            codes[first:last, start:stop] = classes[
                first - top : last - top, start - left : stop - left
            ]
        return codes
