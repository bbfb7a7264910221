# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""HR imagery on one grid, from one file or a mosaic."""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from scipy.ndimage import map_coordinates

from ..errors import InputError
from .geo.grid import box_in, clip, crop, hull, pixel_offset, pixel_ratio
from .geo.raster import PathLike, RasterFile, open_rasters
from .geo.region import lr_coordinates

# Largest share of values between 0 and full that a band of transparency may have.
FEATHERED = 0.05


class Imagery:
    """Rasters of any band count and data type, read as float32 by windows of one grid.

    The grid is the first file's. Files that share it are read as they are; others are
    warped to it, bilinear. Where files overlap, the first that has data is taken. A
    raster of embeddings is imagery too: one band a dimension.

    A pixel is invalid outside the files, where the file's mask (internal or .msk) or
    alpha band says so, or where it is no-data: in all bands for integers, where 0 may
    also be a dark pixel's value; in any band for floats. NaN and infinity are no-data.

    GDAL calls the fourth band of many NAIP tiles *alpha* though it is near infrared. It
    is taken for transparency only if it looks like one: nearly all values of a sample
    are 0 or full. Naming the band in *bands* settles it.

    Args:
        paths: Files, folders, VRTs or URLs that rasterio opens.
        bands: Bands to read, from 1 (default: all but alpha).
        nodata: No-data value (default: that of the files).

    Raises:
        InputError: A file cannot be used, or the files do not fit together.
    """

    def __init__(
        self,
        paths: PathLike | Iterable[PathLike],
        bands: Sequence[int] | None = None,
        nodata: float | None = None,
    ) -> None:
        files = open_rasters(paths)
        transparent = bands is None and _is_transparency(files)
        self._layers = tuple(_layer(f, bands, nodata, transparent) for f in files)
        first = self._layers[0]
        for layer in self._layers:
            if len(layer.indexes) != len(first.indexes):
                raise InputError(
                    f'{layer.file.path} has {len(layer.indexes)} bands but '
                    f'{first.file.path} has {len(first.indexes)}; '
                    'choose common ones with bands'
                )
        boxes = [box_in(file.geobox, files[0].geobox) for file in files]
        #: the grid
        self.geobox = crop(files[0].geobox, hull(boxes))
        #: what each file covers, as a crop of the grid
        self.footprints = tuple(crop(files[0].geobox, box) for box in boxes)

    @property
    def paths(self) -> tuple[str, ...]:
        """The files, as they were given."""
        return tuple(layer.file.path for layer in self._layers)

    @property
    def bands(self) -> int:
        """Number of bands that are read."""
        return len(self._layers[0].indexes)

    @property
    def dtype(self) -> np.dtype:
        """Data type that holds the values of all files."""
        return np.result_type(
            *(layer.file.dtypes[i - 1] for layer in self._layers for i in layer.indexes)
        )

    def fingerprint(self) -> str:
        """Digest of the files and of how they are read."""
        parts = [(layer.file.fingerprint(), *layer.choices) for layer in self._layers]
        return hashlib.sha256(repr(parts).encode()).hexdigest()

    def read(self, geobox: GeoBox) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Read a crop of the grid.

        Args:
            geobox: Pixels of :attr:`geobox`, or beyond it.

        Returns:
            Values as they are stored, (C, H, W), 0 where invalid; and which pixels are
            valid, (H, W).

        Raises:
            ValueError: *geobox* has other pixels than the grid.
            InputError: A file cannot be read.
        """
        offset = pixel_offset(geobox, self.geobox)
        if offset is None:
            raise ValueError(f'{geobox} is not a crop of {self.geobox}')
        height, width = geobox.shape
        image = np.zeros((self.bands, height, width), np.float32)
        valid = np.zeros((height, width), bool)
        for layer, footprint in zip(self._layers, self.footprints, strict=True):
            box = clip(box_in(footprint, geobox), height, width)
            top, left, bottom, right = box
            rows, cols = slice(top, bottom), slice(left, right)
            if top == bottom or left == right or valid[rows, cols].all():
                continue
            values, known = layer.read(crop(geobox, box))
            known &= ~valid[rows, cols]
            np.copyto(image[:, rows, cols], values, where=known)
            valid[rows, cols] |= known
        return image, valid


@dataclass(frozen=True)
class _Layer:
    """How one file of the mosaic is read."""

    file: RasterFile
    indexes: tuple[int, ...]
    nodata: tuple[float | None, ...]
    alpha: int | None

    @property
    def choices(self) -> tuple[tuple[int, ...], tuple[float | None, ...], int | None]:
        return self.indexes, self.nodata, self.alpha

    def read(self, geobox: GeoBox) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Read a grid that touches the file, in the file's pixels or in others."""
        offset = pixel_offset(geobox, self.file.geobox)
        if offset is None:
            return self._warp(geobox)
        (row, col), (height, width) = offset, geobox.shape
        return self._window(slice(row, row + height), slice(col, col + width))

    def _window(
        self, rows: slice, cols: slice
    ) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Read a window of the file."""
        values = self.file.read(self.indexes, rows, cols)
        valid = np.ones(values.shape[1:], bool)
        if self.alpha is not None:
            valid &= self.file.read([self.alpha], rows, cols)[0] > 0
        elif self.file.masked:
            valid &= self.file.read([self.indexes[0]], rows, cols, mask=True)[0] > 0
        if values.dtype.kind == 'f':
            valid &= np.isfinite(values).all(axis=0)
        if all(value is not None for value in self.nodata):
            floats = values.dtype.kind == 'f'
            # as the file would store it: 0.1 is another number in float32. Integers are
            # compared as they are, for −9999 must not wrap around to a uint8
            nodata = np.array(self.nodata, values.dtype if floats else None)
            absent = values == nodata[:, None, None]
            valid &= ~(absent.any(axis=0) if floats else absent.all(axis=0))
        return np.where(valid, values, 0).astype(np.float32), valid

    def _warp(self, geobox: GeoBox) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
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
        image = np.zeros((len(self.indexes), *geobox.shape), np.float32)
        if top >= bottom or left >= right:
            return image, np.zeros(geobox.shape, bool)
        values, valid = self._window(slice(top, bottom), slice(left, right))
        place -= np.array([top, left])[:, None, None]

        def sample(band: NDArray[np.float32]) -> NDArray[np.float32]:
            at = map_coordinates(band, place, order=1, mode='grid-constant')
            blocks = at.reshape(geobox.height, points, geobox.width, points)
            mean: NDArray[np.float32] = blocks.mean(axis=(1, 3))
            return mean

        weight = sample(valid.astype(np.float32))
        # half of the pixel, with room for rounding where the grids are half a pixel off
        known = weight > 0.49
        for i, band in enumerate(values):
            np.divide(sample(band), weight, out=image[i], where=known)
        return image, known


def _layer(
    file: RasterFile,
    bands: Sequence[int] | None,
    nodata: float | None,
    transparent: bool,
) -> _Layer:
    """Choose the bands of a file, and check them."""
    alpha = file.alpha if bands is None and transparent else None
    if bands is None:
        indexes = tuple(i for i in range(1, file.count + 1) if i != alpha)
    else:
        indexes = tuple(bands)
    if not indexes:
        raise InputError(f'{file.path}: has no band besides alpha')
    for index in indexes:
        if not 1 <= index <= file.count:
            raise InputError(
                f'{file.path}: has no band {index}; its bands are 1 to {file.count}'
            )
    values = tuple(file.nodata[i - 1] if nodata is None else nodata for i in indexes)
    return _Layer(file, indexes, values, alpha)


def _is_transparency(files: Sequence[RasterFile]) -> bool:
    """Whether bands that are called alpha hold transparency, from 3 × 3 samples a file.

    A few files do: the question is put to each until one says no.
    """
    for file in files[:8]:
        if file.alpha is None:
            continue
        dtype = np.dtype(file.dtypes[file.alpha - 1])
        full = 1.0 if dtype.kind == 'f' else float(np.iinfo(dtype).max)
        samples = []
        for i in (0, 1, 2):
            for j in (0, 1, 2):
                top, left = (
                    max(size - 64, 0) * k // 2
                    for size, k in zip(file.geobox.shape, (i, j), strict=True)
                )
                rows = slice(top, min(top + 64, file.geobox.height))
                cols = slice(left, min(left + 64, file.geobox.width))
                samples.append(file.read([file.alpha], rows, cols).ravel())
        values = np.concatenate(samples)
        if np.mean((values != 0) & (values != full)) > FEATHERED:
            return False
    return True
