# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""Torchgeo's semantic segmentation with labels of pixels, or of LR cells."""

from collections.abc import Sequence
from typing import Literal

from torch import Tensor
from torchvision.models._api import WeightsEnum

from ..errors import InputError
from ..models.networks.segmentation import Network
from .classes import CLASSES, Classes
from .network import Loss, NetworkTask
from .supervision import Supervision


class SegmentationTask(NetworkTask):
    """Train a segmentation network with labels of pixels, or of LR cells.

    It is torchgeo's semantic segmentation, with its arguments, and with labels that may
    be coarser than the imagery. *supervision* says which labels train, and how:

    * ``'lr'``: a pixel's label is that of the LR cell that holds it
    * ``'hr'``: it is the HR label (``mask``)
    * :class:`~torchgeo_mapsr.tasks.supervision.RegionLabels`: scores are aggregated
      over each LR cell
    * :class:`~torchgeo_mapsr.tasks.supervision.MatchedStatistics`: predictions are
      counted in each LR cell
    * :class:`~torchgeo_mapsr.tasks.supervision.ExpectedShares`: the shares that an LR
      class is known to hold are soft labels

    Args:
        model: Architecture: unet, deeplabv3+, upernet, segformer… (those of smp).
        backbone: Encoder: a name of smp (resnet18, mit_b0…), or ``tu-NAME`` of timm.
        weights: Where the encoder starts: a local file, one of torchgeo's weights or its
            name, True for ImageNet weights, or None or False for a random start.
        in_channels: Bands of the imagery.
        num_classes: Number of classes, which is that of ``classes.target``; checked.
        loss: Loss of pixels that have a label: cross entropy (``ce``), ``jaccard``,
            ``focal`` or ``dice``.
        class_weights: Weight of each class in the cross entropy.
        ignore_index: Class of the map that takes no part in losses and metrics.
        lr: Learning rate at the start.
        patience: Epochs without a better ``val_loss`` after which the learning rate
            falls.
        freeze_backbone: Train the decoder and the head only.
        freeze_decoder: Train the encoder and the head only.
        classes: Legends of the labels and of the map.
        supervision: Which labels train, and how.
        image_dtype: Data type of the imagery's files, by which values are scaled, see
            :class:`~torchgeo_mapsr.models.networks.segmentation.SegmentationNetwork`.
        mean: Mean of each band, or one for all, in units of the files.
        std: Standard deviation likewise.
        weight_decay: Weight decay of AdamW.
        scheduler: How the learning rate falls: on a ``plateau`` of ``val_loss``, as in
            torchgeo, or to zero along a ``cosine``.

    Raises:
        InputError: An argument is out of its range, or none of its words.

    >>> import torch
    >>> from torchgeo_mapsr import Classes, RegionLabels
    >>> task = SegmentationTask(
    ...     'unet',
    ...     'resnet18',
    ...     in_channels=4,
    ...     classes=Classes('nlcd', 'land-cover-4'),
    ...     supervision=RegionLabels(),
    ... )
    >>> task(torch.zeros(1, 4, 64, 64)).shape
    torch.Size([1, 4, 64, 64])
    """

    def __init__(
        self,
        model: str = 'unet',
        backbone: str = 'resnet18',
        weights: bool | WeightsEnum | str | None = None,
        in_channels: int = 4,
        num_classes: int | None = None,
        loss: Loss = 'ce',
        class_weights: Sequence[float] | Tensor | None = None,
        ignore_index: int | None = None,
        lr: float = 1e-3,
        patience: int = 10,
        freeze_backbone: bool = False,
        freeze_decoder: bool = False,
        classes: Classes = CLASSES,
        supervision: Supervision | Literal['lr', 'hr'] = 'lr',
        image_dtype: str | None = 'uint8',
        mean: Sequence[float] | float | None = None,
        std: Sequence[float] | float | None = None,
        weight_decay: float = 1e-4,
        scheduler: Literal['plateau', 'cosine'] = 'plateau',
    ) -> None:
        network = Network(
            model,
            backbone,
            weights,
            in_channels,
            image_dtype,
            mean,
            std,
            freeze_backbone,
            freeze_decoder,
        )
        super().__init__(
            network,
            classes,
            supervision,
            loss,
            class_weights,
            ignore_index,
            lr,
            weight_decay,
            scheduler,
            patience,
        )
        target = self.crosswalk.target
        if num_classes not in (None, len(target)):
            raise InputError(
                f"num_classes is {num_classes}, and '{target.name}' has {len(target)}: "
                'give classes.target'
            )

    def configure_losses(self) -> None:
        """Make the loss of labelled pixels.

        Raises:
            InputError: If the supervision has no use for it, or for weights of classes.
        """
        super().configure_losses()
        if self.class_weights is not None and not self.supervision.weighs_classes:
            raise InputError(
                'class_weights weigh labels of pixels or cells, and '
                f'{type(self.supervision).__name__} has none: leave them out'
            )
