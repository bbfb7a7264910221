# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""Zarr stores of imagery, as xarray, odc-stac and rioxarray write them.

GDAL reads Zarr too, but not every version of it: that of rasterio 1.4 knows no codec of
version 3, and that of 1.5 takes version 3's fill value for no-data.
"""

import os
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Self

import numpy as np
import rasterio
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from rasterio.enums import ColorInterp, MaskFlags
from rasterio.errors import RasterioIOError
from rasterio.transform import Affine
from rasterio.windows import Window

from ...errors import InputError

# Variables, and after an @ a date: in a time are colons too.
_PART = r':(?P<part>[^:/@]*(?:@[^/]*)?)'

# A store by its suffix, and by nothing.
_NAME = re.compile(
    rf'(?P<store>.*\.zarr(?:/[^:]*)?)(?:{_PART})?', re.IGNORECASE | re.DOTALL
)
_ANY_NAME = re.compile(rf'(?P<store>.+?){_PART}', re.DOTALL)

# What a store's folder has, of versions 2 and 3.
_MARKS = ('.zgroup', '.zarray', '.zmetadata', 'zarr.json')


def is_zarr(name: str) -> bool:
    """Whether a name is that of a Zarr store, or of variables of one.

    Args:
        name: A path or an address.
    """
    return bool(zarr_store(name))


def zarr_store(name: str) -> str:
    """The store of a name ``x.zarr`` or ``x.zarr:variable``; empty if it is none.

    Args:
        name: A path or an address.

    Examples:
        >>> zarr_store('/data/scene.zarr:image')
        '/data/scene.zarr'
    """
    store, _ = _split(name)
    return store


def _split(name: str) -> tuple[str, str]:
    """Store, and what of it is meant; an empty store if the name is of none."""
    match = _NAME.fullmatch(name)
    if match and not os.path.isfile(match['store']):
        return match['store'], match['part'] or ''
    match = _ANY_NAME.fullmatch(name)
    for store, rest in (
        (name, ''),
        match.group('store', 'part') if match else ('', ''),
    ):
        if store and any(os.path.isfile(os.path.join(store, m)) for m in _MARKS):
            return store, rest
    return '', ''


class ZarrRaster:
    """Variables of a Zarr store, read like a file of rasterio's.

    Bands are a third dimension, or variables of two dimensions each. Values are those
    that are stored; scale, offset and no-data value are told, and not applied.

    Args:
        name: Name of the store, for errors.
        arrays: Data arrays on one grid, (y, x) or (band, y, x).
        geobox: The grid.
    """

    driver = 'Zarr'
    rpcs = None
    files: tuple[str, ...] = ()

    def __init__(self, name: str, arrays: Sequence[Any], geobox: GeoBox) -> None:
        self.name = name
        self._arrays = tuple(arrays)
        self._channels = [
            (array, None if array.ndim == 2 else i)
            for array in arrays
            for i in range(1 if array.ndim == 2 else array.shape[0])
        ]
        self.shape = geobox.shape.yx
        self.height, self.width = self.shape
        self.transform = geobox.affine
        self.crs = rasterio.crs.CRS.from_user_input(str(geobox.crs))
        self.gcps: tuple[list[Any], None] = ([], None)

    @classmethod
    def open(cls, name: str) -> 'ZarrRaster':
        """Open variables of a store.

        Args:
            name: ``x.zarr``, ``x.zarr:variable`` or ``x.zarr:red,green,blue``; without a
                name, the one variable that is a raster, or all of two dimensions by their
                names. After an ``@`` comes the date that is read, or its beginning:
                ``x.zarr:image@2021-07``, ``x.zarr:@2021-07-14``,
                ``x.zarr:image@2021-07-14T10:30``.

        Raises:
            InputError: There is no such variable or date, it is no raster, or it has no
                grid.
        """
        try:
            import odc.geo.xr  # noqa: F401
            import xarray
            import zarr  # noqa: F401
        except ModuleNotFoundError:
            raise InputError(
                f'{name}: a Zarr store needs further packages: pip install '
                "'torchgeo-mapsr[zarr]'"
            ) from None
        store, part = _split(name)
        variables, _, date = part.partition('@')
        names = variables.split(',') if variables else []
        try:
            with warnings.catch_warnings():
                # of stores without consolidated metadata
                warnings.simplefilter('ignore')
                dataset = xarray.open_zarr(
                    store, chunks=None, mask_and_scale=False, decode_coords='all'
                )
        except Exception as error:  # noqa: BLE001
            # zarr, its stores and codecs raise what they like
            reason = ' '.join(str(error).split())[:200]
            raise InputError(
                f'{name}: cannot be read as a Zarr store ({reason})'
            ) from None
        if date:
            dataset = _on_date(name, dataset, date)
        arrays = [_raster(name, dataset[v]) for v in _variables(name, dataset, names)]
        geobox = _grid(name, arrays[0])
        for array in arrays[1:]:
            if array.shape[-2:] != arrays[0].shape[-2:] or _grid(name, array) != geobox:
                raise InputError(f'{name}: {array.name} is on another grid')
        return cls(name, arrays, geobox)

    @property
    def count(self) -> int:
        """Number of bands."""
        return len(self._channels)

    @property
    def dtypes(self) -> tuple[str, ...]:
        """Data type of each band; truth values are read as 0 and 1."""
        types = (array.dtype for array, _ in self._channels)
        return tuple('uint8' if t == bool else t.newbyteorder('=').name for t in types)

    @property
    def nodatavals(self) -> tuple[float | None, ...]:
        """No-data value of each band."""
        return tuple(
            _attribute(array, ('_FillValue', 'missing_value', 'nodata'))
            for array, _ in self._channels
        )

    @property
    def scales(self) -> tuple[float, ...]:
        """What each band is to be multiplied by."""
        values = (_attribute(array, ('scale_factor',)) for array, _ in self._channels)
        return tuple(1.0 if value is None else value for value in values)

    @property
    def offsets(self) -> tuple[float, ...]:
        """What is to be added to each band after that."""
        values = (_attribute(array, ('add_offset',)) for array, _ in self._channels)
        return tuple(value or 0.0 for value in values)

    @property
    def colorinterp(self) -> tuple[ColorInterp, ...]:
        """Stores say nothing of colours."""
        return (ColorInterp.undefined,) * self.count

    @property
    def mask_flag_enums(self) -> list[list[MaskFlags]]:
        """There is no mask besides the no-data value."""
        return [[MaskFlags.all_valid]] * self.count

    @property
    def descriptions(self) -> tuple[str, ...]:
        """Name of each band: of its variable, or along the third dimension."""
        names = []
        for array, i in self._channels:
            if i is None:
                names.append(str(array.name))
                continue
            labels = array.coords.get(array.dims[0])
            named = (
                labels is not None and labels.ndim == 1 and labels.dtype.kind in 'UOT'
            )
            names.append(str(labels.values[i]) if named else '')
        return tuple(names)

    def tags(self, ns: str | None = None) -> dict[str, str]:
        """Attributes of the variables."""
        if ns is not None:
            return {}
        return {
            f'{array.name}:{key}': str(value)
            for array in self._arrays
            for key, value in array.attrs.items()
        }

    def read(
        self,
        indexes: int | Sequence[int] | None = None,
        window: Window | None = None,
        out_dtype: Any = None,
        step: int = 1,
    ) -> NDArray[Any]:
        """Read bands.

        Args:
            indexes: Bands, from 1; all by default, and without an axis for one.
            window: Part of the raster; all by default.
            out_dtype: Type of the values (default: one that holds all bands).
            step: Pixels from one that is read to the next.

        Returns:
            Values as they are stored, (bands, h, w).

        Raises:
            RasterioIOError: If they cannot be read.
        """
        if isinstance(indexes, int):
            return self.read([indexes], window, out_dtype, step)[0]
        bands = list(range(1, self.count + 1)) if indexes is None else list(indexes)
        window = window or Window(0, 0, self.width, self.height)
        rows, cols = window.toslices()
        place = {
            -2: slice(int(rows.start), int(rows.stop), step),
            -1: slice(int(cols.start), int(cols.stop), step),
        }
        dtype = out_dtype or np.result_type(*(self.dtypes[b - 1] for b in bands))
        parts: dict[int, Any] = {}
        try:
            for array in self._arrays:
                # bands of one variable share their chunks: they are read at once
                chosen = [b for b in bands if self._channels[b - 1][0] is array]
                if not chosen:
                    continue
                keys: dict[Any, Any] = {array.dims[i]: s for i, s in place.items()}
                if array.ndim == 3:
                    keys[array.dims[0]] = [self._channels[b - 1][1] for b in chosen]
                values = np.asarray(array.isel(keys).values)
                values = values.reshape(len(chosen), *values.shape[-2:])
                parts |= dict(zip(chosen, values, strict=True))
        except Exception as error:
            raise RasterioIOError(f'{type(error).__name__}: {error}') from error
        return np.stack([parts[band].astype(dtype, copy=False) for band in bands])

    @contextmanager
    def thumbnail(self, size: int) -> Iterator[Any]:
        """A small copy that rasterio's functions take, a context.

        Args:
            size: Pixels of its longer side, about.
        """
        step = max(max(self.shape) // size, 1)
        values = self.read(step=step)
        if values.dtype.itemsize > 4:
            values = values.astype(np.float32)
        memory = rasterio.MemoryFile()
        with (
            memory,
            memory.open(
                driver='GTiff',
                count=self.count,
                height=values.shape[1],
                width=values.shape[2],
                dtype=values.dtype,
                crs=self.crs,
                transform=self.transform * Affine.scale(step),
                nodata=self.nodatavals[0],
            ) as file,
        ):
            file.write(values)
            yield file

    def close(self) -> None:
        """Nothing is held open."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _variables(name: str, dataset: Any, names: Sequence[str]) -> list[str]:
    """Variables that are read."""
    # by their names: the order of a store is that of its folder
    rasters = sorted(
        str(key)
        for key, array in dataset.data_vars.items()
        if array.ndim >= 2 and array.odc.spatial_dims is not None
    )
    variables = ', '.join(map(str, dataset.data_vars)) or 'none'
    for key in names:
        if key not in dataset.data_vars:
            raise InputError(f'{name}: has no variable {key}; there are {variables}')
    if names:
        return list(names)
    if not rasters:
        raise InputError(
            f'{name}: has no variable with dimensions y and x; there are {variables}'
        )
    flat = all(_sizes(dataset[key]) == 2 for key in rasters)
    if len(rasters) > 1 and not flat:
        raise InputError(
            f'{name}: has several variables ({", ".join(rasters)}); name one, as in '
            f'{zarr_store(name)}:{rasters[0]}'
        )
    return rasters


def _on_date(name: str, dataset: Any, date: str) -> Any:
    """A dataset on the one date whose ISO text begins so."""
    axes = [dim for dim in dataset.dims if _is_time(dataset, dim)]
    if not axes:
        raise InputError(f'{name}: has no dimension of dates')
    texts = [str(value) for value in dataset[axes[0]].values]
    places = [i for i, text in enumerate(texts) if text.startswith(date)]
    if len(places) != 1:
        some = ', '.join(text[:19] for text in texts[:8]) + (
            ', …' if len(texts) > 8 else ''
        )
        count = len(places) or 'none'
        raise InputError(f'{name}: {count} of its dates begin with {date}: {some}')
    return dataset.isel({axes[0]: places[0]})


def _is_time(dataset: Any, dim: Any) -> bool:
    """Whether a dimension has dates as coordinates."""
    return dim in dataset.coords and dataset[dim].dtype.kind == 'M'


def _sizes(array: Any) -> int:
    """Number of dimensions longer than one, or spatial."""
    return sum(
        size > 1 or dim in array.odc.spatial_dims for dim, size in array.sizes.items()
    )


def _raster(name: str, array: Any) -> Any:
    """A variable as (y, x) or (band, y, x)."""
    dims = array.odc.spatial_dims
    if dims is None:
        raise InputError(
            f'{name}: {array.name} has the dimensions {", ".join(map(str, array.dims))}, '
            'and none that are y and x'
        )
    single = [d for d, n in array.sizes.items() if n == 1 and d not in dims]
    array = array.isel(dict.fromkeys(single, 0))
    rest = [dim for dim in array.dims if dim not in dims]
    if len(rest) > 1:
        sizes = ', '.join(f'{array.sizes[dim]} of {dim}' for dim in rest)
        raise InputError(
            f'{name}: {array.name} has {sizes}; name one date, as in '
            f'{zarr_store(name)}:{array.name}@2021-07-14 (several names with --stack), or '
            'write one band or date as a store of its own (array.isel(…).to_zarr)'
        )
    if array.dtype.kind not in 'uifb':
        raise InputError(f'{name}: {array.name} holds {array.dtype}, and no numbers')
    return array.transpose(*rest, *dims)


def _grid(name: str, array: Any) -> GeoBox:
    """Grid of a variable.

    Coordinates of pixels are sums of rounded numbers; a GeoTransform beside the CRS, as
    GDAL, rioxarray and odc-geo write it, is exact and is taken where both agree.
    """
    grid = array.odc.geobox
    if grid is None or not isinstance(grid, GeoBox):
        raise InputError(f'{name}: {array.name} has no regular coordinates x and y')
    if grid.crs is None:
        raise InputError(
            f'{name}: {array.name} has no coordinate reference system; assign one and '
            'write it again (array.odc.assign_crs("EPSG:…").to_zarr)'
        )
    for coordinate in array.coords.values():
        text = coordinate.attrs.get('GeoTransform')
        if not isinstance(text, str):
            continue
        try:
            exact = Affine.from_gdal(*map(float, text.split()))
        except (TypeError, ValueError):
            continue
        corners = [(0, 0), (grid.width, 0), (0, grid.height), grid.shape.xy]
        moved = [~grid.affine * (exact * corner) for corner in corners]
        if np.abs(np.subtract(moved, corners)).max() < 1e-3:
            return GeoBox(grid.shape, exact, grid.crs)
    return grid


def _attribute(array: Any, names: Sequence[str]) -> float | None:
    """A number among the attributes of a variable."""
    for name in names:
        value = array.attrs.get(name, array.encoding.get(name))
        if value is not None and np.ndim(value) == 0:
            try:
                return float(value)
            except (TypeError, ValueError):
                continue
    return None
