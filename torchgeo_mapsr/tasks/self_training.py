# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""Self-training from a labelled source to an unlabelled target."""

from collections.abc import Sequence
from math import inf
from typing import Any, Literal

import torch
from torch import Tensor, nn

from .._compat import Sample
from ..arguments import check_numbers
from ..errors import InputError
from ..losses import SelfTrainingLoss, pseudo_labels
from ..losses.self_training import weighted_cross_entropy
from ..models.networks.segmentation import Network
from ..models.networks.teacher import EMATeacher
from ..seeds import repeatable
from ..transforms import ClassMix, ResolutionAlignment
from .cells import valid_pixels
from .classes import CLASSES, Classes
from .land_cover import check_averages
from .network import NETWORK, NetworkTask
from .supervision import PixelLabels


class SelfTrainingTask(NetworkTask):
    """Adapt a network to a target domain without labels of it.

    Self-training with resolution alignment, Liu et al. 2025, section II-B, which builds
    on DACS (Tranheden et al. 2021). Each step

    1. shrinks and enlarges some source images (equations 1 and 2) and trains the
       student on them with their labels (L_S, equation 3)
    2. lets the teacher label target images (equation 5), and trusts each by the share
       of its pixels that the teacher is sure of (λ, equation 7)
    3. pastes half of the classes of a source image on a target image, and trains the
       student on the mixture with the mixed labels (L_T, equation 6): weight λ where
       pixels are the target's, 1 where they are the source's, as in DACS. With
       ``mix=False`` the target image is taken as it is, as equation 6 prints it
    4. minimises L_S + L_T (equation 8), and moves the teacher's weights a little towards
       the student's (equation 4)

    ``model`` is the student: it is what the paper trains for the target, what
    validation measures, and what ``torchgeo-mapsr map --checkpoint`` maps with. The
    teacher is in checkpoints too (``teacher.module``), so that training goes on where it
    stopped; processes of a distributed training have the same one, as they have the
    same student.

    Training batches are a dictionary of two, ``source`` and ``target``: see
    :class:`~torchgeo_mapsr.datamodules.SourceTargetDataModule`. Of the target only
    ``image`` and ``mask_valid`` are looked at. Where source and target are the same
    files, the source's noisy labels are trained on and the mixtures dilute them.

    Args:
        network: The network.
        classes: Legends of the labels and of the map.
        supervision: Which labels of the source train.
        lr: Learning rate at the start; it falls to zero along a cosine.
        weight_decay: Weight decay of AdamW.
        class_weights: Weight of each class in both losses.
        threshold: τ₀, the probability from which the teacher is sure.
        ema_decay: α, how much of its old weights the teacher keeps in a step.
        ema_warmup: Begin with a low α, see
            :class:`~torchgeo_mapsr.models.networks.teacher.EMATeacher`.
        target_weight: Weight of L_T (the paper: 1). With 0 the source alone trains.
        mix: Paste classes of the source on the target.
        mix_share: Share of the source's classes that is pasted.
        alignment: Bounds of the ratio that source images are shrunk by, r1 and r2; None
            for no resolution alignment.
        alignment_p: Share of source images that are shrunk.
        reduction: Losses are means over labelled pixels, or sums as the equations print
            them, which grow with chips and batches as the learning rate has to fall.

    Raises:
        InputError: An argument is out of its range, or none of its words, or has no
            effect with the others.
    """

    takes_domains = True

    ranges = NetworkTask.ranges | {
        'threshold': (0, 1),
        'ema_decay': (0, 1),
        'target_weight': (0, inf),
        'mix_share': (0, 1),
        'alignment_p': (0, 1),
    }

    def __init__(
        self,
        network: Network = NETWORK,
        classes: Classes = CLASSES,
        supervision: PixelLabels | Literal['lr', 'hr'] = 'lr',
        lr: float = 1e-3,
        weight_decay: float = 1e-4,
        class_weights: Sequence[float] | None = None,
        threshold: float = 0.968,
        ema_decay: float = 0.999,
        ema_warmup: bool = True,
        target_weight: float = 1.0,
        mix: bool = True,
        mix_share: float = 0.5,
        alignment: tuple[float, float] | None = (0.25, 1.0),
        alignment_p: float = 0.5,
        reduction: Literal['mean', 'sum'] = 'mean',
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
        """Make student and teacher, which begin alike, and the augmentations."""
        super().configure_models()
        h = self.hparams
        self.teacher = EMATeacher(self.model, h['ema_decay'], h['ema_warmup'])
        self.mix = ClassMix(h['mix_share'])
        self.alignment: nn.Module = nn.Identity()
        if h['alignment'] is not None:
            check_numbers('alignment', h['alignment'])
            self.alignment = ResolutionAlignment(h['alignment'], p=h['alignment_p'])

    def configure_losses(self) -> None:
        """Make the loss of both domains."""
        super().configure_losses()
        h = self.hparams
        if not h['mix']:
            self.refuse('mix=False', 'mix_share')
        if h['alignment'] is None:
            self.refuse('alignment=None', 'alignment_p')
        self.self_training = SelfTrainingLoss(h['reduction'], self.class_weights)

    def on_fit_start(self) -> None:
        """Refuse precisions in which the moving average stands still."""
        super().on_fit_start()
        check_averages(self.trainer)

    @repeatable
    def training_step(
        self, batch: Sample, batch_idx: int, dataloader_idx: int = 0
    ) -> Tensor:
        """Compute the loss on the source and on the target.

        Args:
            batch: The output of your DataLoader: ``source`` and ``target``.
            batch_idx: Integer displaying index of this batch.
            dataloader_idx: Index of the current dataloader.

        Returns:
            The loss tensor, equation 8.

        Raises:
            InputError: If the batch is not of two domains.
        """
        if not {'source', 'target'} <= set(batch):
            raise InputError(
                'Self-training needs batches of a source and a target: give the trainer '
                'a SourceTargetDataModule of two data modules'
            )
        source, target = batch['source'], batch['target']
        label, weight = self.pixel_index(source), self.hparams['target_weight']
        image = self._aligned(source)
        logits = self(image)
        if weight == 0:
            loss = weighted_cross_entropy(
                logits, label, None, self.hparams['reduction'], self.class_weights
            )
            self.log('train_loss', loss, batch_size=len(label))
            return loss
        mixed = self._mixed(image, label, target)
        on_source, on_target = self.self_training(
            logits,
            label,
            self(mixed['image']),
            mixed['mask_label'],
            mixed['mask_weight'],
        )
        loss = on_source + weight * on_target
        self.log_dict(
            {
                'train_loss': loss,
                'train_source_loss': on_source,
                'train_target_loss': on_target,
                'train_trust': mixed['trust'],
            },
            batch_size=len(label),
        )
        return loss

    def optimizer_step(self, *arguments: Any, **more: Any) -> None:
        """Let the teacher follow each step, which may be of several batches.

        A checkpoint of the step has the teacher after it: callbacks write theirs before
        the task is told that the batch has ended.

        Args:
            arguments: See :class:`~lightning.pytorch.LightningModule`.
            more: Likewise.
        """
        super().optimizer_step(*arguments, **more)
        self.teacher.update_parameters(self.model)

    def _aligned(self, source: Sample) -> Tensor:
        """Source images as a coarser sensor would see them, but for no-data pixels."""
        image, valid = source['image'], valid_pixels(source)[:, None]
        seen: Tensor = self.alignment(torch.where(valid, image, torch.nan))
        return torch.where(valid, seen, image)

    def _mixed(self, image: Tensor, label: Tensor, target: Sample) -> Sample:
        """What the student sees of the target, its labels, and how far they count."""
        with torch.no_grad():
            logits = self.teacher(target['image'])
        pseudo, trust = pseudo_labels(
            logits, self.hparams['threshold'], valid_pixels(target)
        )
        mixed: Sample = {
            'image': target['image'],
            'mask_label': pseudo,
            'mask_weight': trust[:, None, None].expand(pseudo.shape),
        }
        if self.hparams['mix']:
            pasted = {
                'image': image,
                'mask_label': label,
                'mask_weight': torch.ones_like(label, dtype=trust.dtype),
            }
            mixed = self.mix(pasted, mixed, label)
        return mixed | {'trust': trust.mean()}
