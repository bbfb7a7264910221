# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""Versions of what a map depends on."""

import platform
from functools import cache
from importlib.metadata import PackageNotFoundError, version

import rasterio

from . import __version__

_PACKAGES = (
    'torchgeo',
    'torch',
    'timm',
    'kornia',
    'rasterio',
    'pyproj',
    'odc-geo',
    'numpy',
    'scipy',
)


def versions() -> dict[str, str]:
    """Versions of Python, GDAL and the packages that a map depends on."""
    return dict(_installed())


@cache
def _installed() -> dict[str, str]:
    """Looked up once: nine files of metadata take a tenth of a second."""
    installed = {
        'torchgeo-mapsr': __version__,
        'python': platform.python_version(),
        'gdal': rasterio.__gdal_version__,
    }
    for name in _PACKAGES:
        try:
            installed[name] = version(name)
        except PackageNotFoundError:
            continue
    return installed
