# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""Segmentation networks trained with one label a pixel."""

from collections.abc import Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor
from torch.optim import AdamW
from torch.optim.lr_scheduler import CosineAnnealingLR

from .._compat import Sample
from ..errors import InputError
from ..models.networks.segmentation import SegmentationNetwork
from ..models.networks.trained import ABOUT
from .land_cover import LandCoverTask


class SegmentationTask(LandCoverTask):
    """Train a segmentation network with the label of each pixel.

    With ``supervision='lr'`` a pixel's label is that of the LR cell that holds it: the
    baseline *Low* of Workman et al. 2023, section 5.3, and *hard naive* of Malkin et
    al. 2019. With ``'hr'`` it is the HR label: their *High*, the upper bound. Other
    tasks train the same network in other ways.

    Args:
        model: Architecture of the network, see
            :class:`~torchgeo_mapsr.models.networks.segmentation.SegmentationNetwork`, as the
            next six.
        backbone: Encoder.
        weights: Local file of the encoder's weights.
        bands: Bands of the imagery.
        image_dtype: Data type of the imagery's files.
        mean: Mean of each band, or one for all, in units of the files.
        std: Standard deviation likewise.
        legend: Legend of the LR labels, a name or a file.
        target: Legend of the map.
        crosswalk: Name or file of the crosswalk between them.
        truth_legend: Legend of ``mask``, the HR labels; *target* by default.
        truth_crosswalk: Name or file of the crosswalk from it to *target*.
        supervision: Which labels train.
        lr: Learning rate at the start; it falls to zero along a cosine.
        weight_decay: Weight decay of AdamW.
        class_weights: Weight of each class of *target* in the loss.
    """

    # Lightning keeps what it needs to make the network again from a checkpoint; the
    # encoder's file is not needed then, and may be gone.
    ignore = 'weights'

    def __init__(
        self,
        model: str = 'unet',
        backbone: str = 'resnet18',
        weights: str | None = None,
        bands: int = 4,
        image_dtype: str | None = 'uint8',
        mean: Sequence[float] | float | None = None,
        std: Sequence[float] | float | None = None,
        legend: str = 'nlcd',
        target: str = 'land-cover-4',
        crosswalk: str | None = None,
        truth_legend: str | None = None,
        truth_crosswalk: str | None = None,
        supervision: Literal['lr', 'hr'] = 'lr',
        lr: float = 1e-3,
        weight_decay: float = 1e-4,
        class_weights: Sequence[float] | None = None,
    ) -> None:
        self.weights = weights
        super().__init__()

    def configure_models(self) -> None:
        """Make the network that the hyperparameters name."""
        super().configure_models()
        h = self.hparams
        self.network = SegmentationNetwork(
            h['model'],
            h['backbone'],
            h['bands'],
            len(self.crosswalk.target),
            self.weights,
            h['image_dtype'],
            h['mean'],
            h['std'],
        )

    def configure_losses(self) -> None:
        """Check the weights of the classes."""
        given, classes = self.hparams['class_weights'], len(self.crosswalk.target)
        if given is not None and len(given) != classes:
            raise InputError(
                f'class_weights has {len(given)} values for {classes} classes of '
                f"'{self.crosswalk.target.name}'"
            )
        weight = None if given is None else torch.tensor(given, dtype=torch.float32)
        self.register_buffer('class_weights', weight, persistent=False)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Optimise the network.

        Returns:
            AdamW, and a learning rate that falls to zero along a cosine over all steps.
        """
        h = self.hparams
        optimizer = AdamW(
            self.network.parameters(), lr=h['lr'], weight_decay=h['weight_decay']
        )
        steps = max(int(self.trainer.estimated_stepping_batches), 1)
        scheduler = CosineAnnealingLR(optimizer, steps)
        return {
            'optimizer': optimizer,
            'lr_scheduler': {'scheduler': scheduler, 'interval': 'step'},
        }

    def forward(self, image: Tensor) -> Tensor:
        """Score every pixel.

        Args:
            image: (B, C, H, W), the values as read from the file.

        Returns:
            Logits, (B, classes, H, W).
        """
        logits: Tensor = self.network(image)
        return logits

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Say what ``torchgeo-mapsr map --checkpoint`` has to know.

        Args:
            checkpoint: What will be saved.
        """
        checkpoint[ABOUT] = {
            'task': type(self).__name__,
            'target': self.crosswalk.target.to_dict(),
        }

    def log_probabilities(self, batch: Sample) -> Tensor:
        """Log-probabilities of every pixel, (B, classes, H, W).

        Args:
            batch: With ``image`` (B, C, H, W).
        """
        return self(batch['image']).float().log_softmax(1)

    def pixel_index(self, batch: Sample) -> Tensor:
        """Class of each pixel by the labels that train, (B, H, W), -1 = none.

        Args:
            batch: With LR labels, or with HR labels, as *supervision* says.
        """
        if self.hparams['supervision'] == 'hr':
            return self.truth_index(batch)
        cells = self.cells(batch)
        return cells.of_pixels(cells.label, -1)

    def training_step(
        self, batch: Sample, batch_idx: int, dataloader_idx: int = 0
    ) -> Tensor:
        """Compute the cross entropy with each pixel's label.

        Args:
            batch: The output of your DataLoader.
            batch_idx: Integer displaying index of this batch.
            dataloader_idx: Index of the current dataloader.

        Returns:
            The loss tensor.
        """
        logits, index = self(batch['image']), self.pixel_index(batch)
        loss = self.cross_entropy(logits, index)
        self.log('train_loss', loss, batch_size=len(index))
        return loss

    def cross_entropy(self, logits: Tensor, index: Tensor) -> Tensor:
        """Weighted mean cross entropy of labelled pixels; zero where there are none.

        Args:
            logits: (B, classes, H, W).
            index: Class of each pixel, (B, H, W), -1 = none.
        """
        weight: Any = self.class_weights
        total = F.cross_entropy(
            logits.float(), index, weight, ignore_index=-1, reduction='sum'
        )
        known = index[index >= 0]
        count = known.numel() if weight is None else weight[known].sum()
        return total / max(count, 1e-6)
