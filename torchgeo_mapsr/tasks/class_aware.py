# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""Class-aware semi-supervised segmentation."""

from collections.abc import Sequence
from math import inf
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from .._compat import Sample
from ..arguments import POSITIVE
from ..errors import InputError
from ..losses import ClassBalancedCrossEntropy, ClassCentreContrast, ClassPrior
from ..models.networks.segmentation import Network
from ..seeds import repeatable
from .cells import valid_pixels
from .classes import CLASSES, Classes
from .land_cover import check_averages
from .network import NETWORK, NetworkTask
from .supervision import PixelLabels


class ClassAwareTask(NetworkTask):
    """Train with labelled images and unlabelled ones that have minority classes.

    Dong et al. 2023. The unlabelled patches are selected beforehand, by a network that
    was trained on the labelled ones (``torchgeo-mapsr select``); then

    * labelled pixels give the class-balanced cross entropy, eq. 5. Its class prior is
      that of all images of the batches, labelled or not, eq. 4
    * centres of the classes in all images give the contrast, eq. 6: by labels where
      there are any in the labelled images, by the prediction (pseudo-labels, of the
      network as it is) in the unlabelled ones

    and the loss is L_cbce + λ L_cct, eq. 7. Pseudo-labels have no cross entropy: they
    divide the feature space and no more, as in the paper.

    Batches are those of :class:`~torchgeo_mapsr.datamodules.SourceTargetDataModule`,
    whose *source* is labelled and whose *target* is not (labels that it has are not
    looked at); or batches of labelled images alone, which is the supervised form.

    Args:
        network: The network.
        classes: Legends of the labels and of the map.
        supervision: Which labels train.
        lr: Learning rate at the start; it falls to zero along a cosine.
        weight_decay: Weight decay of AdamW.
        class_weights: Weight of each class in a plain cross entropy; only where
            *balance* is False.
        balance: Whether the cross entropy is the class-balanced one.
        sampling: How the weight s(x, y) of eq. 2 takes part, see
            :class:`~torchgeo_mapsr.losses.ClassBalancedCrossEntropy`. By default it
            does not: on noisy labels both other ways did harm.
        weighting: Whether classes weigh by W of eq. 3.
        least_share: Least share that a class is taken to have.
        momentum: μ of eq. 4. By default 1 - B / N, the average over an epoch; the paper
            prints B / N, which is the last batch.
        shares: Class shares of the labelled data, where the prior begins; by default
            those of the first batch.
        contrast: λ of eq. 7; 0 for no contrast.
        temperature: τ of eq. 6.
        cross_image: Whether centres are contrasted across the images of a batch, or
            within each image only (Table 7).

    Raises:
        InputError: An argument is out of its range, or none of its words, or has no
            effect with the others.
    """

    takes_domains = True

    ranges = NetworkTask.ranges | {
        'least_share': (POSITIVE, 1),
        'momentum': (0, 1),
        'contrast': (0, inf),
        'temperature': (POSITIVE, inf),
    }

    def __init__(
        self,
        network: Network = NETWORK,
        classes: Classes = CLASSES,
        supervision: PixelLabels | Literal['lr', 'hr'] = 'lr',
        lr: float = 1e-3,
        weight_decay: float = 1e-4,
        class_weights: Sequence[float] | None = None,
        balance: bool = True,
        sampling: Literal['likelihood', 'detached', 'none'] = 'none',
        weighting: bool = True,
        least_share: float = 1e-4,
        momentum: float | None = None,
        shares: Sequence[float] | None = None,
        contrast: float = 0.005,
        temperature: float = 0.07,
        cross_image: bool = True,
    ) -> None:
        super().__init__(
            network,
            classes,
            supervision,
            class_weights=class_weights,
            lr=lr,
            weight_decay=weight_decay,
        )

    def configure_losses(self) -> None:
        """Make the losses and the class prior."""
        super().configure_losses()
        h = self.hparams
        if h['balance'] and h['class_weights'] is not None:
            raise InputError('Give class_weights with balance=False, or not at all')
        if not h['balance']:
            balanced = ('sampling', 'weighting', 'least_share', 'momentum', 'shares')
            self.refuse('balance=False', *balanced)
        if not h['contrast']:
            self.refuse('contrast=0', 'temperature', 'cross_image')
        classes = len(self.crosswalk.target)
        self.prior = ClassPrior(classes, h['momentum'] or 0.0, h['shares'])
        self.balanced = ClassBalancedCrossEntropy(
            h['sampling'], h['weighting'], h['least_share']
        )
        self.contrast = ClassCentreContrast(h['temperature'], h['cross_image'])

    def on_train_start(self) -> None:
        """Find the momentum of the class prior from the length of an epoch."""
        super().on_train_start()
        steps = self.trainer.num_training_batches
        if self.hparams['momentum'] is None:
            # B / N is 1 / (steps of an epoch); an epoch may have no end.
            self.prior.momentum = 1 - 1 / max(float(steps), 1.0)

    def on_fit_start(self) -> None:
        """Refuse precisions in which the moving average stands still."""
        super().on_fit_start()
        check_averages(self.trainer)

    @repeatable
    def training_step(
        self, batch: Sample, batch_idx: int, dataloader_idx: int = 0
    ) -> Tensor:
        """Compute the loss, eq. 7.

        Args:
            batch: The output of your DataLoader: labelled images, or ``source`` and
                ``target``.
            batch_idx: Integer displaying index of this batch.
            dataloader_idx: Index of the current dataloader.

        Returns:
            The loss tensor.

        Raises:
            InputError: If the images of the two are not of one size.
        """
        labelled, unlabelled = batch.get('source', batch), batch.get('target')
        index = self.pixel_index(labelled)
        image, valid = labelled['image'], valid_pixels(labelled)
        if unlabelled is not None:
            if unlabelled['image'].shape[1:] != image.shape[1:]:
                raise InputError(
                    'Labelled and unlabelled images must have the same bands and size: '
                    'give both data modules one patch_size'
                )
            image = torch.cat([image, unlabelled['image']])
            valid = torch.cat([valid, valid_pixels(unlabelled)])
        height, width = image.shape[-2:]
        features = self.model.features(image)
        padded = self.model.classify(features)
        logits, n = padded[..., :height, :width], len(index)
        if not self.hparams['balance']:
            loss = self.pixel_loss(logits[:n], index)
        else:
            self.prior.start(index)
            prior = self.prior(logits.float().softmax(1), valid)
            loss = self.balanced(logits[:n], index, prior)
        parts: dict[str, Any] = {'train_loss': loss}
        if self.hparams['contrast'] > 0:
            pseudo = torch.where(valid[n:], logits[n:].argmax(1), -1)
            label = torch.cat([index, pseudo])
            # Classes of weight 0 take no part in the contrast either.
            label = torch.where(self.trains(label), label, -1)
            contrast = self._contrast(features, padded, label)
            parts |= {'train_cross_entropy': loss, 'train_contrast': contrast}
            parts['train_loss'] = loss = loss + self.hparams['contrast'] * contrast
        self.log_dict({k: v.detach() for k, v in parts.items()}, batch_size=n)
        return loss

    def _contrast(self, features: Tensor, logits: Tensor, label: Tensor) -> Tensor:
        """Contrast on the grid of the features, which some decoders end coarser."""
        rows, cols = (
            big - small
            for big, small in zip(logits.shape[-2:], label.shape[-2:], strict=True)
        )
        label = F.pad(label, (0, cols, 0, rows), value=-1)
        probabilities = logits.detach().float().softmax(1)
        step = logits.shape[-1] // features.shape[-1]
        if step > 1:
            label = label[..., step // 2 :: step, step // 2 :: step]
            probabilities = F.avg_pool2d(probabilities, step)
        loss: Tensor = self.contrast(features, probabilities, label)
        return loss
