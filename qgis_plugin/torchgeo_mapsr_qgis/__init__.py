# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""torchgeo-mapsr in QGIS: a Processing provider that runs the command."""

from typing import Any


def classFactory(iface: Any) -> Any:
    """QGIS's way into a plugin; *iface* is None without a desktop."""
    from .provider import Plugin

    return Plugin(iface)
