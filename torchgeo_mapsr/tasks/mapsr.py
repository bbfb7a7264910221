# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""MapSR as a LightningModule."""

import os
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import asdict, replace
from math import inf
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from lightning.fabric.utilities.distributed import DistributedSamplerWrapper
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from safetensors.torch import load as deserialise
from safetensors.torch import save as serialise
from torch import Tensor, nn

from .._compat import Sample
from ..arguments import check_arguments, construct
from ..datamodules import ChipDataModule
from ..datasets.bands import UNNAMED
from ..datasets.chip import Chip
from ..datasets.label_check import check_fits
from ..errors import InputError
from ..mapping.inputs import check_imagery, check_prior
from ..models.backbones.backbone import Backbone
from ..models.backbones.create import create_backbone
from ..models.backbones.spec import map_option
from ..models.features import FrozenBackbone, band_spread, calibration_part, extract
from ..models.head.cells import SEEN, Cells, take
from ..models.head.options import FitOptions
from ..models.head.probe import ABSENT, LinearProbe
from ..models.model import LandCoverModel, fit_model
from ..models.propagation.propagation import parse_propagation
from ..samplers.lattice import FitSampler
from .land_cover import (
    LandCoverTask,
    check_labels,
    pairs_of_loader,
    warn_of_scaled_values,
)

_BACKBONE = 'backbone.'

# Learning rate of ``sgd``.
_LR = 1e-2

# L2 strength of a probe that is trained by SGD, unless one is given.
_CAUTIOUS = 1e-2


# Key of the bands' standard deviations in a checkpoint, among the backbone's calibration.
_SPREAD = 'mapsr.band_spread'


class MapSRTask(LandCoverTask):
    """Land cover at the imagery's resolution, from LR labels (MapSR).

    ``fit`` looks at some chips once, sums the features of the LR cells under them, and
    fits a :class:`~torchgeo_mapsr.models.model.LandCoverModel` to these at the end of
    the epoch: a linear probe, and class prompts from the pixels where the probe agrees
    with the labels. It is the model that ``torchgeo-mapsr map`` fits, bit by bit, when
    the chips are those of a :class:`~torchgeo_mapsr.samplers.FitSampler`, which a
    :class:`~torchgeo_mapsr.PairDataModule` gets from this task. Of other samplers' chips,
    which may overlap, only cells count that a chip shows whole: make chips several cells
    wide. The probe is solved by L-BFGS; with ``solver='sgd'`` it is trained on one batch
    after another instead, for as many epochs as the trainer says. No HR label takes
    part. Validation, test and prediction need no training.

    A Trainer's limits (``max_steps``, ``max_time``, ``limit_train_batches``,
    ``fast_dev_run``, Ctrl-C) leave a model that is fitted to what was seen.

    The backbone never changes. torchgeo's ``freeze_backbone`` leaves it in training mode,
    where batch statistics drift, and its weights in the optimiser and in every
    checkpoint. Here it stays in evaluation mode and outside of both: a checkpoint holds
    what was fitted, and is made whole by the hyperparameters.

    Batches are those of :class:`~torchgeo_mapsr.datasets.LRHRPair`; prediction needs
    ``image`` only, and uses LR labels where there are any.

    Args:
        backbone: Spec of the frozen backbone, see
            :func:`~torchgeo_mapsr.models.backbones.create.create_backbone`.
        weights: Local weight file of the backbone.
        bands: Bands of the imagery.
        image_dtype: Data type of the imagery's files, by which values are scaled where
            the weights expect 0..1; None if they are between 0 and 1 already.
        legend: Legend of the LR labels, a name or a file.
        target: Legend of the map.
        crosswalk: Name or file of the crosswalk between them.
        truth_legend: Legend of ``mask``, the HR labels; *target* by default.
        truth_crosswalk: Name or file of the crosswalk from it to *target*.
        model: A saved fit to predict with, see
            :meth:`~torchgeo_mapsr.models.model.LandCoverModel.save`. What decides the map
            alone (score and prior of *fit*, *upsampler*, *propagate*, *calibrate*) is
            taken where it is not the default; other options of a fit are refused.
        solver: How the probe is fitted.
        lr: Learning rate of ``sgd``.
        fit: How the head is fitted: the options that ``torchgeo-mapsr map`` has.
        upsampler: How values get from tokens to pixels: bilinear or bilateral.
        propagate: Spatial refinement: none, tokens, superpixels, pixels or published,
            with its constants as options, ``superpixels?neighbours=100&alpha=0.5``.
        seed: Seed of drawn filters and pixels, of folds and clusters.
        calibrate: Whether the confidence of a map (MapWriter) is calibrated by LR cells
            that a fit has not seen. Probabilities of a batch are those of the fit.

    Raises:
        InputError: If an argument does not fit the others.
    """

    ignore = 'model'

    backbone: Backbone

    #: What was fitted; None before. ``land_cover.save`` exports it.
    land_cover: LandCoverModel | None

    mean: Tensor
    scale: Tensor
    count: Tensor

    def __init__(
        self,
        backbone: str = 'rcf',
        weights: str | None = None,
        bands: int = 4,
        image_dtype: str | None = 'uint8',
        legend: str = 'nlcd',
        target: str = 'land-cover-4',
        crosswalk: str | None = None,
        truth_legend: str | None = None,
        truth_crosswalk: str | None = None,
        model: str | Path | None = None,
        solver: Literal['lbfgs', 'sgd'] = 'lbfgs',
        lr: float = _LR,
        fit: FitOptions | dict[str, Any] | None = None,
        upsampler: Literal['bilinear', 'bilateral'] = 'bilinear',
        propagate: str = 'none',
        seed: int = 0,
        calibrate: bool = True,
    ) -> None:
        #: How the head is fitted.
        self.fit_options = replace(_options(fit), seed=seed)
        if _options(fit).seed not in (FitOptions.seed, seed):
            raise InputError('Give the seed of a task as seed, not in fit.')
        self.fit_options.check_together()
        super().__init__()
        # Plain values, so that a checkpoint is read without running code.
        self.hparams['fit'] = asdict(self.fit_options)
        options = self.fit_options
        plain = options.noise in ('auto', 'none') and options.class_weight == 'power'
        if solver == 'sgd' and not plain:
            raise InputError("noise and class_weight need solver='lbfgs'.")
        if solver != 'sgd' and lr != _LR:
            raise InputError("lr needs solver='sgd'.")
        if model is not None:
            self._refuse_options_of_a_fit()
            self._take_over(LandCoverModel.load(model, backbone=self.backbone))
            self._calibrated = True

    def configure_models(self) -> None:
        """Make the backbone, and a probe that says nothing yet."""
        super().configure_models()
        h = self.hparams
        check_arguments(type(self).__init__, h, {'bands': (1, inf), 'lr': (0, inf)})
        if h['propagate'] != 'none':
            parse_propagation(h['propagate'])
        self.backbone = create_backbone(
            map_option(h['backbone'], 'weights', _absolute),
            h['bands'],
            None if h['weights'] is None else _absolute(h['weights']),
            h['image_dtype'],
            h['seed'],
        )
        self._forget()
        self._waiting: list[tuple[int, Chip]] = []
        self._parts: list[tuple[int, Cells]] = []
        self._is_fitted = False
        self._trains = h['solver'] == 'sgd'
        self.register_load_state_dict_post_hook(_ignore_backbone)
        # It takes features standardised by the buffers; only sgd trains it.
        features, classes = sum(self.backbone.channels), len(self.crosswalk.target)
        self.probe = nn.Linear(features, classes)
        nn.init.zeros_(self.probe.weight)
        nn.init.zeros_(self.probe.bias)
        self.register_buffer('mean', torch.zeros(features))
        self.register_buffer('scale', torch.zeros(features))
        self.register_buffer('count', torch.zeros(classes))

    def _forget(self) -> None:
        """Be as if nothing had been seen: a fit begins anew, on other imagery maybe."""
        self.land_cover = None
        self._calibrated = False
        self._spread: tuple[float, ...] = ()
        self._sampled = 0

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Optimise the probe, and nothing but it.

        Returns:
            The optimiser. With ``lbfgs`` it has nothing to do but to count steps:
            Lightning saves no checkpoint of step zero.
        """
        if self._trains:
            return torch.optim.Adam(self.probe.parameters(), lr=self.hparams['lr'])
        return torch.optim.SGD(self.probe.parameters(), lr=0.0)

    def configure_callbacks(self) -> list[Callback]:
        """Fit to what was seen, also after Ctrl-C."""
        return [_FitWhenInterrupted()]

    def setup(self, stage: str) -> None:
        """Begin a fit anew, and give a data module of pairs the chips of it.

        With ``sgd`` another fit goes on where the last one ended. A checkpoint that is
        resumed is read after this.

        Args:
            stage: Only ``fit`` matters.

        Raises:
            InputError: If the trainer, or PyTorch's default type, would convert images
                and backbone, or the trainer validate within the epoch, when nothing is
                fitted yet.
        """
        precision = str(self.trainer.precision)
        if precision.endswith('-true') and precision != '32-true':
            raise InputError(
                f"precision='{precision}' would round the imagery's values, and a fit is "
                "computed in single precision: give the trainer '32-true' or a mixed one"
            )
        if torch.get_default_dtype() != torch.float32:
            raise InputError(
                'a fit is computed in single precision, and torch.set_default_dtype has '
                f'set {torch.get_default_dtype()}: leave it at torch.float32'
            )
        if stage == 'fit' and not self._trains:
            interval = self.trainer.val_check_interval
            # An integer counts batches; 1.0 is the end of the epoch.
            if isinstance(interval, int) or interval != 1:
                raise InputError(
                    'val_check_interval would validate before the fit, which is made at '
                    'the end of the epoch: leave it out'
                )
            if self._calibrated and self.backbone.calibration():
                # A model of an earlier fit may still be in use, and shares this backbone:
                # calibrating it in place would change that model.
                self.backbone = deepcopy(self.backbone)
            self._forget()
        data: Any = getattr(self.trainer, 'datamodule', None)
        if stage != 'fit' or not isinstance(data, ChipDataModule):
            return
        if data.visits_all and data.has_lr_labels:
            sampler = FitSampler(
                data.train_dataset,  # type: ignore[arg-type]
                data.size,
                halo=self.backbone.halo,
                align=max(self.backbone.strides),
                seed=self.hparams['seed'],
            )
            self._sampled = len(sampler)
            data.train_sampler = sampler
            world, rank = self.trainer.world_size, self.trainer.global_rank
            if world > 1:
                # Lightning would shuffle them among the processes: then the first chips
                # that all have seen together were not those that one process sees first.
                data.train_sampler = DistributedSamplerWrapper(  # type: ignore[assignment]
                    sampler, world, rank, shuffle=False
                )

    def on_train_start(self) -> None:
        """Begin to look at chips.

        Raises:
            InputError: The checkpoint to go on from was written within the epoch: chips
                that were seen before it are not kept.
        """
        seen = self.trainer.fit_loop.epoch_loop.batch_progress.current.ready
        goes_on = self.trainer.ckpt_path is not None and seen > 0
        if goes_on and not self._trains and self.land_cover is None:
            raise InputError(
                'This checkpoint was written before the fit was done, and what it has seen '
                'is not kept: begin anew, without ckpt_path'
            )
        loader = self.trainer.train_dataloader
        check_labels(loader, self.crosswalk.source)
        pairs = pairs_of_loader(loader)
        self._descriptions = pairs[0].imagery.descriptions if pairs else UNNAMED
        self._pixel_size = pairs[0].imagery.pixel_size if pairs else 0.0
        self._waiting, self._parts = [], []
        self._chips_here = 0
        self._first_epoch = self.current_epoch
        self._is_fitted = False

    def on_validation_start(self) -> None:
        """Look whether a fit that is kept was made from such imagery."""
        if self.trainer.state.fn == 'validate':
            self._check_imagery(self.trainer.val_dataloaders)

    def on_test_start(self) -> None:
        """Look whether the fit was made from such imagery."""
        self._check_imagery(self.trainer.test_dataloaders)

    def on_predict_start(self) -> None:
        """Look whether the fit was made from such imagery."""
        self._check_imagery(self.trainer.predict_dataloaders)

    def _check_imagery(self, loader: Any) -> None:
        pairs = pairs_of_loader(loader)
        if self.land_cover is None or not pairs:
            return
        images = [pair.imagery for pair in pairs]
        for image in images[:8]:  # as the command
            check_imagery(self.land_cover, image)
        labels = {raster.number: raster for pair in pairs for raster in pair.lr_labels}
        legend = self.crosswalk.source
        check_prior(self.land_cover, tuple(labels.values()), images, legend)

    def training_step(
        self, batch: Sample, batch_idx: int, dataloader_idx: int = 0
    ) -> Tensor:
        """Look at chips, and compute the loss of the probe for ``sgd``.

        Args:
            batch: The output of your DataLoader.
            batch_idx: Integer displaying index of this batch.
            dataloader_idx: Index of the current dataloader.

        Returns:
            The loss tensor; zero where no gradient is wanted.
        """
        self.check_batch(batch)
        if batch_idx == 0:
            warn_of_scaled_values(batch['image'], self.hparams['image_dtype'])
        if 'lr_label' not in batch:
            raise InputError(
                'The batch has no lr_label: use LRHRPair or another dataset of pairs.'
            )
        size, world = len(batch['image']), self.trainer.world_size
        for i in range(size):
            # The chip's number in the order of the sampler, over all processes.
            order = self._chips_here * world + self.trainer.global_rank
            self._waiting.append((order, Chip.of(batch, i, order)))
            self._chips_here += 1
        total = self.trainer.num_training_batches
        last = batch_idx + 1 >= total
        if not self._calibrated and not self._calibrate(last):
            return self._nothing()
        chips, self._waiting = self._waiting, []
        parts = [(order, self._look(chip, size)) for order, chip in chips]
        if self.current_epoch == self._first_epoch:
            self._parts += [(order, part) for order, part in parts if len(part)]
        if not self._trains:
            return self._nothing()
        return self._train([part for _, part in parts], size)

    def on_train_batch_end(self, outputs: Any, batch: Sample, batch_idx: int) -> None:
        """Fit when all chips, or enough, were seen, before validation.

        Args:
            outputs: What :meth:`training_step` returned.
            batch: The output of your DataLoader.
            batch_idx: Integer displaying index of this batch.
        """
        last = self.trainer.is_last_batch
        if not self._trains and not last and self._saw_enough():
            # Validates and ends the epoch.
            self.trainer.should_stop = True
            last = True
        if last:
            self._fit()

    def on_train_epoch_end(self) -> None:
        """Fit, where a limit has ended the epoch early."""
        if not self._is_fitted:
            self._fit()
        # L-BFGS has found the optimum: another epoch would show the same cells.
        if not self._trains:
            self.trainer.should_stop = True

    def on_train_end(self) -> None:
        """Fit to what was seen, where nothing was fitted yet."""
        if not self._is_fitted:
            self._fit()

    @torch.no_grad()
    def _look(self, chip: Chip, size: int) -> Cells:
        """Feature sums of the LR cells that a chip shows.

        Args:
            chip: The chip.
            size: Chips in a batch, by which those of the epoch are counted.
        """
        image = chip.image.to(self.device)
        spread = self._spread if self.hparams['upsampler'] == 'bilateral' else None
        with torch.autocast(self.device.type, enabled=False):
            tokens = extract(self.backbone, image, spread=spread)
        options = self.fit_options
        expected = min(self._expected(size), options.max_chips)
        return Cells.of(tokens, chip, -(-options.max_pixels // expected), options.seed)

    def _expected(self, size: int) -> int:
        """Chips in an epoch, over all processes."""
        if self._sampled:
            return self._sampled
        batches = self.trainer.num_training_batches
        if not isinstance(batches, int):
            return self.fit_options.max_chips
        return max(batches * size * self.trainer.world_size, 1)

    def _saw_enough(self) -> bool:
        """Whether all processes together have seen as many chips as a fit wants."""
        count = torch.tensor(float(len(self._parts)), device=self.device)
        total = self.trainer.strategy.reduce(count, reduce_op='sum')
        return float(total) >= self.fit_options.max_chips

    def _calibrate(self, last: bool) -> bool:
        """Learn statistics of the imagery from the first chips, once there are enough.

        Args:
            last: Whether there will be no more.

        Returns:
            Whether it is done.
        """
        enough = self.fit_options.calibration_chips
        local = [
            (order, *calibration_part(chip.image, chip.valid, enough))
            for order, chip in self._waiting
            if bool(chip.valid.any())
        ]
        count = torch.tensor(float(len(local)), device=self.device)
        total = self.trainer.strategy.reduce(count, reduce_op='sum')
        if float(total) < enough and not last:
            return False
        first = sorted(self._gather(local), key=lambda chip: int(chip[0]))[:enough]
        images = [(image.cpu(), valid) for _, image, valid in first]
        self.backbone.calibrate(images)
        # For any upsampler: a later map with this fit may choose the bilateral one.
        self._spread = band_spread(images)
        self._calibrated = True
        return True

    def _gather(self, items: list[Any]) -> list[Any]:
        """What all processes have, in the order of processes."""
        if self.trainer.world_size == 1:
            return items
        parts: list[list[Any]] = [[] for _ in range(self.trainer.world_size)]
        torch.distributed.all_gather_object(parts, items)
        return [item for part in parts for item in part]

    def _nothing(self) -> Tensor:
        """A loss of zero that has a gradient."""
        return 0 * (self.probe.weight.sum() + self.probe.bias.sum())

    def _train(self, parts: list[Cells], size: int) -> Tensor:
        """What L-BFGS would minimise, estimated from the cells of a batch."""
        parts = [part for part in parts if len(part)]
        if not parts:
            return self._nothing()
        if not self.scale.any():
            pixels = torch.cat([part.pixels for _, part in self._parts]).double()
            scale, mean = torch.std_mean(pixels, dim=0)
            self.mean.copy_(mean)
            self.scale.copy_(torch.where(scale > 1e-6 * scale.max(), scale, 1.0))
        cells = Cells.concat(parts)
        seen = cells.share >= SEEN
        label = torch.from_numpy(self.crosswalk.index(cells.code[seen].numpy()))
        features = (cells.sums / cells.count[:, None])[seen][label >= 0]
        label = label[label >= 0].to(self.device)
        self.count += torch.bincount(label, minlength=len(self.count))
        # Classes weigh by the number of their cells seen so far.
        weight = self.count.clamp(min=1) ** -self.fit_options.balance
        weight = weight * self.count.sum() / (self.count * weight).sum().clamp(min=1)
        logits = self.probe((features.to(self.device) - self.mean) / self.scale).float()
        losses = F.cross_entropy(logits, label, reduction='none') * weight[label]
        penalty = self._l2 * features.shape[1] / 2
        squares = self.probe.weight.square().sum()
        loss = losses.sum() / max(len(label), 1) + penalty * squares
        self.log('train_loss', loss, batch_size=size)
        return loss

    @property
    def _l2(self) -> float:
        """L2 strength of the probe that is trained."""
        l2 = self.fit_options.l2
        return _CAUTIOUS if l2 is None else l2

    def _fit(self) -> None:
        """Fit the model to what all processes have seen."""
        if self._waiting and not self._calibrated:
            # The epoch ended early: calibrate with the chips that there are.
            self._calibrate(last=True)
            chips, self._waiting = self._waiting, []
            parts = [(order, self._look(chip, 1)) for order, chip in chips]
            self._parts += [(order, part) for order, part in parts if len(part)]
        parts = sorted(self._gather(self._parts), key=lambda part: int(part[0]))
        if not parts:
            raise InputError(
                'No labelled pixel of the training data was seen: nothing to fit.'
            )
        h, options, probe = self.hparams, self.fit_options, None
        if self._trains:
            options = replace(options, l2=self._l2)
            weight, bias = (p.detach().cpu() for p in self.probe.parameters())
            bias = torch.where(self.count.cpu() > 0, bias, ABSENT)
            probe = LinearProbe(weight, bias).unscale(self.mean.cpu(), self.scale.cpu())
        seen = take((part for _, part in parts), options.max_chips)
        table = Cells.merge(seen).table()
        check_fits('the labels', table.count(), self.crosswalk.source)
        fitted = fit_model(
            table,
            self.crosswalk,
            self.backbone,
            FrozenBackbone.of(
                self.backbone,
                h['bands'],
                h['image_dtype'],
                self._descriptions,
                self._pixel_size,
            ),
            options,
            h['upsampler'],
            self._spread,
            h['propagate'],
            probe=probe,
            calibrate=h['calibrate'],
        )
        if self._trains:
            fitted = replace(fitted, report={**fitted.report, 'solver': 'sgd'})
        # Another machine may differ in the last bits: all take the first one's.
        content = self.trainer.strategy.broadcast(fitted.to_bytes())
        self._take_over(LandCoverModel.from_bytes(content, backbone=self.backbone))
        self._is_fitted = True
        unknown = fitted.report['labels']['unknown_codes']
        if unknown:
            listed = ', '.join(f'{code} ({n} cells)' for code, n in unknown.items())
            rank_zero_warn(
                f"Codes that the legend '{self.crosswalk.source.name}' does not have "
                f'were ignored: {listed}'
            )
        if fitted.remarks:
            rank_zero_info(' '.join(fitted.remarks))

    def _refuse_options_of_a_fit(self) -> None:
        """Refuse what would have an effect on a fit, where one is given.

        Raises:
            InputError: If there is such an option; a default cannot be told from none.
        """
        options = asdict(self.fit_options)
        names = [n for n, v in asdict(FitOptions()).items() if options[n] != v]
        # Score and prior act on the map, and the seed on the backbone too.
        names = [f'fit.{n}' for n in names if n not in ('score', 'prior', 'seed')]
        if self.hparams['solver'] != 'lbfgs':
            names.append('solver')
        if names:
            raise InputError(
                f'{names[0]} has no effect on a fit that is kept: leave it out with model.'
            )

    def _take_over(self, model: LandCoverModel) -> None:
        """Predict with a model, in the way that this task's options say.

        Options that have their default leave the model as it is.

        Raises:
            InputError: If it maps other classes, or from other bands.
        """
        if model.target != self.crosswalk.target:
            raise InputError(
                f"The fit maps the classes of '{model.target.name}', not of "
                f"'{self.crosswalk.target.name}': give target={model.target.name}."
            )
        h, options = self.hparams, self.fit_options
        if model.bands != h['bands']:
            raise InputError(
                f'The fit was made for imagery of {model.bands} bands, not of '
                f'{h["bands"]}: give bands={model.bands}.'
            )
        self.backbone = model.backbone
        self.land_cover = model.with_options(
            score=None if options.score == FitOptions.score else options.score,
            prior=options.prior,
            upsampler=None if h['upsampler'] == 'bilinear' else h['upsampler'],
            propagate=None if h['propagate'] == 'none' else h['propagate'],
            calibrate=None if h['calibrate'] else False,
        )

    def forward(self, image: Tensor) -> Tensor:
        """Classify every pixel, without LR labels.

        Args:
            image: (B, C, H, W), the values as read from the file.

        Returns:
            Log-probabilities, (B, classes, H, W).

        Raises:
            InputError: If nothing was fitted yet.
        """
        return self.log_probabilities({'image': image})

    def log_probabilities(self, batch: Sample) -> Tensor:
        """Classify every pixel, with the LR labels as a prior where there are any.

        Args:
            batch: With ``image`` (B, C, H, W).

        Returns:
            Log-probabilities, (B, classes, H, W); finite where a class has none.

        Raises:
            InputError: If nothing was fitted yet.
        """
        probabilities = self.probabilities(batch)
        return probabilities.clamp(min=torch.finfo(probabilities.dtype).tiny).log()

    def probabilities(self, batch: Sample) -> Tensor:
        """Probabilities of the classes of every pixel, (B, classes, H, W).

        Args:
            batch: With ``image`` (B, C, H, W); of a chip with ``core`` nothing outside
                of it is computed, and zero.

        Raises:
            InputError: If nothing was fitted yet, or the imagery has other bands.
        """
        self.check_batch(batch)
        model = self._model
        maps = []
        for i, image in enumerate(batch['image']):
            chip = Chip.of(batch, i)
            scores = model.probabilities(chip)
            if chip.core is not None:
                inside = scores
                scores = inside.new_zeros(len(inside), *image.shape[1:])
                scores[:, *chip.core] = inside
            maps.append(scores)
        return torch.stack(maps)

    def predict_step(
        self, batch: Sample, batch_idx: int, dataloader_idx: int = 0
    ) -> dict[str, Any]:
        """Compute class probabilities; see :meth:`LandCoverTask.predict_step`.

        Args:
            batch: The output of your DataLoader.
            batch_idx: Integer displaying index of this batch.
            dataloader_idx: Index of the current dataloader.
        """
        return self.prediction(self.probabilities(batch), batch)

    @property
    def _model(self) -> LandCoverModel:
        """What was fitted, on the device of this module."""
        if self.land_cover is None:
            raise InputError(
                'There is no fit to predict with: fit the task first, load a '
                'checkpoint of a fitted one (ckpt_path), or give it a saved fit (model).'
            )
        if self.land_cover.device != self.device:
            self.land_cover = self.land_cover.to(self.device)
        return self.land_cover

    @property
    def predicts(self) -> bool:
        """Whether there is a fit to predict with."""
        return self.land_cover is not None

    def check_batch(self, batch: Sample) -> None:
        """Refuse images (B, C, H, W) of another number of bands.

        Args:
            batch: The batch.
        """
        bands, expected = batch['image'].shape[1], self.hparams['bands']
        if bands != expected:
            raise InputError(
                f'The imagery has {bands} bands and the task was made for {expected}: '
                f'give the task bands={bands}, or choose bands of the imagery.'
            )

    def validation_step(
        self, batch: Sample, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Compare predictions with the labels of a batch; nothing before the fit.

        Args:
            batch: The output of your DataLoader.
            batch_idx: Integer displaying index of this batch.
            dataloader_idx: Index of the current dataloader.
        """
        if self.predicts or self.trainer.state.fn != 'fit':
            super().validation_step(batch, batch_idx, dataloader_idx)

    def state_dict(  # type: ignore[override]
        self, *args: Any, **kwargs: Any
    ) -> dict[str, Any]:
        """Everything but the backbone; see :meth:`torch.nn.Module.state_dict`."""
        state: dict[str, Any] = super().state_dict(*args, **kwargs)
        prefix = kwargs.get('prefix', '') + _BACKBONE
        for name in [name for name in state if name.startswith(prefix)]:
            del state[name]
        return state

    def get_extra_state(self) -> Tensor:
        """What was fitted, or else the backbone's calibration, as bytes (n,) uint8."""
        content = b''
        if self.land_cover is not None:
            content = self.land_cover.to_bytes()
        elif self._calibrated:
            spread = torch.tensor(self._spread, dtype=torch.float64)
            content = serialise({**self.backbone.calibration(), _SPREAD: spread})
        return torch.frombuffer(bytearray(content or b'\0'), dtype=torch.uint8)

    def set_extra_state(self, state: Tensor) -> None:
        """Take over what :meth:`get_extra_state` returned.

        Args:
            state: The bytes, (n,) uint8.
        """
        content = state.cpu().numpy().tobytes()
        if len(content) <= 1:
            self._forget()
            return
        if LandCoverModel.is_model(content):
            self._take_over(LandCoverModel.from_bytes(content, backbone=self.backbone))
        else:
            calibration = deserialise(content)
            self._spread = tuple(calibration.pop(_SPREAD, torch.ones(0)).tolist())
            if calibration:
                self.backbone.load_calibration(calibration)
        self._calibrated = True


class _FitWhenInterrupted(Callback):
    """Lightning calls no hook of the task after Ctrl-C."""

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Fit to what was seen."""
        if not isinstance(exception, KeyboardInterrupt) or not trainer.training:
            return
        assert isinstance(pl_module, MapSRTask)
        if not pl_module._is_fitted and trainer.world_size == 1:
            pl_module._fit()


class _Missing(NamedTuple):
    """What :func:`torch.nn.Module.load_state_dict` hands to its hooks."""

    missing_keys: list[str]
    unexpected_keys: list[str]


def _ignore_backbone(module: nn.Module, keys: _Missing) -> None:
    """A checkpoint lacks the backbone, and is complete."""
    keys.missing_keys[:] = [
        name for name in keys.missing_keys if not name.startswith(_BACKBONE)
    ]


def _options(fit: FitOptions | Mapping[str, Any] | None) -> FitOptions:
    """Options, which a checkpoint keeps as plain values."""
    return construct(FitOptions, fit or {}, 'fit')


def _absolute(path: str) -> str:
    """An absolute path of what is there, so that a fit is the same from anywhere."""
    return os.path.abspath(path) if os.path.exists(path) else path
