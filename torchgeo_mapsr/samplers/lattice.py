# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""The chips of a map as a sampler."""

from collections.abc import Iterator
from dataclasses import dataclass

from torchgeo.samplers import GeoSampler

from ..datasets.base import ChipQuery, ImageryChips
from ..datasets.geo.plan import Chip, Plan, default_overlap
from ..datasets.mosaic import LRHRPairs


@dataclass(frozen=True)
class LatticeQuery(ChipQuery):
    """A chip of a map.

    Args:
        plan: Plan of its raster.
        chip: Its place on the plan's lattice.
    """

    plan: Plan
    chip: Chip


class LatticeSampler(GeoSampler):
    """Sample the chips that ``torchgeo-mapsr map`` looks at, each once.

    They overlap by what blending needs, and lie where the backbone sees the same
    tokens in neighbours. Each raster has its own lattice from edge to edge: give
    rasters smaller than a chip, or of several such sizes, a batch size of one.

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
        self._length = sum(1 for plan in self.plans for _ in plan.lattice())

    def __iter__(self) -> Iterator[LatticeQuery]:  # type: ignore[override]
        """Yield chips, which the dataset takes in place of slices."""
        for raster, plan in enumerate(self.plans):
            for chip in plan.lattice():
                yield LatticeQuery(raster, plan.crop(chip), plan, chip)

    def __len__(self) -> int:
        """Number of chips."""
        return self._length


def pairs_of(dataset: ImageryChips | LRHRPairs) -> tuple[ImageryChips, ...]:
    """The pairs of a dataset, each with one raster."""
    return dataset.pairs if isinstance(dataset, LRHRPairs) else (dataset,)
