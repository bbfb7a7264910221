# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""One file of imagery: which bands are read, and which pixels have data."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from scipy.ndimage import (
    binary_closing,
    binary_dilation,
    binary_erosion,
    map_coordinates,
)

from ..errors import InputError
from .bands import BandDescriptions
from .geo.grid import pixel_offset, pixel_ratio, sample_windows
from .geo.raster import MAX_BANDS, RasterFile
from .geo.region import bilinear_mean, lr_coordinates
from .removed import ALPHA, MASK, NODATA, NOT_FINITE, OUTSIDE, RIM, TRANSPARENT
from .transparency import largest_value

# The rim of a collar after lossy compression: the collar's value comes back up to RIM_DEPTH
# pixels inside it (JPEG's blocks of halved colour have 16) with errors up to RIM_ERROR, of
# whole numbers whose file does not tell the largest error as LERC's does.
RIM_DEPTH, RIM_ERROR, RIM_MARGIN = 16, 24, 32

# What single precision can square, which features need: larger numbers are fill values,
# whether a file declares them or not.
LARGEST = float(np.sqrt(np.finfo(np.float32).max))

# Pixels along a side of the corner blocks in which a collar is looked for, at most.
CORNER = 32


#: A band, from 1, and for a palette the channel's value of each entry.
Channel = tuple[int, NDArray[np.uint8] | None]


@dataclass(frozen=True)
class Layer:
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

    @classmethod
    def of(
        cls,
        file: RasterFile,
        bands: Sequence[int] | None = None,
        nodata: float | None = None,
        alphas: Sequence[tuple[int, float]] = (),
    ) -> Self:
        """Choose the bands of a file, and check them.

        Args:
            file: The file.
            bands: Bands that are read, from 1; of a palette each colour is one (default:
                all but transparency).
            nodata: No-data value as it is stored (default: the file's).
            alphas: Bands of transparency, and the value above which each is opaque.

        Raises:
            InputError: There are no such bands, too many, or none with such a no-data value.
        """
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
        return cls(file, needed, picks, values, used)

    @property
    def choices(self) -> tuple[Any, ...]:
        """What tells two ways to read a file apart, but for the file."""
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

    @property
    def descriptions(self) -> BandDescriptions:
        """What the file says of the bands that are read."""
        bands = [(self.bands[i] - 1, component) for i, component in self.picks]
        return BandDescriptions(
            tuple(self.file.names[i] if self.file.names else '' for i, _ in bands),
            tuple(
                ('red', 'green', 'blue')[component]
                if component is not None
                else (self.file.colors[i] if self.file.colors else '')
                for i, component in bands
            ),
        )

    def channel(self, pick: tuple[int, int | None]) -> Channel:
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
        np.copyto(removed, RIM, where=rim & (removed == 0))
        image[:, removed != 0] = 0
        return image, removed

    def level(self) -> float:
        """Mean magnitude of the valid values of a sample; 0 if there are none."""
        for places in ([1], [0, 2]):
            total, count = 0.0, 0
            for window in sample_windows(self.file.geobox, places):
                values, removed = self.window(*window)
                valid = removed == 0
                total += float(np.abs(values[:, valid]).sum(dtype=np.float64))
                count += int(valid.sum()) * len(values)
            if count:
                return total / count
        return 0.0

    def collar(self) -> float | None:
        """The value of a collar that fills a corner of the file; None if there is none."""
        height, width = self.file.geobox.shape
        side = min(CORNER, height // 8, width // 8)
        if side < 4:
            return None
        ends = (slice(0, side), slice(-side, None))
        error = min(self.rim_error, RIM_ERROR / 3)
        values = [0.0]
        if self.file.dtypes[self.bands[0] - 1].startswith('uint'):
            values.append(largest_value(self.file.dtypes[self.bands[0] - 1]))
        for rows, cols in ((r, c) for r in ends for c in ends):
            corner = self.file.read(
                self.bands,
                slice(*rows.indices(height)[:2]),
                slice(*cols.indices(width)[:2]),
            ).astype(np.float64)
            # -9999, say: no colour is negative and the same in all bands
            first = float(corner[0, 0, 0])
            negative = [first] if -LARGEST <= first < 0 else []
            for value in [*values, *negative]:
                if np.abs(corner - value).max() <= error and np.median(corner) == value:
                    window = next(sample_windows(self.file.geobox, [1]))
                    middle = self.file.read(self.bands, *window).astype(np.float64)
                    return value if (np.abs(middle - value) > error).any() else None
        return None

    def _plain(
        self, values: NDArray[Any], rows: slice, cols: slice
    ) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
        """Values of the channels, and what has removed their pixels."""
        removed = np.zeros(values.shape[1:], np.uint8)

        def remove(where: Any, source: int) -> None:
            np.copyto(removed, source, where=where & (removed == 0))

        for band, threshold in self.alphas:
            alpha = self.file.read([band], rows, cols)[0]
            remove(~(alpha > threshold), ALPHA)  # NaN is not opaque
        masks = [self.bands[0]] if self.file.masked else []
        masks += [b for b in self.bands if b in self.file.band_masks and not masks]
        for band in masks:
            mask = self.file.read([band], rows, cols, mask=True)[0]
            remove(np.equal(mask, 0), MASK)
        if values.dtype.kind == 'f':
            with np.errstate(over='ignore'):  # beyond float32
                finite = np.isfinite(values.astype(np.float32, copy=False))
            remove(~finite.all(axis=0), NOT_FINITE)
        absent = self._absent(values)
        if absent is not None:
            remove(absent, NODATA)
        if values.dtype.kind == 'f':
            with np.errstate(over='ignore'):  # float16 holds no such number
                huge = np.abs(values) > LARGEST
            remove(huge.any(axis=0), NOT_FINITE)
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
            # As the file would store it: 0.1 is another number in float32.
            with np.errstate(over='ignore', invalid='ignore'):
                nodata = nodata.astype(values.dtype)
                absent = values == nodata[:, None, None]
                huge = np.abs(nodata) > 1e30
                if huge.any():
                    # Files give the lowest number of float32 with 6 to 17 digits.
                    ratio = values / nodata[:, None, None]
                    absent |= huge[:, None, None] & (np.abs(ratio - 1) < 1e-6)
            return absent.any(axis=0)
        # Integers are compared as they are, for −9999 must not wrap around to a uint8.
        absent = values == nodata[:, None, None]
        # In one band alone 0 or 255 may be a real value, so that all bands must have it;
        # −9999 in one band is enough.
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
            remove(colors[i][3] == 0, TRANSPARENT)
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
        sources = np.full(geobox.shape, OUTSIDE, np.uint8)
        if top >= bottom or left >= right:
            return image, sources
        values, removed = self.window(slice(top, bottom), slice(left, right))
        place -= np.array([top, left])[:, None, None]

        image, defined = bilinear_mean(values, removed == 0, place, points)
        if removed.any():
            middle = place[:, points // 2 :: points, points // 2 :: points]
            nearest = map_coordinates(removed, middle, order=0, cval=OUTSIDE)
            sources = np.where(nearest == 0, np.uint8(OUTSIDE), nearest)
        return image, np.where(defined, np.uint8(0), sources)


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
    # What lies beyond the file counts as collar.
    square = np.ones((8, 8), bool)
    core = binary_erosion(exact, square, border_value=1)
    core = binary_dilation(core, square, origin=-1) & exact
    if not core.any():
        return core
    # The error, and rounding of the numbers' type.
    near = error <= largest + np.spacing(np.abs(nodata).max().astype(np.float32))
    step = np.ones((3, 3), bool)
    rim: NDArray[np.bool_] = binary_dilation(core, step, RIM_DEPTH, mask=near)
    # Close gaps of single pixels with a larger error.
    return rim | binary_closing(rim, step)


def _holds(dtype: str, number: float) -> bool:
    """Whether a type of numbers has a number; NaN says of integers that none is it."""
    if np.dtype(dtype).kind not in 'iu' or np.isnan(number):
        return True
    range_ = np.iinfo(dtype)
    # As floats, which round the largest integer of 64 bits up to the next power of two.
    low, high = float(range_.min), float(range_.max)
    return low <= number <= high and number == int(number)
