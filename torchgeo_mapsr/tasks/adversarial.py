# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""Networks trained with LR labels, and with HR label maps of other places."""

from collections.abc import Sequence
from math import inf
from typing import Any, Literal

import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor
from torch.optim import AdamW

from .._compat import Sample
from ..arguments import POSITIVE
from ..datasets.exemplars import ExemplarLabels
from ..datasets.legends.crosswalk import Crosswalk
from ..errors import InputError
from ..losses import discriminator_hinge, generator_hinge, sargmax
from ..losses.adversarial import TEMPERATURE
from ..models.networks.discriminator import LabelDiscriminator
from ..models.networks.segmentation import Network
from ..seeds import repeatable
from .cells import BatchCells
from .classes import CLASSES, Classes
from .network import NETWORK, NetworkTask
from .schedule import CosineDecay, training_steps
from .supervision import RegionLabels


class AdversarialTask(NetworkTask):
    """Region aggregation whose predictions shall look like label maps.

    Workman et al. 2023, *Agg + App*. The LR labels train as
    :class:`~torchgeo_mapsr.tasks.supervision.RegionLabels` say (equation 1). Nothing in
    them says where in a cell its classes lie, or that they have edges. So a
    discriminator sees index maps of the predictions (soft argmax, equation 3) and of HR
    label maps of anywhere, *exemplars*, and tells one from the other; the network learns
    to be mistaken for them (equation 2, hinge losses).

    With ``reduction='mean'`` the soft argmax is that of the scores divided by the number
    of a cell's pixels, which is the paper's, since sums of those are what the cross
    entropy sees.

    How the game goes is logged: ``train_generator`` and ``train_discriminator`` (the
    hinge losses; 2 is a discriminator that knows nothing), ``train_discriminator_accuracy``
    (1 for long: it has won, and the network learns nothing from it),
    ``train_class_entropy`` and ``train_exemplar_entropy`` (of the classes' shares, 0..1;
    far below that of the exemplars: the network has collapsed to few classes).

    The optimisation is manual. Lightning counts a step of either player, so
    ``max_steps`` and ``global_step`` grow by two a batch. Both gradients come from one
    backward pass (:meth:`~torchgeo_mapsr.models.networks.discriminator.LabelDiscriminator.judge`),
    which is what distributed strategies expect. Learning rates fall along a cosine.

    Args:
        exemplars: Files or folders of HR label maps, of pixels as large as those of the
            imagery.
        network: The network. The paper's *Pre* has as its weights what
            :class:`~torchgeo_mapsr.tasks.MaskedAutoencoderTask` has learned.
        classes: Legends of the labels and of the map.
        reduction: How scores of a cell are aggregated.
        exemplar_legend: Legend of the exemplars' codes; ``classes.target`` by default.
        exemplar_crosswalk: Name or file of the crosswalk from it to the target.
        adversarial_weight: Weight of the network's hinge loss. The paper names none; 1
            and 0.1 drowned the labels in short trainings, see benchmarks/README.md.
        temperature: τ of the soft argmax.
        discriminator_lr: Learning rate of the discriminator at the start.
        lr: Learning rate at the start.
        weight_decay: Weight decay of AdamW.
        class_weights: Weight of each class in the loss of the labels.

    Raises:
        InputError: An argument is out of its range, or none of its words.
    """

    ranges = NetworkTask.ranges | {
        'adversarial_weight': (0, inf),
        'temperature': (POSITIVE, inf),
        'discriminator_lr': (0, inf),
    }

    def __init__(
        self,
        exemplars: str | Sequence[str],
        network: Network = NETWORK,
        classes: Classes = CLASSES,
        reduction: Literal['mean', 'sum'] = 'mean',
        exemplar_legend: str | None = None,
        exemplar_crosswalk: str | None = None,
        adversarial_weight: float = 0.01,
        temperature: float = TEMPERATURE,
        discriminator_lr: float = 1e-3,
        lr: float = 1e-3,
        weight_decay: float = 1e-4,
        class_weights: Sequence[float] | None = None,
    ) -> None:
        super().__init__(
            network,
            classes,
            RegionLabels(reduction),
            class_weights=class_weights,
            lr=lr,
            weight_decay=weight_decay,
        )

    def configure_models(self) -> None:
        """Make the network and the discriminator.

        Raises:
            InputError: If there are no exemplars, or no way from their classes to those
                of the map.
        """
        super().configure_models()
        h, target = self.hparams, self.crosswalk.target
        if not h['exemplars']:
            raise InputError(
                'exemplars are files or folders of HR label maps: give some'
            )
        self._exemplars: ExemplarLabels | None = None
        self._exemplar_legend = h['exemplar_legend'] or self._classes.target
        # An exemplar crosswalk that does not exist is refused before any data is read.
        Crosswalk.load(self._exemplar_legend, target, h['exemplar_crosswalk'])
        self.discriminator = LabelDiscriminator(len(target))
        self.automatic_optimization = False

    def configure_optimizers(self) -> Any:
        """Optimise the network and the discriminator.

        Returns:
            AdamW for each, and learning rates that fall to zero along a cosine.
        """
        network: Any = super().configure_optimizers()
        discriminator = AdamW(
            self.discriminator.parameters(),
            lr=self.hparams['discriminator_lr'],
            betas=(0.5, 0.999),
            weight_decay=0.0,
        )
        steps = training_steps(self.trainer)
        if self.trainer.max_steps > 0:
            # max_steps counts the steps of both optimisers.
            steps = min(steps, -(-self.trainer.max_steps // 2))
        return [
            {'optimizer': one, 'lr_scheduler': CosineDecay(one, steps)}
            for one in (network['optimizer'], discriminator)
        ]

    @repeatable
    def training_step(
        self, batch: Sample, batch_idx: int, dataloader_idx: int = 0
    ) -> Tensor:
        """Compare aggregated scores with LR labels, and play a turn.

        Args:
            batch: The output of your DataLoader.
            batch_idx: Integer displaying index of this batch.
            dataloader_idx: Index of the current dataloader.

        Returns:
            The loss tensor of the labels.
        """
        cells, logits = self.cells(batch), self(batch['image'])
        loss = self.supervised_loss(logits, batch)
        index_map = self.index_map(logits, batch, cells)
        exemplars = self._draw(index_map) * cells.valid[:, None]
        self._play(loss, logits, index_map, exemplars)
        return loss.detach()

    def index_map(self, logits: Tensor, batch: Sample, cells: BatchCells) -> Tensor:
        """What the discriminator sees of a prediction: class numbers, 0 = no data.

        Args:
            logits: (B, classes, H, W).
            batch: With ``lr_pixels``.
            cells: Its cells.

        Returns:
            (B, 1, H, W).
        """
        if self.hparams['reduction'] == 'mean':
            # Half precision cannot hold the sum.
            pixels = batch['lr_pixels'].float()
            cells_of = (pixels > 0).sum().clamp(min=1)
            logits = logits.float() / pixels.sum().clamp(min=1) * cells_of
        index_map = sargmax(logits, self.hparams['temperature'])
        return index_map * cells.valid[:, None]

    def _draw(self, index_map: Tensor) -> Tensor:
        """As many exemplars as predictions, of the same size, (B, 1, H, W)."""
        height, width = index_map.shape[-2:]
        if self._exemplars is None or self._exemplars.size < max(height, width):
            h = self.hparams
            self._exemplars = ExemplarLabels(
                h['exemplars'],
                max(height, width),
                self._exemplar_legend,
                self._classes.target,
                h['exemplar_crosswalk'],
            )
            if self._exemplars.absent:
                rank_zero_warn(
                    'No exemplar shows '
                    f'{", ".join(self._exemplars.absent)}: predictions will avoid it'
                )
        drawn = self._exemplars.draw(len(index_map)) + 1
        return drawn[:, None, :height, :width].to(index_map)

    def _play(
        self, loss: Tensor, logits: Tensor, index_map: Tensor, exemplars: Tensor
    ) -> None:
        """One step of both players, each from where the other was."""
        generator = generator_hinge(self.discriminator.judge(index_map))
        real = self.discriminator(exemplars)
        fake = self.discriminator(index_map.detach())
        discriminator = discriminator_hinge(real, fake)
        total = loss + self.hparams['adversarial_weight'] * generator + discriminator
        optimizers: Any = self.optimizers()
        for optimizer in optimizers:
            optimizer.zero_grad()
        self.manual_backward(total)
        for optimizer in optimizers:
            optimizer.step()
        schedulers: Any = self.lr_schedulers()
        for scheduler in schedulers:
            scheduler.step()
        correct = ((real > 0).float().mean() + (fake < 0).float().mean()) / 2
        self.log_dict(
            {
                'train_generator': generator,
                'train_discriminator': discriminator,
                'train_discriminator_accuracy': correct,
                'train_class_entropy': self._entropy(logits.argmax(1) + 1),
                'train_exemplar_entropy': self._entropy(exemplars.long()),
            },
            batch_size=len(logits),
        )

    def _entropy(self, number: Tensor) -> Tensor:
        """Entropy of the shares of classes, over that of equal shares.

        Args:
            number: Class numbers, 0 = none, of any shape.
        """
        classes = len(self.crosswalk.target)
        count = torch.bincount(number.flatten(), minlength=classes + 1)[1:].float()
        share = count / count.sum().clamp(min=1)
        return torch.special.entr(share).sum() / share.new_tensor(classes).log()
