# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""The predictions of a Trainer as a map."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from inspect import signature
from pathlib import Path
from typing import Any, TypeGuard
from uuid import uuid4

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import BasePredictionWriter
from torch import Tensor

from .._compat import Sample
from ..arguments import check_range
from ..datamodules import ChipDataModule, SourceTargetDataModule
from ..datasets.geo.plan import Plan
from ..datasets.imagery_chips import ImageryChips
from ..datasets.legends.crosswalk import Crosswalk
from ..datasets.mosaic import LRHRPairs
from ..errors import InputError
from ..evaluation.reweighting import class_weights
from ..mapping.config import json_types
from ..mapping.inputs import Inputs
from ..mapping.outputs import Outputs, check_outputs
from ..mapping.progress import Stopwatch
from ..mapping.run import Run
from ..mapping.spilled import SpilledScores
from ..mapping.store import WorkStore
from ..mapping.tile_files import TileFiles
from ..models.backbones.backbone import Backbone
from ..models.head.calibration import Calibration
from ..models.networks.segmentation import SegmentationNetwork
from ..samplers.lattice import LatticeQuery, LatticeSampler, pairs_of

# For networks from elsewhere, whose strides and context are unknown: the largest stride
# of common encoders, and the part of a chip's side that is left out at its border (an
# eighth).
_STRIDE = 32
_BORDER = 8


class MapWriter(BasePredictionWriter):
    """Write the predictions of ``Trainer.predict`` as ``torchgeo-mapsr map`` does.

    Chips are blended, and the result is a cloud-optimised GeoTIFF on the imagery's own
    grid, with a legend, confidence, a panel and a report. Works with any task whose
    ``predict_step`` returns ``probabilities``, such as MapSRTask, in any number of
    processes that see the same files; the map does not depend on that number.

    The chips have to be those of a :class:`LatticeSampler`. A data module of this
    package gets one; elsewhere give it to your DataLoader. Until all chips are there,
    their probabilities lie in files beside the output: 4 bytes a class and pixel, and
    what chips share. Ask for no predictions in return (``return_predictions=False``).

    Args:
        output: The map, a .tif, of one raster; or a folder, which gets a map for each.
        overlap: Pixels that chips share, at least (default: both halos and a ramp).
        halo: Pixels at a chip's border that lack context and get no weight (default:
            what the task's frozen backbone or network needs, or an eighth of a chip
            where that is too small or the task has neither).
        align: Pixels that chips start at multiples of (default: the largest stride, or
            32).
        tile_size: Side of what is blended at once, in pixels.
        confidence: Write NAME_confidence.tif.
        scores: Write NAME_scores.tif.
        reweight: Weights by which scores of classes are multiplied before the best is
            taken, ``CLASS=WEIGHT`` each.
        min_area: Minimum mapping unit in square metres.
        html: Write a page to look at, beside the report.
        overwrite: Replace outputs that exist.

    Raises:
        InputError: A number is out of its range.
    """

    def __init__(
        self,
        output: str | Path,
        overlap: int | None = None,
        halo: int | None = None,
        align: int | None = None,
        tile_size: int = 2048,
        confidence: bool = True,
        scores: bool = False,
        overwrite: bool = False,
        reweight: Sequence[str] = (),
        min_area: float = 0.0,
        html: bool = False,
    ) -> None:
        for name, pixels, least in (
            ('overlap', overlap, 0),
            ('halo', halo, 0),
            ('align', align, 1),
            ('tile_size', tile_size, 1),
        ):
            check_range(name, pixels, least, whole=True)
        check_range('min_area', min_area, 0)
        super().__init__('batch')
        self.output = output
        self.overlap, self.halo, self.align = overlap, halo, align
        self.tile_size = tile_size
        self.confidence, self.scores = confidence, scores
        self.reweight, self.min_area = tuple(reweight), min_area
        self.html, self.overwrite = html, overwrite
        self._predictions: _Predictions | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Give a data module of this package the sampler of a map.

        Args:
            trainer: The trainer.
            pl_module: The task.
            stage: Only ``predict`` matters.
        """
        super().setup(trainer, pl_module, stage)
        data: Any = getattr(trainer, 'datamodule', None)
        if isinstance(data, SourceTargetDataModule):
            data = data.evaluated
        if stage != 'predict' or not isinstance(data, ChipDataModule):
            return
        dataset: Any = data.predict_dataset
        if isinstance(data.predict_sampler, LatticeSampler) or not _of_pairs(dataset):
            return
        halo, align = data.size // _BORDER, _STRIDE
        backbone = getattr(pl_module, 'backbone', None)
        network = getattr(pl_module, 'model', None)
        if isinstance(backbone, Backbone):
            halo, align = backbone.halo, max(backbone.strides)
        elif isinstance(network, SegmentationNetwork):
            align = network.stride
            # As with `map --checkpoint`, which refuses smaller chips.
            if 2 * network.halo < data.size - align:
                halo = network.halo
        data.predict_sampler = LatticeSampler(
            dataset,
            data.size,
            self.overlap,
            halo if self.halo is None else self.halo,
            align if self.align is None else self.align,
            self.tile_size,
        )

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Make sure that nothing is written over, and agree on a folder.

        Args:
            trainer: The trainer.
            pl_module: The task.

        Raises:
            InputError: If the output cannot be written, or the dataset is none of
                pairs.
        """
        loader: Any = trainer.predict_dataloaders
        dataset = getattr(loader, 'dataset', None)
        if not _of_pairs(dataset):
            raise InputError(
                'MapWriter takes one DataLoader over chips of imagery (LRHRPairs), got '
                f'{type(loader if dataset is None else dataset).__name__}'
            )
        crosswalk: Any = getattr(pl_module, 'crosswalk', None)
        if not isinstance(crosswalk, Crosswalk):
            raise InputError(
                f'MapWriter needs a task with a crosswalk, such as MapSRTask; '
                f'{type(pl_module).__name__} has none'
            )
        pairs = pairs_of(dataset)
        images = tuple(pair.imagery for pair in pairs)
        labels = {raster.number: raster for pair in pairs for raster in pair.lr_labels}
        inputs = Inputs(images, tuple(labels.values()), crosswalk.target, crosswalk)
        outputs = Outputs.of(
            self.output,
            [image.paths[0] for image in images],
            self.confidence,
            self.scores,
            self.html,
        )
        if len(outputs.maps) != len(pairs):
            raise InputError(
                f'{len(pairs)} rasters do not become one map {self.output}: give a '
                'folder, which gets a map for each'
            )
        sources = [*(p for image in images for p in image.paths)]
        sources += [path for raster in labels.values() for path in raster.paths]
        check_outputs(outputs.taken, sources, self.overwrite)
        store, message, work = None, '', uuid4().hex[:12]
        if trainer.is_global_zero:
            store = WorkStore(outputs.work, {'predictions': work})
            try:
                store.__enter__()
            except InputError as error:
                message = str(error)
        digest = store.tiles.work if store is not None else ''
        message, digest = trainer.strategy.broadcast((message, digest))
        if message:
            raise InputError(message)
        files = TileFiles(outputs.work.absolute(), digest)
        watch = Stopwatch()
        run = Run(
            outputs,
            inputs,
            files,
            watch,
            class_weights(self.reweight, inputs.target),
            self.min_area,
        )
        model = getattr(pl_module, 'land_cover', None)
        calibration = getattr(model, 'calibration', Calibration())
        spilled = SpilledScores(files.folder, files.work, calibration)
        self._predictions = _Predictions(run, spilled, store)

    def write_on_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        prediction: Any,
        batch_indices: Sequence[Any] | None,
        batch: Sample,
        batch_idx: int,
        dataloader_idx: int,
    ) -> None:
        """Keep the chips of a batch.

        Args:
            trainer: The trainer.
            pl_module: The task.
            prediction: With ``probabilities``, (B, C, H, W).
            batch_indices: What the sampler asked for.
            batch: The batch.
            batch_idx: Its number.
            dataloader_idx: Number of its DataLoader.

        Raises:
            InputError: If the chips are not those of a LatticeSampler.
        """
        assert self._predictions is not None
        probabilities = prediction['probabilities'].float().cpu()
        valid = torch.ones(probabilities[:, 0].shape, dtype=torch.bool)
        if 'mask_valid' in batch:
            valid = (batch['mask_valid'] > 0).view_as(valid).cpu()
        for query, scores, inside in zip(
            batch_indices or [None], probabilities, valid, strict=False
        ):
            if not isinstance(query, LatticeQuery) or query.core is None:
                raise InputError(
                    'MapWriter blends the chips of a LatticeSampler: give one to the '
                    'DataLoader, torchgeo_mapsr.LatticeSampler(dataset, size)'
                )
            self._predictions.keep(query, scores, inside)

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Blend the chips, each process some tiles, and publish the maps.

        Args:
            trainer: The trainer.
            pl_module: The task.

        Raises:
            InputError: If chips are missing.
        """
        predictions = self._predictions
        assert predictions is not None
        trainer.strategy.barrier('chips')
        predictions.make_tiles(trainer.global_rank, trainer.world_size)
        trainer.strategy.barrier('tiles')
        if predictions.store is not None:
            predictions.run.publish(
                predictions.store,
                predictions.plans(),
                self._settings(pl_module),
                _provenance(pl_module),
            )
        trainer.strategy.barrier('maps')

    def _settings(self, pl_module: LightningModule) -> dict[str, Any]:
        """What the imagery, this callback and the task were told, as JSON types."""
        assert self._predictions is not None
        inputs = self._predictions.run.inputs
        images = [image.paths for image in inputs.images]
        settings: dict[str, Any] = {
            # As the verb map reports them: all files of one map, or the first of each.
            'imagery': list(images[0]) if len(images) == 1 else [i[0] for i in images],
            'labels': [path for raster in inputs.labels for path in raster.paths],
            **inputs.images[0].options,
            **{name: getattr(self, name) for name in signature(MapWriter).parameters},
            'task': {'name': type(pl_module).__name__, **pl_module.hparams},
        }
        return {name: json_types(value) for name, value in settings.items()}

    def teardown(
        self, trainer: Trainer, pl_module: LightningModule, stage: str
    ) -> None:
        """Leave no folder behind, also where predicting was interrupted.

        Args:
            trainer: The trainer.
            pl_module: The task.
            stage: Not used.
        """
        predictions, self._predictions = self._predictions, None
        store = None if predictions is None else predictions.store
        if store is not None:
            if store.folder.exists():
                store.discard()
            store.__exit__()

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Leave no folder behind.

        Args:
            trainer: The trainer.
            pl_module: The task.
            exception: What happened.
        """
        self.teardown(trainer, pl_module, 'predict')


@dataclass
class _Predictions:
    """What is open while a Trainer predicts.

    Args:
        run: The maps in the making.
        scores: Scored chips.
        store: The folder's owner, in one of the processes.
        plan: Plan of one of the rasters.
    """

    run: Run
    scores: SpilledScores
    store: WorkStore | None
    plan: Plan | None = None

    def keep(self, query: LatticeQuery, scores: Tensor, valid: Tensor) -> None:
        """Keep what was predicted for a chip."""
        assert query.core is not None
        assert query.chip is not None
        self.plan = query.plan
        with self.run.watch('write'):
            self.scores.save(
                query.raster,
                query.chip,
                scores[:, *query.core].numpy(),
                valid[query.core].numpy(),
            )

    def plans(self) -> list[Plan]:
        """Plan of each raster."""
        assert self.plan is not None
        images = self.run.inputs.images
        return [replace(self.plan, geobox=image.geobox) for image in images]

    def make_tiles(self, rank: int, world: int) -> None:
        """Make every world-th tile of each map."""
        plans = self.plans()
        for number, plan in enumerate(plans):
            missing = sum(
                not self.scores.path(number, chip).exists() for chip in plan.lattice()
            )
            if missing:
                raise InputError(
                    f'{missing} chips of {self.run.outputs.maps[number].map} were not '
                    'predicted: predict all batches (limit_predict_batches)'
                )
        self.run.make_tiles(self.scores, self.run.items(plans)[rank::world])


def _of_pairs(dataset: Any) -> TypeGuard[ImageryChips | LRHRPairs]:
    """Whether a dataset has rasters to make maps of."""
    return isinstance(dataset, ImageryChips | LRHRPairs)


def _provenance(pl_module: LightningModule) -> dict[str, Any]:
    """Where the fit of a task comes from, if it has one."""
    model = getattr(pl_module, 'land_cover', None)
    return dict(getattr(model, 'provenance', {}))
