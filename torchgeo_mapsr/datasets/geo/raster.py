# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""One raster file: checked when it is named, opened when it is read."""

import hashlib
import os
import warnings
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any
from xml.etree import ElementTree

import numpy as np
import rasterio
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from rasterio._err import CPLE_BaseError
from rasterio.enums import ColorInterp, MaskFlags
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.io import DatasetReader
from rasterio.windows import Window

from ...errors import InputError, InputWarning
from ...offline import check_file
from .assets import CATALOGUED, etag
from .crs import check_proj, crs_of
from .names import PathLike, list_rasters, local_file, text_of
from .opened import WarpedRaster, gdal_environment, handle_of, open_raster, renewed
from .round_earth import bring_together

#: Bands that are read at once: a chip of 448 pixels of so many takes 0.8 GB.
MAX_BANDS = 1024

# What GDAL makes of the least and the largest number of 64 bits as rasterio writes them.
_FIRST_DIGITS = {('int64', -9.0), ('int64', 9.0), ('uint64', 1.0)}

#: Colours of a palette's values, each red, green, blue and alpha.
Palette = tuple[tuple[int, int, int, int], ...]


@dataclass(frozen=True)
class RasterFile:
    """A raster file by its header.

    No handle is part of it: each thread of each process opens the file when it first
    reads, so the object can be shared, pickled and forked.

    Args:
        path: Path or URL.
        geobox: Its grid.
        dtypes: Data type of each band.
        nodata: No-data value of each band, as it is stored.
        alpha: The band that the file calls alpha, from 1; the last of several.
        masked: Whether the file has a mask of its own (internal or .msk).
        stamp: Sizes and modification times of :attr:`files`.
        colors: Colour interpretation of each band, e.g. ``red``.
        scales: What each band is to be multiplied by.
        offsets: What is to be added to each band after that.
        palettes: Palette of each band that is an index of colours.
        band_masks: Bands that have a mask each, from 1.
        compression: Name of a compression that loses information; empty otherwise.
        largest_error: How far that moves values at most, where the file says so (LERC).
        files: Local files that the raster consists of: itself, side-car files but for
            the .aux.xml that holds statistics, a VRT's sources.
        tags: Digest of the file's own tags.
        names: Description of each band; empty where there is none.
        warped: Whether pixels are warped to a grid when they are read, because the file
            is placed by points or a camera model.
    """

    path: str
    geobox: GeoBox
    dtypes: tuple[str, ...]
    nodata: tuple[float | None, ...]
    alpha: int | None
    masked: bool
    stamp: tuple[int, ...]
    colors: tuple[str, ...] = ()
    scales: tuple[float, ...] = ()
    offsets: tuple[float, ...] = ()
    palettes: tuple[Palette | None, ...] = field(default=(), repr=False)
    band_masks: tuple[int, ...] = ()
    compression: str = ''
    largest_error: float | None = None
    files: tuple[str, ...] = field(default=(), repr=False)
    tags: str = field(default='', repr=False)
    names: tuple[str, ...] = ()
    warped: bool = False

    @classmethod
    def open(cls, path: PathLike, imagery: bool = False) -> 'RasterFile':
        """Read and check the header.

        Args:
            path: What :func:`open_raster` opens.
            imagery: Take files without a grid, whose pixels are warped (bilinear, which
                would mix class codes).

        Raises:
            InputError: The file cannot be read, is truncated or has no georeference.
        """
        check_proj()
        name = text_of(path)
        check_file(name)
        try:
            with warnings.catch_warnings():
                # said in one line by the check
                warnings.simplefilter('ignore', NotGeoreferencedWarning)
                with gdal_environment(name), open_raster(name) as source:
                    _check_header(name, source, imagery)
                    file = cls._of(name, source)
                    file._check_end(source)
                    return file
        except InputError:
            raise
        # what GDAL says of points that place nothing is none of rasterio's errors
        except (RasterioError, CPLE_BaseError, OSError, ValueError) as error:
            missing = missing_source(name)
            if missing:
                raise InputError(_without_source(name, missing)) from None
            reason = ' '.join(str(error).split())
            raise InputError(f'{name}: cannot be read as a raster ({reason})') from None

    @classmethod
    def _of(cls, name: str, source: Any) -> 'RasterFile':
        """Take what the header says."""
        colors = source.colorinterp
        alphas = [i for i, color in enumerate(colors, 1) if color == ColorInterp.alpha]
        flags = source.mask_flag_enums
        stamps = _local_files(name, source)
        compression, largest_error = _losses(source)
        warped = isinstance(source, WarpedRaster)
        if not warped:
            # GDAL's programs write statistics there. All else that it may hold and that
            # matters is in the header; points and camera models are not.
            stamps.pop(f'{os.path.abspath(local_file(name))}.aux.xml', None)
        return cls(
            path=name,
            geobox=GeoBox(source.shape, source.transform, crs_of(name, source.crs)),
            dtypes=tuple(source.dtypes),
            nodata=tuple(source.nodatavals),
            alpha=alphas[-1] if alphas else None,
            masked=MaskFlags.per_dataset in flags[0]
            and MaskFlags.alpha not in flags[0],
            stamp=tuple(number for stamp in stamps.values() for number in stamp),
            colors=tuple(color.name for color in colors),
            scales=tuple(source.scales),
            offsets=tuple(source.offsets),
            palettes=tuple(
                _palette(source, i) if color == ColorInterp.palette else None
                for i, color in enumerate(colors, 1)
            ),
            # a mask of one band: no flag is set
            band_masks=tuple(i for i, flag in enumerate(flags, 1) if not flag),
            compression=compression,
            largest_error=largest_error,
            files=tuple(stamps),
            tags=hashlib.sha256(
                repr(sorted(source.tags().items())).encode(errors='surrogateescape')
            ).hexdigest(),
            names=tuple(text or '' for text in source.descriptions),
            warped=warped,
        )

    def _check_end(self, source: Any) -> None:
        """Refuse a truncated file: it opens, but its last block cannot be read."""
        last = Window(source.width - 1, source.height - 1, 1, 1)
        try:
            source.read(1, window=last)
        except RasterioError as error:
            raise self._unreadable(last, error) from None

    @property
    def count(self) -> int:
        """Number of bands, alpha included."""
        return len(self.dtypes)

    def read(
        self, bands: Sequence[int], rows: slice, cols: slice, mask: bool = False
    ) -> NDArray[Any]:
        """Read a window that lies in the file.

        Args:
            bands: Bands to read, from 1.
            rows: Rows of the window.
            cols: Columns of the window.
            mask: Read the bands' masks instead of their values.

        Returns:
            Values as they are stored, (len(bands), h, w); bands of several data types in
            one that holds them all.

        Raises:
            InputError: The file cannot be read.
        """
        window = Window(
            cols.start, rows.start, cols.stop - cols.start, rows.stop - rows.start
        )
        dtypes = {self.dtypes[band - 1] for band in bands}

        def read() -> NDArray[Any]:
            handle = handle_of(self.path, self.stamp)
            read = handle.read_masks if mask else handle.read
            if mask or len(dtypes) == 1:
                values: NDArray[Any] = read(list(bands), window=window)
                return values
            # rasterio reads bands of one type together, and no others.
            several = [read(band, window=window) for band in bands]
            return np.stack(several).astype(np.result_type(*dtypes))

        try:
            try:
                array = read()
            except RasterioError:
                if not renewed(self.path, self.stamp):
                    raise
                array = read()
        except (RasterioError, MemoryError) as error:
            raise self._unreadable(window, error) from None
        return array

    def _unreadable(self, window: Window, error: Exception) -> InputError:
        """The error of a window that cannot be read."""
        missing = missing_source(self.path)
        if missing:
            return InputError(_without_source(self.path, missing))
        reason = ' '.join(str(error).split())
        top, left = window.row_off, window.col_off
        return InputError(
            f'{self.path}: cannot be read at rows {top}-{top + window.height}, columns '
            f'{left}-{left + window.width}; the file is truncated or damaged ({reason})'
        )

    def changed(self) -> bool:
        """Whether the file, or one that it consists of, is another than when it was opened.

        Told by sizes and modification times. A file that is not on this machine never
        counts as changed.
        """
        return self.stamp != _stamps(self.files)

    def fingerprint(self) -> str:
        """Digest that changes with the file.

        It covers name, size, modification time, header and the first 64 KiB, of the
        file and of those it refers to (a VRT's sources, side-car files). Of a file that
        is not on this machine, only path and header. Where the file's folder lies is no
        part of it: a folder that is renamed stays the same work.
        """
        digest = hashlib.sha256()
        box = self.geobox
        header = box.shape.yx, tuple(box.affine), str(box.crs), self.dtypes, self.nodata
        digest.update(repr((header, self.tags)).encode())
        values = self.colors, self.scales, self.offsets, self.palettes
        digest.update(repr(values).encode())
        masks = self.alpha, self.masked, self.band_masks, self.names
        digest.update(repr(masks).encode(errors='surrogateescape'))
        home = local_file(self.path)
        # a member of an archive, or a variable of a store
        inner = self.path.rpartition(home)[2] if home != self.path else ''
        digest.update(repr((inner, *([self.warped] if self.warped else []))).encode())
        if self.path.startswith(CATALOGUED):
            digest.update(etag(self.path).encode())
            return digest.hexdigest()
        home = os.path.dirname(os.path.abspath(home))
        names = {name: _relative(name, home) for name in self.files}
        if not names:
            digest.update(self.path.encode(errors='surrogateescape'))
        for path, name in sorted(names.items(), key=lambda item: item[1]):
            digest.update(repr((name, _stamp(path))).encode())
            members = [path, *(os.path.join(path, n) for n in _ZARR_HEADERS)]
            for member in filter(os.path.isfile, members):
                with open(member, 'rb') as stream:
                    digest.update(stream.read(1 << 16))
        return digest.hexdigest()


def open_rasters(
    paths: PathLike | Iterable[PathLike], imagery: bool = False
) -> tuple[RasterFile, ...]:
    """Open a raster, several rasters, or all rasters of folders and ZIP archives.

    Args:
        paths: Files, URLs that rasterio opens, Zarr stores, folders, or ZIP archives.
        imagery: Take files without a grid, see :meth:`RasterFile.open`.

    Returns:
        The files: as they were given, those of a folder or an archive by name.

    Raises:
        InputError: There is none, or one cannot be used.
    """
    names = list_rasters(paths)
    with gdal_environment(names[0]):  # one for all: it takes as long as opening a file
        return tuple(RasterFile.open(name, imagery) for name in names)


def side_by_side(files: Sequence[RasterFile]) -> tuple[RasterFile, ...]:
    """Put files on both sides of the antimeridian beside one another.

    Args:
        files: Files in any CRS.

    Returns:
        The files, some of them moved by whole turns round the Earth.
    """
    grids = bring_together([file.geobox for file in files])
    return tuple(
        file if grid is file.geobox else replace(file, geobox=grid)
        for file, grid in zip(files, grids, strict=True)
    )


def missing_source(path: str) -> str | None:
    """The first file that a VRT refers to and that is not there.

    Args:
        path: Any raster.

    Returns:
        Its path; None if the raster is no local VRT, or lacks nothing.
    """
    return _missing_source(path, frozenset())


def _check_header(name: str, source: Any, imagery: bool) -> None:
    """Refuse a raster that cannot be used, and warn of one that may not be what it seems.

    Raises:
        InputError: It has no bands, grid or georeference, complex values, or lacks a file.
    """
    if source.count == 0:
        raise InputError(f'{name}: has no bands; name one of its subdatasets')
    warped = isinstance(source, WarpedRaster)
    if warped and not imagery:
        raise InputError(_without_grid(name, source))
    if warped and source.camera:
        warnings.warn(
            f'{name}: is placed by its camera model (RPC) at sea level; in hills '
            'orthorectify it first (gdalwarp -rpc -to RPC_DEM=dem.tif in.tif out.tif)',
            InputWarning,
            stacklevel=2,
        )
    if source.crs is None:
        raise InputError(
            f'{name}: has no coordinate reference system; assign one, '
            'for example with gdal_edit -a_srs'
        )
    corners = [source.transform * (source.width, source.height), source.transform[:6]]
    if source.transform.is_identity or source.transform.determinant == 0:
        raise InputError(
            f'{name}: has no georeference (no affine transform); '
            'warp or georeference it first'
        )
    if not np.isfinite(np.hstack(corners)).all():
        raise InputError(
            f'{name}: has a georeference that is not finite; georeference it again'
        )
    if any(_kind(dtype) not in 'uif' for dtype in source.dtypes):
        raise InputError(f'{name}: complex values are not supported')
    missing = missing_source(name)
    if missing:
        raise InputError(_without_source(name, missing))

    for dtype, value in zip(source.dtypes, source.nodatavals, strict=True):
        if (dtype, value) in _FIRST_DIGITS:
            warnings.warn(
                f'{name}: declares {value:g} as no data, which may be the first digit '
                f'of the end of {dtype} (GDAL reads no further if that was written as '
                '9.2e+18); if so, give --nodata, or declare it anew '
                '(gdal_edit -a_nodata)',
                InputWarning,
                stacklevel=2,
            )
            break


def _missing_source(path: str, parents: frozenset[str]) -> str | None:
    if not path.lower().endswith('.vrt') or path in parents or not os.path.isfile(path):
        return None
    try:
        root = ElementTree.parse(path).getroot()
    except (ElementTree.ParseError, OSError, ValueError):
        return None
    for element in root.iter():
        if element.tag not in ('SourceFilename', 'SourceDataset') or not element.text:
            continue
        name = element.text
        if element.get('relativeToVRT') == '1':
            name = os.path.join(os.path.dirname(path), name)
        # not what only GDAL can find: /vsizip/…, NETCDF:"…":variable, http://…
        if name.startswith('/vsi') or ':' in os.path.splitdrive(name)[1] or '<' in name:
            continue
        if not os.path.exists(name):
            return name
        missing = _missing_source(name, parents | {path})
        if missing:
            return missing
    return None


def _without_source(path: str, missing: str) -> str:
    return (
        f'{path}: its source {missing} is not there; put it back, or build the VRT again '
        'from where the files are now (gdalbuildvrt)'
    )


def _kind(dtype: str) -> str:
    """Kind of number of a band, as numpy has it; complex where it has none."""
    try:
        return np.dtype(dtype).kind
    except TypeError:  # complex_int16
        return 'c'


def _without_grid(name: str, source: WarpedRaster) -> str:
    """What is said of a file that is placed by points or a camera model."""
    if not source.camera:
        return (
            f'{name}: is placed by {len(source.gcps[0])} ground control points and has '
            'no grid; only imagery may be: warp it first (gdalwarp -r near in.tif out.tif)'
        )
    return (
        f'{name}: is placed by a camera model (RPC) and has no grid; only imagery may be: '
        'orthorectify it first (gdalwarp -r near -rpc -to RPC_DEM=dem.tif in.tif out.tif)'
    )


def _palette(source: DatasetReader, band: int) -> Palette | None:
    """Colours by value; None if the file has none after all."""
    try:
        colors = source.colormap(band)
    except ValueError:
        return None
    blank = (0, 0, 0, 0)
    return tuple(colors.get(i, blank) for i in range(max(colors) + 1))


def _losses(source: DatasetReader) -> tuple[str, float | None]:
    """Compression that changes values, and its largest error; of a VRT's first source.

    Returns:
        The name, empty if it keeps them; None where the file does not tell the error.
    """
    if source.driver == 'VRT':
        first = next((f for f in source.files[1:] if os.path.isfile(f)), None)
        if first is None or first == source.name:
            return '', None
        try:
            with rasterio.open(first) as inner:
                return ('', None) if inner.driver == 'VRT' else _losses(inner)
        except RasterioError:
            return '', None
    structure = source.tags(ns='IMAGE_STRUCTURE')
    name = str(structure.get('COMPRESSION', '')).upper()
    if 'JPEG' in name and '2000' not in name:
        return 'JPEG', None
    if name.startswith('LERC'):
        error = _tolerance(structure)
        # of whole numbers it keeps all that are less than one apart
        if all(_kind(dtype) in 'iu' for dtype in source.dtypes):
            error = float(np.floor(error))
        return (name, error) if error > 0 else ('', None)
    if structure.get('COMPRESSION_REVERSIBILITY', '').upper() != 'LOSSY':
        return '', None
    return name or source.driver, None


def _tolerance(structure: dict[str, str]) -> float:
    """Largest error that LERC was allowed."""
    try:
        return float(structure.get('MAX_Z_ERROR', 0))
    except ValueError:
        return 0.0


def _relative(path: str, folder: str) -> str:
    try:
        return os.path.relpath(path, folder)
    except ValueError:  # on another drive of Windows
        return path


def _local_files(name: str, source: DatasetReader) -> dict[str, tuple[int, ...]]:
    """Local files of a raster, each with its stamp; those of a URL are not asked for."""
    stamps: dict[str, tuple[int, ...]] = {}
    waiting = [name]
    while waiting:
        file = os.path.abspath(local_file(waiting.pop()))
        stamp = () if file in stamps else _stamp(file)
        if not stamp and not stamps:
            return {}
        if not stamp:
            continue
        stamps[file] = stamp
        if len(stamps) == 1:
            waiting += source.files
        elif file.lower().endswith('.vrt'):
            # GDAL names the sources of a VRT, but not theirs.
            with suppress(RasterioError), open_raster(file) as inner:
                waiting += inner.files
    return dict(sorted(stamps.items()))


def _stamps(files: Iterable[str]) -> tuple[int, ...]:
    """Sizes and modification times of files."""
    return tuple(number for file in files for number in _stamp(file))


def _stamp(path: str) -> tuple[int, ...]:
    """Size and modification time of a local file; of a store those of all its files."""
    try:
        if not os.path.isdir(path):
            status = os.stat(path)
            return status.st_size, status.st_mtime_ns
        files = [
            os.stat(os.path.join(folder, name))
            for folder, _, names in os.walk(path)
            for name in names
        ]
    except (OSError, ValueError):
        return ()
    return (
        len(files),
        sum(status.st_size for status in files),
        max((status.st_mtime_ns for status in files), default=0),
    )


# What says how a Zarr store is laid out, of versions 2 and 3.
_ZARR_HEADERS = ('.zattrs', '.zgroup', '.zmetadata', 'zarr.json')
