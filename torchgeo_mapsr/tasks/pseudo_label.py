# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""Training on pseudo-labels of another modality."""

from collections.abc import Sequence
from math import inf
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from .._compat import Sample
from ..arguments import check_numbers
from ..errors import InputError
from ..losses import LovaszLoss, SymmetricCrossEntropy, agreement
from ..models.networks.ensemble import Ensemble
from ..models.networks.segmentation import Network
from ..models.networks.trained import load_networks
from ..seeds import repeatable
from .cells import valid_pixels
from .classes import Classes
from .network import NetworkTask
from .supervision import PixelLabels

# Defaults of the signature: one band of SAR, and the classes of OpenEarthMap-SAR.
SAR_NETWORK = Network(in_channels=1)
OPENEARTHMAP = Classes('openearthmap', 'openearthmap')


class PseudoLabelTask(NetworkTask):
    """Train on labels that a network, and not a person, has given.

    The second stage of Liu et al. 2025, section II-C: a network for SAR images learns
    what networks of the first stage say of the optical images of the same places. The
    loss is symmetric cross entropy (equation 11), which bounds the pull of labels that
    the network holds to be wrong, with a Lovász term for rare classes (section II-D).

    Pseudo-labels are either what the batch has (``mask`` or LR labels, as *supervision*
    says: maps that were made before), or what *teachers* say of ``image_optical`` while
    this trains, as one ensemble. Selection needs no threshold: ``all`` takes the most
    likely class of every pixel; ``agreement`` those pixels on which all teachers, and
    the labels of the batch if it has any, agree.

    Teachers are no part of the checkpoint, which predicts without them.

    Args:
        network: The network.
        classes: Legends of the labels and of the map.
        supervision: Which labels of a batch train: ``mask`` (``hr``), or those of the LR
            cell under each pixel (``lr``).
        lr: Learning rate at the start; it falls to zero along a cosine.
        weight_decay: Weight decay of AdamW.
        class_weights: Weight of each class in the cross entropies; labels of a class of
            weight 0 do not train.
        teachers: Checkpoints of networks that label the other image; None to train on
            the batch's labels.
        teacher_weights: Weight of each in the ensemble; all alike by default.
        teacher_image: Key of the image that they see, of the same pixels as ``image``.
        selection: Which pseudo-labels train.
        epsilon: ε of equation 9.
        sce_weight: Weight of equation 9 (the paper: 1).
        lovasz_weight: Weight of the Lovász loss. The paper gives none.

    Raises:
        InputError: An argument is out of its range, or none of its words, or has no
            effect with the others.
    """

    ranges = NetworkTask.ranges | {'sce_weight': (0, inf), 'lovasz_weight': (0, inf)}

    def __init__(
        self,
        network: Network = SAR_NETWORK,
        classes: Classes = OPENEARTHMAP,
        supervision: PixelLabels | Literal['lr', 'hr'] = 'hr',
        lr: float = 1e-3,
        weight_decay: float = 1e-4,
        class_weights: Sequence[float] | None = None,
        teachers: str | Sequence[str] | None = None,
        teacher_weights: Sequence[float] | None = None,
        teacher_image: str = 'image_optical',
        selection: Literal['all', 'agreement'] = 'all',
        epsilon: float = 1e-4,
        sce_weight: float = 1.0,
        lovasz_weight: float = 1.0,
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
        """Make the losses."""
        super().configure_losses()
        h = self.hparams
        if not h['teachers']:
            # Without teachers all labels train: what selects among them has no effect.
            names = 'selection', 'teacher_weights', 'teacher_image'
            self.refuse('teachers=None', *names)
        elif h['selection'] == 'agreement':
            self.refuse("selection='agreement'", 'teacher_weights')
        check_numbers('teacher_weights', h['teacher_weights'], 0)
        self.symmetric = SymmetricCrossEntropy(
            h['epsilon'], sce_weight=h['sce_weight'], class_weights=self.class_weights
        )
        self.lovasz = LovaszLoss()
        # In a tuple, so that it is no submodule, and checkpoints hold no teacher.
        self._teachers: tuple[Ensemble, ...] = ()

    def on_fit_start(self) -> None:
        """Load the teachers.

        Raises:
            InputError: If they have other classes than this task's map.
        """
        super().on_fit_start()
        h = self.hparams
        if not h['teachers']:
            return
        teachers = h['teachers']
        named = [teachers] if isinstance(teachers, str) else teachers
        paths = [Path(path) for path in named]
        trained = load_networks(paths, h['teacher_weights'])
        if trained.target != self.crosswalk.target:
            raise InputError(
                f"The teachers map '{trained.target.name}' and this task "
                f"'{self.crosswalk.target.name}': give the task classes.target="
                f'{trained.target.name}'
            )
        self._teachers = (trained.ensemble.to(self.device),)

    def on_fit_end(self) -> None:
        """Let go of the teachers."""
        self._teachers = ()

    @repeatable
    def training_step(
        self, batch: Sample, batch_idx: int, dataloader_idx: int = 0
    ) -> Tensor:
        """Compute the loss on pseudo-labels.

        Args:
            batch: The output of your DataLoader.
            batch_idx: Integer displaying index of this batch.
            dataloader_idx: Index of the current dataloader.

        Returns:
            The loss tensor: equation 11, and the Lovász term.
        """
        label = self.pseudo_index(batch)
        # Labels of weight 0 train by neither loss.
        label = torch.where(self.trains(label), label, -1)
        logits = self(batch['image'])
        symmetric = self.symmetric(logits, label)
        lovasz = self.lovasz(logits, label)
        loss: Tensor = symmetric + self.hparams['lovasz_weight'] * lovasz
        self.log_dict(
            {
                'train_loss': loss,
                'train_symmetric_loss': symmetric,
                'train_lovasz_loss': lovasz,
                'train_selected': (label >= 0).float().mean(),
            },
            batch_size=len(label),
        )
        return loss

    @torch.no_grad()
    def pseudo_index(self, batch: Sample) -> Tensor:
        """Pseudo-label of each pixel, (B, H, W), -1 where none is selected.

        Args:
            batch: With labels, or with the image that the teachers see.

        Raises:
            InputError: If the teachers' image is not there.
        """
        if not self._teachers:
            return self.pixel_index(batch)
        key = self.hparams['teacher_image']
        if key not in batch:
            raise InputError(
                f'The batch has no {key} for the teachers to label: use a dataset of '
                'paired images (paired=True), or give the name of another image as '
                'teacher_image'
            )
        (ensemble,), image = self._teachers, batch[key]
        # Teachers keep their own precision, whatever the trainer's.
        image = image.to(next(ensemble.parameters()).dtype)
        if self.hparams['selection'] == 'all':
            label: Tensor = ensemble(image).argmax(1)
        else:
            labels = [network(image).argmax(1) for network in ensemble.networks]
            key = 'mask' if self.pixel_labels.source == 'hr' else 'lr_label'
            if key in batch:
                labels.append(self.pixel_labels.index(batch, self))
            label = agreement(*labels)
        label = torch.where(valid_pixels(batch), label, -1)
        self.note_labels({'pseudo': self.trains(label).any()})
        return label
