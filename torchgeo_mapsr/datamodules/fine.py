# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""Data module of imagery with finer labels."""

from collections.abc import Sequence

from torchgeo.datasets import stack_samples

from ..datasets.fine import FineLabelPair
from ..datasets.geo.raster import open_rasters
from ..datasets.legends.crosswalk import Crosswalk
from ..datasets.sources import label_rasters
from ..datasets.unlabelled import ManyImagery
from .pair import ChipDataModule


class FineLabelDataModule(ChipDataModule):
    """Data module of imagery and labels of smaller pixels.

    Each imagery file is read in its own grid. A stage without files of its own sees
    those of the training. The labels become ``mask``: tasks learn from them with
    ``supervision='hr'``.

    Args:
        imagery: Files or folders.
        labels: Files or folders of labels, in any CRS and grid.
        val_imagery: Files or folders for validation.
        test_imagery: Files or folders for test and prediction.
        legend: Legend of the labels, a name or a file.
        target: Legend of the samples.
        crosswalk: Name or file of the crosswalk between them.
        shares: Add ``mask_share``, see
            :class:`~torchgeo_mapsr.datasets.FineLabelPair`, as the next.
        least: Share of the labels in a pixel that must have a class.
        bands: Bands of the imagery, from 1.
        nodata: No-data value of the imagery.
        batch_size: Chips in a batch.
        patch_size: Height and width of a chip, in pixels.
        stride: Pixels between chips when all are visited.
        length: Number of random chips in a training epoch (default: all chips).
        num_workers: Processes that read.
        augment: Flip and turn training chips.
    """

    has_lr_labels = False

    def __init__(
        self,
        imagery: str | Sequence[str],
        labels: str | Sequence[str],
        val_imagery: str | Sequence[str] | None = None,
        test_imagery: str | Sequence[str] | None = None,
        legend: str = 'five-billion-pixels',
        target: str = 'five-billion-pixels',
        crosswalk: str | None = None,
        shares: bool = False,
        least: float = 0.5,
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
        self.files = {
            'train': imagery,
            'val': val_imagery or imagery,
            'test': test_imagery or imagery,
            'predict': test_imagery or imagery,
        }
        self.labels = labels
        self.crosswalk = Crosswalk.load(legend, target, crosswalk)
        self.shares, self.least = shares, least
        self.bands, self.nodata = bands, nodata

    def chips(self, split: str) -> ManyImagery:
        """Pair the files of a split with the labels."""
        labels = label_rasters(self.labels)
        return ManyImagery(
            FineLabelPair(
                file.path,
                labels,
                self.crosswalk,
                self.shares,
                self.least,
                bands=self.bands,
                nodata=self.nodata,
            )
            for file in open_rasters(self.files[split], imagery=True)
        )
