# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""The chips of a fit and of a map as samplers."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
from numpy.typing import NDArray
from torchgeo.samplers import GeoSampler

from ..datasets.base import ChipQuery, ImageryChips
from ..datasets.geo.grid import pixel_ratio, project
from ..datasets.geo.plan import ChipIndex, Plan, default_overlap
from ..datasets.labels import LabelRaster
from ..datasets.mosaic import LRHRPairs
from ..errors import InputError

_GOLDEN = (5**0.5 - 1) / 2

# Cells along the side of a block of neighbouring chips that are looked at together:
# of such a block, a half of its area is whole cells.
_BLOCK = 3


@dataclass(frozen=True)
class LatticeQuery(ChipQuery):
    """A chip of a plan.

    Args:
        plan: Plan of its raster.
        chip: Its place on the plan's lattice.
    """

    plan: Plan | None = None
    chip: ChipIndex | None = None


class _PlanSampler(GeoSampler):
    """Samples chips of plans, each raster with its own lattice from edge to edge.

    Args:
        dataset: What to sample from.
        size: Height and width of a chip, in pixels.
        overlap: Pixels that neighbours share, at least (default: both halos and a
            ramp).
        halo: Pixels at a chip's border that lack context and get no weight.
        align: Pixels that chips start at multiples of: the backbone's largest stride.
        tile_size: Side of what is written at once.
    """

    def __init__(
        self,
        dataset: ImageryChips | LRHRPairs,
        size: int = 448,
        overlap: int | None = None,
        halo: int = 0,
        align: int = 1,
        tile_size: int = 2048,
    ) -> None:
        shared = overlap or default_overlap(size, halo)
        #: Plan of each raster.
        self.plans = tuple(
            Plan(pair.imagery.geobox, size, tile_size, shared, halo, align)
            for pair in pairs_of(dataset)
        )


class LatticeSampler(_PlanSampler):
    """Sample the chips that ``torchgeo-mapsr map`` maps, each once.

    They overlap by what blending needs, and lie where the backbone sees the same
    tokens in neighbours. Give rasters smaller than a chip, or of several such sizes, a
    batch size of one.

    Args:
        dataset: What to sample from.
        size: Height and width of a chip, in pixels.
        overlap: Pixels that neighbours share, at least (default: both halos and a
            ramp).
        halo: Pixels at a chip's border that lack context and get no weight.
        align: Pixels that chips start at multiples of: the backbone's largest stride.
        tile_size: Side of what is written at once.

    Raises:
        InputError: If *halo* and *overlap* leave nothing of a chip.
    """

    def __iter__(self) -> Iterator[LatticeQuery]:  # type: ignore[override]
        """Yield chips, which the dataset takes in place of slices."""
        for raster, plan in enumerate(self.plans):
            for chip in plan.lattice():
                yield map_query(raster, plan, chip)

    def __len__(self) -> int:
        """Number of chips."""
        return sum(plan.chip_count for plan in self.plans)


class FitSampler(_PlanSampler):
    """Sample the chips that a fit looks at, in an order whose beginning is spread evenly.

    They are those of a :class:`LatticeSampler` that lie over labels, each with the
    pixels that it has in a partition of the raster, so that pieces of a cell in several
    chips add up to the cell.

    Args:
        dataset: What to sample from, with LR labels.
        size: Height and width of a chip, in pixels.
        overlap: Pixels that neighbours share, at least (default: both halos and a
            ramp).
        halo: Pixels at a chip's border that lack context.
        align: Pixels that chips start at multiples of: the backbone's largest stride.
        seed: Where the order starts.

    Raises:
        InputError: If no chip lies over labels, or *halo* and *overlap* leave nothing.
    """

    def __init__(
        self,
        dataset: ImageryChips | LRHRPairs,
        size: int = 448,
        overlap: int | None = None,
        halo: int = 0,
        align: int = 1,
        seed: int = 0,
    ) -> None:
        super().__init__(dataset, size, overlap, halo, align)
        labels = [pair.lr_labels for pair in pairs_of(dataset)]
        #: Raster and chip, in order.
        self.chips = labelled_chips(self.plans, labels, seed)

    def __iter__(self) -> Iterator[LatticeQuery]:  # type: ignore[override]
        """Yield chips, which the dataset takes in place of slices."""
        for raster, chip in self.chips:
            yield fit_query(raster, self.plans[raster], chip)

    def __len__(self) -> int:
        """Number of chips."""
        return len(self.chips)


def fit_query(raster: int, plan: Plan, chip: ChipIndex) -> LatticeQuery:
    """A chip as a fit reads it: with its pixels in a partition.

    Args:
        raster: Number of the raster.
        plan: Its plan.
        chip: The chip.
    """
    own = plan.own(chip)
    return LatticeQuery(raster, plan.crop(chip), own=own, plan=plan, chip=chip)


def map_query(raster: int, plan: Plan, chip: ChipIndex) -> LatticeQuery:
    """A chip as a map reads it: with the pixels that it has a weight in.

    Args:
        raster: Number of the raster.
        plan: Its plan.
        chip: The chip.
    """
    core = plan.core(chip)
    return LatticeQuery(raster, plan.crop(chip), core=core, plan=plan, chip=chip)


def pairs_of(dataset: ImageryChips | LRHRPairs) -> tuple[ImageryChips, ...]:
    """The pairs of a dataset, each with one raster.

    Args:
        dataset: One pair, or several.
    """
    return dataset.pairs if isinstance(dataset, LRHRPairs) else (dataset,)


def labelled_chips(
    plans: Sequence[Plan], labels: Sequence[Sequence[LabelRaster]], seed: int
) -> list[tuple[int, ChipIndex]]:
    """Chips that lie over labels, in an order whose every beginning is spread evenly.

    Where a cell is nearly as large as the part of the raster that one chip has for
    itself, or larger, no single chip holds a whole cell: then blocks of neighbouring
    chips follow one another.

    Args:
        plans: Plan of each raster.
        labels: LR labels of each raster.
        seed: Where the order starts.

    Returns:
        Number of the raster, and chip. Blocks are ordered by the multiples of the
        golden ratio modulo one.

    Raises:
        InputError: If there is none.
    """
    blocks: list[list[tuple[int, ChipIndex]]] = []
    for number, (plan, rasters) in enumerate(zip(plans, labels, strict=True)):
        chips = list(plan.lattice())
        over = np.zeros(len(chips), bool)
        for raster in rasters:
            over |= _over(plan, chips, raster)
        side = _block_side(plan, rasters)

        def block(chip: ChipIndex, side: int = side) -> tuple[int, int]:
            return chip.row // side, chip.col // side

        near = [chip for chip, lies_over in zip(chips, over, strict=True) if lies_over]
        for _, group in groupby(sorted(near, key=block), block):
            blocks.append([(number, chip) for chip in group])
    if not blocks:
        raise InputError(
            'The imagery and the labels do not overlap; check their places and CRSs.'
        )
    start = np.random.default_rng(seed).random()
    order = np.argsort((start + _GOLDEN * np.arange(len(blocks))) % 1)
    return [chip for i in order for chip in blocks[i]]


def _block_side(plan: Plan, rasters: Sequence[LabelRaster]) -> int:
    """Chips along the side of a block that holds whole cells."""
    step = min(
        (int(np.diff(axis.starts).min()) for axis in plan.axes if len(axis.starts) > 1),
        default=0,
    )
    if not step:
        return 1
    cell = max(
        (pixel_ratio(plan.geobox, raster.geobox) ** -0.5 for raster in rasters),
        default=0.0,
    )
    return max(1, math.ceil(_BLOCK * cell / step)) if math.isfinite(cell) else 1


def _over(
    plan: Plan, chips: Sequence[ChipIndex], raster: LabelRaster
) -> NDArray[np.bool_]:
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
    finite: NDArray[np.bool_] = np.logical_and.reduce(np.isfinite(at), axis=(0, 2))
    at = np.where(finite[:, None], at, -1)
    low, high = at.min(2), at.max(2)
    reach = np.array(raster.geobox.shape)[:, None]
    return finite & (high > 0).all(0) & (low < reach).all(0)
