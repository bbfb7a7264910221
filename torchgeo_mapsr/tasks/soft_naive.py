# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""Networks trained with expected shares as if they were each pixel's label."""

from collections.abc import Sequence

import torch
from torch import Tensor

from .._compat import Sample
from .joint_statistics import JointStatisticsTask


class SoftNaiveTask(JointStatisticsTask):
    """Train a segmentation network with soft labels: a baseline of Malkin et al. 2019.

    Every pixel has the expected shares η of the HR classes in its LR cell as target of
    the cross entropy (section 3.1, *soft naive*). *Hard naive*, with the most frequent
    class, is :class:`~torchgeo_mapsr.tasks.SegmentationTask` with the crosswalk
    ``scenes``, which was made of the same table.

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
        crosswalk: Name or file of the crosswalk between them, for validation.
        truth_legend: Legend of ``mask``, the HR labels; *target* by default.
        truth_crosswalk: Name or file of the crosswalk from it to *target*.
        statistics: Joint statistics of *legend* and *target*, a name or a file.
        lr: Learning rate at the start; it falls to zero along a cosine.
        weight_decay: Weight decay of AdamW.
        class_weights: Weight of each class of *target* in the loss.
    """

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
        statistics: str = 'malkin2019',
        lr: float = 1e-3,
        weight_decay: float = 1e-4,
        class_weights: Sequence[float] | None = None,
    ) -> None:
        super().__init__(weights=weights)

    def configure_losses(self) -> None:
        """Make the table of targets."""
        super().configure_losses()
        # published tables are rounded: rows are made to sum to one
        shares = self.statistics.proportions(self.statistics.source.codes)
        self.register_buffer(
            'shares', torch.from_numpy(shares).float(), persistent=False
        )

    def training_step(
        self, batch: Sample, batch_idx: int, dataloader_idx: int = 0
    ) -> Tensor:
        """Compute the cross entropy with the expected shares.

        Args:
            batch: The output of your DataLoader.
            batch_idx: Integer displaying index of this batch.
            dataloader_idx: Index of the current dataloader.

        Returns:
            The loss tensor; zero without a labelled pixel.
        """
        logits, target = self(batch['image']), self.pixel_shares(batch)
        if self.class_weights is not None:
            target = target * self.class_weights[:, None, None]
        total = -(target * logits.float().log_softmax(1)).sum()
        loss: Tensor = total / target.sum().clamp(min=1e-6)
        self.log('train_loss', loss, batch_size=len(logits))
        return loss

    def pixel_shares(self, batch: Sample) -> Tensor:
        """Expected shares of the cell that each pixel lies in, (B, classes, H, W).

        Args:
            batch: With LR labels. A pixel without one has zeros.
        """
        cells = self.cells(batch)
        rows = cells.of_pixels(self.rows(cells).view_as(cells.codes), -1)
        shares = self.shares[rows.clamp(min=0)]
        return torch.where(rows[..., None] >= 0, shares, 0).movedim(-1, 1)
