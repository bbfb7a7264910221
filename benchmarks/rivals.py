# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""What a person would pick instead: a random forest, and torchgeo's U-Net.

Both learn from the coarse label that lies under each pixel's centre.
"""

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from sklearn.ensemble import RandomForestClassifier
from torch.optim import AdamW
from torch.optim.lr_scheduler import CosineAnnealingLR
from torch.utils.data import DataLoader
from torchgeo.trainers import SemanticSegmentationTask

from .networks import Crops, train
from .regions import Maps, Region

TREES = 100
FOREST_PIXELS = 20_000

CROP, BATCH, LEARNING_RATE = 128, 4, 1e-3
NO_LABEL = 255


def forest(region: Region, leaf: int = 1, seed: int = 0) -> Maps:
    """Map scenes with scikit-learn's random forest on the bands of single pixels."""
    rng = np.random.default_rng(seed)
    bands, labels = [], []
    for image, coarse in zip(region.images, region.coarse, strict=True):
        pixels = rng.permutation(np.flatnonzero(coarse >= 0))
        pixels = pixels[: FOREST_PIXELS // len(region.scenes)]
        bands.append(image.reshape(len(image), -1).T[pixels])
        labels.append(coarse.ravel()[pixels])
    model = fit_forest(np.concatenate(bands), np.concatenate(labels), leaf, seed)
    maps = []
    for image in region.images:
        # Every colour is asked for once: there are several times fewer than pixels.
        colours, which = np.unique(
            image.reshape(len(image), -1).T, axis=0, return_inverse=True
        )
        maps.append(model.predict(colours)[which.reshape(image.shape[1:])])
    return maps


def fit_forest(
    bands: NDArray[Any], labels: NDArray[Any], leaf: int = 1, seed: int = 0
) -> RandomForestClassifier:
    """Scikit-learn's random forest on the bands (N, C) of pixels with labels (N,)."""
    model = RandomForestClassifier(TREES, min_samples_leaf=leaf, random_state=seed)
    model.fit(bands, labels)
    return model


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


def unet(region: Region, steps: int, seed: int = 0) -> Maps:
    """Map scenes with torchgeo's segmentation task: U-Net, ResNet-18, random start."""
    torch.manual_seed(seed)
    images = [torch.from_numpy(image) for image in region.images]
    std, mean = torch.std_mean(torch.cat([i.flatten(1) for i in images], 1), 1)
    images = [(i - mean[:, None, None]) / std[:, None, None] for i in images]
    labels = [torch.from_numpy(np.where(c < 0, NO_LABEL, c)) for c in region.coarse]
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
    crops = Crops(images, labels, seed, steps, BATCH, CROP)
    train(task, DataLoader(crops, batch_size=None))
    task.eval()
    maps = []
    with torch.inference_mode():
        for image in images:
            height, width = image.shape[1:]
            padded = F.pad(image[None], (0, -width % 32, 0, -height % 32), 'reflect')
            maps.append(task(padded)[0, :, :height, :width].argmax(0).numpy())
    return maps
