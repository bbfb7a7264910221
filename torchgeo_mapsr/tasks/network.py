# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""What the tasks that train a segmentation network have in common."""

import inspect
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import asdict, replace
from math import inf
from typing import Any, ClassVar, Literal

import segmentation_models_pytorch as smp
import torch
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor
from torch.optim import AdamW
from torch.optim.lr_scheduler import ReduceLROnPlateau

from .._compat import Sample, SemanticSegmentationTask
from ..arguments import Range, check_arguments, check_numbers, check_range, plain
from ..datasets.bands import UNNAMED, BandDescriptions
from ..datasets.base import ChipDataset
from ..errors import InputError
from ..models.networks.segmentation import Network, SegmentationNetwork
from ..models.networks.trained import ABOUT, describe, verify
from ..seeds import repeatable
from .cells import BatchCells
from .classes import CLASSES, Classes
from .land_cover import (
    LandCoverTask,
    check_labels,
    pairs_of_loader,
    warn_of_scaled_values,
)
from .schedule import CosineDecay, training_steps
from .supervision import PixelLabels, Supervision

Loss = Literal['ce', 'jaccard', 'focal', 'dice']

# Default of signatures; it is immutable.
NETWORK: Network = Network()


class NetworkTask(LandCoverTask, SemanticSegmentationTask):
    """Torchgeo's semantic segmentation with another training step.

    What its subclasses have in common: a network, the classes of labels and map, the
    labels that train, and how the network is optimised. Metrics are those of
    :class:`~torchgeo_mapsr.tasks.land_cover.LandCoverTask`.

    Args:
        network: The network.
        classes: Legends of the labels and of the map.
        supervision: Labels that train, and how.
        loss: Loss of pixels that have a label: cross entropy (``ce``), ``jaccard``,
            ``focal`` or ``dice``, as in torchgeo.
        class_weights: Weight of each class in the cross entropy.
        ignore_index: Class of the map that takes no part in losses and metrics.
        lr: Learning rate at the start.
        weight_decay: Weight decay of AdamW.
        scheduler: How the learning rate falls: on a ``plateau`` of ``val_loss``, as in
            torchgeo, or to zero along a ``cosine``.
        patience: Epochs of the plateau.
    """

    # Not needed to make the network from a checkpoint, and the file may be gone by then.
    ignore = 'weights'

    #: Range of each argument that is a number.
    ranges: ClassVar[dict[str, Range]] = {
        'lr': (0, inf),
        'weight_decay': (0, inf),
        'patience': (0, inf),
    }

    #: From images as read to logits.
    model: SegmentationNetwork

    #: Weight of each class in losses, (C,).
    class_weights: Tensor | None

    def __init__(
        self,
        network: Network = NETWORK,
        classes: Classes = CLASSES,
        supervision: Supervision | Literal['lr', 'hr'] = 'lr',
        loss: Loss = 'ce',
        class_weights: Sequence[float] | Tensor | None = None,
        ignore_index: int | None = None,
        lr: float = 1e-3,
        weight_decay: float = 1e-4,
        scheduler: Literal['plateau', 'cosine'] = 'cosine',
        patience: int = 10,
    ) -> None:
        self._network = Network.of(network)
        self._classes = Classes.of(classes)
        self.supervision = Supervision.of(supervision)
        # What torchgeo's methods look up in hparams, as plain values: so a checkpoint is
        # read without running code.
        settings: dict[str, Any] = {
            'network': self._network.to_dict(),
            'classes': asdict(self._classes),
            'supervision': self.supervision.to_dict(),
            'loss': loss,
            'class_weights': class_weights,
            'ignore_index': ignore_index,
            'lr': lr,
            'weight_decay': weight_decay,
            'scheduler': scheduler,
            'patience': patience,
            'task': 'multiclass',
        }
        self._settings = plain(settings)
        super().__init__()
        names = _parameters(type(self))
        for name in [n for n in self.hparams if n not in names and n[0] != '_']:
            del self.hparams[name]
        # What loggers get. Lightning would compare old and new values to find it, and
        # arrays cannot be compared so.
        self._hparams_initial = deepcopy(self.hparams)

    def configure_models(self) -> None:
        """Make the network, and load the legends."""
        check_arguments(NetworkTask.__init__, self._settings, self.ranges)
        check_arguments(type(self).__init__, self.hparams, self.ranges)
        self.crosswalk, self.truth = self._classes.load()
        target = self.crosswalk.target
        self.supervision.check(self.crosswalk)
        self.hparams.update(plain(self.hparams))
        self.hparams.update(self._settings | {'num_classes': len(target)})
        self._descriptions, self._pixel_size = UNNAMED, 0.0
        self._labelled: dict[str, Tensor] = {}
        self._scored = False
        self.model = SegmentationNetwork(self._network, len(target))

    def configure_losses(self) -> None:
        """Make the loss of labelled pixels.

        Raises:
            InputError: If the supervision has no use for the loss or for a class that is
                ignored, there is not one weight for each class, or what is given has no
                effect.
        """
        weights, target = self._settings['class_weights'], self.crosswalk.target
        check_numbers('class_weights', weights, 0)
        if weights is not None:
            weights = torch.as_tensor(weights, dtype=torch.float32)
            if len(weights) != len(target):
                raise InputError(
                    f'class_weights has {len(weights)} values for {len(target)} classes '
                    f"of '{target.name}'"
                )
            if not 0 < weights.sum() < inf:
                raise InputError(f'class_weights are not all 0: {weights.tolist()}')
        self.register_buffer('class_weights', weights, persistent=False)
        loss = self._settings['loss']
        if loss != 'ce' and not self.supervision.labels_pixels:
            raise InputError(
                f"loss='{loss}' compares pixels with their labels, and "
                f'{type(self.supervision).__name__} gives them none: leave it out'
            )
        if loss != 'ce' and weights is not None:
            raise InputError(
                f"class_weights have no effect with loss='{loss}': leave them out, or at "
                'None'
            )
        cosine = self._settings['scheduler'] == 'cosine'
        if cosine and 'patience' in _parameters(type(self)):
            self.refuse("scheduler='cosine'", 'patience')
        ignored, ignores = (
            self._settings['ignore_index'],
            self.supervision.ignores_classes,
        )
        check_range('ignore_index', ignored, 0, len(target) - 1, whole=True)
        if ignored is not None and not ignores:
            raise InputError(
                'ignore_index leaves out labels of a class, and '
                f'{type(self.supervision).__name__} compares shares of all classes: '
                'leave it out'
            )
        super().configure_losses()
        if loss == 'dice':  # torchgeo 0.8 lacks it
            self.criterion = smp.losses.DiceLoss('multiclass')
        elif loss == 'focal':
            # Torchgeo divides by the number of pixels what is normalised already: for a
            # chip of 512 × 512 pixels the loss is 5e-6, and 99.9 % of its gradients are
            # below AdamW's epsilon.
            self.criterion = smp.losses.FocalLoss(
                'multiclass', reduction='sum', normalized=True
            )

    def refuse(self, given: str, *names: str) -> None:
        """Refuse arguments that have no effect; a default cannot be told from none.

        Args:
            given: What takes the effect away, as it is written.
            names: The arguments.

        Raises:
            InputError: If one is not its default.
        """
        parameters = _parameters(type(self))
        for name in names:
            value, default = self.hparams[name], parameters[name].default
            if value is not default and (default is None or value != default):
                raise InputError(
                    f'{name} has no effect with {given}: leave it out, or at {default}'
                )

    @property
    def ignore_value(self) -> int:
        """What metrics take for a pixel without a label."""
        ignored: int | None = self._settings['ignore_index']
        return -1 if ignored is None else ignored

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Optimise what is trained of the network.

        Returns:
            AdamW, and the schedule of its learning rate.
        """
        # A learning rate finder writes into hparams.
        settings = self._settings | self.hparams
        optimizer = AdamW(
            [p for p in self.model.parameters() if p.requires_grad],
            lr=settings['lr'],
            weight_decay=settings['weight_decay'],
        )
        if settings['scheduler'] == 'plateau':
            return {
                'optimizer': optimizer,
                'lr_scheduler': {
                    'scheduler': ReduceLROnPlateau(
                        optimizer, patience=settings['patience']
                    ),
                    'monitor': self.monitor,
                    # Without validation the rate stays, and Lightning warns.
                    'strict': False,
                },
            }
        return {
            'optimizer': optimizer,
            'lr_scheduler': {
                'scheduler': CosineDecay(optimizer, training_steps(self.trainer)),
                'interval': 'step',
            },
        }

    def forward(self, x: Tensor) -> Tensor:
        """Score every pixel.

        Args:
            x: Images, (B, C, H, W), the values as read from the file.

        Returns:
            Logits, (B, classes, H, W).
        """
        if not self._scored:
            self._scored = True
            if self._network.mean is None:
                warn_of_scaled_values(x, self._network.image_dtype)
        logits: Tensor = self.model(x)
        return logits

    def log_probabilities(self, batch: Sample) -> Tensor:
        """Log-probabilities of every pixel, (B, classes, H, W).

        Args:
            batch: With ``image`` (B, C, H, W).
        """
        return self(batch['image']).float().log_softmax(1)

    def cells(self, batch: Sample) -> BatchCells:
        """LR cells of a batch; those of the ignored class have none.

        Args:
            batch: With LR labels.

        Raises:
            InputError: If it has none.
        """
        cells = super().cells(batch)
        label = torch.where(cells.label == self.ignore_value, -1, cells.label)
        return replace(cells, label=label)

    def truth_index(self, batch: Sample) -> Tensor:
        """Class of every pixel from the HR labels, (B, H, W) int64, -1 = none.

        Args:
            batch: With ``mask``; where ``mask_valid`` is 0 there is no class. The
                ignored class is none.

        Raises:
            InputError: If it has no HR labels.
        """
        index = super().truth_index(batch)
        return torch.where(index == self.ignore_value, -1, index)

    @property
    def pixel_labels(self) -> PixelLabels:
        """Which labels of pixels train.

        Raises:
            InputError: If others do.
        """
        if not isinstance(self.supervision, PixelLabels):
            raise InputError(
                f"supervision of {type(self).__name__} is 'lr' or 'hr', not "
                f'{type(self.supervision).__name__}'
            )
        return self.supervision

    def pixel_index(self, batch: Sample) -> Tensor:
        """Class of each pixel by the labels that train, (B, H, W), -1 = none.

        Args:
            batch: With these labels.
        """
        labels = self.pixel_labels
        index = labels.index(batch, self)
        self.note_labels({labels.source: self.trains(index).any()})
        return index

    def trains(self, index: Tensor) -> Tensor:
        """Which labels train: in a weighted cross entropy a class of weight 0 is none.

        PyTorch's mean is over weights, and without any it is 0 / 0.

        Args:
            index: Classes, -1 = no label, of any shape.
        """
        labelled = index >= 0
        if self.class_weights is not None:
            labelled &= self.class_weights[index.clamp(min=0)] > 0
        return labelled

    def note_labels(self, labelled: Mapping[str, Tensor]) -> None:
        """Note whether a batch has labels, for the end of the epoch.

        Args:
            labelled: For each kind of label that it should have: ``lr``, ``hr`` or
                ``pseudo``.
        """
        for kind, some in labelled.items():
            self._labelled[kind] = some | self._labelled.get(kind, some)

    def pixel_loss(self, logits: Tensor, index: Tensor) -> Tensor:
        """Loss of the pixels whose label trains; zero where there are none.

        Args:
            logits: (B, classes, H, W).
            index: Class of each pixel, (B, H, W), -1 = none.
        """
        labelled = self.trains(index)
        if not labelled.any():
            return (logits.float() * 0).sum()
        # Losses are sums or means over pixels: their order does not matter.
        scores = logits.float().movedim(1, 0)[:, labelled]
        # Precisions '64-true' and 'bf16-true' have converted its weights.
        self.criterion.to(scores.dtype)
        loss: Tensor = self.criterion(
            scores[None, :, :, None], index[labelled][None, :, None]
        )
        return loss

    def on_train_start(self) -> None:
        """Look for LR classes that the supervision cannot do with.

        Raises:
            InputError: If there are any in the labels of a dataset of this package.
        """
        loader: Any = self.trainer.train_dataloader
        dataset = getattr(loader, 'dataset', None)
        pairs = pairs_of_loader(loader)
        if pairs:
            self._descriptions = pairs[0].imagery.descriptions
            self._pixel_size = pairs[0].imagery.pixel_size
        if self.supervision.takes_cells:
            check_labels(loader, self.crosswalk.source)
        checks = type(self.supervision).check_codes is not Supervision.check_codes
        if checks and isinstance(dataset, ChipDataset):
            for tile in range(len(dataset.tiles)):
                self.supervision.check_codes(dataset.lr_cells(tile)[0])

    def on_predict_start(self) -> None:
        """Look whether the imagery has the bands that the network was trained on.

        Raises:
            InputError: It has them in another order.

        Warns:
            InputWarning: They have other names, or its pixels are of another size.
        """
        for pair in pairs_of_loader(self.trainer.predict_dataloaders):
            bands = self._network.in_channels
            reference = 'the imagery of the fit'
            pair.imagery.check_bands(bands, self._descriptions, reference)
            pair.imagery.check_pixels(self._pixel_size, reference)

    @repeatable
    def training_step(
        self, batch: Sample, batch_idx: int, dataloader_idx: int = 0
    ) -> Tensor:
        """Compute the loss that the supervision asks for.

        Args:
            batch: The output of your DataLoader.
            batch_idx: Integer displaying index of this batch.
            dataloader_idx: Index of the current dataloader.

        Returns:
            The loss tensor.
        """
        return self.supervised_loss(self(batch['image']), batch)

    def supervised_loss(self, logits: Tensor, batch: Sample) -> Tensor:
        """Compute and log the loss that the supervision asks for.

        Args:
            logits: (B, classes, H, W).
            batch: The labels.
        """
        loss, parts, labelled = self.supervision.loss(logits, batch, self)
        self.note_labels(labelled)
        logged = {'train_loss': loss} | {f'train_{k}': v for k, v in parts.items()}
        self.log_dict(logged, batch_size=len(logits))
        return loss

    def on_train_epoch_end(self) -> None:
        """Refuse data that lack the labels that train.

        Raises:
            InputError: If no chip of the epoch had one.
        """
        any_process = self.trainer.strategy.reduce_boolean_decision
        for kind, some in self._labelled.items():
            if not any_process(bool(some), all=False):
                if kind == 'pseudo':
                    raise InputError(
                        'No pixel of the training chips has a pseudo-label of a class '
                        'whose weight is above 0: they have no data, or the teachers '
                        '(and labels) agree nowhere'
                    )
                side = self.crosswalk if kind == 'lr' else self.truth
                raise InputError(
                    f'No pixel of the training chips has an {kind.upper()} label of a '
                    f"class of '{self.crosswalk.target.name}' whose weight is above 0: "
                    'see that imagery and labels overlap, and that the labels are codes '
                    f"of '{side.source.name}'"
                )

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what ``torchgeo-mapsr map --checkpoint`` needs, and a digest.

        Args:
            checkpoint: What will be saved.
        """
        target = self.crosswalk.target.to_dict()
        describe(
            checkpoint,
            type(self).__name__,
            target,
            self._network,
            self._descriptions,
            self._pixel_size,
        )

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Make sure that a checkpoint is what was saved.

        Args:
            checkpoint: What was loaded.

        Raises:
            InputError: If it is not.
        """
        verify(checkpoint)
        about = checkpoint.get(ABOUT, {})
        said = about.get('descriptions', {})
        self._descriptions = BandDescriptions.from_dict(said)
        self._pixel_size = about.get('pixel_size', 0.0)


def _parameters(task: type) -> dict[str, inspect.Parameter]:
    """Arguments of a task by name, with those that it hands on as ``**kwargs``."""
    parameters: dict[str, inspect.Parameter] = {}
    for kind in task.__mro__:
        if '__init__' in vars(kind):
            own = inspect.signature(vars(kind)['__init__']).parameters
            parameters = {**own, **parameters}
            if inspect.Parameter.VAR_KEYWORD not in {p.kind for p in own.values()}:
                break
    return parameters
