# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""The chips of a fit and of a map as samplers."""

from collections.abc import Collection, Iterator
from dataclasses import dataclass

from torchgeo.samplers import GeoSampler

from ..arguments import check_range
from ..datasets.geo.plan import ChipIndex, Plan, default_overlap
from ..datasets.imagery_chips import ImageryChips
from ..datasets.labelled_chips import LabelledChips
from ..datasets.mosaic import LRHRPairs
from ..datasets.query import ChipQuery
from ..errors import InputError


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
    """Samples chips of plans, each raster with its own lattice from edge to edge."""

    def __init__(
        self,
        dataset: ImageryChips | LRHRPairs,
        size: int = 448,
        overlap: int | None = None,
        halo: int = 0,
        align: int = 1,
        tile_size: int = 2048,
    ) -> None:
        check_range('size', size, 1, whole=True)
        check_range('overlap', overlap, 0, whole=True)
        check_range('halo', halo, 0, whole=True)
        check_range('align', align, 1, whole=True)
        check_range('tile_size', tile_size, 1, whole=True)
        if overlap is None:
            overlap = default_overlap(size, halo)
        #: Plan of each raster.
        self.plans = tuple(
            Plan(pair.imagery.geobox, size, tile_size, overlap, halo, align)
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
        check_range('seed', seed, 0, whole=True)
        super().__init__(dataset, size, overlap, halo, align)
        labels = [pair.lr_labels for pair in pairs_of(dataset)]
        chips = LabelledChips(self.plans, labels, seed)
        #: Raster and chip, in order: those that hold pixels of the dataset's index.
        self.chips: Collection[tuple[int, ChipIndex]] = chips
        if not dataset.is_whole:
            self.chips = [
                (raster, chip)
                for raster, chip in chips
                if dataset.meets(fit_query(raster, self.plans[raster], chip))
            ]
            if not self.chips:
                raise InputError(
                    f'{type(dataset).__name__} has no labels in this split or region'
                )

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
