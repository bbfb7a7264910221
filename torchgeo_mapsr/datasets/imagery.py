# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""HR imagery on one grid, from one file or a mosaic."""

import hashlib
import operator
import warnings
from collections.abc import Iterable, Sequence
from contextlib import suppress
from copy import copy

import numpy as np
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox

from ..errors import InputError, InputWarning
from .bands import BandDescriptions
from .geo.aoi import AreaOfInterest, AreaOnGrid
from .geo.areas import PixelAreas
from .geo.grid import (
    Box,
    box_in,
    clip,
    crop,
    hull,
    pixel_offset,
    pixel_ratio,
    same_place,
    sample_windows,
)
from .geo.names import PathLike, distinct_names
from .geo.raster import RasterFile, open_rasters, side_by_side
from .geo.round_earth import columns_round
from .layer import Channel, Layer
from .removed import OUTSIDE, RemovedPixels
from .stack import stacked
from .transparency import transparency

# Smallest share of a mosaic's pixels that must lie in its files, from so many pixels on.
SPARSE, SPARSE_PIXELS = 0.01, 10**6

# What a second file of a footprint must add to the first's pixels to be a part of a mosaic.
WORTH_KEEPING = 0.2

# Part of the way round the Earth, at most, that a mosaic may show at both of its ends.
ROUND_AGAIN = 0.01

# Mean levels of files in one unit differ by at most this factor; by the smaller one if
# their data types differ.
SAME_UNIT, SAME_UNIT_OF_TYPES = 64.0, 4.0

# Pixels of another size: a fit to pixels of .59 m loses .01 of mIoU in those 1.5 times as
# large, .08 in those of twice and .27 of four times the size (.5 m: .01, .03, .06).
OTHER_PIXELS = 1.8

# In how many files a collar is looked for.
COLLAR_FILES = 8


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
    * NaN, infinity and numbers that single precision cannot square (above 1.8e19), in any
      band;
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
        alphas = transparency(files, bands or ())
        self._layers = tuple(
            Layer.of(file, bands, nodata, alpha)
            for file, alpha in zip(files, alphas, strict=True)
        )
        grid = files[0].geobox
        boxes = [box_in(file.geobox, grid) for file in files]
        #: layers of each image of the stack; one image where nothing is stacked
        self._images = stacked(files, boxes) if stack else (tuple(range(len(files))),)
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
        _check_once_round(files, grid, whole)
        #: the grid
        self.geobox = crop(grid, whole)
        self._boxes = np.array(boxes, np.int64) - np.tile(whole[:2], 2)
        self._counts = RemovedPixels(self.geobox.shape.yx)
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
    def descriptions(self) -> BandDescriptions:
        """What the first file of each image says of the bands that are read."""
        layers = [self._layers[image[0]] for image in self._images]
        return BandDescriptions.joined([layer.descriptions for layer in layers])

    def check_bands(
        self,
        bands: int,
        descriptions: BandDescriptions,
        reference: str,
        choose: bool = False,
    ) -> None:
        """Make sure that the bands are those of a reference, as far as both say.

        Args:
            bands: Number of the reference's bands.
            descriptions: What is said of them.
            reference: What the reference is, for the message.
            choose: Whether a choice of bands would be of this imagery alone.

        Raises:
            InputError: They are of another number, or in another order.

        Warns:
            InputWarning: They have other names.
        """
        path = self.paths[0]
        if self.bands != bands:
            raise InputError(
                f'{path} has {self.bands} bands but {reference} has {bands}; choose '
                'common ones (--bands)'
            )
        # of a stack they are numbered in each file
        indexes = self.band_indexes if choose and len(self._images) == 1 else ()
        self.descriptions.check(descriptions, path, reference, indexes)

    @property
    def pixel_size(self) -> float:
        """Side of a square as large as the pixel in the middle, in metres on the ground."""
        return _pixel_size(self.geobox)

    def check_pixels(self, size: float, reference: str) -> None:
        """Tell of pixels that are much larger or smaller than those of a reference.

        Args:
            size: The reference's :attr:`pixel_size`; 0 where it is not known.
            reference: What the reference is, for the message.

        Warns:
            InputWarning: They are.
        """
        _tell_of_pixels(self.paths[0], self.pixel_size, size, reference)

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
    def drawn(self) -> tuple[tuple[str, tuple[Channel, ...]], ...]:
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
        part._counts = RemovedPixels(part.geobox.shape.yx)
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
            return empty, np.full(geobox.shape, OUTSIDE, np.uint8)
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
            sources = np.where((sources == 0) & ~inside, OUTSIDE, sources)
        self._counts.add(sources, offset)
        return image, sources

    def _read(
        self, geobox: GeoBox, offset: tuple[int, int], layers: Sequence[int]
    ) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
        """Read one image of the stack."""
        height, width = geobox.shape
        bands = len(self._layers[layers[0]].picks)
        image = np.zeros((bands, height, width), np.float32)
        sources = np.full((height, width), OUTSIDE, np.uint8)
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
            np.copyto(part, removed, where=added | (part == OUTSIDE))
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
        rows, cols = next(sample_windows(layer.file.geobox, [1]))
        values = layer.file.read(layer.bands, rows, cols)
        empty = [
            str(band)
            for band, value in zip(layer.bands, values, strict=True)
            if value.dtype.kind == 'f' and not np.isfinite(value).any()
        ]
        return f', band {", ".join(empty)} holds no number' if empty else ''


def _pixel_size(grid: GeoBox) -> float:
    return float(f'{PixelAreas(grid).middle ** 0.5:.5g}')


def _tell_of_pixels(path: str, size: float, other: float, reference: str) -> None:
    """See :meth:`Imagery.check_pixels`."""
    if other and not 1 / OTHER_PIXELS < size / other < OTHER_PIXELS:
        warnings.warn(
            f'{path} has pixels of {size:.3g} m and {reference} of {other:.3g} m: textures '
            'look otherwise there, and maps may be wrong; give imagery of like pixels '
            '(gdalwarp -tr)',
            InputWarning,
            stacklevel=3,
        )


def _check_bands(layers: Sequence[Layer]) -> None:
    """The files of a mosaic have as many bands as its first, in one order."""
    first = layers[0]
    for layer in layers:
        if len(layer.picks) != len(first.picks):
            raise InputError(
                f'{layer.file.path} has {len(layer.picks)} bands but '
                f'{first.file.path} has {len(first.picks)}; '
                'choose common ones with bands'
            )
        layer.descriptions.check(first.descriptions, layer.file.path, first.file.path)
        grid, path = layer.file.geobox, layer.file.path
        if (
            not 1 / OTHER_PIXELS**2
            < pixel_ratio(grid, first.file.geobox)
            < OTHER_PIXELS**2
        ):
            size = _pixel_size(first.file.geobox)
            _tell_of_pixels(path, _pixel_size(grid), size, first.file.path)
            break


def _check_sparse(files: Sequence[RasterFile], boxes: Sequence[Box]) -> None:
    """A mosaic holds some data between its corners."""
    height, width = _size(hull(boxes))
    data = sum(h * w for h, w in map(_size, boxes))
    if height * width < SPARSE_PIXELS or data >= SPARSE * height * width:
        return
    edges = np.array(boxes, float)
    # The file that lies furthest from the median of all.
    distance = np.abs(edges - np.median(edges, axis=0)).max(axis=1)
    if len(files) == 2:
        distance[0] = -1  # of two, the second is named: the first one's grid is taken
    odd = files[int(np.argmax(distance))]
    raise InputError(
        f'{odd.path}: lies so far from {files[0].path} that the mosaic would be '
        f'{height} x {width} pixels ({_pixels(height * width)}) of which '
        f'{100 * data / (height * width):.2g} % have data; check its origin and zone, '
        'or make one map a file (--output FOLDER/)'
    )


def _check_once_round(files: Sequence[RasterFile], grid: GeoBox, whole: Box) -> None:
    """Several files do not show the same ground at both ends of their grid."""
    turn, columns = columns_round(grid), whole[3] - whole[1]
    # Tiles of the whole Earth may overlap by a margin.
    if turn is None or len(files) == 1 or columns <= (1 + ROUND_AGAIN) * turn:
        return
    raise InputError(
        f'{files[-1].path}: together with {files[0].path} reaches further than once round '
        f'the Earth ({columns} columns where {turn} are all); let both begin at one '
        'meridian (gdalwarp -te -180 -90 180 90), or make one map a file (--output FOLDER/)'
    )


def _check_same_place(layers: Sequence[Layer], boxes: Sequence[Box]) -> None:
    """No file of a mosaic is hidden under another."""
    for i, j in same_place(boxes):
        valid = [
            np.concatenate(
                [
                    (layer.window(*window)[1] == 0).ravel()
                    for window in sample_windows(layer.file.geobox)
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


def _tell_collars(layers: Sequence[Layer]) -> None:
    """Tell of a black or white collar, or a negative one, that no file declares to be one.

    Looked for in the corners of a few files: a block of one value, 0, the largest or any
    below 0, in all bands, where the middle of the file has others. After lossy compression the values
    are nearly that one.

    Warns:
        InputWarning: There is one.
    """
    framed: list[tuple[Layer, float]] = []
    for layer in layers[:: max(1, len(layers) // COLLAR_FILES)]:
        if layer.tells_nodata:
            continue
        # A damaged file is reported when it is read.
        with suppress(InputError):
            value = layer.collar()
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


def _check_units(layers: Sequence[Layer]) -> None:
    """The values of a mosaic's files are of one unit, after their tags are applied."""
    if len(layers) == 1:
        return
    step = max(1, len(layers) // 16)
    looked = [layers[0], *layers[1::step]]
    levels = [layer.level() for layer in looked]
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


def _numbers(bands: Sequence[int]) -> list[int]:
    """Numbers of bands, from arrays too."""
    try:
        return [operator.index(band) for band in bands]
    except TypeError:
        raise InputError(f'bands are numbers from 1, not {bands!r}') from None


def _size(box: Box) -> tuple[int, int]:
    return box[2] - box[0], box[3] - box[1]


def _pixels(count: int) -> str:
    """A number of pixels for people."""
    for unit, size in (('Tpx', 1e12), ('Gpx', 1e9), ('Mpx', 1e6)):
        if count >= size:
            return f'{count / size:.3g} {unit}'
    return f'{count} px'
