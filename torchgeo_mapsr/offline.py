# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""Runs that must not use the network."""

import ipaddress
import os
import re
import socket
import sys
import urllib.request
from typing import Any

from .errors import InputError

#: Set to 1, this process and its children use no network.
VARIABLE = 'TORCHGEO_MAPSR_OFFLINE'

# What keeps libraries from trying. GDAL has no switch for it: no file name is allowed
# behind /vsicurl, and other requests go to a proxy where nothing listens.
_SETTINGS = {
    VARIABLE: '1',
    'HF_HUB_OFFLINE': '1',
    'HF_DATASETS_OFFLINE': '1',
    'PROJ_NETWORK': 'OFF',
    'CPL_VSIL_CURL_ALLOWED_EXTENSIONS': '.offline',
    'GDAL_HTTP_PROXY': 'http://127.0.0.1:9',
    'GDAL_HTTPS_PROXY': 'http://127.0.0.1:9',
    'GDAL_HTTP_MAX_RETRY': '0',
}

# Files that GDAL opens over the network.
_REMOTE = re.compile(
    r'(https?|ftp|s3|gs|az|abfss?|oss|swift)://'
    r'|/vsi(curl|s3|gs|az|adls|oss|swift|webhdfs|hdfs)[/_?]',
    re.IGNORECASE,
)

# A proxy on this machine leads to the network, and the guard allows local addresses.
_PROXIES = ('http_proxy', 'https_proxy', 'ftp_proxy', 'all_proxy')

_guarded = False


def forbid_network() -> None:
    """Forbid this process, and those that it starts, all use of the network.

    Whatever asks for another machine (Hugging Face's hub, torch.hub, timm, GDAL, a STAC
    catalogue, a Dask scheduler) ends in an :class:`~torchgeo_mapsr.errors.InputError` of
    one line. This machine's own addresses stay: the workers of ``--executor dask`` are
    asked there. A proxy that the environment names, on this machine or elsewhere, is no
    longer named. It cannot be taken back.

    The command line's ``--offline`` and the environment variable
    ``TORCHGEO_MAPSR_OFFLINE=1`` do the same.

    >>> from torchgeo_mapsr.offline import is_offline
    >>> is_offline()
    False
    """
    global _guarded
    os.environ.update(_SETTINGS)
    for name in _PROXIES:
        os.environ.pop(name, None)
        os.environ.pop(name.upper(), None)
    # urllib keeps an opener for later calls, with the proxies of the first one.
    urllib.request.install_opener(None)  # type: ignore[arg-type]
    constants: Any = sys.modules.get('huggingface_hub.constants')
    if constants is not None:
        constants.HF_HUB_OFFLINE = True
    if not _guarded:
        _guarded = True
        sys.addaudithook(_guard)


def heed_variable() -> None:
    """Forbid the network if the environment says so: in workers too, that inherit it."""
    if is_offline():
        forbid_network()


def is_offline() -> bool:
    """Whether the network is forbidden."""
    return os.environ.get(VARIABLE, '') not in ('', '0')


def check_online(what: str) -> None:
    """Make sure that the network may be used.

    Args:
        what: What it is used for, the beginning of the message.

    Raises:
        InputError: It is forbidden.
    """
    if is_offline():
        raise InputError(
            f'{what} needs the network, which is forbidden (--offline or {VARIABLE}): '
            'give a file on this machine, or allow it'
        )


def check_file(path: str) -> None:
    """Make sure that a raster needs no network that is forbidden.

    Args:
        path: A path, or an address that GDAL opens.

    Raises:
        InputError: It does.
    """
    if is_offline() and _REMOTE.search(path):
        check_online(path)


def is_this_machine(host: str | None) -> bool:
    """Whether an address is one of this machine, without asking a name server.

    Args:
        host: A name or a number; None for any of this machine.
    """
    if host in (None, '', 'localhost', socket.gethostname()):
        return True
    try:
        address = ipaddress.ip_address(str(host).partition('%')[0])
    except ValueError:
        return False
    return address.is_loopback or address.is_unspecified


def _guard(event: str, args: tuple[Any, ...]) -> None:
    """Refuses connections to other machines, whichever library makes them."""
    if event == 'socket.connect':
        connection, address = args
        # A datagram socket sends nothing when it is connected.
        if connection.type & socket.SOCK_STREAM != socket.SOCK_STREAM:
            return
        if isinstance(address, tuple) and is_offline():
            _refuse(address[0])
    elif event in ('socket.getaddrinfo', 'socket.gethostbyname') and is_offline():
        _refuse(args[0])


def _refuse(host: Any) -> None:
    name = host.decode(errors='replace') if isinstance(host, bytes) else host
    if not is_this_machine(name):
        check_online(f'A connection to {name}')
