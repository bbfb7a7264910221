# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""The fit pass: features of LR cells and of a sample of pixels, from a few chips."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..datasets.crosswalk import Crosswalk
from ..datasets.grid import project
from ..datasets.imagery import Imagery
from ..datasets.labels import LabelRaster
from ..datasets.region import region_map
from ..errors import InputError
from ..evaluation.consistency import cell_diameter
from ..models.samples import CellSamples, PixelSamples
from ..models.tokens import Tokens
from .plan import Chip, Plan

_GOLDEN = (5**0.5 - 1) / 2


@dataclass(frozen=True)
class Place:
    """A chip of one of several rasters.

    Args:
        image: Number of the raster.
        chip: Chip of its plan.
    """

    image: int
    chip: Chip


@dataclass(frozen=True)
class LabelledChip:
    """A chip and the LR cells under it.

    Only the pixels that the chip owns (a partition of the raster among its chips) are
    given to cells: pieces of a cell in several chips add up to the cell, once.

    Args:
        image: Raw values, (C, H, W).
        valid: Pixels with data, (H, W).
        mask_region: 0 = in no cell with a label, i + 1 = in cell i, (H, W).
        place: Label raster, row and column of each cell, (n, 3).
        codes: Raw code of each cell, (n,).
        share: Share of each cell that this chip shows, (n,).
    """

    image: NDArray[np.float32]
    valid: NDArray[np.bool_]
    mask_region: NDArray[np.int64]
    place: NDArray[np.int64]
    codes: NDArray[np.int64]
    share: NDArray[np.float64]


def labelled_places(
    plans: Sequence[Plan], labels: Sequence[LabelRaster], seed: int
) -> list[Place]:
    """Chips that lie over labels, in an order whose every beginning is spread evenly.

    Args:
        plans: Plan of each raster.
        labels: LR labels.
        seed: Where the order starts.

    Returns:
        The chips: multiples of the golden ratio, modulo one, sorted.

    Raises:
        InputError: If there is none.
    """
    places = []
    for image, plan in enumerate(plans):
        chips = list(plan.lattice())
        over = np.zeros(len(chips), bool)
        for raster in labels:
            over |= _over(plan, chips, raster)
        places += [Place(image, c) for c, o in zip(chips, over, strict=True) if o]
    if not places:
        raise InputError(
            'The imagery and the labels do not overlap; check their places and CRSs.'
        )
    start = np.random.default_rng(seed).random()
    order = np.argsort((start + _GOLDEN * np.arange(len(places))) % 1)
    return [places[i] for i in order]


def _over(plan: Plan, chips: Sequence[Chip], raster: LabelRaster) -> NDArray[np.bool_]:
    """Which chips' own pixels may lie over a label raster, by their bounding boxes.

    Chips are projected, not the labels: those of a continent have no outline in the
    UTM zone of a chip.
    """
    edges = [[(s.start, s.stop) for s in plan.own(chip)] for chip in chips]
    rows, cols = np.swapaxes(np.array(edges, float), 0, 1)
    part = np.array([0, 0.5, 1])
    row = rows[:, :1] + np.diff(rows) * part.repeat(3)
    col = cols[:, :1] + np.diff(cols) * np.tile(part, 3)
    at = project(plan.geobox, raster.geobox, row, col)
    known: NDArray[np.bool_] = np.logical_and.reduce(np.isfinite(at), axis=(0, 2))
    at = np.where(known[:, None], at, -1)
    low, high = at.min(2), at.max(2)
    reach = np.array(raster.geobox.shape)[:, None]
    return known & (high > 0).all(0) & (low < reach).all(0)


def read_labelled(
    imagery: Imagery, plan: Plan, chip: Chip, labels: Sequence[LabelRaster]
) -> LabelledChip:
    """Read a chip and the LR cells under the pixels that it owns.

    Args:
        imagery: The raster.
        plan: Its plan.
        chip: The chip.
        labels: LR labels; where several have one, the first counts.
    """
    image, valid = imagery.read(plan.crop(chip))
    rows, cols = plan.own(chip)
    window = plan.window(chip)
    inner = (_within(rows, window[0]), _within(cols, window[1]))
    mask = np.zeros(valid.shape, np.int64)
    places, codes, shares, count = [], [], [], 0
    for number, raster in enumerate(labels):
        # With a margin of a cell, what is cut is cut by the raster's edge.
        margin = cell_diameter(plan.geobox[rows, cols], raster.geobox)
        wide = [
            slice(max(span.start - reach, 0), min(span.stop + reach, length))
            for span, reach, length in zip(
                (rows, cols),
                2 * (min(margin, 2 * plan.chip),),
                plan.geobox.shape,
                strict=True,
            )
        ]
        region = region_map(plan.geobox[tuple(wide)], raster.geobox)
        code = raster.read(region.rows, region.cols).ravel()
        size = code.size + 1
        whole = np.bincount(region.mask_region.ravel(), minlength=size)[1:]
        mine = region.mask_region[_within(rows, wide[0]), _within(cols, wide[1])]
        mine = np.where(valid[inner] & (mask[inner] == 0), mine, 0)
        usable = np.bincount(mine.ravel(), minlength=size)[1:]
        chosen = np.flatnonzero((code >= 0) & (usable > 0))
        renumber = np.zeros(size, np.int64)
        renumber[chosen + 1] = count + 1 + np.arange(chosen.size)
        mask[inner] = np.where(renumber[mine] > 0, renumber[mine], mask[inner])
        row, col = np.divmod(chosen, max(region.window[3], 1))
        row, col = row + region.window[0], col + region.window[1]
        places.append(np.stack([np.full_like(row, number), row, col], 1))
        codes.append(code[chosen])
        shares.append((region.share * usable / np.maximum(whole, 1))[chosen])
        count += chosen.size
    return LabelledChip(
        image,
        valid,
        mask,
        np.concatenate(places),
        np.concatenate(codes),
        np.concatenate(shares),
    )


def _within(span: slice, whole: slice) -> slice:
    """A span, counted from the start of another."""
    return slice(span.start - whole.start, span.stop - whole.start)


@dataclass(frozen=True)
class Samples:
    """What the fit pass has gathered.

    Args:
        cells: LR cells, each once.
        pixels: Some of their pixels.
        codes: Raw code of each cell, (n,).
    """

    cells: CellSamples
    pixels: PixelSamples
    codes: NDArray[np.int64]


class Collector:
    """Adds up chips to :class:`Samples`.

    Args:
        crosswalk: From the labels' codes to target classes.
        pixels: Pixels to draw from each chip, at most.
        seed: Seed of the draw.
    """

    def __init__(self, crosswalk: Crosswalk, pixels: int, seed: int) -> None:
        self._crosswalk = crosswalk
        self._limit = pixels
        self._rng = np.random.default_rng(seed)
        self._means: list[Tensor] = []
        self._counts: list[Tensor] = []
        self._places: list[NDArray[np.int64]] = []
        self._codes: list[NDArray[np.int64]] = []
        self._shares: list[NDArray[np.float64]] = []
        self._pixels: list[Tensor] = []
        self._owners: list[NDArray[np.int64]] = []

    def __len__(self) -> int:
        """Pieces of cells so far."""
        return sum(map(len, self._codes))

    def add(self, chip: LabelledChip, tokens: Tokens) -> None:
        """Add a chip.

        Args:
            chip: The chip; it has cells.
            tokens: Its tokens, a batch of one.
        """
        device = tokens.levels[0].device
        region = torch.from_numpy(chip.mask_region)[None].to(device)
        means, counts = tokens.pool(region, len(chip.codes))
        self._means.append(means[0].float().cpu())
        self._counts.append(counts[0].float().cpu())

        inside = np.flatnonzero(chip.mask_region)
        if inside.size > self._limit:
            inside = self._rng.choice(inside, self._limit, replace=False)
        rows, cols = np.divmod(inside, chip.mask_region.shape[1])
        at = (torch.from_numpy(part).to(device) for part in (0 * rows, rows, cols))
        self._pixels.append(tokens.gather(*at).float().cpu())
        self._owners.append(len(self) + chip.mask_region.ravel()[inside] - 1)

        self._places.append(chip.place)
        self._codes.append(chip.codes)
        self._shares.append(chip.share)

    def samples(self) -> Samples:
        """Put the pieces of each cell together.

        The mean over a cell is the mean of its pieces' means weighted by their pixels.
        """
        place, first, piece_of = np.unique(
            np.concatenate(self._places), axis=0, return_index=True, return_inverse=True
        )
        piece_of = piece_of.reshape(-1)
        codes = np.concatenate(self._codes)[first]
        label = torch.from_numpy(self._crosswalk.index(codes))
        share = np.bincount(piece_of, np.concatenate(self._shares), len(place))

        means, count = torch.cat(self._means), torch.cat(self._counts)
        index = torch.from_numpy(piece_of)
        total = torch.zeros(len(place), means.shape[1])
        total.index_add_(0, index, means * count[:, None])
        pixels = torch.zeros(len(place)).index_add_(0, index, count)
        cells = CellSamples(
            features=total / pixels[:, None],
            label=label,
            share=torch.from_numpy(share.clip(0, 1)),
            place=torch.from_numpy(place),
        )
        owner = piece_of[np.concatenate(self._owners)]
        return Samples(
            cells, PixelSamples(torch.cat(self._pixels), label[owner]), codes
        )
