# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""How networks of the tables are trained: random crops from memory, a quiet trainer."""

import logging
import warnings
from collections.abc import Sequence
from typing import Any

import lightning
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

Batch = dict[str, Tensor]


class Crops(Dataset[Batch]):
    """Batches of random crops, flipped and turned.

    Args:
        images: Images to cut from, (C, H, W) each.
        labels: Label of each image's pixels, (H, W); None for no labels.
        seed: Which crops.
        steps: Number of batches.
        batch: Crops in a batch.
        side: Of a crop in pixels; smaller where an image is.
    """

    def __init__(
        self,
        images: Sequence[Tensor],
        labels: Sequence[Tensor] | None,
        seed: int,
        steps: int,
        batch: int,
        side: int,
    ) -> None:
        self.images, self.labels = images, labels
        self.seed, self.steps, self.batch = seed, steps, batch
        self.side = min(side, *(n for image in images for n in image.shape[1:]))
        areas = np.array([image[0].numel() for image in images])
        self.chance = areas / areas.sum()

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, index: int) -> Batch:
        if index >= self.steps:
            raise IndexError(index)
        rng = np.random.default_rng([self.seed, index])
        crops = [self._crop(rng) for _ in range(self.batch)]
        return {key: torch.stack([crop[key] for crop in crops]) for key in crops[0]}

    def _crop(self, rng: np.random.Generator) -> Batch:
        which = int(rng.choice(len(self.chance), p=self.chance))
        image, side = self.images[which], self.side
        top, left = (int(rng.integers(n - side + 1)) for n in image.shape[1:])
        box = (..., slice(top, top + side), slice(left, left + side))
        turns, flip = int(rng.integers(4)), bool(rng.integers(2))

        def cut(values: Tensor) -> Tensor:
            part = torch.rot90(values[box], turns, (-2, -1))
            return (part.flip(-1) if flip else part).contiguous()

        crop = {'image': cut(image)}
        return crop if self.labels is None else crop | {'mask': cut(self.labels[which])}


def train(task: Any, batches: Any, **options: Any) -> None:
    """Train a task on batches, without anything that is written or printed."""
    logging.getLogger('lightning.pytorch').setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        trainer = lightning.Trainer(
            accelerator='cpu',
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            **{'max_epochs': 1, **options},
        )
        trainer.fit(task, batches)
