# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""Files of finished tiles, which any process may write and read."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from uuid import uuid4
from zipfile import ZIP_DEFLATED, BadZipFile, ZipFile
from zlib import error as ZlibError

import numpy as np
from numpy.typing import NDArray

from ..datasets.geo.plan import Tile


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary name beside *path* that becomes *path* when the block succeeds.

    The bytes are on the disk before the name is: after a crash, what is called *path*
    is complete or is what it was before. Several processes may write *path* at a time,
    each under a temporary name of its own: the last one stays.

    Args:
        path: The final name.

    Yields:
        The name to write to.
    """
    part = path.with_name(f'{path.name}.{uuid4().hex[:8]}.part')
    try:
        yield part
        with part.open('rb') as file:
            os.fsync(file.fileno())
        os.replace(part, path)
    finally:
        with suppress(FileNotFoundError):
            part.unlink()


class TileFiles:
    """Finished tiles of one work, in a folder that all of its processes see.

    The name of the work is part of each file's name: a straggler of other work, whose
    process was thought to be dead, does not put its tiles among these.

    Args:
        folder: Where the files lie.
        work: Digest of what the work is.
    """

    def __init__(self, folder: Path, work: str) -> None:
        self.folder = folder
        self.work = work[:12]

    def path(self, image: int, tile: Tile) -> Path:
        """File of one tile of the map of image number *image*."""
        return self.folder / f'{image}_{tile.row}_{tile.col}_{self.work}.npz'

    def owns(self, path: Path) -> bool:
        """Whether a file of the folder is a tile of this work."""
        return path.name.endswith(f'_{self.work}.npz')

    def has(self, image: int, tile: Tile) -> bool:
        """Whether a tile is finished, and its file as it was written.

        A damaged file, which a file system may leave behind when its machine stops, is
        removed: the tile is to be made again.
        """
        path = self.path(image, tile)
        try:
            with path.open('rb') as file, np.load(file) as arrays:
                # Reading all of an array compares it with its checksum.
                whole = all(arrays[name].shape[-2:] == tile.shape for name in arrays)
                return whole and len(arrays.files) > 0
        except FileNotFoundError:
            return False
        except _DAMAGED:
            path.unlink(missing_ok=True)
            return False

    def save(self, image: int, tile: Tile, **arrays: NDArray[np.uint8]) -> None:
        """Keep the finished arrays of a tile, each (…, h, w)."""
        # As numpy's savez_compressed, whose level of compression takes four times as long.
        with (
            replacing(self.path(image, tile)) as part,
            ZipFile(part, 'w', ZIP_DEFLATED, compresslevel=1) as file,
        ):
            for name, array in arrays.items():
                with file.open(f'{name}.npy', 'w') as entry:
                    np.lib.format.write_array(entry, array, allow_pickle=False)

    def load(self, image: int, tile: Tile, name: str) -> NDArray[np.uint8]:
        """One of the finished arrays of a tile.

        Raises:
            OSError: If its file is damaged. It is removed then, so that the same work
                again makes the tile again.
        """
        path = self.path(image, tile)
        try:
            with path.open('rb') as file, np.load(file) as arrays:
                return arrays[name]
        except _DAMAGED as error:
            if not isinstance(error, FileNotFoundError):
                path.unlink(missing_ok=True)
            raise OSError(None, 'A finished tile is damaged', str(path)) from error

    def names(self, image: int, tile: Tile) -> set[str]:
        """Names of the arrays of a finished tile."""
        with np.load(self.path(image, tile)) as arrays:
            return set(arrays)


# What numpy and zipfile raise for a file that is cut, empty or overwritten in parts.
_DAMAGED = (OSError, EOFError, ValueError, KeyError, BadZipFile, ZlibError)
