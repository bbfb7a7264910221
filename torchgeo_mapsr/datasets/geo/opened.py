# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""The one place where rasters are opened, and what each thread keeps open.

:func:`open_raster` takes a file that GDAL reads, a file in a ZIP archive, a Zarr store, a
file in a STAC catalogue, or a file that is placed by ground control points or a camera
model.
"""

import atexit
import os
import threading
from collections import OrderedDict
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Self

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.enums import ColorInterp, MaskFlags, Resampling
from rasterio.io import DatasetReader
from rasterio.vrt import WarpedVRT
from rasterio.windows import Window

from .assets import CATALOGUED, address_of, forget
from .names import PathLike, local_file
from .zarr import ZarrRaster, is_zarr

#: Files that one thread keeps open.
OPEN_FILES = 32

_local = threading.local()


def open_raster(path: PathLike) -> Any:
    """Open a raster, whatever holds it.

    Args:
        path: A path, an address, a name of GDAL's, a Zarr store (``x.zarr`` or
            ``x.zarr:variable``), or a name of
            :func:`~torchgeo_mapsr.datasets.geo.assets.name_of`.

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


def handle_of(path: str, stamp: tuple[int, ...]) -> Any:
    """This thread's handle on a file; GDAL's must not be shared between threads.

    A forked process starts afresh: with an inherited handle it would share the
    position in the file with its parent.

    Args:
        path: What :func:`open_raster` opens.
        stamp: What it was when it was named: of another one there is another handle.
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


def renewed(name: str, stamp: tuple[int, ...]) -> bool:
    """Drop a handle whose address may have run out.

    Args:
        name: What :func:`open_raster` opened.
        stamp: As in :func:`handle_of`.

    Returns:
        Whether there is another address to ask for.
    """
    if not name.startswith(CATALOGUED):
        return False
    forget()
    _local.handles.pop((name, stamp)).close()
    return True


@atexit.register
def _close() -> None:
    """Close this thread's handles while rasterio can still do so without noise."""
    if getattr(_local, 'process', None) == os.getpid():
        for handle in _local.handles.values():
            handle.close()
