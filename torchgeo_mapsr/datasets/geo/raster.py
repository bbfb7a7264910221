# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""One raster file: checked when it is named, opened when it is read."""

import atexit
import hashlib
import os
import threading
import warnings
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from numpy.typing import NDArray
from odc.geo.crs import CRS
from odc.geo.geobox import GeoBox
from rasterio.enums import ColorInterp, MaskFlags
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.io import DatasetReader
from rasterio.windows import Window

from ...errors import InputError

PathLike = str | os.PathLike[str]

SUFFIXES = ('.tif', '.tiff', '.vrt', '.img', '.jp2')

#: Files that one thread keeps open.
OPEN_FILES = 32


@dataclass(frozen=True)
class RasterFile:
    """A raster file by its header.

    No handle is part of it: each thread of each process opens the file when it first
    reads, so the object can be shared, pickled and forked.

    Args:
        path: Path or URL.
        geobox: Its grid.
        dtypes: Data type of each band.
        nodata: No-data value of each band.
        alpha: The band that the file calls alpha, from 1.
        masked: Whether the file has a mask of its own (internal or .msk).
        stamp: Changes when the file does.
    """

    path: str
    geobox: GeoBox
    dtypes: tuple[str, ...]
    nodata: tuple[float | None, ...]
    alpha: int | None
    masked: bool
    stamp: tuple[int, ...]

    @classmethod
    def open(cls, path: PathLike) -> 'RasterFile':
        """Read and check the header.

        Raises:
            InputError: The file cannot be read, is truncated or has no georeference.
        """
        name = os.fspath(path)
        try:
            with warnings.catch_warnings():
                # said in one line by the check
                warnings.simplefilter('ignore', NotGeoreferencedWarning)
                with rasterio.open(address_of(name)) as source:
                    return cls._checked(name, source)
        except RasterioError as error:
            reason = ' '.join(str(error).split())
            raise InputError(f'{name}: cannot be read as a raster ({reason})') from None

    @classmethod
    def _checked(cls, name: str, source: DatasetReader) -> 'RasterFile':
        if source.count == 0:
            raise InputError(f'{name}: has no bands; name one of its subdatasets')
        if source.crs is None:
            raise InputError(
                f'{name}: has no coordinate reference system; assign one, '
                'for example with gdal_edit -a_srs'
            )
        if source.transform.is_identity or source.transform.determinant == 0:
            raise InputError(
                f'{name}: has no georeference (no affine transform); '
                'warp or georeference it first'
            )
        if any(np.dtype(dtype).kind not in 'uif' for dtype in source.dtypes):
            raise InputError(f'{name}: complex values are not supported')

        alphas = [
            i for i, c in enumerate(source.colorinterp, 1) if c == ColorInterp.alpha
        ]
        flags = source.mask_flag_enums[0]
        file = cls(
            path=name,
            geobox=GeoBox(source.shape, source.transform, _crs(source.crs)),
            dtypes=tuple(source.dtypes),
            nodata=tuple(source.nodatavals),
            alpha=alphas[-1] if alphas else None,
            masked=MaskFlags.per_dataset in flags and MaskFlags.alpha not in flags,
            stamp=_stamp(name),
        )
        # A truncated file opens. Its last block tells, at the cost of one block.
        last = source.height - 1, source.width - 1
        file.read([1], slice(last[0], last[0] + 1), slice(last[1], last[1] + 1))
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
            Values as they are stored, (len(bands), h, w).

        Raises:
            InputError: The file cannot be read.
        """
        window = Window(
            cols.start, rows.start, cols.stop - cols.start, rows.stop - rows.start
        )

        def read() -> NDArray[Any]:
            handle = _handle(self.path, self.stamp)
            values: NDArray[Any] = (handle.read_masks if mask else handle.read)(
                list(bands), window=window
            )
            return values

        try:
            try:
                array = read()
            except RasterioError:
                if not _renewed(self.path, self.stamp):
                    raise
                array = read()
        except RasterioError as error:
            reason = ' '.join(str(error).split())
            raise InputError(
                f'{self.path}: cannot be read at rows {rows.start}-{rows.stop}, columns '
                f'{cols.start}-{cols.stop}; the file is truncated or damaged ({reason})'
            ) from None
        return array

    def fingerprint(self) -> str:
        """Digest that changes with the file.

        It covers path, size, modification time, header and the first 64 KiB, of the
        file and of those it refers to (a VRT's sources, side-car files). Of a file that
        is not on this machine, only path and header.
        """
        handle = _handle(self.path, self.stamp)
        digest = hashlib.sha256()
        box = self.geobox
        header = box.shape.yx, tuple(box.affine), str(box.crs), self.dtypes, self.nodata
        digest.update(repr((header, sorted(handle.tags().items()))).encode())
        if self.path.startswith(_CATALOGUED):
            from ..stac import etag

            digest.update(etag(self.path).encode())
            return digest.hexdigest()
        names = {
            os.path.abspath(name) if os.path.exists(name) else name
            for name in (self.path, *handle.files)
        }
        for name in sorted(names):
            digest.update(repr((name, _stamp(name))).encode())
            if os.path.isfile(name):
                with open(name, 'rb') as stream:
                    digest.update(stream.read(1 << 16))
        return digest.hexdigest()


def open_rasters(paths: PathLike | Iterable[PathLike]) -> tuple[RasterFile, ...]:
    """Open a raster, several rasters, or all rasters of folders.

    Args:
        paths: Files, URLs that rasterio opens, or folders.

    Returns:
        The files: as they were given, a folder's by name.

    Raises:
        InputError: There is none, or one cannot be used.
    """
    given = [paths] if isinstance(paths, str | os.PathLike) else list(paths)
    names: list[PathLike] = []
    for path in given:
        if os.path.isdir(path):
            found = sorted(
                p for p in Path(path).rglob('*') if p.suffix.lower() in SUFFIXES
            )
            if not found:
                raise InputError(
                    f'{os.fspath(path)}: the folder holds no rasters ({", ".join(SUFFIXES)})'
                )
            names.extend(found)
        else:
            names.append(path)
    if not names:
        raise InputError('no raster files were given')
    return tuple(RasterFile.open(name) for name in names)


def _crs(crs: rasterio.crs.CRS) -> CRS:
    """The CRS as pyproj knows it; WKT 1, rasterio's default, would lose parts of it."""
    epsg = crs.to_epsg()
    return CRS(f'EPSG:{epsg}' if epsg else crs.to_wkt(version='WKT2_2019'))


def _stamp(path: str) -> tuple[int, ...]:
    """Size and modification time of a local file."""
    if not os.path.exists(path):
        return ()
    status = os.stat(path)
    return status.st_size, status.st_mtime_ns


# Names of files in a STAC catalogue begin so.
_CATALOGUED = 'stac-item:'


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


_local = threading.local()


def _handle(path: str, stamp: tuple[int, ...]) -> DatasetReader:
    """This thread's handle on a file; GDAL's must not be shared between threads.

    A forked process starts afresh: with an inherited handle it would share the
    position in the file with its parent.
    """
    if getattr(_local, 'process', None) != os.getpid():
        _local.process = os.getpid()
        _local.handles = OrderedDict()
    handles: OrderedDict[Any, DatasetReader] = _local.handles
    key = path, stamp
    if key not in handles:
        handles[key] = rasterio.open(address_of(path))
        if len(handles) > OPEN_FILES:
            handles.popitem(last=False)[1].close()
    handles.move_to_end(key)
    return handles[key]


@atexit.register
def _close() -> None:
    """Close this thread's handles while rasterio can still do so without noise."""
    if getattr(_local, 'process', None) == os.getpid():
        for handle in _local.handles.values():
            handle.close()
