# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""LR labels as if they were a prediction."""

from dataclasses import asdict
from typing import NoReturn

import torch
import torch.nn.functional as F
from torch import Tensor

from .._compat import Sample
from ..errors import InputError
from .classes import CLASSES, Classes
from .land_cover import LandCoverTask


class OracleTask(LandCoverTask):
    """Predict for each pixel the LR label of the cell that holds it.

    The baseline *Oracle* of Workman et al. 2023, section 5: a perfect estimator at the
    resolution of the LR labels. There is nothing to fit: validate or test it. Where
    there is no LR label all classes are equally probable.

    Args:
        classes: Legends of the labels and of the map.

    >>> OracleTask(Classes('nlcd', 'land-cover-4')).crosswalk.target.name
    'land-cover-4'
    """

    def __init__(self, classes: Classes = CLASSES) -> None:
        self._classes = Classes.of(classes)
        super().__init__()
        # Plain values, so that a checkpoint is read without running code.
        self.hparams['classes'] = asdict(self._classes)

    def configure_models(self) -> None:
        """Load the legends."""
        self.crosswalk, self.truth = self._classes.load()

    def log_probabilities(self, batch: Sample) -> Tensor:
        """Log-probabilities of every pixel, (B, classes, H, W).

        Args:
            batch: With LR labels.
        """
        cells = self.cells(batch)
        index = cells.of_pixels(cells.label, -1)
        classes = len(self.crosswalk.target)
        hot = F.one_hot(index.clamp(min=0), classes).movedim(-1, 1).float()
        probability = torch.where(index[:, None] >= 0, hot, 1 / classes)
        return probability.log()

    def configure_optimizers(self) -> NoReturn:
        """There is nothing to fit.

        Raises:
            InputError: Always.
        """
        raise InputError('Oracle has nothing to fit: validate or test it')

    def training_step(self, batch: Sample, batch_idx: int) -> None:
        """There is nothing to fit.

        Args:
            batch: The output of your DataLoader.
            batch_idx: Integer displaying index of this batch.
        """
