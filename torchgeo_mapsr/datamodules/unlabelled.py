# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""Data module of imagery without labels."""

from collections.abc import Sequence

from torchgeo.datasets import stack_samples
from torchgeo.samplers import GeoSampler

from ..datasets.base import ChipDataset
from ..datasets.geo.raster import open_rasters
from ..datasets.unlabelled import ManyImagery, UnlabelledImagery
from ..samplers import PatchSampler
from .pair import ChipDataModule


class UnlabelledDataModule(ChipDataModule):
    """Data module of imagery to learn from without labels.

    With *patches*, the footprint file that ``torchgeo-mapsr select`` writes, training
    visits these patches in random order; all chips otherwise. It is the *target* of a
    :class:`~torchgeo_mapsr.datamodules.SourceTargetDataModule`.

    Args:
        imagery: Files or folders, each file in its own grid.
        patches: Footprint file of the patches to train on.
        bands: Bands of the imagery, from 1.
        nodata: No-data value of the imagery.
        batch_size: Chips in a batch.
        patch_size: Height and width of a chip, in pixels.
        stride: Pixels between chips when all are visited.
        length: Number of chips in a training epoch.
        num_workers: Processes that read.
        augment: Flip and turn training chips.
    """

    has_lr_labels = False

    def __init__(
        self,
        imagery: str | Sequence[str],
        patches: str | None = None,
        bands: Sequence[int] | None = None,
        nodata: float | None = None,
        batch_size: int = 1,
        patch_size: int = 256,
        stride: int | None = None,
        length: int | None = None,
        num_workers: int = 0,
        augment: bool = False,
    ) -> None:
        super().__init__(batch_size, patch_size, stride, length, num_workers, augment)
        self.collate_fn = stack_samples
        self.imagery, self.patches = imagery, patches
        self.bands, self.nodata, self.count = bands, nodata, length

    def chips(self, split: str) -> ManyImagery:
        """Open the files, the same for all splits."""
        return ManyImagery(
            UnlabelledImagery(file.path, bands=self.bands, nodata=self.nodata)
            for file in open_rasters(self.imagery, imagery=True)
        )

    def train_sampler_of(self, dataset: ChipDataset) -> GeoSampler:
        """The patches of the footprint file, or the chips of a training epoch.

        Args:
            dataset: The training chips.
        """
        if self.patches is None:
            return super().train_sampler_of(dataset)
        return PatchSampler(dataset, self.patches, self.size, length=self.count)
