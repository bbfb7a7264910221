# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""Imagery and labels that a STAC catalogue lists.

A search becomes names of items' files, ``stac-item:ADDRESS#ASSET``, which readers take
like paths. A name has the address of the item and no signature: where the file is when
it is opened, :func:`address` asks the item. So any process can open it, a signature that
has run out is renewed, and work that is known by its inputs' names is known again.
"""

import hashlib
import os
import re
import time
from calendar import monthrange
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, quote, unquote, urlsplit
from urllib.request import url2pathname

import numpy as np
import rasterio
import requests
import shapely
from odc.geo.geobox import GeoBox, GeoboxTiles
from odc.geo.geom import box
from rasterio.dtypes import in_dtype_range
from rasterio.transform import Affine
from rasterio.windows import Window
from shapely.geometry.base import BaseGeometry

from ..atomic import replacing
from ..errors import InputError
from ..offline import check_online, is_this_machine
from .geo.aoi import AreaOfInterest
from .geo.degrees import within_180
from .geo.grid import circumference, span

PREFIX = 'stac-item:'

_PLANETARY = 'https://planetarycomputer.microsoft.com/api/stac/v1'

# Seconds for which an item, and its signatures, are taken as they were read.
_FRESH = 600.0

# Part of the area that an item has to add to those before it.
_ADDS = 1e-3

# Pixels of a composite that are loaded at once, for all dates.
_COMPOSITE_TILE = 1024

# Composites of an earlier number had other values (1: uint16 whatever the files held) or
# another extent (2: that of the newest item, at 180°).
_COMPOSITE_VERSION = 3

# Degrees of a side of a composite's box that stay straight in its CRS. Sides of 1° in UTM
# are up to 120 m off their chords: rows of the area were left out; of 0.1° about 1 m.
_SEGMENT = 0.1

# The first instant of any item or search, the last, and that of items without a time.
_EARLIEST = datetime.min.replace(tzinfo=UTC)
_LATEST = datetime.max.replace(tzinfo=UTC)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

# Sentinel-2's assets of 16 bits that are no reflectance; the -jp2 ones, too.
_NO_REFLECTANCE = ('aot', 'wvp')


@dataclass(frozen=True)
class Search:
    """A search in a catalogue.

    Args:
        url: A STAC API, the address or path of a static catalogue, or the path of a
            collection or an item.
        collections: Collections to search.
        datetime: A time or a range, as STAC writes them; None for any.
        assets: Assets of an item: one file, or several that are a band each; empty for
            the one whose role is *data*.
        cloud: Largest cloud cover, in percent.
        limit: Items at most.
        legend: Legend of the classes, where the collection is a map.
        dated: Whether the search makes no sense without a date.
    """

    url: str
    collections: tuple[str, ...] = ()
    datetime: str | None = None
    assets: tuple[str, ...] = ()
    cloud: float | None = None
    limit: int = 500
    legend: str | None = None
    dated: bool = False

    @classmethod
    def parse(cls, text: str, date: str | None = None) -> 'Search':
        """Read a search.

        Args:
            text: ``stac:URL?collections=…&datetime=…&assets=…&cloud=…&limit=…&legend=…``,
                or one of :data:`SHORTHANDS`, with or without options after a question
                mark.
            date: A year, month, day or two of them around a slash; in place of an
                option *datetime*.

        Raises:
            InputError: If an option is unknown or has no such value.

        >>> Search.parse('naip', '2021').datetime
        '2021-01-01T00:00:00Z/2021-12-31T23:59:59Z'
        """
        head, _, query = text.partition('?')
        if head in SHORTHANDS:
            search = SHORTHANDS[head]
        elif head.startswith('stac:'):
            search = cls(head.removeprefix('stac:'))
        else:
            raise InputError(
                f'{text}: a search is stac:URL?collections=NAME or one of '
                f'{", ".join(SHORTHANDS)}.'
            )
        for key, value in parse_qsl(query, keep_blank_values=True):
            try:
                search = replace(search, **{key: _OPTIONS[key](value)})
            except KeyError:
                raise InputError(
                    f'{text}: has no option {key}; there are {", ".join(_OPTIONS)}.'
                ) from None
            except ValueError:
                raise InputError(f'{text}: {key} cannot be {value!r}.') from None
        if date is not None:
            search = replace(search, datetime=date)
        if search.datetime is not None:
            search = replace(search, datetime=_interval(search.datetime))
        elif search.dated:
            raise InputError(f'{text}: give a year or a date with --date.')
        static = not search.url.startswith('http') or search.url.endswith('.json')
        if not search.collections and not static:
            raise InputError(f'{text}: name a collection, as ?collections=NAME.')
        return search

    def items(self, area: AreaOfInterest, dates: bool = False) -> 'tuple[Any, ...]':
        """Find the items of an area, newest first, and only those that add to it.

        Args:
            area: The area.
            dates: Keep all dates of a place.

        Returns:
            Items of pystac. Composites take all of them; for one file a place, those
            that newer ones cover are left out.

        Raises:
            InputError: If the catalogue cannot be reached, or has nothing there.
        """
        items = _search(self, area)
        if not items:
            when = f' of {self.datetime}' if self.datetime else ''
            raise InputError(
                f'{self.url}: has no item of {", ".join(self.collections) or "any kind"}'
                f'{when} in the area.'
            )
        # Of annual maps the one before ends at the instant at which a year begins.
        items = [i for i in items if _lasts_into(i, self.datetime)] or items
        items.sort(key=lambda item: (-_times(item)[0].timestamp(), item.id))
        items = items[: self.limit]
        if dates or len(self.assets) > 1:
            return tuple(items)
        return tuple(_covering(items, area))

    def files(self, area: AreaOfInterest, dates: bool = False) -> tuple[str, ...]:
        """Names of the files of an area, newest first; see :meth:`items`.

        Args:
            area: The area.
            dates: Keep all dates of a place.

        Raises:
            InputError: Also if an item lacks the asset.
        """
        if len(self.assets) > 1:
            raise InputError(
                f'{self.url}: {", ".join(self.assets)} are files of a band each; '
                'they have to be put together first.'
            )
        return tuple(
            name_of(item, _asset(item, self.assets)) for item in self.items(area, dates)
        )


#: Searches in the Planetary Computer's catalogue that have names of their own.
SHORTHANDS = {
    'naip': Search(_PLANETARY, ('naip',), assets=('image',), dated=True),
    'sentinel-2-l2a': Search(
        _PLANETARY,
        ('sentinel-2-l2a',),
        assets=('B02', 'B03', 'B04', 'B08'),
        cloud=20,
        dated=True,
    ),
    'worldcover': Search(
        _PLANETARY,
        ('esa-worldcover',),
        assets=('map',),
        legend='worldcover',
        dated=True,
    ),
    'io-lulc': Search(
        _PLANETARY,
        ('io-lulc-annual-v02',),
        assets=('data',),
        legend='io-lulc',
        dated=True,
    ),
}

_OPTIONS: dict[str, Any] = {
    'collections': lambda text: tuple(text.split(',')),
    'datetime': str,
    'assets': lambda text: tuple(text.split(',')),
    'cloud': lambda text: _at_least(0, float(text)),
    'limit': lambda text: _at_least(1, int(text)),
    'legend': str,
}


def _at_least(least: int, number: Any) -> Any:
    """A number that is not below another, nor NaN; ValueError otherwise."""
    if not number >= least:
        raise ValueError(number)
    return number


def is_search(text: str) -> bool:
    """Whether a text is a search rather than a path: ``stac:…`` or a shorthand."""
    head = text.partition('?')[0]
    return head.startswith('stac:') or (head in SHORTHANDS and not os.path.exists(text))


def resolve(
    text: str, area: AreaOfInterest, date: str | None, folder: Path, stack: bool = False
) -> tuple[tuple[str, ...], str | None]:
    """Files of a search, ready for readers.

    Args:
        text: The search, see :meth:`Search.parse`.
        area: The area.
        date: A date, see :meth:`Search.parse`.
        folder: Where a composite is kept, if one has to be made.
        stack: Take all dates of a place, to be used as bands. A composite is one date.

    Returns:
        Names of files, and the legend of their classes, if they are a map.

    Raises:
        InputError: If the search cannot be done, or finds nothing.
    """
    search = Search.parse(text, date)
    if len(search.assets) <= 1:
        return search.files(area, stack), search.legend
    items = search.items(area)
    names = [name_of(item, asset) for item in items for asset in search.assets]
    parts = [(name, etag(name)) for name in names]
    made_of = _COMPOSITE_VERSION, parts, area.fingerprint()
    key = hashlib.sha256(repr(made_of).encode()).hexdigest()[:16]
    path = folder / f'composite-{key}.tif'
    if not path.exists():
        composite(items, search.assets, area, path)
    return (str(path),), search.legend


def name_of(item: Any, asset: str) -> str:
    """Name of a file by its item: ``stac-item:ADDRESS#ASSET``."""
    href = item.get_self_href()
    if href is None:
        raise InputError(f'item {item.id}: says not where it is itself (no link self).')
    # An item's own address is the same for ever; a signature in it is not.
    return f'{PREFIX}{href.partition("?")[0]}#{quote(asset)}'


def address(name: str) -> str:
    """Where a file is now, as GDAL opens it, with a signature if it needs one.

    Args:
        name: A name that :func:`name_of` made; any other path is returned as it is.

    Returns:
        A path or an address.

    Raises:
        InputError: If the item cannot be read, or has no such asset.
    """
    href = _href(name)
    return f'/vsicurl/{href}' if href.startswith(('http:', 'https:')) else href


def etag(name: str) -> str:
    """What changes when a file does.

    Its ETag; size and time of a local file; of one in a cloud's storage what the item
    says (*file:checksum* or *updated*), or nothing but where it is.

    Args:
        name: A name that :func:`name_of` made.

    Raises:
        InputError: If the file cannot be reached.
    """
    href = _href(name)
    if not href.startswith(('http:', 'https:')):
        return _stamp(name, href)
    try:
        # Not HEAD: a signature may be for GET alone.
        with requests.get(
            href, headers={'Range': 'bytes=0-0'}, timeout=60, stream=True
        ) as answer:
            answer.raise_for_status()
            headers = answer.headers
    except requests.RequestException as error:
        raise _unreachable(name, error) from None
    return headers.get('ETag') or headers.get('Last-Modified', '')


def _stamp(name: str, href: str) -> str:
    """What changes when a file does that no web server has."""
    if not href.startswith('/vsi') and '://' not in href:
        try:
            status = os.stat(href)
        except OSError as error:
            raise _unreachable(name, error) from None
        return f'{status.st_size} {status.st_mtime_ns}'
    if not name.startswith(PREFIX):
        return href
    item, asset = _item_and_asset(name)
    said = asset.extra_fields.get('file:checksum') or asset.extra_fields.get('updated')
    return f'{href} {said or item.properties.get("updated", "")}'


def forget(name: str) -> None:
    """Ask the item again for the next address: a signature has run out."""
    _read_item.cache_clear()


def composite(
    items: Sequence[Any], assets: Sequence[str], area: AreaOfInterest, path: Path
) -> None:
    """Write the median of several dates, in the pixels of the newest item.

    No data is left out of the median; where every date has none, so has the composite.
    It keeps the files' type and their no-data value. Floats, and integers of several
    no-data values or without one, become floats with NaN. Memory is that of one window
    of all dates.

    Args:
        items: Items whose bands are assets of their own.
        assets: The bands.
        area: The area; the file is its bounding box.
        path: File to write. It is there when it is complete.

    Raises:
        InputError: If the items cannot be read, or one median cannot hold them: an
            asset has several bands, or complex numbers, or another scale at each date.
    """
    import odc.stac

    stored, gains = _stored(items, assets)

    place = box(*area.bounds, 'EPSG:4326').segmented(_SEGMENT)
    grid: GeoBox | None = odc.stac.output_geobox(
        list(odc.stac.parse_items(items[:1])), bands=list(assets), geopolygon=place
    )
    if grid is None:
        # The item says nothing of its projection: its first file does.
        with rasterio.open(address(name_of(items[0], assets[0]))) as dataset:
            first = GeoBox(dataset.shape, dataset.transform, dataset.crs)
        grid = first.enclosing(place)
    tiles = GeoboxTiles(grid, (_COMPOSITE_TILE, _COMPOSITE_TILE))
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
                with rasterio.open(address(name)) as dataset:
                    count, kind, nodata = (
                        dataset.count,
                        dataset.dtypes[0],
                        dataset.nodata,
                    )
                    gain.add((dataset.scales[0], dataset.offsets[0]))
            except (OSError, rasterio.errors.RasterioError) as error:
                raise _unreachable(name, error) from None
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
                    patch_url=_opened,
                )
            except (OSError, rasterio.errors.RasterioError) as error:
                raise _unreachable(item.id, error) from None
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
        median[median == nodata] += 1  # between two dates, or less than the offset
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


def _search(search: Search, area: AreaOfInterest) -> list[Any]:
    """Items that meet an area."""
    try:
        import pystac
        import pystac_client
    except ModuleNotFoundError:
        raise InputError(
            "A STAC search needs further packages: pip install 'torchgeo-mapsr[stac]'"
        ) from None
    outline = area.geometry_in_degrees
    try:
        parts = urlsplit(search.url)
        if parts.scheme in ('http', 'https') and not is_this_machine(parts.hostname):
            check_online(f'The catalogue {search.url}')
        static: Any = pystac.read_file(search.url)
        if 'conformsTo' in static.extra_fields:
            catalog = pystac_client.Client.open(search.url)
            if catalog.conforms_to('ITEM_SEARCH'):
                found: dict[tuple[str | None, str], Any] = {}
                # Large polygons do not fit into a request; their boxes do.
                for side in _sides(outline):
                    pages = catalog.search(
                        collections=list(search.collections),
                        datetime=search.datetime,
                        bbox=list(side.bounds),
                    )
                    for item in _first(pages.items(), search, outline):
                        found[item.collection_id, item.id] = item
                return list(found.values())
        listed: Iterable[Any]
        if isinstance(static, pystac.Catalog):  # or a collection, which is one
            listed = static.get_items(recursive=True)
            if {link.rel for link in static.links} & {'items', 'item'} == {'items'}:
                root = static.get_root_link()
                raise InputError(
                    f'{search.url}: is a collection of an API; name both, as '
                    f'stac:{root.href if root else "URL"}?collections={static.id}'
                )
        else:
            listed = [static]
        return [
            item
            for item in listed
            if (not search.collections or item.collection_id in search.collections)
            and _within(item, search.datetime)
            and _passes(item, search, outline)
        ]
    except InputError:
        raise
    except Exception as error:  # noqa: BLE001
        # urllib, requests, pystac and pystac-client raise what they like.
        raise _unreachable(search.url, error) from None


def _first(items: Iterable[Any], search: Search, outline: BaseGeometry) -> list[Any]:
    """As many of the items of an API that pass as a search takes; no page beyond them."""
    taken, left = [], search.limit
    for item in items:
        if _passes(item, search, outline):
            taken.append(item)
            left -= _lasts_into(item, search.datetime)
            if left <= 0:
                break
    return taken


def _passes(item: Any, search: Search, outline: BaseGeometry) -> bool:
    """Whether an item meets an area, and is not too cloudy as far as it says."""
    cloud = item.properties.get('eo:cloud_cover')
    if search.cloud is not None and cloud is not None and cloud > search.cloud:
        return False
    return item.geometry is None or bool(shapely.intersects(_footprint(item), outline))


def _footprint(item: Any) -> BaseGeometry:
    """An item's footprint in longitudes from -180 to 180.

    Some are not cut there, and seem to go round the Earth the long way; but the west of
    their box is above its east.
    """
    shape = shapely.geometry.shape(item.geometry)
    box = item.bbox or ()
    if box and box[0] > box[len(box) // 2]:
        shape = shapely.transform(shape, lambda p: p + (p[:, :1] < 0) * [360, 0])
    return within_180(shapely.make_valid(shape))


def _sides(outline: BaseGeometry) -> list[BaseGeometry]:
    """An outline in degrees, in two where one box would go round the Earth the long way."""
    west, _, east, _ = outline.bounds
    if east - west <= 180:
        return [outline]
    halves = [
        outline.intersection(shapely.box(0, -90, 180, 90)),
        outline.intersection(shapely.box(-180, -90, 0, 90)),
    ]
    return [half for half in halves if half.area > 0]


def _within(item: Any, interval: str | None) -> bool:
    """Whether an item's interval and another have an instant in common, as in APIs."""
    first, last = _ends(interval)
    start, end = _times(item)
    return start <= last and end >= first


def _lasts_into(item: Any, interval: str | None) -> bool:
    """Whether an item does more than end as an interval begins."""
    first, _ = _ends(interval)
    start, end = _times(item)
    return start >= first or end > first


def _ends(interval: str | None) -> tuple[datetime, datetime]:
    """Begin and end of an interval as STAC writes it; None is any time."""
    start, _, end = (interval or '..').partition('/')
    return (
        _EARLIEST if start in ('', '..') else _parse(start),
        _LATEST if end in ('', '..') else _parse(end),
    )


def _covering(items: Sequence[Any], area: AreaOfInterest) -> list[Any]:
    """Items, in their order, that each add to the area that those before cover."""
    left = area.geometry_in_degrees
    enough = _ADDS * shapely.area(left)
    chosen = []
    for item in items:
        if item.geometry is None:
            chosen.append(item)
            continue
        footprint = _footprint(item)
        if shapely.area(shapely.intersection(left, footprint)) > enough:
            chosen.append(item)
            left = shapely.difference(left, footprint)
    return chosen or list(items[:1])


def _asset(item: Any, names: Sequence[str]) -> str:
    """The asset of an item that is read."""
    keys = list(item.assets)
    if names:
        if names[0] not in keys:
            raise InputError(
                f'item {item.id}: has no asset {names[0]}; there are {", ".join(keys)}.'
            )
        return names[0]
    rasters = [
        key for key, asset in item.assets.items() if 'data' in (asset.roles or ())
    ] or [
        key for key, asset in item.assets.items() if 'tiff' in (asset.media_type or '')
    ]
    if len(rasters) != 1:
        raise InputError(
            f'item {item.id}: name an asset with ?assets=, of {", ".join(keys)}.'
        )
    return rasters[0]


def _href(name: str) -> str:
    """Where a file is now: an address with its signature, or a path."""
    if not name.startswith(PREFIX):
        return name
    _, asset = _item_and_asset(name)
    return _opened(str(asset.get_absolute_href()))


def _item_and_asset(name: str) -> tuple[Any, Any]:
    """The item and the asset of a name."""
    where, _, asset = name.removeprefix(PREFIX).rpartition('#')
    item = _read_item(where, int(time.monotonic() / _FRESH))
    key = unquote(asset)
    if key not in item.assets:
        raise InputError(f'{where}: has no asset {key}.')
    return item, item.assets[key]


@lru_cache(maxsize=4096)
def _read_item(where: str, period: int) -> Any:
    """An item by its address; read again in each period."""
    try:
        import pystac

        return pystac.Item.from_file(where)
    except ModuleNotFoundError:
        raise InputError(
            "A STAC item needs further packages: pip install 'torchgeo-mapsr[stac]'"
        ) from None
    except Exception as error:  # noqa: BLE001
        raise _unreachable(where, error) from None


def _opened(href: str) -> str:
    """An asset's address as it is opened: signed, or a path if it is file://."""
    if href.startswith('file:'):
        return url2pathname(urlsplit(href).path)
    return _signed(href)


def _signed(href: str) -> str:
    """Sign an address of the Planetary Computer's storage; any other needs no signature."""
    host = urlsplit(href).hostname or ''
    if not host.endswith('.blob.core.windows.net') or 'sig=' in href:
        return href
    import planetary_computer

    signed: str = planetary_computer.sign(href)
    return signed


def _unreachable(name: str, error: BaseException) -> InputError:
    """One line, without the signature that addresses in it may carry."""
    reason = re.sub(r'\?\S*', '', ' '.join(str(error).split()))
    return InputError(
        f'{name}: cannot be reached or read ({reason or type(error).__name__})'
    )


def _times(item: Any) -> tuple[datetime, datetime]:
    """Start and end of an item: its interval, or twice its own time."""
    times = item.common_metadata.start_datetime, item.common_metadata.end_datetime
    known = [
        time if time.tzinfo else time.replace(tzinfo=UTC)
        for time in (times if all(times) else (item.datetime, *times))
        if time is not None
    ]
    return (known[0], known[-1]) if known else (_EPOCH, _EPOCH)


def _parse(text: str) -> datetime:
    when = datetime.fromisoformat(text)
    return when if when.tzinfo else when.replace(tzinfo=UTC)


def _interval(text: str) -> str:
    """A year, month, day, time or two of them as STAC's interval of times.

    Raises:
        InputError: If it is none of them.
    """
    if '/' in text:
        start, _, end = text.partition('/')
        first = start if start in ('', '..') else _interval(start).partition('/')[0]
        last = end if end in ('', '..') else _interval(end).partition('/')[2]
        return f'{first or ".."}/{last or ".."}'
    match = re.fullmatch(r'(\d{4})(?:-(\d\d))?(?:-(\d\d))?', text)
    try:
        if match is None:
            when = _parse(text).astimezone(UTC).strftime('%Y-%m-%dT%H:%M:%SZ')
            return f'{when}/{when}'
        year, month, day = (int(part) if part else None for part in match.groups())
        assert year is not None
        first_month, last_month = (1, 12) if month is None else (month, month)
        days = monthrange(year, last_month)[1]
        starts_at, last_day = (1, days) if day is None else (day, day)
        first_day = datetime(year, first_month, starts_at).date()
        return (
            f'{first_day.isoformat()}T00:00:00Z/'
            f'{datetime(year, last_month, last_day).date().isoformat()}T23:59:59Z'
        )
    except ValueError:
        raise InputError(
            f'{text} is no date: give a year, 2021-05, 2021-05-30 or two around a slash.'
        ) from None
