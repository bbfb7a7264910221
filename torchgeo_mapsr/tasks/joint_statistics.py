# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""What tasks that learn from joint statistics of LR and HR classes have in common."""

from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from ..datasets.base import ChipDataset
from ..datasets.legends.legend import Legend
from ..datasets.legends.statistics import JointStatistics
from ..errors import InputError
from .cells import BatchCells
from .segmentation import SegmentationTask


class JointStatisticsTask(SegmentationTask):
    """A task whose LR labels stand for a distribution of HR classes.

    Its hyperparameter *statistics* names the table. A class of the labels that the
    table lacks is refused when training starts, where the dataset is one of this
    package, or else in the batch that shows it.
    """

    #: Shares of HR classes in cells of each LR class.
    statistics: JointStatistics

    def configure_models(self) -> None:
        """Make the network, and load the statistics."""
        super().configure_models()
        table = JointStatistics.load(self.hparams['statistics'])
        for what, own, other in (
            ('legend', self.crosswalk.source, table.source),
            ('target', self.crosswalk.target, table.target),
        ):
            if not _alike(own, other):
                raise InputError(
                    f"statistics '{table.name}' are of the {what} '{other.name}', and "
                    f"this task has '{own.name}': give statistics of that, such as "
                    '`torchgeo-mapsr statistics` measures'
                )
        self.statistics = table

    def on_train_start(self) -> None:
        """Look for LR classes without statistics in all training labels.

        Raises:
            InputError: If there are any.
        """
        loader: Any = self.trainer.train_dataloader
        dataset = getattr(loader, 'dataset', None)
        if isinstance(dataset, ChipDataset):
            for tile in range(len(dataset.tiles)):
                self._check(dataset.lr_cells(tile)[0])

    def rows(self, cells: BatchCells) -> Tensor:
        """Row of the table for each cell, (B, h · w) int64; -1 if it has no class.

        Args:
            cells: Cells of a batch.

        Raises:
            InputError: If the table lacks the class of a cell with a pixel.
        """
        seen = torch.where(cells.share > 0, cells.codes, -1).flatten(1).cpu().numpy()
        self._check(seen)
        index = torch.from_numpy(self.statistics.source.index(seen))
        return index.to(cells.codes.device)

    def _check(self, codes: ArrayLike) -> None:
        missing = self.statistics.missing(codes)
        if missing:
            table = self.statistics
            names = dict(zip(table.source.codes, table.source.class_names, strict=True))
            listed = ', '.join(f'{code} ({names[code]})' for code in missing)
            raise InputError(
                f"statistics '{table.name}' lack LR class {listed} of the labels: add it "
                'to the file, or measure your own with `torchgeo-mapsr statistics`'
            )


def _alike(own: Legend, other: Legend) -> bool:
    return np.array_equal(own.codes, other.codes)


def tables(statistics: JointStatistics) -> tuple[Tensor, Tensor]:
    """Means and standard deviations of a table, float32, (L, C) each."""
    mean, std = statistics.mean, statistics.std
    return torch.from_numpy(mean).float(), torch.from_numpy(std).float()
