# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""Label rasters in their own CRS and grid."""

import hashlib
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox

from ..errors import InputError
from .geo.grid import Box, box_in, clip, crop, hull, pixel_offset, window_in
from .geo.names import PathLike
from .geo.raster import RasterFile, open_rasters, side_by_side
from .geo.region import region_map
from .geo.round_earth import columns_round

# Cells along a side of the blocks in which codes are counted, and how many blocks.
COUNTED, COUNTED_BLOCKS = 512, 64


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
            if file.compression:
                raise InputError(
                    f'{file.path}: is compressed with losses ({file.compression}), which '
                    'turns class codes into others; take the file that it was made of'
                )
            gains = [v[_band(file) - 1 :][:1] for v in (file.scales, file.offsets)]
            if gains not in ([(1.0,), (0.0,)], [(), ()]):
                raise InputError(
                    f'{file.path}: is tagged with a scale or an offset, and class codes '
                    'have none; put that right (gdal_edit -scale 1 -offset 0)'
                )
            if pixel_offset(file.geobox, first) is None:
                raise InputError(
                    f'{file.path}: is not on the grid of {self._files[0].path}'
                )
        boxes = [box_in(file.geobox, first) for file in self._files]
        whole = hull(boxes)
        #: the grid
        self.geobox = crop(first, whole)
        self._boxes = np.array(boxes, np.int64) - np.tile(whole[:2], 2)

    @classmethod
    def open(cls, paths: PathLike | Iterable[PathLike]) -> 'tuple[LabelRaster, ...]':
        """Open label files, one raster for each distinct grid.

        Where files lie over each other, the first that has a label counts. So one grid
        makes a second raster where a file of it lies under one of another grid that was
        named before it.

        Args:
            paths: Files, folders or URLs that rasterio opens.

        Returns:
            Rasters in the order of their first files.

        Raises:
            InputError: A file cannot be used.
        """
        files = side_by_side(open_rasters(paths))
        groups: list[_Group] = []
        for file in files:
            found = None
            for group in groups:
                if pixel_offset(file.geobox, group.grid) is not None:
                    found = group
                elif found is not None and group.lies_over(file.geobox):
                    found = None
            if found is None:
                found = _Group(file.geobox, len(files))
                groups.append(found)
            found.add(file)
        return tuple(cls(group.files) for group in groups)

    @property
    def paths(self) -> tuple[str, ...]:
        """The files, as they were given."""
        return tuple(file.path for file in self._files)

    @property
    def boxes(self) -> list[Box]:
        """Where each file lies in the grid."""
        return [(top, left, *ends) for top, left, *ends in self._boxes.tolist()]

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
            cols: Columns, likewise. But those of degrees or of Web Mercator go round
                the Earth: beyond one edge are those of the other.

        Returns:
            Raw codes, (h, w); -1 = no data, masked or outside.

        Raises:
            InputError: A file cannot be read, or holds values that are not codes.
        """
        codes = np.full((rows.stop - rows.start, cols.stop - cols.start), -1, np.int64)
        for file, inner, (top, left, bottom, right) in self._parts(rows, cols):
            part = codes[top:bottom, left:right]
            np.copyto(part, _codes(file, inner), where=part == -1)
        return codes

    def _parts(self, rows: slice, cols: slice) -> Iterator[tuple[RasterFile, Box, Box]]:
        """Files that touch a window: each with its own part and that of the window."""
        height, width = rows.stop - rows.start, cols.stop - cols.start
        for turned in self._turns(cols):
            boxes = self._boxes - np.array([rows.start, cols.start - turned] * 2)
            touching = (boxes[:, :2] < (height, width)).all(1)
            touching &= (boxes[:, 2:] > 0).all(1)
            for i in np.flatnonzero(touching).tolist():
                first, start, last, stop = boxes[i].tolist()
                top, left, bottom, right = clip(
                    (first, start, last, stop), height, width
                )
                inner = top - first, left - start, bottom - first, right - start
                yield self._files[i], inner, (top, left, bottom, right)

    def _turns(self, cols: slice) -> list[int]:
        """Columns by which the grid is moved to meet a span of them, itself first."""
        turn, width = columns_round(self.geobox), self.geobox.width
        if turn is None or (cols.start >= 0 and cols.stop <= min(width, turn)):
            return [0]
        first, last = (cols.start - width) // turn + 1, -(-cols.stop // turn)
        return sorted((turn * n for n in range(first, last)), key=abs)

    @property
    def files(self) -> tuple[str, ...]:
        """All local files that are read: side-car files and a VRT's sources too."""
        return tuple(name for file in self._files for name in file.files)

    def changed(self) -> tuple[str, ...]:
        """Files that are no longer what they were when they were opened."""
        return tuple(file.path for file in self._files if file.changed())

    def count_codes(
        self, areas: Sequence[GeoBox] = ()
    ) -> tuple[Counter[int], Counter[int]]:
        """Count the codes of some cells, and the no-data values that were declared.

        Args:
            areas: Grids in any CRS that are looked at; everywhere by default. Of large
                ones up to COUNTED_BLOCKS blocks, evenly spread, are.

        Returns:
            Cells by code, those that have no data left out; and cells that hold the
            no-data value of their file, by that value, where it is a whole number.
        """
        whole = (0, 0, *self.geobox.shape.yx)
        windows = [whole]
        for i, area in enumerate(areas):
            windows = windows if i else []
            box = window_in(area, self.geobox)
            if box[0] < box[2] and box[1] < box[3]:
                windows.append(box)
        total = sum(len(_Blocks(window)) for window in windows)
        step, number = max(1, -(-total // COUNTED_BLOCKS)), 0
        chosen: list[Box] = []
        for blocks in map(_Blocks, windows):
            chosen += [blocks[i] for i in range(-number % step, len(blocks), step)]
            number += len(blocks)
        codes: Counter[int] = Counter()
        absent: Counter[int] = Counter()
        for block in chosen:
            rows, cols = slice(block[0], block[2]), slice(block[1], block[3])
            for file, inner, _ in self._parts(rows, cols):
                values, counts = np.unique(_codes(file, inner), return_counts=True)
                codes.update(dict(zip(values.tolist(), counts.tolist(), strict=True)))
                nodata = file.nodata[_band(file) - 1]
                if nodata is not None and float(nodata).is_integer():
                    absent[int(nodata)] += int(_nodata(file, inner).sum())
        del codes[-1]
        return codes, +absent

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


def first_code(rasters: Sequence[LabelRaster], grid: GeoBox) -> NDArray[np.int64]:
    """Look up codes in several label rasters: the first that has one at a pixel counts.

    Any code counts, as in chips: one that the legend does not have is a label that says
    nothing, and is not looked for in the next raster.

    Args:
        rasters: Label rasters, in any grids and CRSs.
        grid: Where they are looked up, at the centres of its pixels.

    Returns:
        Raw codes, (H, W); -1 = no raster has one.
    """
    codes = np.full(grid.shape, -1, np.int64)
    for raster in rasters:
        missing = codes < 0
        if not missing.any():
            break
        codes = np.where(missing, raster.at(grid), codes)
    return codes


class _Group:
    """Files on one grid.

    Args:
        grid: That of the first.
        most: How many files there will be, at most.
    """

    def __init__(self, grid: GeoBox, most: int) -> None:
        self.grid = grid
        self.files: list[RasterFile] = []
        self._boxes = np.zeros((most, 4), np.int64)

    def add(self, file: RasterFile) -> None:
        """Add a file on the grid."""
        self._boxes[len(self.files)] = box_in(file.geobox, self.grid)
        self.files.append(file)

    def lies_over(self, grid: GeoBox) -> bool:
        """Whether one of the files may have pixels in another grid."""
        boxes = self._boxes[: len(self.files)]
        first, last = boxes[:, :2].min(axis=0), boxes[:, 2:].max(axis=0)
        whole = crop(self.grid, (*first.tolist(), *last.tolist()))
        box = np.array(window_in(grid, whole)) + np.tile(first, 2)
        if (box[2:] <= box[:2]).any():
            return False
        turn = columns_round(self.grid) or 0
        return any(
            ((boxes[:, :2] < box[2:] + moved) & (boxes[:, 2:] > box[:2] + moved))
            .all(axis=1)
            .any()
            for moved in {(0, 0), (0, turn), (0, -turn)}
        )


class _Blocks:
    """Blocks of COUNTED cells that a window is cut into, row by row."""

    def __init__(self, window: Box) -> None:
        self.window = window
        self.shape = tuple(-(-(window[i + 2] - window[i]) // COUNTED) for i in range(2))

    def __len__(self) -> int:
        return self.shape[0] * self.shape[1]

    def __getitem__(self, index: int) -> Box:
        row, col = divmod(index, self.shape[1])
        top, left = self.window[0] + row * COUNTED, self.window[1] + col * COUNTED
        _, _, bottom, right = self.window
        return top, left, min(top + COUNTED, bottom), min(left + COUNTED, right)


def _band(file: RasterFile) -> int:
    """The band that holds the codes."""
    return 2 if file.alpha == 1 else 1


def _nodata(file: RasterFile, box: Box) -> NDArray[np.bool_]:
    """Where a file holds its no-data value."""
    rows, cols = slice(box[0], box[2]), slice(box[1], box[3])
    band = _band(file)
    where: NDArray[np.bool_] = file.read([band], rows, cols)[0] == file.nodata[band - 1]
    return where


def _codes(file: RasterFile, box: Box) -> NDArray[np.int64]:
    """Read codes of one file, -1 where it has none."""
    rows, cols = slice(box[0], box[2]), slice(box[1], box[3])
    band = _band(file)
    values = file.read([band], rows, cols)[0]
    valid = np.ones(values.shape, bool)
    if file.alpha is not None:
        # Not by GDAL's mask, which takes 255 of 16 bits for transparent.
        valid &= file.read([file.alpha], rows, cols)[0] > 0
    if file.masked or band in file.band_masks:
        valid &= file.read([band], rows, cols, mask=True)[0] > 0
    nodata = file.nodata[band - 1]
    if nodata is not None:
        valid &= values != nodata
        if values.dtype.kind == 'f':  # tags may have fewer digits than pixels
            valid &= ~np.isclose(values, nodata, rtol=1e-5, atol=0)
    if values.dtype.kind == 'f':
        valid &= np.isfinite(values)
        whole = np.where(valid, values, 0)
        if (whole != np.rint(whole)).any():
            raise InputError(
                f'{file.path}: holds fractions; labels are whole class codes'
            )
        values = whole
    beyond = (
        valid & (np.abs(values.astype(np.float64)) > 2**31)
        if values.dtype.kind == 'f' or values.dtype.itemsize == 8
        else np.zeros(1, bool)
    )
    if beyond.any():
        raise InputError(
            f'{file.path}: holds {values[beyond][0]:g}, which is no class code; declare '
            'it as no data (gdal_edit -a_nodata)'
        )
    return np.where(valid, values.astype(np.int64), -1)
