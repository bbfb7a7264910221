# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""One raster file: checked when it is named, opened when it is read.

:func:`open_raster` is the one place where imagery is opened, whatever holds it: a file that
GDAL reads, a file in a ZIP archive, a Zarr store, a file in a STAC catalogue, or a file
that is placed by ground control points or a camera model.
"""

import atexit
import hashlib
import os
import re
import threading
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path, PurePath, PurePosixPath
from typing import Any, Self
from xml.etree import ElementTree

import numpy as np
import rasterio
from numpy.typing import NDArray
from odc.geo.crs import CRS
from odc.geo.geobox import GeoBox
from pyproj import Transformer
from pyproj.exceptions import ProjError
from rasterio.enums import ColorInterp, MaskFlags, Resampling
from rasterio.errors import CRSError, NotGeoreferencedWarning, RasterioError
from rasterio.io import DatasetReader
from rasterio.vrt import WarpedVRT
from rasterio.windows import Window

from ...errors import InputError, InputWarning
from ...offline import check_file
from .grid import bring_together
from .zarr import ZarrRaster, is_zarr, zarr_store

PathLike = str | os.PathLike[str]

SUFFIXES = ('.tif', '.tiff', '.vrt', '.img', '.jp2')

# Two CRSs are one if their coordinates of a point are at most so far apart, in metres.
SAME_POINT = 0.01

#: Files that one thread keeps open.
OPEN_FILES = 32

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
        _check_proj()
        name = _name(path)
        check_file(name)
        try:
            with warnings.catch_warnings():
                # said in one line by the check
                warnings.simplefilter('ignore', NotGeoreferencedWarning)
                with gdal_environment(name), open_raster(name) as source:
                    return cls._checked(name, source, imagery)
        except InputError:
            raise
        except (RasterioError, OSError, ValueError) as error:
            missing = missing_source(name)
            if missing:
                raise InputError(_without_source(name, missing)) from None
            reason = ' '.join(str(error).split())
            raise InputError(f'{name}: cannot be read as a raster ({reason})') from None

    @classmethod
    def _checked(cls, name: str, source: Any, imagery: bool) -> 'RasterFile':
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
        corners = [
            source.transform * (source.width, source.height),
            source.transform[:6],
        ]
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

        colors = source.colorinterp
        alphas = [i for i, color in enumerate(colors, 1) if color == ColorInterp.alpha]
        flags = source.mask_flag_enums
        stamps = _local_files(name, source)
        compression, largest_error = _losses(source)
        if not warped:
            # GDAL's programs write statistics there. All else that it may hold and that
            # matters is in the header; points and camera models are not.
            stamps.pop(f'{os.path.abspath(local_file(name))}.aux.xml', None)
        file = cls(
            path=name,
            geobox=GeoBox(source.shape, source.transform, _crs(name, source.crs)),
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
        # A truncated file opens. Its last block tells, at the cost of one block.
        last = Window(source.width - 1, source.height - 1, 1, 1)
        try:
            source.read(1, window=last)
        except RasterioError as error:
            raise file._unreadable(last, error) from None
        return file

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
            handle = _handle(self.path, self.stamp)
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
                if not _renewed(self.path, self.stamp):
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
        if self.path.startswith(_CATALOGUED):
            from ..stac import etag

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


def open_raster(path: PathLike) -> Any:
    """Open a raster, whatever holds it.

    Args:
        path: A path, an address, a name of GDAL's, a Zarr store (``x.zarr`` or
            ``x.zarr:variable``), or a name of
            :func:`~torchgeo_mapsr.datasets.stac.name_of`.

    Returns:
        A :class:`rasterio.io.DatasetReader`, or what reads like one: a
        :class:`WarpedRaster`, a :class:`~torchgeo_mapsr.datasets.geo.zarr.ZarrRaster`.

    Raises:
        InputError: A Zarr store cannot be used.
        RasterioError: The file cannot be opened.
    """
    name = os.fspath(path)
    if is_zarr(name):
        return ZarrRaster.open(name)
    source = rasterio.open(address_of(name))
    bare = source.transform.is_identity or source.crs is None
    if bare and (source.gcps[0] or source.rpcs is not None):
        return WarpedRaster(source)
    return source


class WarpedRaster:
    """A raster without a grid, whose pixels are warped to one when they are read.

    The grid is that of ``gdalwarp`` without options: north up, pixels of about the file's
    size, in the CRS of the ground control points; in degrees for a camera model. Values
    are those of ``gdalwarp -r bilinear -et 0``, of a palette nearest. What the file does not cover, or declares as
    no data, is masked.

    Args:
        source: The file. Everything but the pixels and the grid is taken from it.
    """

    def __init__(self, source: DatasetReader) -> None:
        self._source = source
        #: whether it is placed by a camera model
        self.camera = not source.gcps[0]
        colors = source.colorinterp
        self._masked = ColorInterp.alpha not in colors
        indexed = ColorInterp.palette in colors
        self._warped = WarpedVRT(
            source,
            # points bring their own; a camera model is of degrees
            src_crs='EPSG:4326' if self.camera else None,
            resampling=Resampling.nearest if indexed else Resampling.bilinear,
            # Also where there is a no-data value: with that alone rasterio places pixels
            # by a camera model a fifth of a pixel off gdalwarp's.
            add_alpha=self._masked,
            # there is no value for it then; GDAL 3.12 warns
            init_dest_nodata=not self._masked,
            # exact, or pixels would depend on the window that they are read with
            tolerance=0,
        )
        for name in ('crs', 'transform', 'height', 'width', 'shape', 'bounds'):
            setattr(self, name, getattr(self._warped, name))
        self.read = self._warped.read

    def __getattr__(self, name: str) -> Any:
        return getattr(self._source, name)

    def read_masks(self, indexes: Sequence[int], window: Window) -> NDArray[np.uint8]:
        """Read masks of bands, as rasterio does: 0 where the file does not reach."""
        if not self._masked:
            masks: NDArray[np.uint8] = self._warped.read_masks(indexes, window=window)
            return masks
        # GDAL makes no mask of a band of transparency that holds floats
        alpha = self._warped.read(self._source.count + 1, window=window)
        mask = np.where(alpha > 0, np.uint8(255), np.uint8(0))
        return np.broadcast_to(mask, (len(indexes), *mask.shape))

    @property
    def nodatavals(self) -> tuple[float | None, ...]:
        """No-data value of each band; the mask has them all."""
        if self._masked:
            return (None,) * int(self._source.count)
        return tuple(self._source.nodatavals)

    @property
    def mask_flag_enums(self) -> list[list[MaskFlags]]:
        """Which masks there are, as rasterio has it."""
        if not self._masked:
            return list(self._source.mask_flag_enums)
        return [[MaskFlags.per_dataset]] * int(self._source.count)

    @property
    def dataset(self) -> WarpedVRT:
        """What rasterio's functions take."""
        return self._warped

    def close(self) -> None:
        """Close the file."""
        self._warped.close()
        self._source.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def local_file(name: str) -> str:
    """What holds a raster on this machine: itself, its archive or its store.

    Args:
        name: What :func:`open_raster` opens.
    """
    if name.startswith(_ARCHIVED):
        return name.removeprefix(_ARCHIVED).partition('}')[0]
    store = zarr_store(name)
    if store or os.path.exists(name):
        return store or name
    # /vsizip/a.zip/b.tif, NETCDF:"a.nc":band, zip://a.zip!/b.tif
    inner = _BEFORE_A_FILE.sub('', name).strip('{"')
    while not os.path.isfile(inner):
        inner, shorter = _LAST_PART.subn('', inner)
        if not shorter:
            return name
    return inner


def _members(name: str) -> list[str]:
    """Names of the rasters of a ZIP archive, as GDAL opens them.

    Raises:
        InputError: It has none, or is no archive.
    """
    try:
        with zipfile.ZipFile(name) as archive:
            members = sorted(
                member
                for member in archive.namelist()
                if member.lower().endswith(SUFFIXES)
                and not _is_hidden(PurePosixPath(member))
            )
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise InputError(f'{name}: cannot be read as a ZIP archive ({error})') from None
    if not members:
        raise InputError(
            f'{name}: the archive holds no rasters ({", ".join(SUFFIXES)})'
        )
    return [f'{_ARCHIVED}{name}}}/{member}' for member in members]


def rasters_in(folder: Path) -> list[Path]:
    """The rasters of a folder and of those in it, but for hidden and unfinished ones.

    Args:
        folder: The folder.
    """
    return sorted(
        path
        for path in folder.rglob('*')
        if path.suffix.lower() in SUFFIXES and not _is_hidden(path.relative_to(folder))
    )


# Folders of work, see mapping.outputs.
_UNFINISHED = re.compile(r'(\.tiff?|\Atorchgeo-mapsr)\.parts\Z', re.IGNORECASE)


def _is_hidden(path: PurePath) -> bool:
    """Whether a file, or a folder that it lies in, is hidden.

    They hold no raster of a person's: macOS puts a ``._NAME.tif`` of other content beside
    each file on foreign disks and in archives, notebooks keep copies, and what is being
    written has a hidden name. Unfinished work of the command lies in ``NAME.tif.parts``.
    """
    return any(
        part.startswith('.') or part == '__MACOSX' or _UNFINISHED.search(part)
        for part in path.parts
    )


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


def list_rasters(paths: PathLike | Iterable[PathLike]) -> list[str]:
    """Name the rasters that :func:`open_rasters` opens, without opening them.

    Args:
        paths: Files, URLs that rasterio opens, or folders.

    Raises:
        InputError: There is none.
    """
    names: list[str] = []
    given: object = paths
    if not isinstance(given, os.PathLike | Iterable):
        raise InputError(f'a raster is a path, not {type(given).__name__}')
    for path in [paths] if isinstance(paths, str | bytes | os.PathLike) else paths:
        name = _name(path)
        if name.lower().endswith('.zip') and os.path.isfile(name):
            names.extend(_members(name))
        elif os.path.isdir(name) and not is_zarr(name):
            try:
                content = rasters_in(Path(name))
            except OSError as error:
                raise InputError(
                    f'{name}: cannot be read ({error.strerror}); check the folder'
                ) from None
            if not content:
                raise InputError(
                    f'{name}: the folder holds no rasters ({", ".join(SUFFIXES)})'
                )
            names.extend(map(str, content))
        else:
            names.append(name)
    if not names:
        raise InputError('no raster files were given')
    return names


def distinct_names(paths: Sequence[PathLike]) -> list[str]:
    """What files are called in tables, strata and names of bands.

    Args:
        paths: The files.

    Returns:
        The name of each without suffix, with as much of its folders as tells all apart;
        with the suffix, where only that does; and numbers where nothing does.

    >>> distinct_names(['2019/a.tif', '2024/a.tif'])
    ['2019/a', '2024/a']
    """
    files = [PurePosixPath(os.fspath(path).partition('?')[0]) for path in paths]
    for each in ([file.with_suffix('') for file in files], files):
        parts = [path.parts for path in each]
        for count in range(1, max(map(len, parts), default=0) + 1):
            names = ['/'.join(part[-count:]) for part in parts]
            if len(set(names)) == len(names):
                return names
    return [str(number) for number in range(1, len(files) + 1)]


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


def _name(path: PathLike | bytes) -> str:
    """A path as text that the libraries below take.

    Raises:
        InputError: If it is none.
    """
    try:
        name = os.fsdecode(path)
    except TypeError:
        raise InputError(f'a raster is a path, not {type(path).__name__}') from None
    if not name or '\0' in name:
        raise InputError(f'{name!r} is no path of a raster; name a file or a folder')
    try:
        name.encode()
    except UnicodeEncodeError:
        raise InputError(
            f'{name.encode(errors="backslashreplace").decode()}: the name is not UTF-8; '
            'rename the file'
        ) from None
    return name


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


def _check_proj() -> None:
    """Find out whether PROJ reads another program's data.

    Raises:
        InputError: It cannot use those that the environment names.
    """
    _try_proj(os.environ.get('PROJ_LIB', ''), os.environ.get('PROJ_DATA', ''))


@lru_cache(maxsize=8)
def _try_proj(library: str, data: str) -> None:
    if not library and not data:
        return
    try:
        with rasterio.Env():
            # needs the data: rasterio knows EPSG:4326 without them
            rasterio.crs.CRS.from_epsg(32618).to_wkt()
    except (CRSError, RasterioError) as error:
        name, value = ('PROJ_DATA', data) if data else ('PROJ_LIB', library)
        raise InputError(
            f'{name} is {value}, where the data of another PROJ lie or none; unset it '
            f'(unset {name}) and run again'
        ) from error


def _crs(name: str, crs: rasterio.crs.CRS) -> CRS:
    """The CRS as pyproj knows it; WKT 1, rasterio's default, would lose parts of it.

    Raises:
        InputError: It has no place on Earth, as that of a drawing.
    """
    try:
        converted = _converted(crs.to_wkt(version='WKT2_2019'))
    except (CRSError, ProjError, ValueError):
        converted = None
    if converted is None:
        raise InputError(
            f'{name}: has a coordinate reference system that is not tied to the Earth or '
            'cannot be read; assign its real one, for example with gdal_edit -a_srs '
            'EPSG:2154'
        )
    return converted


@lru_cache(maxsize=64)
def _converted(wkt: str) -> CRS | None:
    """The CRS of a text; None if nothing can be projected to or from it."""
    crs = CRS(wkt)
    epsg = rasterio.crs.CRS.from_wkt(wkt).to_epsg()
    # One CRS has many spellings. But what only looks like that of a code may have another
    # datum, or a shift of its own: places in other CRSs would be metres off.
    named = wkt.endswith(f'ID["EPSG",{epsg}]]')
    if epsg and (named or _same_places(crs, CRS(f'EPSG:{epsg}'))):
        crs = CRS(f'EPSG:{epsg}')
    return crs if crs.proj.is_projected or crs.proj.is_geographic else None


def _same_places(crs: CRS, other: CRS) -> bool:
    """Whether two CRSs of one kind have the same coordinates in the middle of an area."""
    area = other.proj.area_of_use
    if area is None:
        return False
    turn = 360 if area.west > area.east else 0
    lon, lat = (area.west + area.east + turn) / 2, (area.south + area.north) / 2
    one, two = (
        np.array(
            Transformer.from_crs('EPSG:4326', each.proj, always_xy=True).transform(
                (lon + 180) % 360 - 180, lat
            )
        )
        for each in (crs, other)
    )
    side = 1.0 if other.proj.is_projected else 111e3  # metres of a unit, about
    return bool(np.abs(one - two).max() * side < SAME_POINT)


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


# Names of files in a STAC catalogue begin so, and those in an archive.
_CATALOGUED = 'stac-item:'
_ARCHIVED = '/vsizip/{'

# Drivers and file systems of GDAL and rasterio stand before the name of a file, members of
# it and variables after it.
_LAST_PART = re.compile(r'[/\\:!"}][^/\\:!"}]*\Z')
_BEFORE_A_FILE = re.compile(r'\A(file|zip|tar|gzip)://|\A(/vsi\w+/|\w+:\d+:|\w+:)+')

# What says how a Zarr store is laid out, of versions 2 and 3.
_ZARR_HEADERS = ('.zattrs', '.zgroup', '.zmetadata', 'zarr.json')


def address_of(path: PathLike) -> str:
    """Where GDAL opens a raster: its path, but for a file in a STAC catalogue.

    Args:
        path: A path, an address, or a name of :func:`~torchgeo_mapsr.datasets.stac.name_of`.
    """
    name = os.fspath(path)
    if not name.startswith(_CATALOGUED):
        return name
    from ..stac import address

    return address(name)


def _renewed(name: str, stamp: tuple[int, ...]) -> bool:
    """Drop a handle whose address may have run out; whether there is another to ask for."""
    if not name.startswith(_CATALOGUED):
        return False
    from ..stac import forget

    forget(name)
    _local.handles.pop((name, stamp)).close()
    return True


def gdal_environment(name: str) -> AbstractContextManager[Any]:
    """GDAL's options while a raster is opened: where it looks for side-car files.

    It would list the whole folder of each file: of 10 000 files in one, that took nine
    tenths of the time. Asked for by their names they are found all the same; and they are
    where torchgeo's command has told GDAL to look for none.

    Args:
        name: What :func:`open_raster` opens.
    """
    if rasterio.env.hasenv() or not os.path.exists(local_file(name)):
        return nullcontext()
    return rasterio.Env(GDAL_DISABLE_READDIR_ON_OPEN='TRUE')  # type: ignore[no-any-return]


_local = threading.local()


def _handle(path: str, stamp: tuple[int, ...]) -> Any:
    """This thread's handle on a file; GDAL's must not be shared between threads.

    A forked process starts afresh: with an inherited handle it would share the
    position in the file with its parent.
    """
    if getattr(_local, 'process', None) != os.getpid():
        _local.process = os.getpid()
        _local.handles = OrderedDict()
    handles: OrderedDict[Any, Any] = _local.handles
    key = path, stamp
    if key not in handles:
        with gdal_environment(path):
            handles[key] = open_raster(path)
        if len(handles) > OPEN_FILES:
            handles.popitem(last=False)[1].close()
    handles.move_to_end(key)
    return handles[key]


def close_handles(path: str) -> None:
    """Close this thread's handles on a file that will not be read again.

    Args:
        path: What :func:`open_raster` opened.
    """
    handles = getattr(_local, 'handles', {})
    for key in [key for key in handles if key[0] == path]:
        handles.pop(key).close()


@atexit.register
def _close() -> None:
    """Close this thread's handles while rasterio can still do so without noise."""
    if getattr(_local, 'process', None) == os.getpid():
        for handle in _local.handles.values():
            handle.close()
