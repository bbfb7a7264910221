# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""HR imagery on one grid, from one file or a mosaic."""

import hashlib
import operator
import os
import re
import threading
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from copy import copy
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from scipy.ndimage import (
    binary_closing,
    binary_dilation,
    binary_erosion,
    map_coordinates,
)

from ..errors import InputError, InputWarning
from .geo.aoi import AreaOfInterest, AreaOnGrid
from .geo.grid import (
    Box,
    box_in,
    clip,
    crop,
    hull,
    pixel_offset,
    pixel_ratio,
    same_place,
)
from .geo.raster import (
    MAX_BANDS,
    PathLike,
    RasterFile,
    distinct_names,
    open_rasters,
    side_by_side,
)
from .geo.region import lr_coordinates

#: What can remove a pixel, by its number in :meth:`Imagery.read_sources`; 0 is a pixel
#: that has data.
SOURCES = (
    'data',
    'outside the files',
    'alpha',
    'mask',
    'not finite',
    'no-data value',
    'rim of a lossy collar',
    'transparent colour',
)
_OUTSIDE, _ALPHA, _MASK, _NOT_FINITE, _NODATA, _RIM, _TRANSPARENT = range(1, 8)

# Largest share of opaque values that a band of transparency may have below full.
FEATHERED = 0.05

# Smallest share of a mosaic's pixels that must lie in its files, from a million on.
SPARSE, SPARSE_PIXELS = 0.01, 10**6

# What a second file of a footprint must add to the first's pixels to be a part of a mosaic.
WORTH_KEEPING = 0.2

# Levels of two files in one unit are at most so far apart; of two data types, less.
SAME_UNIT, SAME_UNIT_OF_TYPES = 64.0, 4.0

# The rim of a collar after lossy compression: the collar's value comes back up to RIM_DEPTH
# pixels inside it (JPEG's blocks of halved colour have 16) with errors up to RIM_ERROR, of
# whole numbers whose file does not tell the largest error as LERC's does.
RIM_DEPTH, RIM_ERROR, RIM_MARGIN = 16, 24, 32

# Pixels along a side of the corner blocks in which a collar is looked for, at most, and in
# how many files.
COLLAR, COLLAR_FILES = 32, 8

# Pixels along a side of the blocks in which removed pixels are counted once.
BLOCK = 32

# A band, from 1, and for a palette the channel's value of each entry.
_Channel = tuple[int, NDArray[np.uint8] | None]


class Imagery:
    """Rasters of any band count and data type, read as float32 by windows of one grid.

    The grid is the first file's. Files that share it are read as they are; others are
    warped to it, bilinear. Where files overlap, the first that has data is taken. A
    raster of embeddings is imagery too: one band a dimension. A palette is read as its
    colours, and a band's scale and offset are applied.

    A pixel is invalid outside the files, and where any of these says so:

    * the file's mask (internal or .msk), or that of one of the bands;
    * a band that the file calls alpha, 0 = transparent, whatever its type and whichever
      bands are read;
    * NaN and infinity, in any band;
    * the no-data value: in all bands that declare one for integers, where 0 may also be a
      dark pixel's value; in any for floats, and for negative values of integers;
    * beside a no-data collar of a file with lossy compression (JPEG), values that are the
      no-data value but for the compression's error.

    GDAL calls the fourth band of many NAIP tiles *alpha* though it is near infrared. It
    is taken for transparency only if it looks like one: nearly all values of a sample
    are 0 or one largest value. Naming the band in *bands* settles it.

    Args:
        paths: Files, folders, VRTs or URLs that rasterio opens, ZIP archives of them, and
            Zarr stores (``x.zarr``, ``x.zarr:variable``). Files that ground control points
            or a camera model place are warped as they are read.
        bands: Bands to read of each file, from 1 (default: all but alpha).
        nodata: No-data value (default: that of the files), as it is stored; NaN of
            integers says that none is it.
        stack: Several files of one place, two dates say, are bands of one image instead
            of a mosaic: those of the first file come first, and a pixel must be valid in
            all of them. Of several places, files belong together whose names share a
            word or a date, ``may_a.tif`` and ``may_b.tif``; else they do by their order.

    Raises:
        InputError: A file cannot be used, or the files do not fit together.

    Warns:
        InputWarning: A rule about no-data had to guess.
    """

    def __init__(
        self,
        paths: PathLike | Iterable[PathLike],
        bands: Sequence[int] | None = None,
        nodata: float | None = None,
        stack: bool = False,
    ) -> None:
        if bands is not None:
            bands = _numbers(bands)
        #: how the files were opened: *bands*, *nodata* and *stack*
        self.options = {'bands': bands, 'nodata': nodata, 'stack': stack}
        files = side_by_side(open_rasters(paths, imagery=True))
        alphas = _transparency(files, bands or ())
        self._layers = tuple(
            _layer(file, bands, nodata, alpha)
            for file, alpha in zip(files, alphas, strict=True)
        )
        grid = files[0].geobox
        boxes = [box_in(file.geobox, grid) for file in files]
        #: layers of each image of the stack; one image where nothing is stacked
        self._images = _stacked(files, boxes) if stack else (tuple(range(len(files))),)
        #: what each file covers, of a stack each of its first image, as a crop of the grid
        self.footprints = tuple(crop(grid, boxes[i]) for i in self._images[0])
        for image in self._images:
            _check_bands([self._layers[i] for i in image])
        if not stack and len(files) > 1:
            _check_sparse(files, boxes)
            _check_same_place(self._layers, boxes)
        if len(files) > 1:
            for image in self._images:
                _check_units([self._layers[i] for i in image])
        _tell_collars(self._layers)
        whole = hull(boxes)
        #: the grid
        self.geobox = crop(grid, whole)
        self._boxes = np.array(boxes, np.int64) - np.tile(whole[:2], 2)
        self._counts = _Counts(self.geobox.shape.yx)
        self._area: AreaOnGrid | None = None
        self._area_fingerprint = ''

    @property
    def paths(self) -> tuple[str, ...]:
        """The files, as they were given."""
        return tuple(layer.file.path for layer in self._layers)

    @property
    def bands(self) -> int:
        """Number of bands that are read."""
        return sum(len(self._layers[image[0]].picks) for image in self._images)

    @property
    def images(self) -> tuple[tuple[str, ...], ...]:
        """Files of each image of a stack; of one image where nothing is stacked."""
        return tuple(
            tuple(self._layers[i].file.path for i in image) for image in self._images
        )

    @property
    def all_bands(self) -> tuple[str, ...]:
        """Name of each band of the first file: its description, or its number.

        Of a stack those of the first file of each image, with the file's name before
        them, as in ``may:red``.
        """
        parts = [self._layers[image[0]].channels for image in self._images]
        if len(parts) == 1:
            return tuple(parts[0])
        stems = distinct_names([image[0] for image in self.images])
        return tuple(
            f'{stem}:{name}'
            for stem, names in zip(stems, parts, strict=True)
            for name in names
        )

    @property
    def band_indexes(self) -> tuple[int, ...]:
        """Where the bands that are read stand in :attr:`all_bands`, from 0."""
        indexes: list[int] = []
        first = 0
        for image in self._images:
            layer = self._layers[image[0]]
            indexes += [first + i for i in layer.indexes]
            first += len(layer.channels)
        return tuple(indexes)

    @property
    def band_names(self) -> tuple[str, ...]:
        """Name of each band that is read."""
        names = self.all_bands
        return tuple(names[i] for i in self.band_indexes)

    @property
    def rgb_bands(self) -> tuple[str, ...]:
        """Names of the bands that the first file calls red, green and blue, if it does."""
        channels = self._layers[0].channels
        colors = list(channels.values())
        rgb = ('red', 'green', 'blue')
        if not set(rgb) <= set(colors):
            return ()
        return tuple(self.all_bands[colors.index(color)] for color in rgb)

    @property
    def drawn(self) -> tuple[tuple[str, tuple[_Channel, ...]], ...]:
        """What a picture of the imagery, of a stack of its first image, is drawn from.

        Returns:
            Each file, and its channels that are red, green and blue: the first three that
            are read, or the first one where there are fewer. A channel is a band, from 1,
            and for a palette the channel's value of each entry.
        """
        files = []
        for layer in (self._layers[i] for i in self._images[0]):
            picks = layer.picks[:3] if len(layer.picks) >= 3 else layer.picks[:1]
            files.append((layer.file.path, tuple(map(layer.channel, picks))))
        return tuple(files)

    @property
    def dtype(self) -> np.dtype:
        """Data type that holds the values of all files."""
        return np.result_type(*(layer.dtype for layer in self._layers))

    def __str__(self) -> str:
        """Number of files, size, and the share of it that the files cover."""
        height, width = self.geobox.shape
        sizes = self._boxes[:, 2:] - self._boxes[:, :2]
        covered = min(100 * float(sizes.prod(axis=1).sum()) / (height * width), 100.0)
        files = f'{len(self._layers)} file{"s" if len(self._layers) > 1 else ""}'
        return (
            f'{files}, {height} x {width} pixels ({_pixels(height * width)}), '
            f'{covered:.3g} % of them in the files'
        )

    @property
    def files(self) -> tuple[str, ...]:
        """All local files that are read: side-car files and a VRT's sources too."""
        return tuple(name for layer in self._layers for name in layer.file.files)

    def changed(self) -> tuple[str, ...]:
        """Files that are no longer what they were when they were opened."""
        return tuple(layer.file.path for layer in self._layers if layer.file.changed())

    def within(self, area: AreaOfInterest) -> 'Imagery':
        """The same imagery, cropped to an area: pixels outside it are invalid.

        Windows that do not touch the area are not read. Values of pixels beside it are
        kept, as context of those in it.

        Args:
            area: The area, in any CRS.

        Raises:
            InputError: If the area holds no pixel.
        """
        part = copy(self)
        part._area = area.on(self.geobox)
        part._boxes = self._boxes - np.tile(
            pixel_offset(part._area.geobox, self.geobox) or (0, 0), 2
        )
        part.geobox = part._area.geobox
        part._counts = _Counts(part.geobox.shape.yx)
        part._area_fingerprint = area.fingerprint()
        return part

    def fingerprint(self) -> str:
        """Digest of the files and of how they are read."""
        parts = [(layer.file.fingerprint(), *layer.choices) for layer in self._layers]
        images = self._images if len(self._images) > 1 else ()
        place = (self._area_fingerprint,) if self._area else ()
        return hashlib.sha256(repr((parts, images, *place)).encode()).hexdigest()

    def read(self, geobox: GeoBox) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Read a crop of the grid.

        Args:
            geobox: Pixels of :attr:`geobox`, or beyond it.

        Returns:
            Values, (C, H, W), as they are stored unless scale and offset are tagged, 0
            where invalid; and which pixels are valid, (H, W).

        Raises:
            ValueError: *geobox* has other pixels than the grid.
            InputError: A file cannot be read.
        """
        image, sources = self.read_sources(geobox)
        return image, sources == 0

    def read_sources(
        self, geobox: GeoBox
    ) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
        """Read a crop of the grid, and what has removed its pixels.

        Args:
            geobox: Pixels of :attr:`geobox`, or beyond it.

        Returns:
            Values, (C, H, W), as :meth:`read` gives them; and the number of each pixel's
            source of no-data in ``SOURCES``, (H, W), 0 where it is valid.

        Raises:
            ValueError: *geobox* has other pixels than the grid.
            InputError: A file cannot be read.
        """
        offset = pixel_offset(geobox, self.geobox)
        if offset is None:
            raise ValueError(f'{geobox} is not a crop of {self.geobox}')
        if self._area is not None and not self._area.touches(geobox):
            empty = np.zeros((self.bands, *geobox.shape), np.float32)
            return empty, np.full(geobox.shape, _OUTSIDE, np.uint8)
        parts = [self._read(geobox, offset, image) for image in self._images]
        if len(parts) == 1:
            image, sources = parts[0]
        else:
            image = np.concatenate([part[0] for part in parts])
            sources = parts[0][1]
            for _, others in parts[1:]:
                sources = np.where(sources == 0, others, sources)
            image[:, sources != 0] = 0
        if self._area is not None:
            inside = self._area.mask(geobox)
            sources = np.where((sources == 0) & ~inside, _OUTSIDE, sources)
        self._counts.add(sources, offset)
        return image, sources

    def _read(
        self, geobox: GeoBox, offset: tuple[int, int], layers: Sequence[int]
    ) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
        """Read one image of the stack."""
        height, width = geobox.shape
        bands = len(self._layers[layers[0]].picks)
        image = np.zeros((bands, height, width), np.float32)
        sources = np.full((height, width), _OUTSIDE, np.uint8)
        boxes = self._boxes[list(layers)] - np.tile(offset, 2)
        touching = (
            (boxes[:, 0] < height)
            & (boxes[:, 1] < width)
            & (boxes[:, 2] > 0)
            & (boxes[:, 3] > 0)
        )
        for i in np.flatnonzero(touching).tolist():
            first, left, last, right = boxes[i].tolist()
            box = clip((first, left, last, right), height, width)
            top, left, bottom, right = box
            part = sources[top:bottom, left:right]
            if not part.any():
                continue
            values, removed = self._layers[layers[i]].read(crop(geobox, box))
            added = (removed == 0) & (part != 0)
            np.copyto(image[:, top:bottom, left:right], values, where=added)
            # The first file that covers a pixel says what has removed it.
            np.copyto(part, removed, where=added | (part == _OUTSIDE))
        return image, sources

    def sources_of_nodata(self) -> dict[str, int]:
        """How many pixels each source of no-data has removed from what was read so far.

        Pixels are counted where they are read, each once however often chips overlap:
        by blocks of 32 pixels, when a whole one lies in a window. Only what this process
        has read is known.

        Returns:
            Pixels by name of the source (of ``SOURCES``), those that removed any.
        """
        return self._counts.by_name()

    def check_data(self) -> None:
        """Blame the imagery if nothing that was read of it has data.

        Raises:
            InputError: Pixels were read, and none was valid. The line says what has
                removed them.
        """
        if self._counts.read and not self._counts.valid:
            counts = self.sources_of_nodata() or {'no-data': self._counts.read}
            name = max(counts, key=lambda source: counts[source])
            raise InputError(
                f'{self.paths[0]}: no pixel that was read has data (removed by: {name}'
                f'{self._empty_bands()}); check its bands, mask and no-data value'
            )

    def _empty_bands(self) -> str:
        """Name the bands that hold nothing finite, of a window in the middle."""
        layer = self._layers[0]
        rows, cols = next(_windows(layer.file.geobox, [1]))
        values = layer.file.read(layer.bands, rows, cols)
        empty = [
            str(band)
            for band, value in zip(layer.bands, values, strict=True)
            if value.dtype.kind == 'f' and not np.isfinite(value).any()
        ]
        return f', band {", ".join(empty)} holds no number' if empty else ''


class _Counts:
    """Pixels by source of no-data, each counted once.

    Args:
        shape: Height and width of the grid.
    """

    #: pixels along a side of what one array of marks stands for
    _PAGE = 128 * BLOCK

    def __init__(self, shape: tuple[int, int]) -> None:
        self.shape = shape
        self.pixels = np.zeros(len(SOURCES), np.int64)
        self.read = self.valid = 0
        #: marks of counted blocks, one bit each, by page that has removed pixels; None
        #: where all are marked
        self._marks: dict[tuple[int, int], NDArray[np.uint8] | None] = {}

    def add(self, sources: NDArray[np.uint8], offset: tuple[int, int]) -> None:
        """Count a window that begins at a row and column of the grid."""
        top, left, bottom, right = clip(
            (
                -offset[0],
                -offset[1],
                self.shape[0] - offset[0],
                self.shape[1] - offset[1],
            ),
            *sources.shape,
        )
        inside = sources[top:bottom, left:right]
        removed = int(np.count_nonzero(inside))
        with _counting:
            self.read += inside.size
            self.valid += inside.size - removed
            if removed:
                self._count(inside, offset[0] + top, offset[1] + left)

    def _count(self, inside: NDArray[np.uint8], top: int, left: int) -> None:
        rows = _whole_blocks(top, inside.shape[0], self.shape[0])
        cols = _whole_blocks(left, inside.shape[1], self.shape[1])
        for row, start, stop in rows:
            band = inside[start - top : stop - top]
            if not band.any():
                continue
            for col, begin, end in cols:
                block = band[:, begin - left : end - left]
                if block.any() and self._mark(row, col):
                    self.pixels += np.bincount(block.ravel(), minlength=len(SOURCES))

    def _mark(self, row: int, col: int) -> bool:
        """Mark a block; whether it was not marked before."""
        (page_row, row), (page_col, col) = divmod(row, 128), divmod(col, 128)
        key = page_row, page_col
        marks = self._marks.setdefault(key, np.zeros((128, 16), np.uint8))
        if marks is None or marks[row, col >> 3] >> (col & 7) & 1:
            return False
        marks[row, col >> 3] |= 1 << (col & 7)
        if marks[row, col >> 3] == 255 and (marks == 255).all():
            self._marks[key] = None
        return True

    def by_name(self) -> dict[str, int]:
        """Pixels by name of their source, where there are any."""
        counts = zip(SOURCES[1:], self.pixels[1:].tolist(), strict=True)
        return {name: count for name, count in counts if count}


# Of all imagery: a lock of its own could not be pickled.
_counting = threading.Lock()


def _whole_blocks(start: int, length: int, size: int) -> list[tuple[int, int, int]]:
    """Blocks along an axis that a window holds whole: number, first pixel, last + 1."""
    stop = start + length
    first = -(-start // BLOCK)
    last = -(-stop // BLOCK) if stop == size else stop // BLOCK
    return [(i, i * BLOCK, min((i + 1) * BLOCK, size)) for i in range(first, last)]


@dataclass(frozen=True)
class _Layer:
    """How one file of the mosaic is read.

    Args:
        file: The file.
        bands: Bands that are read, from 1.
        picks: For each channel, the place of its band in *bands* and its component of
            the palette (None: the values themselves).
        nodata: No-data value of each of *bands*.
        alphas: Bands of transparency, and the value above which each is opaque.
    """

    file: RasterFile
    bands: tuple[int, ...]
    picks: tuple[tuple[int, int | None], ...]
    nodata: tuple[float | None, ...]
    alphas: tuple[tuple[int, float], ...]

    @property
    def choices(self) -> tuple[Any, ...]:
        return self.bands, self.picks, self.nodata, self.alphas

    @property
    def channels(self) -> dict[str, str]:
        """Colour of each channel of the file, by its name."""
        file = self.file
        names = [text or str(i) for i, text in enumerate(file.names, 1)]
        if len(names) < file.count or len(set(names)) < len(names):
            names = [str(i) for i in range(1, file.count + 1)]
        channels: dict[str, str] = {}
        for i, name in enumerate(names):
            if file.palettes and file.palettes[i]:
                channels |= {f'{name}:{c}': c for c in ('red', 'green', 'blue')}
            else:
                channels[name] = file.colors[i] if file.colors else ''
        return channels

    def channel(self, pick: tuple[int, int | None]) -> _Channel:
        """Band of one of *picks*, and the values of its palette."""
        band, component = self.bands[pick[0]], pick[1]
        if component is None:
            return band, None
        palette = self.file.palettes[band - 1]
        return band, np.array(palette, np.uint8)[:, component]

    @property
    def indexes(self) -> tuple[int, ...]:
        """Where the channels that are read stand in :attr:`channels`, from 0."""
        palettes = self.file.palettes or (None,) * self.file.count
        first = np.cumsum([0, *(3 if palette else 1 for palette in palettes)]).tolist()
        return tuple(
            first[self.bands[i] - 1] + (component or 0) for i, component in self.picks
        )

    @property
    def dtype(self) -> np.dtype[Any]:
        """Data type of what is read."""
        if self.gains is not None:
            return np.dtype(np.float32)
        types = [
            'uint8' if component is not None else self.file.dtypes[self.bands[i] - 1]
            for i, component in self.picks
        ]
        return np.result_type(*types)

    @property
    def tells_nodata(self) -> bool:
        """Whether anything in the file says which of its pixels have no data."""
        return bool(
            self.alphas
            or self.file.masked
            or any(band in self.file.band_masks for band in self.bands)
            or any(value is not None for value in self.nodata)
            or any(component is not None for _, component in self.picks)
        )

    @property
    def rim_error(self) -> float:
        """How far lossy compression may have moved the no-data value."""
        if not self.file.compression:
            return 0.0
        if self.file.largest_error is not None:
            return self.file.largest_error
        kinds = {np.dtype(self.file.dtypes[band - 1]).kind for band in self.bands}
        return 0.0 if 'f' in kinds else float(RIM_ERROR)

    @property
    def gains(self) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
        """Scale and offset of each channel, (C, 1, 1); None where they change nothing."""
        if not self.file.scales:
            return None
        scales, offsets = (
            np.array(
                [
                    plain if component is not None else values[self.bands[i] - 1]
                    for i, component in self.picks
                ]
            )[:, None, None]
            for plain, values in ((1.0, self.file.scales), (0.0, self.file.offsets))
        )
        if (scales == 1).all() and (offsets == 0).all():
            return None
        return scales, offsets

    def read(self, geobox: GeoBox) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
        """Read a grid that touches the file, in the file's pixels or in others."""
        offset = pixel_offset(geobox, self.file.geobox)
        if offset is None:
            return self._warp(geobox)
        (row, col), (height, width) = offset, geobox.shape
        return self.window(slice(row, row + height), slice(col, col + width))

    def window(
        self, rows: slice, cols: slice
    ) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
        """Read a window of the file: values, and what has removed its pixels."""
        declared = [i for i, value in enumerate(self.nodata) if value is not None]
        if not (self.rim_error and declared):
            return self._plain(self.file.read(self.bands, rows, cols), rows, cols)
        height, width = self.file.geobox.shape
        top, left = max(rows.start - RIM_MARGIN, 0), max(cols.start - RIM_MARGIN, 0)
        wide = (
            slice(top, min(rows.stop + RIM_MARGIN, height)),
            slice(left, min(cols.stop + RIM_MARGIN, width)),
        )
        inner = (
            slice(rows.start - top, rows.stop - top),
            slice(cols.start - left, cols.stop - left),
        )
        values = self.file.read(self.bands, *wide)
        nodata = np.array([self.nodata[i] for i in declared], float)
        rim = _rim(values[declared], nodata, self.rim_error)[inner]
        image, removed = self._plain(values[:, *inner], rows, cols)
        np.copyto(removed, _RIM, where=rim & (removed == 0))
        image[:, removed != 0] = 0
        return image, removed

    def _plain(
        self, values: NDArray[Any], rows: slice, cols: slice
    ) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
        """Values of the channels, and what has removed their pixels."""
        removed = np.zeros(values.shape[1:], np.uint8)

        def remove(where: Any, source: int) -> None:
            np.copyto(removed, source, where=where & (removed == 0))

        for band, threshold in self.alphas:
            alpha = self.file.read([band], rows, cols)[0]
            remove(~(alpha > threshold), _ALPHA)  # NaN is not opaque
        masks = [self.bands[0]] if self.file.masked else []
        masks += [b for b in self.bands if b in self.file.band_masks and not masks]
        for band in masks:
            mask = self.file.read([band], rows, cols, mask=True)[0]
            remove(np.equal(mask, 0), _MASK)
        if values.dtype.kind == 'f':
            with np.errstate(over='ignore'):  # beyond float32
                finite = np.isfinite(values.astype(np.float32, copy=False))
            remove(~finite.all(axis=0), _NOT_FINITE)
        absent = self._absent(values)
        if absent is not None:
            remove(absent, _NODATA)
        image = self._channels(values, remove)
        valid = removed == 0
        gains = self.gains
        if gains is None:
            return np.where(valid, image, 0).astype(np.float32), removed
        return (np.where(valid, image, 0) * gains[0] + gains[1] * valid).astype(
            np.float32
        ), removed

    def _absent(self, values: NDArray[Any]) -> NDArray[np.bool_] | None:
        """Where the bands that declare a no-data value hold it."""
        declared = [i for i, value in enumerate(self.nodata) if value is not None]
        if not declared:
            return None
        floats = values.dtype.kind == 'f'
        nodata = np.array([self.nodata[i] for i in declared])
        if len(declared) < len(values):
            values = values[declared]
        if floats:
            # as the file would store it: 0.1 is another number in float32
            with np.errstate(over='ignore', invalid='ignore'):
                nodata = nodata.astype(values.dtype)
                absent = values == nodata[:, None, None]
                huge = np.abs(nodata) > 1e30
                if huge.any():
                    # the lowest number of float32 is written with 6 to 17 digits
                    ratio = values / nodata[:, None, None]
                    absent |= huge[:, None, None] & (np.abs(ratio - 1) < 1e-6)
            return absent.any(axis=0)
        # Integers are compared as they are, for −9999 must not wrap around to a uint8.
        absent = values == nodata[:, None, None]
        # 0 or 255 may be a real value, −9999 of one band is none.
        return absent.all(axis=0) | absent[nodata < 0].any(axis=0)

    def _channels(self, values: NDArray[Any], remove: Any) -> NDArray[Any]:
        """Palettes expanded to their colours."""
        if all(component is None for _, component in self.picks):
            if self.picks == tuple((i, None) for i in range(len(values))):
                return values
            return values[[i for i, _ in self.picks]]
        colors = {}
        for i in {i for i, component in self.picks if component is not None}:
            palette = self.file.palettes[self.bands[i] - 1]
            assert palette is not None
            # the last entry stands for values that the palette does not have
            table = np.array([*palette, (0, 0, 0, 0)], np.uint8)
            index = np.minimum(values[i].astype(np.int64), len(palette))
            colors[i] = np.moveaxis(table[index], -1, 0)
            remove(colors[i][3] == 0, _TRANSPARENT)
        return np.stack(
            [
                values[i] if component is None else colors[i][component]
                for i, component in self.picks
            ]
        )

    def _warp(self, geobox: GeoBox) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
        """Warp the file to another grid, bilinear over its valid pixels.

        Where the file is finer, each pixel is the mean of several points. GDAL's warper
        is not used: its kernel and its rounding depend on the window that is asked for,
        which shows as seams between windows.
        """
        source = self.file.geobox
        points = max(1, round(pixel_ratio(source, geobox) ** -0.5))
        place = lr_coordinates(geobox.zoom_out(1 / points), source) - 0.5
        top, left = (max(int(np.floor(p.min())), 0) for p in place)
        bottom = min(int(np.ceil(place[0].max())) + 1, source.height)
        right = min(int(np.ceil(place[1].max())) + 1, source.width)
        image = np.zeros((len(self.picks), *geobox.shape), np.float32)
        sources = np.full(geobox.shape, _OUTSIDE, np.uint8)
        if top >= bottom or left >= right:
            return image, sources
        values, removed = self.window(slice(top, bottom), slice(left, right))
        place -= np.array([top, left])[:, None, None]

        image, defined = bilinear_mean(values, removed == 0, place, points)
        if removed.any():
            middle = place[:, points // 2 :: points, points // 2 :: points]
            nearest = map_coordinates(removed, middle, order=0, cval=_OUTSIDE)
            sources = np.where(nearest == 0, np.uint8(_OUTSIDE), nearest)
        return image, np.where(defined, np.uint8(0), sources)


def bilinear_mean(
    values: NDArray[np.float32],
    valid: NDArray[np.bool_],
    place: NDArray[np.float64],
    points: int,
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Values between valid pixels, each the mean of several points.

    Args:
        values: (B, h, w), 0 where there is none.
        valid: Pixels with a value, (h, w).
        place: Row and column of each point in these, (2, H points, W points); 0 is the
            centre of the first pixel.
        points: Points along a side of a pixel of the result.

    Returns:
        (B, H, W), 0 where there is none; and where half of the pixel has values, (H, W).
    """
    height, width = (size // points for size in place.shape[1:])

    def sample(band: NDArray[np.float32]) -> NDArray[np.float32]:
        drawn = map_coordinates(band, place, order=1, mode='grid-constant')
        mean: NDArray[np.float32] = drawn.reshape(height, points, width, points).mean(
            axis=(1, 3)
        )
        return mean

    weight = sample(valid.astype(np.float32))
    # half of the pixel, with room for rounding where the grids are half a pixel off
    defined = weight > 0.49
    image = np.zeros((len(values), height, width), np.float32)
    for i, band in enumerate(values):
        np.divide(sample(band), weight, out=image[i], where=defined)
    return image, defined


def _rim(
    values: NDArray[Any], nodata: NDArray[np.float64], largest: float
) -> NDArray[np.bool_]:
    """Pixels of a no-data collar that lossy compression has made different from it.

    They are nearly the no-data value, and lead in at most RIM_DEPTH steps to a part of
    the collar of at least 8 x 8 pixels that kept its value: a dark pixel elsewhere is not
    among them. What is decided of a pixel depends on RIM_MARGIN pixels around it.

    Args:
        values: (B, h, w).
        nodata: No-data value of each of the bands, (B,).
        largest: Largest error of the compression.

    Returns:
        Those pixels and the collar, (h, w).
    """
    error = np.abs(values.astype(np.float32) - nodata[:, None, None].astype(np.float32))
    error = error.max(axis=0)
    exact = error == 0
    if not exact.any():
        return exact
    # beyond the file is collar, as it would be if the file were larger
    square = np.ones((8, 8), bool)
    core = binary_erosion(exact, square, border_value=1)
    core = binary_dilation(core, square, origin=-1) & exact
    if not core.any():
        return core
    # and what the numbers' type rounds away
    near = error <= largest + np.spacing(np.abs(nodata).max().astype(np.float32))
    step = np.ones((3, 3), bool)
    rim: NDArray[np.bool_] = binary_dilation(core, step, RIM_DEPTH, mask=near)
    # single pixels among them with a larger error
    return rim | binary_closing(rim, step)


def _layer(
    file: RasterFile,
    bands: Sequence[int] | None,
    nodata: float | None,
    alphas: Sequence[tuple[int, float]],
) -> _Layer:
    """Choose the bands of a file, and check them."""
    channels: list[tuple[int, int | None]] = []
    for band in range(1, file.count + 1):
        palette = file.palettes[band - 1] if file.palettes else None
        channels += [(band, i) for i in range(3)] if palette else [(band, None)]
    transparent = {band for band, _ in alphas}
    if bands is None:
        chosen = [channel for channel in channels if channel[0] not in transparent]
    else:
        for index in bands:
            if not 1 <= index <= len(channels):
                raise InputError(
                    f'{file.path}: has no band {index}; its bands are 1 to {len(channels)}'
                )
        chosen = [channels[index - 1] for index in bands]
    if not chosen:
        raise InputError(f'{file.path}: has no band besides alpha')
    if len(chosen) > MAX_BANDS:
        raise InputError(
            f'{file.path}: has {len(chosen)} bands, and at most {MAX_BANDS} are read at '
            'once; choose some with bands'
        )
    needed = tuple(dict.fromkeys(band for band, _ in chosen))
    for band in needed:
        scale = file.scales[band - 1] if file.scales else 1.0
        offset = file.offsets[band - 1] if file.offsets else 0.0
        if not (np.isfinite([scale, offset]).all() and scale != 0):
            raise InputError(
                f'{file.path}: band {band} is tagged with scale {scale:g} and offset '
                f'{offset:g}; put that right (gdal_edit -scale 1 -offset 0)'
            )
    picks = tuple((needed.index(band), component) for band, component in chosen)
    kinds = [file.dtypes[band - 1] for band in needed]
    if nodata is not None and not any(_holds(kind, nodata) for kind in kinds):
        raise InputError(
            f'{file.path}: its numbers are {kinds[0]}, and none is {nodata:g}; give the '
            'no-data value as it is stored'
        )
    values = tuple(
        file.nodata[band - 1] if nodata is None else nodata for band in needed
    )
    # a band that is named is data, whatever the file calls it
    used = tuple(alpha for alpha in alphas if alpha[0] not in needed)
    return _Layer(file, needed, picks, values, used)


def _holds(dtype: str, number: float) -> bool:
    """Whether a type of numbers has a number; NaN says of integers that none is it."""
    if np.dtype(dtype).kind not in 'iu' or np.isnan(number):
        return True
    range_ = np.iinfo(dtype)
    return range_.min <= number <= range_.max and number == int(number)


def _check_bands(layers: Sequence[_Layer]) -> None:
    """The files of a mosaic have as many bands as its first, in one order."""
    first = layers[0]
    order = _color_order(first)
    for layer in layers:
        if len(layer.picks) != len(first.picks):
            raise InputError(
                f'{layer.file.path} has {len(layer.picks)} bands but '
                f'{first.file.path} has {len(first.picks)}; '
                'choose common ones with bands'
            )
        other = _color_order(layer)
        if order and other and order != other:
            raise InputError(
                f'{layer.file.path} has its bands in the order {", ".join(other)} but '
                f'{first.file.path} in the order {", ".join(order)}; bring them into one '
                'order (gdal_translate -b)'
            )


def _color_order(layer: _Layer) -> tuple[str, ...]:
    """Red, green and blue in the order of the channels; empty unless there are all."""
    colors = list(layer.channels.values())
    names = [colors[i] for i in layer.indexes]
    order = tuple(name for name in names if name in ('red', 'green', 'blue'))
    return order if sorted(order) == ['blue', 'green', 'red'] else ()


def _check_sparse(files: Sequence[RasterFile], boxes: Sequence[Box]) -> None:
    """A mosaic holds some data between its corners."""
    height, width = _size(hull(boxes))
    data = sum(h * w for h, w in map(_size, boxes))
    if height * width < SPARSE_PIXELS or data >= SPARSE * height * width:
        return
    edges = np.array(boxes, float)
    # the file that lies furthest from the middle of most
    distance = np.abs(edges - np.median(edges, axis=0)).max(axis=1)
    if len(files) == 2:
        distance[0] = -1  # the grid is the first's
    odd = files[int(np.argmax(distance))]
    raise InputError(
        f'{odd.path}: lies so far from {files[0].path} that the mosaic would be '
        f'{height} x {width} pixels ({_pixels(height * width)}) of which '
        f'{100 * data / (height * width):.2g} % have data; check its origin and zone, '
        'or make one map a file (--output FOLDER/)'
    )


def _check_same_place(layers: Sequence[_Layer], boxes: Sequence[Box]) -> None:
    """No file of a mosaic is hidden under another."""
    for i, j in same_place(boxes):
        valid = [
            np.concatenate(
                [
                    (layer.window(*window)[1] == 0).ravel()
                    for window in _windows(layer.file.geobox)
                ]
            )
            for layer in (layers[i], layers[j])
        ]
        size = min(len(v) for v in valid)
        first, second = (v[:size] for v in valid)
        if (second & ~first).sum() < WORTH_KEEPING * second.sum() or not second.any():
            raise InputError(
                f'{layers[j].file.path}: has the footprint of {layers[i].file.path}, '
                'which would hide it; leave one of them out, or use both as bands of one '
                'image (--stack, Imagery(…, stack=True))'
            )


def _tell_collars(layers: Sequence[_Layer]) -> None:
    """Tell of a black or white collar that no file declares to be one.

    Looked for in the corners of a few files: a block of one value, 0 or the largest, in
    all bands, where the middle of the file has others. After lossy compression the values
    are nearly that one.

    Warns:
        InputWarning: There is one.
    """
    framed: list[tuple[_Layer, float]] = []
    for layer in layers[:: max(1, len(layers) // COLLAR_FILES)]:
        if layer.tells_nodata:
            continue
        # What is damaged is told where it is read.
        with suppress(InputError):
            value = _collar(layer)
            if value is not None:
                framed.append((layer, value))
    if not framed:
        return
    layer, value = framed[0]
    others = f' (and of {len(framed) - 1} other files)' if len(framed) > 1 else ''
    warnings.warn(
        f'{layer.file.path}: a corner of it{others} is {value:g} in all bands, which the '
        'file does not declare as no data: it is mapped as land; if it is a collar, give '
        f'--nodata {value:g} (gdal_edit -a_nodata {value:g}), which also trims the rim of '
        'a JPEG collar',
        InputWarning,
        stacklevel=3,
    )


def _collar(layer: _Layer) -> float | None:
    """The value of a collar in a corner of a file; None if there is none."""
    height, width = layer.file.geobox.shape
    side = min(COLLAR, height // 8, width // 8)
    if side < 4:
        return None
    ends = (slice(0, side), slice(-side, None))
    error = min(layer.rim_error, RIM_ERROR / 3)
    values = [0.0]
    if layer.file.dtypes[layer.bands[0] - 1].startswith('uint'):
        values.append(_largest(layer.file.dtypes[layer.bands[0] - 1]))
    for rows, cols in ((r, c) for r in ends for c in ends):
        corner = layer.file.read(
            layer.bands,
            slice(*rows.indices(height)[:2]),
            slice(*cols.indices(width)[:2]),
        ).astype(np.float64)
        for value in values:
            if np.abs(corner - value).max() <= error and np.median(corner) == value:
                window = next(_windows(layer.file.geobox, [1]))
                middle = layer.file.read(layer.bands, *window).astype(np.float64)
                return value if (np.abs(middle - value) > error).any() else None
    return None


def _stacked(
    files: Sequence[RasterFile], boxes: Sequence[Box]
) -> tuple[tuple[int, ...], ...]:
    """Number the files of each place, and put those of one number into one image."""
    if len(files) == 1:
        raise InputError(
            f'{files[0].path}: is one file, and a stack needs several of one place; give '
            'them all, or leave out --stack'
        )
    first = {j: i for i, j in same_place(boxes)}
    places: dict[int, list[int]] = {}
    for i in range(len(files)):
        places.setdefault(first.get(i, i), []).append(i)
    counts = {len(place) for place in places.values()}
    if counts == {1}:  # of one place, but not of one footprint
        edges = np.array(boxes)
        if (edges[:, :2].max(axis=0) >= edges[:, 2:].min(axis=0)).any():
            raise InputError(
                f'{files[0].path}: the files of the stack have no common pixel; leave out '
                '--stack for a mosaic'
            )
        return tuple((i,) for i in range(len(files)))
    if len(counts) > 1:
        fewest = min(places.values(), key=len)
        raise InputError(
            f'{files[fewest[0]].path}: has {len(fewest)} files of its footprint where '
            f'others have {max(counts)}; a stack needs as many for each'
        )
    matched = _matched([[*place] for place in places.values()], files)
    return tuple(zip(*matched, strict=True))


def _matched(
    places: Sequence[list[int]], files: Sequence[RasterFile]
) -> Sequence[list[int]]:
    """Bring the files of each place of a stack into the order of the first place's.

    Words of the path that one file of each place has say which belong together: ``may``
    and ``july``, or a year. Where they say nothing, or contradict one another, the order
    in which the files were given counts.
    """
    words = {i: _words(files[i].path) for place in places for i in place}
    owners: list[dict[str, int]] = []
    for place in places:
        counts = Counter(word for i in place for word in words[i])
        owners.append({w: i for i in place for w in words[i] if counts[w] == 1})
    shared = set.intersection(*(set(owner) for owner in owners))
    result = [places[0]]
    for place, owner in zip(places[1:], owners[1:], strict=True):
        pairs = {(owners[0][word], owner[word]) for word in shared}
        partner = dict(pairs)
        if len(partner) < len(pairs) or len(set(partner.values())) < len(pairs):
            return places
        rest = iter([i for i in place if i not in partner.values()])
        result.append([partner[i] if i in partner else next(rest) for i in places[0]])
    return result


def _words(path: str) -> set[str]:
    """Words and numbers of a path; of a date its year and month too."""
    words = set(re.findall(r'[^\W\d_]+|\d+', os.path.splitext(path)[0].lower()))
    dates = [word for word in words if len(word) == 8 and word.isdigit()]
    return words | {date[:n] for date in dates for n in (4, 6)}


def _check_units(layers: Sequence[_Layer]) -> None:
    """The values of a mosaic's files are of one unit, after their tags are applied."""
    if len(layers) == 1:
        return
    step = max(1, len(layers) // 16)
    looked = [layers[0], *layers[1::step]]
    levels = [_level(layer) for layer in looked]
    reference = next((i for i, level in enumerate(levels) if level), None)
    if reference is None:
        return
    first = looked[reference]
    for layer, level in zip(looked, levels, strict=True):
        if not level:
            continue
        ratio = max(level, levels[reference]) / min(level, levels[reference])
        same = layer.dtype == first.dtype and layer.file.dtypes == first.file.dtypes
        if ratio > (SAME_UNIT if same else SAME_UNIT_OF_TYPES):
            raise InputError(
                f'{layer.file.path}: its values (type {layer.file.dtypes[0]}, mean '
                f'{level:.4g}) are in another unit than those of {first.file.path} (type '
                f'{first.file.dtypes[0]}, mean {levels[reference]:.4g}); convert one of '
                'them (gdal_translate -ot -scale), or tag its scale (gdal_edit -scale)'
            )


def _level(layer: _Layer) -> float:
    """Mean magnitude of the valid values of a sample; 0 if there are none."""
    for places in ([1], [0, 2]):
        total, count = 0.0, 0
        for window in _windows(layer.file.geobox, places):
            values, removed = layer.window(*window)
            valid = removed == 0
            total += float(np.abs(values[:, valid]).sum(dtype=np.float64))
            count += int(valid.sum()) * len(values)
        if count:
            return total / count
    return 0.0


def _windows(
    geobox: GeoBox, places: Sequence[int] = (0, 1, 2)
) -> Iterator[tuple[slice, slice]]:
    """Windows of 64 x 64 pixels at some thirds of a raster, each way."""
    for i in places:
        for j in places:
            top, left = (
                max(size - 64, 0) * k // 2
                for size, k in zip(geobox.shape, (i, j), strict=True)
            )
            yield (
                slice(top, min(top + 64, geobox.height)),
                slice(left, min(left + 64, geobox.width)),
            )


def _numbers(bands: Sequence[int]) -> list[int]:
    """Numbers of bands, from arrays too."""
    try:
        return [operator.index(band) for band in bands]
    except TypeError:
        raise InputError(f'bands are numbers from 1, not {bands!r}') from None


def _transparency(
    files: Sequence[RasterFile], named: Sequence[int]
) -> list[tuple[tuple[int, float], ...]]:
    """Bands of each file that hold transparency, and above which value each is opaque.

    The question is put to a few files, until one is sure; the others follow it.

    Args:
        files: The files.
        named: Bands that are read because somebody has named them.

    Warns:
        InputWarning: No file was sure of a band that was not named.
    """
    tagged = [
        tuple(i for i, c in enumerate(file.colors, 1) if c == 'alpha') for file in files
    ]
    answers: dict[int, tuple[_Alpha, ...]] = {}
    for kind in dict.fromkeys(tagged):
        members = [i for i, bands in enumerate(tagged) if bands == kind]
        if not kind:
            continue
        step = max(1, len(members) // 8)
        for i in members[::step]:
            answers[i] = tuple(_alpha(files[i], band) for band in kind)
        for place, band in enumerate(kind):
            declared = [(answers[i][place], files[i]) for i in members if i in answers]
            sure = [alpha for alpha, _ in declared if alpha.sure]
            # near infrared looks like transparency here and there, never the reverse
            common = next((a for a in sure if not a.transparent), None)
            common = common or (sure[0] if sure else declared[0][0])
            if not sure and band not in named:
                what = 'transparency' if common.transparent else 'an image band'
                warnings.warn(
                    f'{declared[0][1].path}: band {band} is called alpha and was taken for '
                    f'{what} ({common.reason}); if that is wrong, name the bands to read '
                    'with bands, or tag it right (gdal_edit -colorinterp_N)',
                    InputWarning,
                    stacklevel=3,
                )
            for i in members:
                before = answers.get(i, ())
                if len(before) <= place:
                    answers[i] = (*before, common)
                elif not before[place].sure:
                    changed = replace(before[place], transparent=common.transparent)
                    answers[i] = (*before[:place], changed, *before[place + 1 :])
    return [
        tuple(
            (band, alpha.full / 2 if files[i].compression else 0.0)
            for band, alpha in zip(tagged[i], answers.get(i, ()), strict=True)
            if alpha.transparent
        )
        for i in range(len(files))
    ]


@dataclass(frozen=True)
class _Alpha:
    """What a band that is called alpha looks like.

    Args:
        transparent: Whether it holds transparency.
        sure: Whether that is beyond doubt.
        full: Its opaque value.
        reason: What was seen, for a warning.
    """

    transparent: bool
    sure: bool
    full: float
    reason: str


def _alpha(file: RasterFile, band: int) -> _Alpha:
    """Judge a band that is called alpha by 3 × 3 samples."""
    others = [i for i in range(1, file.count + 1) if i != band][:4]
    windows = list(_windows(file.geobox))
    samples = [file.read([band], *window)[0] for window in windows]
    values = np.concatenate([sample.ravel() for sample in samples])
    values = np.nan_to_num(values.astype(np.float64), nan=0)
    opaque = values[values != 0]
    if not others:
        return _Alpha(
            True, True, float(opaque.max(initial=1)), 'there is no other band'
        )
    if opaque.size == 0:
        blank = _blank_share(file, others, windows, samples)
        return _Alpha(blank > 0.95, False, 1.0, 'it is 0 all over the samples')
    full = float(opaque.max())
    close = 0.1 * full if file.compression else 0.0
    if opaque.min() < 0 or np.mean(opaque < full - close) > FEATHERED:
        return _Alpha(False, True, full, 'it has many values')
    if opaque.size == values.size and np.all(opaque == full):
        plain = full in _OPAQUE or full == _largest(file.dtypes[band - 1])
        return _Alpha(True, plain, full, f'it is {full:g} all over the samples')
    if full == _largest(file.dtypes[band - 1]) or (full in _OPAQUE and full > 1):
        return _Alpha(True, True, full, 'its values are 0 and full')
    # Water in near infrared is 0 and 1 as well: then the other bands are not blank where
    # it is 0, and the two values do not lie in large pieces.
    blank = _blank_share(file, others, windows, samples)
    edges = [(s[1:] != s[:-1]).mean() for s in samples if len(s) > 1]
    pieces = float(np.mean(edges)) < 0.1 if edges else False
    sure = blank > 0.95
    reason = f'its values are 0 and {full:g}'
    return _Alpha(sure or pieces, sure or not pieces, full, reason)


# Opaque values of 1, 8, 10 to 16 and 32 bits.
_OPAQUE = frozenset({1.0, *(2.0**bits - 1 for bits in (8, *range(10, 17), 31, 32))})


def _largest(dtype: str) -> float:
    kind = np.dtype(dtype)
    return 1.0 if kind.kind == 'f' else float(np.iinfo(kind).max)


def _blank_share(
    file: RasterFile,
    bands: Sequence[int],
    windows: Sequence[tuple[slice, slice]],
    samples: Sequence[NDArray[Any]],
) -> float:
    """Share of the transparent pixels whose other bands hold one and the same value."""
    blank = total = 0
    common: NDArray[Any] | None = None
    for window, sample in zip(windows, samples, strict=True):
        transparent = sample == 0
        if not transparent.any():
            continue
        values = file.read(bands, *window)[:, transparent]
        common = values[:, :1] if common is None else common
        blank += int((values == common).all(axis=0).sum())
        total += int(transparent.sum())
    return blank / total if total else 0.0


def _size(box: Box) -> tuple[int, int]:
    return box[2] - box[0], box[3] - box[1]


def _pixels(count: int) -> str:
    """A number of pixels for people."""
    for unit, size in (('Tpx', 1e12), ('Gpx', 1e9), ('Mpx', 1e6)):
        if count >= size:
            return f'{count / size:.3g} {unit}'
    return f'{count} px'
