# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""Files that items of a STAC catalogue list as their assets.

A file is named ``stac-item:ADDRESS#ASSET``, and readers take the name like a path. It has
the address of the item and no signature: where the file is when it is opened,
:func:`address_of` asks the item. So any process can open it, a signature that has run out
is renewed, and work that is known by its inputs' names is known again.
"""

import os
import re
import time
from functools import lru_cache
from typing import Any
from urllib.parse import quote, unquote, urlsplit
from urllib.request import url2pathname

from ...errors import InputError
from .names import PathLike

#: Names of files in a STAC catalogue begin so.
CATALOGUED = 'stac-item:'

# Seconds for which an item, and its signatures, are taken as they were read.
_FRESH = 600.0


def name_of(item: Any, asset: str) -> str:
    """Name of a file by its item: ``stac-item:ADDRESS#ASSET``."""
    href = item.get_self_href()
    if href is None:
        raise InputError(f'item {item.id}: says not where it is itself (no link self).')
    # An item's own address is the same for ever; a signature in it is not.
    return f'{CATALOGUED}{href.partition("?")[0]}#{quote(asset)}'


def address_of(path: PathLike) -> str:
    """Where GDAL opens a raster: its path, but for a file in a STAC catalogue.

    Args:
        path: A path, an address, or a name of :func:`name_of`.

    Returns:
        The path as text; of a catalogue's file where it is now, with a signature if it
        needs one.

    Raises:
        InputError: If the item cannot be read, or has no such asset.
    """
    name = os.fspath(path)
    if not name.startswith(CATALOGUED):
        return name
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
    import requests

    try:
        # Not HEAD: a signature may be for GET alone.
        with requests.get(
            href, headers={'Range': 'bytes=0-0'}, timeout=60, stream=True
        ) as answer:
            answer.raise_for_status()
            headers = answer.headers
    except requests.RequestException as error:
        raise unreachable(name, error) from None
    return headers.get('ETag') or headers.get('Last-Modified', '')


def forget() -> None:
    """Ask items again for the next address: a signature has run out."""
    _read_item.cache_clear()


def signed(href: str) -> str:
    """An asset's address as it is opened: a path if it is ``file://``.

    Addresses of the Planetary Computer's storage are signed, others need no signature.

    Args:
        href: What the item says.
    """
    parts = urlsplit(href)
    if parts.scheme == 'file':
        return url2pathname(parts.path)
    host = parts.hostname or ''
    if not host.endswith('.blob.core.windows.net') or 'sig=' in href:
        return href
    import planetary_computer

    address: str = planetary_computer.sign(href)
    return address


def unreachable(name: str, error: BaseException) -> InputError:
    """What is raised for an address: a line without the signatures that it may carry.

    Args:
        name: What cannot be read.
        error: Why.
    """
    reason = re.sub(r'\?\S*', '', ' '.join(str(error).split()))
    return InputError(
        f'{name}: cannot be reached or read ({reason or type(error).__name__})'
    )


def _stamp(name: str, href: str) -> str:
    """What changes when a file does that no web server has."""
    if not href.startswith('/vsi') and '://' not in href:
        try:
            status = os.stat(href)
        except OSError as error:
            raise unreachable(name, error) from None
        return f'{status.st_size} {status.st_mtime_ns}'
    item, asset = _item_and_asset(name)
    said = asset.extra_fields.get('file:checksum') or asset.extra_fields.get('updated')
    return f'{href} {said or item.properties.get("updated", "")}'


def _href(name: str) -> str:
    """Where a file is now: an address with its signature, or a path."""
    _, asset = _item_and_asset(name)
    return signed(str(asset.get_absolute_href()))


def _item_and_asset(name: str) -> tuple[Any, Any]:
    """The item and the asset of a name."""
    where, _, asset = name.removeprefix(CATALOGUED).rpartition('#')
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
        raise unreachable(where, error) from None
