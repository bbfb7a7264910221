# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""Label super-resolution networks."""

from collections.abc import Sequence

from torch import Tensor

from .._compat import Sample
from ..errors import InputError
from ..losses import StatisticsMatchingLoss, label_counts
from ..losses.statistics_matching import Criterion
from .joint_statistics import JointStatisticsTask, tables


class LabelSuperResolutionTask(JointStatisticsTask):
    """Train a segmentation network with what LR classes say about counts of HR classes.

    Malkin et al. 2019. A cell's LR label is no label of its pixels, but a distribution
    of how many of them are of each HR class: medium-intensity development is 63 ± 22 %
    impervious, 21 ± 19 % field and 14 ± 17 % forest. The network's predictions in the
    cell are counted (eq. 3 and 4), and the counts compared with that (eq. 5 to 7), see
    :class:`~torchgeo_mapsr.losses.StatisticsMatchingLoss`. So the LR classes need not be
    HR classes, and an HR class may well be nowhere the most frequent one.

    With *hr_weight*, pixels that have an HR label (``mask`` is not -1) add their cross
    entropy: the paper's joint training, HR + SR.

    The crosswalk takes no part in training. It is for ``LRAgreement`` and ``val_loss``.

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
        statistics: Joint statistics of *legend* and *target*, a name or a file:
            ``malkin2019`` (NLCD, measured in Maryland), ``nlcd-descriptions``, or what
            ``torchgeo-mapsr statistics`` has measured.
        criterion: How counts are compared, see
            :class:`~torchgeo_mapsr.losses.StatisticsMatchingLoss`, as the next.
        variance_weight: Weight of the log-variance term.
        sr_weight: Weight of the statistics loss.
        hr_weight: Weight of the HR labels' cross entropy; 0: HR labels take no part.
        lr: Learning rate at the start; it falls to zero along a cosine.
        weight_decay: Weight decay of AdamW.
        class_weights: Weight of each class of *target* in the cross entropy.
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
        criterion: Criterion = 'compromise',
        variance_weight: float = 1.0,
        sr_weight: float = 1.0,
        hr_weight: float = 0.0,
        lr: float = 1e-3,
        weight_decay: float = 1e-4,
        class_weights: Sequence[float] | None = None,
    ) -> None:
        super().__init__(weights=weights)

    def configure_losses(self) -> None:
        """Make the statistics loss."""
        super().configure_losses()
        h = self.hparams
        # EM is derived from this task and has no HR labels
        self.loss_weights = {
            'LR': h.get('sr_weight', 1.0),
            'HR': h.get('hr_weight', 0.0),
        }
        weights = self.loss_weights.values()
        if min(weights) < 0 or not any(weights):
            raise InputError('sr_weight and hr_weight are 0 or more, and not both 0')
        self.criterion = StatisticsMatchingLoss(
            *tables(self.statistics), h['criterion'], h['variance_weight']
        )
        self._labelled = {'LR': False, 'HR': False}

    def training_step(
        self, batch: Sample, batch_idx: int, dataloader_idx: int = 0
    ) -> Tensor:
        """Compute the weighted sum of both losses.

        Args:
            batch: The output of your DataLoader.
            batch_idx: Integer displaying index of this batch.
            dataloader_idx: Index of the current dataloader.

        Returns:
            The loss tensor.
        """
        size = len(batch['image'])
        logits = self(batch['image'])
        sr = self.match(batch, logits)
        loss = self.loss_weights['LR'] * sr
        self.log('train_sr_loss', sr, batch_size=size)
        if self.loss_weights['HR']:
            index = self.truth_index(batch)
            self._labelled['HR'] |= bool((index >= 0).any())
            hr = self.cross_entropy(logits, index)
            loss = loss + self.loss_weights['HR'] * hr
            self.log('train_hr_loss', hr, batch_size=size)
        self.log('train_loss', loss, batch_size=size)
        return loss

    def match(self, batch: Sample, logits: Tensor) -> Tensor:
        """The statistics loss of a batch.

        A cell that the chip cuts counts by its visible share.

        Args:
            batch: With LR labels.
            logits: (B, classes, H, W).
        """
        cells = self.cells(batch)
        rows = self.rows(cells)
        self._labelled['LR'] |= bool((rows >= 0).any())
        p = logits.float().softmax(1)
        counts = label_counts(p, cells.region, rows.shape[1], cells.valid)
        loss: Tensor = self.criterion(counts, rows, cells.share.flatten(1))
        return loss

    def on_train_epoch_end(self) -> None:
        """Refuse data that lack the labels that the weights ask for.

        Raises:
            InputError: If no chip of the epoch had one.
        """
        any_process = self.trainer.strategy.reduce_boolean_decision
        for kind, weight in self.loss_weights.items():
            seen = any_process(self._labelled[kind], all=False)
            if weight and not seen:
                raise InputError(
                    f'No pixel of the training chips has an {kind} label of a known '
                    'class: see that imagery and labels overlap, and that their legends '
                    'are what this task was told'
                )
