# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""Networks trained with LR labels that are not upsampled."""

from collections.abc import Sequence
from typing import Any, Literal

import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor
from torch.optim import AdamW
from torch.optim.lr_scheduler import CosineAnnealingLR

from .._compat import Sample
from ..datasets.exemplars import ExemplarLabels
from ..datasets.legends.crosswalk import Crosswalk
from ..errors import InputError
from ..losses import RegionCrossEntropy, discriminator_hinge, generator_hinge, sargmax
from ..losses.adversarial import TEMPERATURE
from ..models.networks.discriminator import LabelDiscriminator
from .cells import BatchCells
from .segmentation import SegmentationTask


class RegionAggregationTask(SegmentationTask):
    """Train a segmentation network with LR labels of whole regions.

    Workman et al. 2023. Three parts, each of which can be left out:

    * *Agg*: scores of pixels are aggregated over each LR cell, and its label is compared
      with that (equation 1), see :class:`~torchgeo_mapsr.losses.RegionCrossEntropy`
    * *App*, with *exemplars*: a discriminator sees index maps of the predictions (soft
      argmax, equation 3) and of HR label maps of anywhere, and tells one from the other;
      the network learns to be mistaken for them (equation 2, hinge losses). So
      predictions get the shapes that label maps have
    * *Pre*, with *weights*: the encoder starts from what
      :class:`~torchgeo_mapsr.tasks.MaskedAutoencoderTask` has learned

    The paper adds up scores (``reduction='sum'``). Their mean is the default here, with
    which scores, learning rate and probabilities are those of other networks; the soft
    argmax is then that of the scores divided by the number of a cell's pixels, which is
    the paper's, since sums of those are what the cross entropy sees.

    How the game goes is logged: ``train_generator`` and ``train_discriminator`` (the
    hinge losses; 2 is a discriminator that knows nothing), ``train_discriminator_accuracy``
    (1 for long: it has won, and the network learns nothing from it),
    ``train_class_entropy`` and ``train_exemplar_entropy`` (of the classes' shares, 0..1;
    far below that of the exemplars: the network has collapsed to few classes).

    With exemplars the optimisation is manual. Lightning counts a step of either player,
    so ``max_steps`` and ``global_step`` grow by two a batch. Both gradients come from one
    backward pass (:meth:`~torchgeo_mapsr.models.networks.discriminator.LabelDiscriminator.judge`),
    which is what distributed strategies expect.

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
        reduction: How scores of a cell are aggregated.
        exemplars: Files or folders of HR label maps, of pixels as large as those of the
            imagery.
        exemplar_legend: Legend of their codes; *target* by default.
        exemplar_crosswalk: Name or file of the crosswalk from it to *target*.
        adversarial_weight: Weight of the network's hinge loss. The paper names none; 1
            and 0.1 drowned the labels in short trainings, see benchmarks/README.md.
        temperature: τ of the soft argmax.
        discriminator_lr: Learning rate of the discriminator at the start.
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
        reduction: Literal['mean', 'sum'] = 'mean',
        exemplars: str | Sequence[str] | None = None,
        exemplar_legend: str | None = None,
        exemplar_crosswalk: str | None = None,
        adversarial_weight: float = 0.01,
        temperature: float = TEMPERATURE,
        discriminator_lr: float = 1e-3,
        lr: float = 1e-3,
        weight_decay: float = 1e-4,
        class_weights: Sequence[float] | None = None,
    ) -> None:
        super().__init__(weights=weights)

    def configure_models(self) -> None:
        """Make the network, and a discriminator if there are exemplars."""
        super().configure_models()
        h = self.hparams
        self._exemplars: ExemplarLabels | None = None
        self._labelled = False
        self.discriminator: LabelDiscriminator | None = None
        if h['exemplars'] is not None:
            # refused here, before any data is read
            Crosswalk.load(
                h['exemplar_legend'] or h['target'],
                self.crosswalk.target,
                h['exemplar_crosswalk'],
            )
            self.discriminator = LabelDiscriminator(len(self.crosswalk.target))
            self.automatic_optimization = False

    def configure_losses(self) -> None:
        """Make the loss of LR cells."""
        super().configure_losses()
        self.criterion = RegionCrossEntropy(
            self.hparams['reduction'], self.hparams['class_weights']
        )

    def configure_optimizers(self) -> Any:
        """Optimise the network, and the discriminator if there is one.

        Returns:
            AdamW for each, and learning rates that fall to zero along a cosine.
        """
        network: Any = super().configure_optimizers()
        if self.discriminator is None:
            return network
        discriminator = AdamW(
            self.discriminator.parameters(),
            lr=self.hparams['discriminator_lr'],
            betas=(0.5, 0.999),
            weight_decay=0.0,
        )
        steps = max(int(self.trainer.estimated_stepping_batches), 1)
        if self.trainer.max_steps > 0:
            # which counts both players
            steps = min(steps, -(-self.trainer.max_steps // 2))
        return [
            {'optimizer': one, 'lr_scheduler': CosineAnnealingLR(one, steps)}
            for one in (network['optimizer'], discriminator)
        ]

    def training_step(
        self, batch: Sample, batch_idx: int, dataloader_idx: int = 0
    ) -> Tensor:
        """Compare aggregated scores with LR labels; with exemplars, play a turn.

        Args:
            batch: The output of your DataLoader.
            batch_idx: Integer displaying index of this batch.
            dataloader_idx: Index of the current dataloader.

        Returns:
            The loss tensor of the labels.
        """
        cells, logits = self.cells(batch), self(batch['image'])
        self._labelled |= bool(((cells.label >= 0) & (cells.share > 0)).any())
        loss = self.criterion(
            logits, cells.region, cells.label, cells.share, cells.valid
        )
        self.log('train_loss', loss, batch_size=len(logits))
        if self.discriminator is None:
            return loss
        made = self.index_map(logits, batch, cells)
        self._play(loss, logits, made, self._draw(made) * cells.valid[:, None])
        return loss.detach()

    def on_train_epoch_end(self) -> None:
        """Refuse data without a single LR label.

        Raises:
            InputError: If no LR cell with a class has a pixel in any chip.
        """
        reduce = self.trainer.strategy.reduce_boolean_decision
        if not reduce(self._labelled, all=False):
            raise InputError(
                'No pixel of the training chips lies in an LR cell with a class of '
                f"'{self.crosswalk.target.name}': see that imagery and labels overlap, "
                f"and that the labels are codes of '{self.crosswalk.source.name}'"
            )

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
            pixels = batch['lr_pixels']
            logits = logits.float() / pixels.sum() * (pixels > 0).sum().clamp(min=1)
        made = sargmax(logits, self.hparams['temperature'])
        return made * cells.valid[:, None]

    def _draw(self, made: Tensor) -> Tensor:
        """As many exemplars as predictions, of the same size, (B, 1, H, W)."""
        height, width = made.shape[-2:]
        if self._exemplars is None or self._exemplars.size < max(height, width):
            h = self.hparams
            self._exemplars = ExemplarLabels(
                h['exemplars'],
                max(height, width),
                h['exemplar_legend'] or h['target'],
                h['target'],
                h['exemplar_crosswalk'],
            )
            if self._exemplars.absent:
                rank_zero_warn(
                    'No exemplar shows '
                    f'{", ".join(self._exemplars.absent)}: predictions will avoid it'
                )
            # of the seed that seed_everything gave to all processes, each its own
            seed = torch.initial_seed() % 2**31 + self.global_rank
            self._generator = torch.Generator().manual_seed(seed)
        drawn = self._exemplars.draw(len(made), self._generator) + 1
        return drawn[:, None, :height, :width].to(made)

    def _play(self, loss: Tensor, logits: Tensor, made: Tensor, real: Tensor) -> None:
        """One step of both players, each from where the other was."""
        assert self.discriminator is not None
        generator = generator_hinge(self.discriminator.judge(made))
        score, other = self.discriminator(real), self.discriminator(made.detach())
        discriminator = discriminator_hinge(score, other)
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
        correct = ((score > 0).float().mean() + (other < 0).float().mean()) / 2
        self.log_dict(
            {
                'train_generator': generator,
                'train_discriminator': discriminator,
                'train_discriminator_accuracy': correct,
                'train_class_entropy': self._entropy(logits.argmax(1) + 1),
                'train_exemplar_entropy': self._entropy(real.long()),
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
        log_classes = torch.log(torch.tensor(float(classes)))
        return torch.special.entr(share).sum() / log_classes.to(share)
