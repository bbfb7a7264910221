# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""Medians of several dates of items in a STAC catalogue whose bands are files each."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from odc.geo.geobox import GeoBox, GeoboxTiles
from odc.geo.geom import box
from rasterio.dtypes import in_dtype_range
from rasterio.transform import Affine
from rasterio.windows import Window

from ..atomic import replacing
from ..errors import InputError
from .geo.aoi import AreaOfInterest
from .geo.assets import address_of, etag, name_of, signed, unreachable
from .geo.round_earth import circumference, span

# Pixels of a composite that are loaded at once, for all dates.
_TILE = 1024

# Composites of an earlier number had other values (1: uint16 whatever the files held) or
# another extent (2: that of the newest item, at 180°).
_VERSION = 3

# Degrees of a side of a composite's box that stay straight in its CRS. Sides of 1° in UTM
# are up to 120 m off their chords: rows of the area were left out; of 0.1° about 1 m.
_SEGMENT = 0.1

# Sentinel-2's assets of 16 bits that are no reflectance; the -jp2 ones, too.
_NO_REFLECTANCE = ('aot', 'wvp')


def composite(
    items: Sequence[Any], assets: Sequence[str], area: AreaOfInterest, folder: Path
) -> Path:
    """The median of several dates, in the pixels of the newest item.

    No data is left out of the median; where every date has none, so has the composite.
    It keeps the files' type and their no-data value. Floats, and integers of several
    no-data values or without one, become floats with NaN. Memory is that of one window
    of all dates.

    Args:
        items: Items whose bands are assets of their own.
        assets: The bands.
        area: The area; the file is its bounding box.
        folder: Where the file is kept: of the same files and area it is made once.

    Returns:
        The file, whose name says what it is made of.

    Raises:
        InputError: If the items cannot be read, or one median cannot hold them: an
            asset has several bands, or complex numbers, or another scale at each date.
    """
    names = [name_of(item, asset) for item in items for asset in assets]
    made_of = _VERSION, [(name, etag(name)) for name in names], area.fingerprint()
    key = hashlib.sha256(repr(made_of).encode()).hexdigest()[:16]
    path = folder / f'composite-{key}.tif'
    if not path.exists():
        _write(items, assets, area, path)
    return path


def _write(
    items: Sequence[Any], assets: Sequence[str], area: AreaOfInterest, path: Path
) -> None:
    """Write the median; the file is there when it is complete."""
    import odc.stac

    stored, gains = _stored(items, assets)
    place = box(*area.bounds, 'EPSG:4326').segmented(_SEGMENT)
    grid: GeoBox | None = odc.stac.output_geobox(
        list(odc.stac.parse_items(items[:1])), bands=list(assets), geopolygon=place
    )
    if grid is None:
        # The item says nothing of its projection: its first file does.
        with rasterio.open(address_of(name_of(items[0], assets[0]))) as dataset:
            first = GeoBox(dataset.shape, dataset.transform, dataset.crs)
        grid = first.enclosing(place)
    tiles = GeoboxTiles(grid, (_TILE, _TILE))
    profile = {
        'driver': 'GTiff',
        'count': len(assets),
        'height': grid.height,
        'width': grid.width,
        **stored,
        'crs': str(grid.crs),
        'transform': grid.affine,
        'tiled': True,
        'compress': 'deflate',
        'bigtiff': 'if_safer',
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as part, rasterio.open(part, 'w', **profile) as target:
        for index, asset in enumerate(assets, 1):
            target.set_band_description(index, asset)
        target.scales, target.offsets = zip(*gains, strict=True)
        for row, col in np.ndindex(*tiles.shape.yx):
            rows, cols = tiles.roi[row, col]
            window = Window.from_slices(rows, cols)
            for index, asset in enumerate(assets, 1):
                values = _median(items, asset, grid[rows, cols], **stored)
                target.write(values, index, window=window)


def _stored(
    items: Sequence[Any], assets: Sequence[str]
) -> tuple[dict[str, Any], list[tuple[float, float]]]:
    """Type and no-data value of a composite; scale and offset of each band."""
    import odc.stac

    kinds: set[str] = set()
    nothing: set[float | None] = set()
    gains: list[set[tuple[float, float]]] = [set() for _ in assets]
    for item in items:
        described = odc.stac.parse_item(item)
        for asset, gain in zip(assets, gains, strict=True):
            name = name_of(item, asset)
            try:
                with rasterio.open(address_of(name)) as dataset:
                    count, kind, nodata = (
                        dataset.count,
                        dataset.dtypes[0],
                        dataset.nodata,
                    )
                    gain.add((dataset.scales[0], dataset.offsets[0]))
            except (OSError, rasterio.errors.RasterioError) as error:
                raise unreachable(name, error) from None
            if count > 1 or kind.startswith('complex'):
                what = f'{count} bands' if count > 1 else f'numbers of {kind}'
                raise InputError(
                    f'{name}: has {what}; assets that are put together have one band of '
                    'real numbers each.'
                )
            meta = described[asset].meta
            if nodata is None and meta is not None:
                nodata = meta.nodata
            if nodata is None and _is_sentinel2(item):
                nodata = 0
            kinds.add(kind)
            nothing.add(nodata)
    for asset, gain in zip(assets, gains, strict=True):
        if len(gain) > 1:
            raise InputError(
                f'{items[0].id}: {asset} has another scale or offset at other dates; '
                'they cannot be put together.'
            )
    dtype = np.result_type(*kinds)
    value = nothing.pop() if len(nothing) == 1 else None
    stored: dict[str, Any] = {
        'dtype': np.result_type(dtype, np.float32).name,
        'nodata': np.nan,
    }
    if (
        dtype.kind in 'iu'
        and value is not None
        and float(value).is_integer()
        and in_dtype_range(value, dtype)
    ):
        stored = {'dtype': dtype.name, 'nodata': int(value)}
    return stored, [gain.pop() for gain in gains]


def _median(
    items: Sequence[Any], asset: str, grid: GeoBox, dtype: str, nodata: float
) -> Any:
    """Median of one band over all dates, (H, W) of a type, no data where there is none."""
    import odc.stac

    working = np.result_type(dtype, np.float32)
    dates = []
    for item in items:
        date = np.full(grid.shape, np.nan, working)
        for side in _sides_of_180(grid):
            try:
                loaded = odc.stac.load(
                    [item],
                    bands=[asset],
                    geobox=side,
                    dtype=working.name,
                    nodata=0 if _is_sentinel2(item) else None,
                    resampling='bilinear',
                    patch_url=signed,
                )
            except (OSError, rasterio.errors.RasterioError) as error:
                raise unreachable(item.id, error) from None
            values = loaded[asset].values[0]
            absent = loaded[asset].attrs.get('nodata')
            if absent is not None:
                values = np.where(values == absent, np.nan, values)
            date = np.where(np.isnan(date), values, date)
        dates.append(date + (_offset(item, asset) if dtype == 'uint16' else 0))
    values = np.stack(dates)
    valid = ~np.isnan(values).all(0)
    median = np.zeros(grid.shape, working)
    if valid.any():
        median[valid] = np.nanmedian(values[:, valid], axis=0)
    if np.dtype(dtype).kind in 'iu':
        limits = np.iinfo(dtype)
        median = np.clip(np.rint(median), limits.min, limits.max)
        # A median of two dates may fall on it, and so may a value below the offset.
        median[median == nodata] += 1
    return np.where(valid, median, nodata).astype(dtype)


def _sides_of_180(grid: GeoBox) -> list[GeoBox]:
    """A grid, and where it lies a turn round the Earth away, if it goes beyond 180°."""
    assert grid.crs is not None
    turn = circumference(grid.crs)
    west, east = span(grid)
    if turn is None or (-turn / 2 <= west and east <= turn / 2):
        return [grid]
    moved = -turn if east > turn / 2 else turn
    return [
        grid,
        GeoBox(grid.shape, Affine.translation(moved, 0) * grid.affine, grid.crs),
    ]


def _is_sentinel2(item: Any) -> bool:
    """Whether an item is of Sentinel-2, whose files may not say that 0 is no data."""
    names = *map(item.properties.get, ('platform', 'constellation')), item.collection_id
    return 's2:processing_baseline' in item.properties or any(
        str(name).lower().startswith('sentinel-2') for name in names
    )


def _offset(item: Any, asset: str) -> float:
    """What is to be added to an item's values, so that dates compare.

    Sentinel-2's processing baseline 04.00 (January 2022) added 1000 to every reflectance.
    """
    if asset.lower().startswith(_NO_REFLECTANCE):
        return 0.0
    baseline = str(item.properties.get('s2:processing_baseline', ''))
    applied = item.properties.get('earthsearch:boa_offset_applied', False)
    return -1000.0 if baseline >= '04.00' and not applied else 0.0
