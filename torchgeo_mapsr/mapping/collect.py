# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""The fit pass: features of LR cells and of a sample of pixels, from a few chips."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..datasets.geo.grid import project
from ..datasets.geo.plan import Chip, Plan
from ..datasets.geo.region import cell_diameter, region_map
from ..datasets.imagery import Imagery
from ..datasets.labels import LabelRaster
from ..datasets.legends.crosswalk import Crosswalk
from ..errors import InputError
from ..models.head.samples import CellSamples, PixelSamples
from ..models.tokens.tokens import Tokens

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


@dataclass(frozen=True, eq=False)
class Piece:
    """What one chip says of the LR cells under it: a summand of :class:`Samples`.

    Args:
        means: Mean features of each cell's pixels in the chip, (n, D).
        counts: Number of these pixels, (n,).
        place: Label raster, row and column of each cell, (n, 3).
        codes: Raw code of each cell, (n,).
        share: Share of each cell that the chip shows, (n,).
        pixels: Features of some of the pixels, (N, D).
        owner: Which of the n cells each of them lies in, (N,).
    """

    means: Tensor
    counts: Tensor
    place: NDArray[np.int64]
    codes: NDArray[np.int64]
    share: NDArray[np.float64]
    pixels: Tensor
    owner: NDArray[np.int64]

    @classmethod
    def of(
        cls, chip: LabelledChip, tokens: Tokens, limit: int, seed: tuple[int, ...]
    ) -> 'Piece':
        """Look at a chip.

        Args:
            chip: The chip; it has cells.
            tokens: Its tokens, a batch of one.
            limit: Pixels to draw, at most.
            seed: Seed of the draw: the chip's own, so that neither the order of chips
                nor who looks at them matters.
        """
        device = tokens.levels[0].device
        region = torch.from_numpy(chip.mask_region)[None].to(device)
        means, counts = tokens.pool(region, len(chip.codes))
        inside = np.flatnonzero(chip.mask_region)
        if inside.size > limit:
            rng = np.random.default_rng(seed)
            inside = rng.choice(inside, limit, replace=False)
        rows, cols = np.divmod(inside, chip.mask_region.shape[1])
        at = (torch.from_numpy(part).to(device) for part in (0 * rows, rows, cols))
        return cls(
            means=means[0].float().cpu(),
            counts=counts[0].float().cpu(),
            place=chip.place,
            codes=chip.codes,
            share=chip.share,
            pixels=tokens.gather(*at).float().cpu(),
            owner=chip.mask_region.ravel()[inside] - 1,
        )


def gather(pieces: Sequence[Piece], crosswalk: Crosswalk) -> Samples:
    """Put the pieces of each cell together.

    The mean over a cell is the mean of its pieces' means weighted by their pixels.

    Args:
        pieces: One or more; sums run in their order.
        crosswalk: From the labels' codes to target classes.
    """
    place, first, piece_of = np.unique(
        np.concatenate([piece.place for piece in pieces]),
        axis=0,
        return_index=True,
        return_inverse=True,
    )
    piece_of = piece_of.reshape(-1)
    codes = np.concatenate([piece.codes for piece in pieces])[first]
    shares = np.concatenate([piece.share for piece in pieces])
    share = np.bincount(piece_of, shares, len(place))
    label = torch.from_numpy(crosswalk.index(codes))

    means = torch.cat([piece.means for piece in pieces])
    count = torch.cat([piece.counts for piece in pieces])
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
    start = np.cumsum([0, *(len(piece.codes) for piece in pieces)])
    owners = [first + piece.owner for first, piece in zip(start, pieces, strict=False)]
    features = torch.cat([piece.pixels for piece in pieces])
    owner = label[piece_of[np.concatenate(owners)]]
    return Samples(cells, PixelSamples(features, owner), codes)
