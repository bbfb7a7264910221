# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""Finished tiles as files of a folder, each with a checksum."""

import hashlib
import os
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load as deserialise
from safetensors.numpy import save as serialise

from ..atomic import PART, replacing
from ..datasets.geo.plan import Tile


class TileFiles:
    """Finished tiles of one work, in a folder that all of its processes see.

    A file is a compressed safetensors file, and the SHA-256 of that behind it. (numpy
    reads the header of an .npz through Python's own parser, whose nodes two threads of
    CPython 3.11.7 counted wrongly: one map in some thousands ended in a SystemError.)

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
        return self.folder / f'{image}_{tile.row}_{tile.col}_{self.work}.tile'

    def owns(self, path: Path) -> bool:
        """Whether a file of the folder is a tile of this work."""
        return path.name.endswith(f'_{self.work}.tile') and not PART.match(path.name)

    def has(self, image: int, tile: Tile) -> bool:
        """Whether a tile is finished, and its file as it was written.

        A damaged file, which a file system may leave behind when its machine stops, is
        removed: the tile is to be made again.
        """
        path = self.path(image, tile)
        try:
            arrays = _arrays(path)
            if arrays and all(a.shape[-2:] == tile.shape for a in arrays.values()):
                return True
        except FileNotFoundError:
            return False
        except OSError:
            pass
        path.unlink(missing_ok=True)
        return False

    def finished(self, image: int, tiles: Sequence[Tile]) -> list[tuple[int, int]]:
        """Rows and columns of those of some tiles that are finished, as :meth:`has` says.

        Args:
            image: Number of the map.
            tiles: Tiles of it. If they are many, the folder is listed, and only those
                that are there are asked for: a file system answers that sooner.
        """
        if len(tiles) > 64:
            present = set(self.places().get(image, ()))
            if not present:
                return []
            tiles = [tile for tile in tiles if (tile.row, tile.col) in present]
        return [(tile.row, tile.col) for tile in tiles if self.has(image, tile)]

    def places(self) -> dict[int, list[tuple[int, int]]]:
        """Rows and columns of the tiles that have a file, by number of the map."""
        places: dict[int, list[tuple[int, int]]] = {}
        if not self.folder.is_dir():
            return places
        with os.scandir(self.folder) as entries:
            for entry in entries:
                if self.owns(Path(entry.name)) and entry.name[0].isdigit():
                    image, row, col = map(int, entry.name.split('_')[:3])
                    places.setdefault(image, []).append((row, col))
        return places

    def save(self, image: int, tile: Tile, **arrays: NDArray[np.uint8]) -> None:
        """Keep the finished arrays of a tile, each (…, h, w)."""
        contiguous = {name: np.ascontiguousarray(a) for name, a in arrays.items()}
        # zlib's usual level of compression takes four times as long.
        body = zlib.compress(serialise(contiguous), 1)
        with replacing(self.path(image, tile)) as part, part.open('wb') as target:
            target.write(body)
            target.write(hashlib.sha256(body).digest())

    def load(self, image: int, tile: Tile, name: str) -> NDArray[np.uint8]:
        """One of the finished arrays of a tile.

        Raises:
            OSError: If its file is damaged. It is removed then, so that the same work
                again makes the tile again.
        """
        path = self.path(image, tile)
        try:
            return _arrays(path)[name]
        except (OSError, KeyError) as error:
            if not isinstance(error, FileNotFoundError):
                path.unlink(missing_ok=True)
            raise OSError(None, 'A finished tile is damaged', str(path)) from error

    def names(self, image: int, tile: Tile) -> set[str]:
        """Names of the arrays of a finished tile.

        Raises:
            OSError: If its file is damaged.
        """
        return set(_arrays(self.path(image, tile)))


def _arrays(path: Path) -> dict[str, NDArray[np.uint8]]:
    """All arrays of a file, compared with its checksum.

    Raises:
        OSError: If they are not as they were written.
    """
    content = path.read_bytes()
    body, checksum = content[:-32], content[-32:]
    if hashlib.sha256(body).digest() != checksum:
        raise OSError(None, 'A finished tile is damaged', str(path))
    arrays: dict[str, NDArray[np.uint8]] = deserialise(zlib.decompress(body))
    return arrays
