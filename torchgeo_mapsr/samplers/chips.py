# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""Chips that lie in the tiles of a dataset."""

from collections.abc import Iterator

import torch
from torch import Generator
from torchgeo.samplers import GeoSampler

from ..datasets.base import ChipDataset
from ..datasets.geo.grid import crop, starts

Query = tuple[slice, slice]


class ChipSampler(GeoSampler):
    """Sample each tile in its own pixels: all of it once, or at random.

    torchgeo's samplers work too, but skip tiles that are hardly larger than a chip, or
    lay their lattice over gaps between tiles. Here a chip lies in its tile where the
    tile is as large as a chip; a smaller tile is one chip, padded.

    Args:
        dataset: What to sample from.
        size: Height and width of a chip, in pixels.
        stride: Pixels between chips (default: *size*). The last chip of a row or column
            is moved back into the tile.
        length: Number of random chips in an epoch, from tiles by their area; None for
            all chips in order.
        generator: Random numbers (default: PyTorch's).
    """

    def __init__(
        self,
        dataset: ChipDataset,
        size: int,
        stride: int | None = None,
        length: int | None = None,
        generator: Generator | None = None,
    ) -> None:
        self.dataset = dataset
        self.size = size
        self.stride = stride or size
        self.length = length
        self.generator = generator

    def __iter__(self) -> Iterator[Query]:
        """Yield xmin:xmax, ymin:ymax in the CRS of the dataset."""
        for tile, top, left in self._random() if self.length else self._all():
            box = top, left, top + self.size, left + self.size
            yield self.dataset.query(crop(self.dataset.tiles[tile], box))

    def __len__(self) -> int:
        """Number of chips in an epoch."""
        return self.length or sum(1 for _ in self._all())

    def _all(self) -> Iterator[tuple[int, int, int]]:
        for tile, grid in enumerate(self.dataset.tiles):
            for top in starts(grid.height, self.size, self.stride):
                for left in starts(grid.width, self.size, self.stride):
                    yield tile, top, left

    def _random(self) -> Iterator[tuple[int, int, int]]:
        grids = self.dataset.tiles
        areas = torch.tensor([float(grid.width * grid.height) for grid in grids])
        for _ in range(self.length or 0):
            tile = int(torch.multinomial(areas, 1, generator=self.generator))
            top, left = (
                int(
                    torch.randint(
                        max(pixels - self.size, 0) + 1, (), generator=self.generator
                    )
                )
                for pixels in grids[tile].shape
            )
            yield tile, top, left
