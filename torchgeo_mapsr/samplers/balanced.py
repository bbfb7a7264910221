# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""Random chips in which rare LR classes are as frequent as common ones."""

from collections.abc import Iterator

import numpy as np
import pandas
import torch
from numpy.typing import NDArray
from shapely import Polygon
from torch import Generator, Tensor

from ..arguments import check_range
from ..datasets.base import ChipDataset, Tile
from ..datasets.geo.grid import crop
from ..datasets.legends.legend import Legend
from ..errors import InputError
from .chips import Query, RandomSampler, query_of, tiles_of


class BalancedChipSampler(RandomSampler):
    """Sample chips inversely to the frequency of their LR classes.

    "Patches were sampled inversely to the frequency of occurrence of their NLCD
    classes" (Malkin et al. 2019, appendix A). A chip is drawn in three steps: an LR
    class by its frequency f as f^(1 − balance), one of its cells, all alike, and one of
    the chips that hold the cell's centre. So a chip's chance is about the sum of
    f^(−balance) over its cells: with 1 every class is drawn equally often, with 0 this
    is area that counts, as in :class:`~torchgeo_mapsr.samplers.ChipSampler`.

    A class of a handful of cells, or a code that is an error, is drawn as often as any
    other: with noisy labels take a *balance* below 1.

    Args:
        dataset: What to sample from; its LR labels are read once, here.
        size: Height and width of a chip, in pixels.
        length: Number of chips in an epoch.
        balance: Exponent of the inverse frequency, 0 to 1.
        legend: Whose codes count (default: that of *dataset*; without one all codes).
        generator: Random numbers (default: PyTorch's).
        roi: Region of interest, in the CRS of the dataset.
        toi: Time of interest.

    Raises:
        InputError: There is no chip, no LR label, or an argument is out of its range.
    """

    def __init__(
        self,
        dataset: ChipDataset,
        size: int,
        length: int,
        balance: float = 1.0,
        legend: Legend | None = None,
        generator: Generator | None = None,
        roi: Polygon | None = None,
        toi: pandas.Interval | None = None,
    ) -> None:
        check_range('size', size, 1, whole=True)
        check_range('length', length, 1, whole=True)
        check_range('balance', balance, 0, 1)
        if not isinstance(dataset, ChipDataset):
            raise InputError(
                f'{type(dataset).__name__} has no LR cells to balance; give the dataset '
                'of this package that it is made of'
            )
        self.dataset, self.size, self.length = dataset, size, length
        self.balance, self.generator = balance, generator
        self.tiles = tiles_of(dataset, roi, toi, length)
        legend = legend or dataset.legend
        cells = [_cells(dataset, tile) for tile in self.tiles]
        codes = np.unique(np.concatenate([[-1], *(codes for codes, _ in cells)]))
        codes = codes[codes >= 0]
        if legend is not None:
            codes = codes[legend.index(codes) >= 0]
        if not codes.size:
            raise InputError(
                'there is no LR label of a class of the legend to balance: give labels of '
                'the place of the imagery, or leave balance at 0'
            )
        #: codes of the LR classes that occur, (L,)
        self.codes = torch.from_numpy(codes)
        # By tile: places (row, column) of the cells, sorted by class; and (tiles, L)
        # numbers of them.
        self._places: list[Tensor] = []
        counts = []
        for labels, places in cells:
            order = np.argsort(labels, kind='stable')
            order = order[np.isin(labels[order], codes)]
            self._places.append(torch.from_numpy(places[:, order]).T)
            counts.append([(labels == code).sum() for code in codes])
        self._counts = torch.tensor(np.array(counts), dtype=torch.float64)

    @property
    def frequency(self) -> Tensor:
        """Share of the cells that each of :attr:`codes` has, (L,) float64."""
        return self._counts.sum(0) / self._counts.sum()

    def __iter__(self) -> Iterator[Query]:
        """Yield xmin:xmax, ymin:ymax, tmin:tmax in the CRS of the dataset."""
        chance = self.frequency ** (1 - self.balance)
        for _ in range(self.length):
            kind = self._draw(chance)
            number = self._draw(self._counts[:, kind])
            first = int(self._counts[number, :kind].sum())
            place = first + self._below(int(self._counts[number, kind]))
            tile = self.tiles[number]
            top, left = (
                self._start(float(centre), pixels)
                for centre, pixels in zip(
                    self._places[number][place], tile.grid.shape, strict=True
                )
            )
            box = top, left, top + self.size, left + self.size
            yield query_of(self.dataset, crop(tile.grid, box), tile)

    def __len__(self) -> int:
        """Number of chips in an epoch."""
        return self.length

    def _start(self, centre: float, pixels: int) -> int:
        """First row of a chip that holds one, in a tile of so many."""
        last = max(pixels - self.size, 0)
        low = min(max(int(centre) - self.size + 1, 0), last)
        return low + self._below(min(int(centre), last) - low + 1)

    def _draw(self, chance: Tensor) -> int:
        return int(torch.multinomial(chance, 1, generator=self.generator))

    def _below(self, n: int) -> int:
        return int(torch.randint(n, (), generator=self.generator))


def _cells(
    dataset: ChipDataset, tile: Tile
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """LR cells of a tile, see :meth:`ChipDataset.lr_cells`, where it has a pixel."""
    codes, places = dataset.lr_cells(tile)
    if tile.full:
        return codes, places
    # A cell's centre may lie in the geometry, and the centre of its pixel outside.
    row, col = np.floor(places) + 0.5
    inside = dataset.contains(tile.geometry, tile.grid, row, col)
    return codes[inside], places[:, inside]
