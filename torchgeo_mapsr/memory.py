# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""Memory that this process holds and does not use."""

import ctypes
import os
from contextlib import suppress

# M_ARENA_MAX of glibc's malloc.h.
_ARENAS = -8


def frugal() -> None:
    """Have this process hold little of it.

    GDAL's own cache is a share of all memory: it would grow with the raster. And the C
    library of Linux gives each thread an arena of its own, whose free memory no other
    thread uses.
    """
    os.environ.setdefault('GDAL_CACHEMAX', '16')
    # Elsewhere there is no such function.
    with suppress(AttributeError, OSError, TypeError):
        ctypes.CDLL(None).mallopt(_ARENAS, 1)


def give_back() -> None:
    """Give free memory between what is used back to the system.

    Chips come and go between what stays for a whole tile: without this, tens of
    megabytes of gaps stay as well.
    """
    with suppress(AttributeError, OSError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)
