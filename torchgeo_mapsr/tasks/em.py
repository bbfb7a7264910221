# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""Networks trained with their own smoothed predictions, round by round."""

from collections.abc import Sequence
from copy import deepcopy
from math import inf

import torch
import torch.nn.functional as F
from torch import Tensor

from .._compat import Sample
from ..arguments import POSITIVE
from ..losses import label_counts
from ..models.networks.segmentation import Network
from ..models.propagation.superpixels import superpixels
from ..seeds import repeatable
from .cells import valid_pixels
from .classes import CLASSES, Classes
from .network import NETWORK, NetworkTask
from .supervision import MatchedStatistics, Supervision

# Default of the signature; it is immutable.
STATISTICS = MatchedStatistics()


class ExpectationMaximizationTask(NetworkTask):
    """EM with superpixel denoising: a baseline of Malkin et al. 2019, section 3.1.

    It is the method of Papandreou et al. 2015 with superpixels in place of a dense CRF:

    1. M-step: train on LR labels as *supervision* says, for *warmup_epochs*
    2. E-step: predict the training chips; average the predictions in each superpixel;
       every pixel of it gets the class that is the most likely then
    3. M-step: train on these labels with cross entropy, for *round_epochs*; go to 2

    A round's labels are those of the network as it was when the round began: a copy of
    it predicts each batch when it is there, so that random chips and augmentations need
    no labels on disk. LR labels take no part after the warm-up, and nothing keeps errors
    from growing: the paper measures mean IoU at 40 against 72 of the network that it
    starts from.

    Args:
        network: The network.
        classes: Legends of the labels and of the map.
        supervision: How LR labels train in the first M-step.
        warmup_epochs: Epochs of the first M-step.
        round_epochs: Epochs of each M-step after it.
        spacing: Pixels between the centres of superpixels, about.
        compactness: Colour difference that weighs as much as one spacing.
        lr: Learning rate at the start; it falls to zero along a cosine.
        weight_decay: Weight decay of AdamW.
        class_weights: Weight of each class in the cross entropy.

    Raises:
        InputError: An argument is out of its range, or none of its words.
    """

    ranges = NetworkTask.ranges | {
        'warmup_epochs': (1, inf),
        'round_epochs': (1, inf),
        'spacing': (1, inf),
        'compactness': (POSITIVE, inf),
    }

    def __init__(
        self,
        network: Network = NETWORK,
        classes: Classes = CLASSES,
        supervision: Supervision = STATISTICS,
        warmup_epochs: int = 10,
        round_epochs: int = 5,
        spacing: float = 10.0,
        compactness: float = 0.2,
        lr: float = 1e-3,
        weight_decay: float = 1e-4,
        class_weights: Sequence[float] | None = None,
    ) -> None:
        super().__init__(
            network,
            classes,
            supervision,
            class_weights=class_weights,
            lr=lr,
            weight_decay=weight_decay,
        )

    def configure_models(self) -> None:
        """Make the network, and the copy of it that labels."""
        super().configure_models()
        # Part of checkpoints, so that a resumed round goes on with its own labels.
        self.teacher = deepcopy(self.model).requires_grad_(False)

    def on_train_batch_start(self, batch: Sample, batch_idx: int) -> None:
        """Begin a round with its first batch: the network as it is now labels from there.

        Lightning announces no epoch that begins where a checkpoint of the last step of
        another one ended.

        Args:
            batch: The output of your DataLoader.
            batch_idx: Integer displaying index of this batch.
        """
        super().on_train_batch_start(batch, batch_idx)
        epoch = self.current_epoch - self.hparams['warmup_epochs']
        if batch_idx == 0 and epoch >= 0 and epoch % self.hparams['round_epochs'] == 0:
            self.teacher.load_state_dict(self.model.state_dict())

    @repeatable
    def training_step(
        self, batch: Sample, batch_idx: int, dataloader_idx: int = 0
    ) -> Tensor:
        """Compute the loss of the M-step.

        Args:
            batch: The output of your DataLoader.
            batch_idx: Integer displaying index of this batch.
            dataloader_idx: Index of the current dataloader.

        Returns:
            The loss tensor.
        """
        if self.current_epoch < self.hparams['warmup_epochs']:
            return super().training_step(batch, batch_idx, dataloader_idx)
        labels = self.expected_labels(batch)
        loss = self.pixel_loss(self(batch['image']), labels)
        self.log('train_loss', loss, batch_size=len(labels))
        return loss

    def on_train_epoch_end(self) -> None:
        """Refuse a warm-up without LR labels; later rounds look at none."""
        if self.current_epoch < self.hparams['warmup_epochs']:
            super().on_train_epoch_end()

    @torch.no_grad()
    def expected_labels(self, batch: Sample) -> Tensor:
        """The E-step: labels of a batch, (B, H, W), -1 where there are no data.

        Args:
            batch: With ``image``, and ``mask_valid`` where some pixels have no data.
        """
        image = batch['image']
        p = self.teacher.eval()(image).float().softmax(1)
        # Superpixels cannot be made of values that are not finite.
        valid = valid_pixels(batch) & image.isfinite().all(1)
        h = self.hparams
        # Colours are compared in single precision.
        with torch.autocast(image.device.type, enabled=False):
            segments = torch.stack(
                [
                    superpixels(one, h['spacing'], h['compactness'], has_data)
                    for one, has_data in zip(image, valid, strict=True)
                ]
            )
        means = label_counts(p, segments, int(segments.max()), valid).mean
        # Segment 0 holds the pixels without data.
        best = F.pad(means.argmax(-1), (1, 0), value=-1)
        return best.gather(1, segments.flatten(1)).view_as(segments)
