# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""What is compared: a row is a function from a trial to maps.

To add one, write ``@row('name', 'title')`` above a function that takes a
:class:`Trial` and returns the class index of each scene's pixels; most rows are
``trial.fit(SomeTask(**trial.options, …))``.
"""

import logging
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from torchgeo_mapsr.datamodules import PairDataModule
from torchgeo_mapsr.datasets import LabelRaster, region_map
from torchgeo_mapsr.datasets.legends.statistics import class_counts
from torchgeo_mapsr.tasks import (
    MaskedAutoencoderTask,
    RegionAggregationTask,
    SegmentationTask,
)

from .regions import TARGET
from .training_places import Place

Maps = list[NDArray[np.int64]]

CROP, BATCH = 128, 4

# Halves the time on processors that have it, and half precision is tried on the way.
PRECISION = 'bf16-mixed'

# Side and margin of the windows that are predicted, in pixels.
_WINDOW, _MARGIN = 512, 32


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Args:
        title: What the table calls it.
        make: Makes the maps.
        trained: Whether the seed makes a difference.
    """

    title: str
    make: 'Callable[[Trial], Maps]'
    trained: bool = True


#: Rows by name, in the order of the table.
ROWS: dict[str, Row] = {}


def row(
    name: str, title: str, trained: bool = True
) -> 'Callable[[Callable[[Trial], Maps]], Callable[[Trial], Maps]]':
    """Enter a function as a row.

    Args:
        name: What the results call it.
        title: What the table calls it.
        trained: Whether the seed makes a difference; if not it is measured once.
    """

    def enter(make: 'Callable[[Trial], Maps]') -> 'Callable[[Trial], Maps]':
        ROWS[name] = Row(title, make, trained)
        return make

    return enter


@dataclass(frozen=True)
class Trial:
    """One training.

    Args:
        place: Where.
        seed: Of the initialisation and of the crops.
        steps: Batches that are trained on.
        work: Folder for files that are made.
    """

    place: Place
    seed: int
    steps: int
    work: Path

    @property
    def options(self) -> dict[str, Any]:
        """What all segmentation tasks of the table are made with."""
        region = self.place.region
        return {
            'model': 'unet',
            'backbone': 'resnet18',
            'bands': region.images[0].bands,
            'legend': region.legend,
            'target': TARGET,
            'truth_legend': region.truth_legend,
        }

    def train(
        self,
        task: Any,
        batch: int = BATCH,
        epochs: int = 1,
        labelled: Sequence[Path] = (),
        balance: float = 0.0,
    ) -> None:
        """Train a task on random crops, flipped and turned.

        Args:
            task: The task, made after :meth:`seeded`, or by :meth:`fit`'s caller.
            batch: Crops in a batch.
            epochs: Parts that the training is divided into.
            labelled: Folders of scenes that are trained on too. If there are any, HR
                labels of other scenes are kept from the task.
            balance: Exponent of the inverse frequency of coarse classes.
        """
        region = self.place.region
        more = [str(folder / 'imagery.tif') for folder in labelled]
        coarse = [str(folder / 'lr.tif') for folder in labelled]
        data = PairDataModule(
            [*region.imagery_paths, *more],
            [*region.label_paths, *coarse],
            [str(scene / 'hr.tif') for scene in labelled or region.scenes],
            batch_size=batch,
            patch_size=CROP,
            length=self.steps * batch // epochs,
            augment=True,
            balance=balance,
        )
        logging.getLogger('lightning.pytorch').setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            lightning.Trainer(
                accelerator='cpu',
                precision=PRECISION,
                max_epochs=epochs,
                logger=False,
                enable_checkpointing=False,
                enable_progress_bar=False,
                enable_model_summary=False,
                limit_val_batches=0,
                num_sanity_val_steps=0,
            ).fit(task, data)

    def fit(self, make: Callable[[], Any], **options: Any) -> Maps:
        """Make a task, train it and map the scenes with its network.

        Args:
            make: Makes the task, after the seed was set.
            options: Of :meth:`train`.

        Returns:
            Class index of each scene's pixels.
        """
        lightning.seed_everything(self.seed, verbose=False)
        task = make()
        self.train(task, **options)
        return self.predict(task.network)

    def predict(self, network: Callable[[Tensor], Tensor]) -> Maps:
        """Map the scenes, window by window with a margin.

        Args:
            network: From images (B, C, H, W) as read to scores (B, classes, H, W).
        """
        if isinstance(network, torch.nn.Module):
            network.eval()
        maps = []
        for image in self.place.region.images:
            values = torch.from_numpy(image.read(image.geobox)[0])
            height, width = values.shape[1:]
            found = np.zeros((height, width), np.int64)
            for top in range(0, height, _WINDOW):
                for left in range(0, width, _WINDOW):
                    a, b = max(top - _MARGIN, 0), max(left - _MARGIN, 0)
                    end = top + _WINDOW + _MARGIN, left + _WINDOW + _MARGIN
                    with torch.inference_mode(), torch.autocast('cpu'):
                        part = network(values[None, :, a : end[0], b : end[1]])[0]
                    part = part[:, top - a :, left - b :][:, :_WINDOW, :_WINDOW]
                    index = part.float().argmax(0).numpy()
                    h, w = index.shape
                    found[top : top + h, left : left + w] = index
            maps.append(found)
        return maps


@row('copy', 'LR copy (the paper’s Oracle)', trained=False)
def _copy(trial: Trial) -> Maps:
    return trial.place.region.coarse


@row('oracle', 'Oracle: majority of the HR labels in each cell', trained=False)
def _oracle(trial: Trial) -> Maps:
    region, maps = trial.place.region, []
    for path, image, truth in zip(
        region.label_paths, region.images, region.truth, strict=True
    ):
        cells = region_map(image.geobox, LabelRaster.open(path)[0].geobox)
        counts = class_counts(
            cells.mask_region, truth, len(cells.share), region.classes
        )
        maps.append(np.append(counts.argmax(1), -1)[cells.mask_region - 1])
    return maps


@row('low', 'Low (hard naive)')
def _low(trial: Trial) -> Maps:
    return trial.fit(lambda: SegmentationTask(**trial.options))


@row('agg', 'Agg')
def _agg(trial: Trial) -> Maps:
    return trial.fit(lambda: RegionAggregationTask(**trial.options))


@row('app', 'Agg + App')
def _app(trial: Trial) -> Maps:
    return trial.fit(lambda: RegionAggregationTask(**_adversarial(trial)))


@row('pre', 'Agg + App + Pre')
def _pre(trial: Trial) -> Maps:
    path = trial.work / 'encoders' / f'{trial.place.name}-{trial.seed}.safetensors'
    lightning.seed_everything(trial.seed, verbose=False)
    pretraining = MaskedAutoencoderTask(
        bands=trial.options['bands'],
        size=CROP,
        dim=128,
        depth=4,
        heads=4,
        decoder_dim=64,
        decoder_depth=1,
        decoder_heads=4,
        lr=1e-3,
        output=str(path),
    )
    trial.train(pretraining, 2 * BATCH)
    options = _adversarial(trial) | {'weights': str(path)}
    return trial.fit(lambda: RegionAggregationTask(**options))


@row('high', 'High (bound: trained with HR labels of the same scenes)')
def _high(trial: Trial) -> Maps:
    return trial.fit(lambda: SegmentationTask(**trial.options, supervision='hr'))


def _adversarial(trial: Trial) -> dict[str, Any]:
    return trial.options | {
        'exemplars': trial.place.exemplars,
        'exemplar_legend': trial.place.region.truth_legend,
    }
