# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""Imagery and labels that a STAC catalogue lists.

A search becomes names of items' files, which readers take like paths
(:mod:`.geo.assets`), or one composite of them (:mod:`.composite`).
"""

import os
import re
from calendar import monthrange
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import shapely
from shapely.geometry.base import BaseGeometry

from ..errors import InputError
from ..offline import check_online, is_this_machine
from .composite import composite
from .geo.aoi import AreaOfInterest
from .geo.assets import name_of, unreachable
from .geo.degrees import within_180

_PLANETARY = 'https://planetarycomputer.microsoft.com/api/stac/v1'

# Part of the area that an item has to add to those before it.
_ADDS = 1e-3

# The first instant of any item or search, the last, and that of items without a time.
_EARLIEST = datetime.min.replace(tzinfo=UTC)
_LATEST = datetime.max.replace(tzinfo=UTC)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


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
    path = composite(search.items(area), search.assets, area, folder)
    return (str(path),), search.legend


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
        raise unreachable(search.url, error) from None


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
