# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""What a person would pick instead: a random forest, and torchgeo's U-Net.

Both learn from the coarse label that lies under each pixel's centre.
"""

import logging
from typing import Any

import lightning
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from sklearn.ensemble import RandomForestClassifier
from torch import Tensor
from torch.optim import AdamW
from torch.optim.lr_scheduler import CosineAnnealingLR
from torch.utils.data import DataLoader, Dataset
from torchgeo.trainers import SemanticSegmentationTask

from .regions import Region

TREES = 100
FOREST_PIXELS = 20_000

CROP, BATCH, LEARNING_RATE = 128, 4, 1e-3
NO_LABEL = 255

Maps = list[NDArray[np.int64]]


def forest(region: Region, leaf: int = 1) -> Maps:
    """Scikit-learn's random forest on the bands of single pixels.

    Args:
        region: Scenes and coarse labels.
        leaf: Pixels in a leaf, at least (1 is scikit-learn's default).

    Returns:
        Class index of each scene's pixels.
    """
    rng = np.random.default_rng(0)
    bands, labels = [], []
    for image, coarse in zip(_images(region), region.coarse, strict=True):
        some = rng.permutation(np.flatnonzero(coarse >= 0))
        some = some[: FOREST_PIXELS // len(region.scenes)]
        bands.append(image.reshape(len(image), -1).T[some])
        labels.append(coarse.ravel()[some])
    model = RandomForestClassifier(TREES, min_samples_leaf=leaf, random_state=0)
    model.fit(np.concatenate(bands), np.concatenate(labels))
    maps = []
    for image in _images(region):
        # Every colour is asked for once: there are several times fewer than pixels.
        colours, which = np.unique(
            image.reshape(len(image), -1).T, axis=0, return_inverse=True
        )
        maps.append(model.predict(colours)[which.reshape(image.shape[1:])])
    return maps


class Crops(Dataset[dict[str, Tensor]]):
    """Random crops, flipped and turned, of scenes with nearest-warped labels.

    Args:
        images: Standardised imagery of each scene, (C, H, W).
        labels: Class indices, 255 where there is none, (H, W).
        length: Number of crops.
    """

    def __init__(self, images: list[Tensor], labels: list[Tensor], length: int) -> None:
        self.images, self.labels, self.length = images, labels, length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        rng = np.random.default_rng(index)
        scene = rng.integers(len(self.images))
        image, label = self.images[scene], self.labels[scene]
        top, left = (int(rng.integers(n - min(CROP, n) + 1)) for n in label.shape)
        crop = (..., slice(top, top + CROP), slice(left, left + CROP))
        image, label = image[crop], label[crop]
        turns, flip = int(rng.integers(4)), bool(rng.integers(2))
        image, label = (torch.rot90(t, turns, (-2, -1)) for t in (image, label))
        if flip:
            image, label = image.flip(-1), label.flip(-1)
        return {'image': image.contiguous(), 'mask': label.contiguous()}


class _Annealed(SemanticSegmentationTask):
    """torchgeo's task with a learning rate that falls to zero.

    Its own schedule waits for a plateau of ten epochs. Trained as briefly as here, the
    network would be mapped in full motion: batch statistics lag behind its weights, and
    that cost it a third of its mIoU (0.26 against 0.38 in training mode, Austin).
    """

    def configure_optimizers(self) -> Any:
        optimizer = AdamW(self.parameters(), lr=self.hparams['lr'])
        steps = int(self.trainer.estimated_stepping_batches)
        schedule = CosineAnnealingLR(optimizer, steps)
        return {
            'optimizer': optimizer,
            'lr_scheduler': {'scheduler': schedule, 'interval': 'step'},
        }


def unet(region: Region, steps: int) -> Maps:
    """Train torchgeo's segmentation task: U-Net, ResNet-18, random initialisation.

    Args:
        region: Scenes and coarse labels.
        steps: Steps of training.

    Returns:
        Class index of each scene's pixels.
    """
    torch.manual_seed(0)
    images = [torch.from_numpy(image) for image in _images(region)]
    std, mean = torch.std_mean(torch.cat([i.flatten(1) for i in images], 1), 1)
    images = [(i - mean[:, None, None]) / std[:, None, None] for i in images]
    labels = [
        torch.from_numpy(np.where(coarse < 0, NO_LABEL, coarse))
        for coarse in region.coarse
    ]
    task = _Annealed(
        model='unet',
        backbone='resnet18',
        weights=None,
        in_channels=len(mean),
        task='multiclass',
        num_classes=region.classes,
        loss='ce',
        ignore_index=NO_LABEL,
        lr=LEARNING_RATE,
    )
    _train(task, Crops(images, labels, steps * BATCH))
    task.eval()
    maps = []
    with torch.inference_mode():
        for image in images:
            height, width = image.shape[1:]
            padded = F.pad(image[None], (0, -width % 32, 0, -height % 32), 'reflect')
            maps.append(task(padded)[0, :, :height, :width].argmax(0).numpy())
    return maps


def _train(task: Any, crops: Crops) -> None:
    """One pass over the crops, without anything that is written or printed."""
    logging.getLogger('lightning.pytorch').setLevel(logging.ERROR)
    trainer = lightning.Trainer(
        accelerator='cpu',
        max_epochs=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )
    trainer.fit(task, DataLoader(crops, BATCH))


def _images(region: Region) -> list[NDArray[np.float32]]:
    return [image.read(image.geobox)[0] for image in region.images]
