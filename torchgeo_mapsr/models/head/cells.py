# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""What a fit looks at: features of LR cells, and of some of their pixels."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import torch
from scipy.ndimage import find_objects
from torch import Tensor

from ...datasets.chip import Chip
from ...datasets.geo.grid import common
from ...errors import InputError
from ...process import give_back
from ..tokens.tokens import Tokens

#: Share of a cell that must be seen for its features to stand for its label. Cells that
#: an edge cuts are a fifth of those of a small area: without them, quarters of two scenes
#: were below a copy of their labels that are not with them, and single classes had none.
SEEN = 0.5

#: Share of a cell that is all of it, but for what the estimate of its pixels may miss.
WHOLE = 0.999

#: Pixels whose features are copied at once: a copy of all would double the memory.
ROWS = 4096

#: Side, in cells, of the blocks that cross-validation holds out.
BLOCK = 3

#: Cells that a fit takes of a chip, at most, in whole blocks: where a cell is few pixels,
#: one chip would be all that it sees.
CHIP_CELLS = 5000


@dataclass(frozen=True, eq=False)
class Cells:
    """LR cells as some chips show them: a sum, like the state of a metric.

    Chips of a partition (:attr:`Chip.partition`) give the pieces of cells that they
    hold, and pieces add up to cells. Of any other chip, whose neighbours may show the
    same pixels again, only whole cells count.

    ``a + b`` keeps what every chip said, and :meth:`table` puts the pieces together in
    the order of the chips' keys: the result does not depend on the order of the sum,
    nor on how many processes took part in it.

    Args:
        sums: Sum of the features over the pixels of each piece, (r, D) float32.
        count: Pixels of each piece, (r,) int64.
        share: Visible share of its cell, (r,) float64 in 0..1.
        place: Raster, row and column of its cell, (r, 3) int64.
        code: Raw code of its cell, (r,) int64.
        pixels: Features of pixels drawn from the pieces, (N, D) float32.
        owner: Piece that each of these lies in, (N,) int64.
        chips: Key of each chip (raster, row, column), (m, 3) int64.
        pieces: Pieces of each chip, (m,) int64.
        drawn: Pixels drawn from each chip, (m,) int64.
    """

    sums: Tensor
    count: Tensor
    share: Tensor
    place: Tensor
    code: Tensor
    pixels: Tensor
    owner: Tensor
    chips: Tensor
    pieces: Tensor
    drawn: Tensor

    @classmethod
    def of(cls, tokens: Tokens, chip: Chip, pixels: int, seed: int) -> Self:
        """Look at a chip.

        Args:
            tokens: Tokens of the chip, a batch of one.
            chip: The chip, with labels.
            pixels: Pixels to draw, at most.
            seed: Seed of the draws, which are the chip's own: neither the order of chips
                nor who looks at them matters.

        Returns:
            What the chip shows, of CHIP_CELLS cells at most; no piece where no label
            lies in it.
        """
        device = tokens.device
        region = torch.where(chip.valid, chip.region, 0)
        count = torch.bincount(region.flatten(), minlength=len(chip.code) + 1)[1:]
        share = count / chip.cell_pixels.clamp(min=1)
        used = (count > 0) & (chip.code >= 0)
        if not chip.partition:
            used &= share >= WHOLE
        rng = np.random.default_rng((seed, *(part % 2**32 for part in chip.key)))
        used = _some(used, chip.place, rng)
        number = torch.full((len(used) + 1,), -1)
        number[1:][used] = torch.arange(int(used.sum()))
        owner = number[region.flatten()]
        inside = (owner >= 0).nonzero()[:, 0]
        if len(inside) > pixels:
            chosen = rng.choice(len(inside), pixels, replace=False)
            inside = inside[torch.from_numpy(chosen)]
        width = region.shape[1]
        rows, cols = inside.div(width, rounding_mode='floor'), inside % width
        seen = (owner >= 0).view(region.shape).byte().numpy()
        # Where no cell is used, one pixel stands for none.
        extent = next(iter(find_objects(seen)), (slice(0, 1), slice(0, 1)))
        maps = region[None, extent[0], extent[1]].to(device)
        features = torch.empty(len(inside), sum(tokens.channels))
        sums = torch.zeros(len(chip.code), features.shape[1])
        # All features of a chip are hundreds of megabytes: one part at a time.
        for columns, (down, across), part in tokens.parts(extent):
            of_maps, of_part = zip(
                common(extent[0], down), common(extent[1], across), strict=True
            )
            mean, pixels_of = part.pool(maps[:, *of_maps], len(sums), window=of_part)
            sums[:, columns] += (mean[0] * pixels_of[0, :, None]).cpu()
            here = ((rows >= down.start) & (rows < down.stop)).nonzero()[:, 0]
            at = rows[here] - down.start, cols[here] - across.start
            below, right = (place.to(device) for place in at)
            features[here, columns] = part.gather(0 * below, below, right).float().cpu()
            del part  # or it would be there beside the next
        return cls(
            sums=sums[used],
            count=count[used],
            share=share[used].double().clamp(max=1),
            place=chip.place[used],
            code=chip.code[used],
            pixels=features,
            owner=owner[inside],
            chips=torch.tensor([chip.key], dtype=torch.int64),
            pieces=used.sum()[None],
            drawn=torch.tensor([len(inside)]),
        )

    def __add__(self, other: 'Cells') -> 'Cells':
        """What both have seen."""
        return Cells.concat([self, other])

    @classmethod
    def concat(cls, parts: Iterable['Cells']) -> 'Cells':
        """The sum of many at once.

        Args:
            parts: One or more.

        Raises:
            InputError: If there is none.
        """
        parts = list(parts)
        if not parts:
            raise InputError('No chip of the imagery was seen: nothing to fit.')
        if len(parts) == 1:
            return parts[0]
        first = np.cumsum([0, *(len(part.count) for part in parts)])

        def joined(name: str) -> Tensor:
            return torch.cat([getattr(part, name) for part in parts])

        return cls(
            sums=joined('sums'),
            count=joined('count'),
            share=joined('share'),
            place=joined('place'),
            code=joined('code'),
            pixels=joined('pixels'),
            owner=torch.cat(
                [p.owner + int(n) for p, n in zip(parts, first, strict=False)]
            ),
            chips=joined('chips'),
            pieces=joined('pieces'),
            drawn=joined('drawn'),
        )

    @classmethod
    def merge(cls, parts: 'list[Cells]') -> 'Cells':
        """The sum of many in the order of their chips, each chip once.

        The list is emptied on the way: pixels are most of what a fit holds, and so they
        are held once, and not once more in their parts.

        Args:
            parts: One or more, each of one chip.

        Raises:
            InputError: If there is none.
        """
        chips = {tuple(part.chips[0].tolist()): part for part in reversed(parts)}
        parts[:] = [chips[key] for key in sorted(chips)]
        chips.clear()
        if len(parts) < 2:
            return parts.pop() if parts else cls.concat([])
        counts, width = [len(part.pixels) for part in parts], parts[0].pixels.shape[1]
        none = torch.empty(0, width)
        merged = cls.concat([replace(part, pixels=none) for part in parts])
        # Of what is not written yet there is no memory.
        pixels = torch.empty(sum(counts), width)
        for block in pixels.split(counts):
            block.copy_(parts.pop(0).pixels)
            give_back()
        return replace(merged, pixels=pixels)

    def __len__(self) -> int:
        """Number of pieces."""
        return len(self.count)

    def split(self) -> 'list[Cells]':
        """What each chip said, in the order of the chips' keys, each chip once."""
        order = np.unique(self.chips.numpy(), axis=0, return_index=True)[1]
        rows = np.cumsum([0, *self.pieces.tolist()])
        dots = np.cumsum([0, *self.drawn.tolist()])
        parts = []
        for i in order.tolist():
            row, dot = slice(rows[i], rows[i + 1]), slice(dots[i], dots[i + 1])
            parts.append(
                Cells(
                    self.sums[row],
                    self.count[row],
                    self.share[row],
                    self.place[row],
                    self.code[row],
                    self.pixels[dot],
                    self.owner[dot] - int(rows[i]),
                    self.chips[i : i + 1],
                    self.pieces[i : i + 1],
                    self.drawn[i : i + 1],
                )
            )
        return parts

    def table(self) -> 'CellTable':
        """Put the pieces of each cell together.

        The mean over a cell is the mean of its pieces' means weighted by their pixels.
        """
        keys = [tuple(key) for key in self.chips.tolist()]
        # What is in order is not copied.
        ordered = self if keys == sorted(set(keys)) else Cells.concat(self.split())
        # Rasters by the order in which they are seen, whatever their numbers are.
        places = ordered.place.numpy().copy()
        rasters, start = np.unique(places[:, 0], return_index=True)
        places[:, 0] = start.argsort().argsort()[np.searchsorted(rasters, places[:, 0])]
        place, first, cell_of = np.unique(
            places, axis=0, return_index=True, return_inverse=True
        )
        cell = torch.from_numpy(cell_of.reshape(-1))
        cells = len(place)
        total = ordered.sums.new_zeros(cells, ordered.sums.shape[1])
        total.index_add_(0, cell, ordered.sums)
        count = torch.zeros(cells, dtype=torch.int64).index_add_(0, cell, ordered.count)
        share = torch.zeros(cells, dtype=torch.float64)
        share.index_add_(0, cell, ordered.share)
        whole = count[share >= WHOLE]
        return CellTable(
            features=total / count.clamp(min=1)[:, None],
            code=ordered.code[torch.from_numpy(first)],
            share=share.clamp(max=1),
            place=torch.from_numpy(place),
            pixels=ordered.pixels,
            owner=cell[ordered.owner],
            chips=len(set(keys)),
            side=math.sqrt(int(whole.median())) if len(whole) else math.inf,
        )


@dataclass(frozen=True, eq=False)
class CellTable:
    """LR cells, each once, and pixels of them.

    Args:
        features: Mean HR features R F of each cell, (n, D) float32.
        code: Raw code of each cell, (n,) int64.
        share: Visible share of each cell, (n,) float64 in 0..1.
        place: Raster, row and column of each cell, (n, 3) int64.
        pixels: HR features of pixels drawn at random, rows of U F, (N, D) float32.
        owner: Cell that each pixel lies in, (N,) int64.
        chips: Chips that showed them.
        side: Pixels along the side of a cell: the root of how many the median whole one
            has; infinite where that is not known.
    """

    features: Tensor
    code: Tensor
    share: Tensor
    place: Tensor
    pixels: Tensor
    owner: Tensor
    chips: int = 1
    side: float = math.inf

    def __len__(self) -> int:
        """Number of cells."""
        return len(self.code)

    @property
    def seen(self) -> Tensor:
        """Cells of which enough was seen to stand for their label, (n,) bool."""
        return self.share >= SEEN

    @property
    def block(self) -> Tensor:
        """Number of the block of BLOCK x BLOCK cells that each lies in, (n,) int64."""
        return _block(self.place)

    def subset(self, keep: Tensor, pixels: int) -> 'CellTable':
        """Some cells, and pixels in them.

        Args:
            keep: Which, (n,) bool.
            pixels: Pixels to take, at most; evenly spread, if there are more.
        """
        number = keep.cumsum(0) - 1
        inside = spread(keep[self.owner], pixels)
        return CellTable(
            self.features[keep],
            self.code[keep],
            self.share[keep],
            self.place[keep],
            self.pixels[inside],
            number[self.owner[inside]],
            self.chips,
            self.side,
        )

    def count(self) -> dict[int, int]:
        """Cells of each raw code."""
        codes, counts = np.unique(self.code.numpy(), return_counts=True)
        return dict(zip(codes.tolist(), counts.tolist(), strict=True))


def _block(place: Tensor) -> Tensor:
    """Number of the block of BLOCK x BLOCK cells that each place lies in, (n,) int64."""
    corner = place.clone()
    corner[:, 1:] = corner[:, 1:].div(BLOCK, rounding_mode='floor')
    return torch.unique(corner, dim=0, return_inverse=True)[1]


def _some(used: Tensor, place: Tensor, rng: np.random.Generator) -> Tensor:
    """Blocks of BLOCK x BLOCK cells in a random order, as many as CHIP_CELLS allows.

    Args:
        used: Cells to choose from, (n,) bool.
        place: Raster, row and column of each, (n, 3).
        rng: Draws the order, if not all of them are taken.

    Returns:
        (n,) bool.
    """
    if int(used.sum()) <= CHIP_CELLS:
        return used
    block = _block(place)
    order = torch.from_numpy(rng.permutation(int(block.max()) + 1))
    total = torch.bincount(block[used], minlength=len(order))[order].cumsum(0)
    return used & torch.isin(block, order[total <= CHIP_CELLS])


def spread(chosen: Tensor, most: int) -> Tensor:
    """Evenly spread places where something is true.

    Args:
        chosen: (n,) bool.
        most: Places to take, at most.

    Returns:
        Their indices, ascending.
    """
    index = chosen.nonzero()[:, 0]
    if len(index) <= most:
        return index
    return index[torch.linspace(0, len(index) - 1, most).long()]


#: Cells after which no further chip is looked at: more change the fit little.
MAX_CELLS = 40_000


def take(parts: Iterable[Cells], chips: int) -> list[Cells]:
    """What a fit takes of chips that come in order.

    Args:
        parts: What each chip shows, in order; those that show nothing do not count.
        chips: Chips to take, at most.

    Returns:
        The first chips, until there are enough chips or MAX_CELLS cells.
    """
    chosen: list[Cells] = []
    keys: set[tuple[int, ...]] = set()
    cells = 0
    for part in parts:
        key = tuple(part.chips.flatten().tolist())
        if len(chosen) >= chips or cells >= MAX_CELLS:
            break
        # A sampler of several processes repeats chips to fill the last batch.
        if len(part) and key not in keys:
            keys.add(key)
            chosen.append(part)
            cells += len(part)
    return chosen
