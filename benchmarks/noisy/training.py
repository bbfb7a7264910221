# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""How every row trains: the same network, crops and steps, from memory."""

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from torchgeo_mapsr import SegmentationTask

from .sets import TARGET, Domain, Labels, Problem

# For every training. The paper's are tens of thousands of steps on four GPUs. What is
# rare takes longer to learn.
STEPS = {'made': 300, 'deepglobe': 150, 'sentinel2_korea': 150}
BATCH, CROP, LEARNING_RATE = 4, 64, 2e-3
MODEL, BACKBONE = 'unet', 'tu-resnet10t'

Batch = dict[str, Any]


@dataclass(frozen=True, eq=False)
class Setting:
    """One problem, one seed, and the networks that were trained for it so far.

    Args:
        problem: Source and target.
        seed: Seed of weights, crops and everything else that is drawn.
        work: Folder where networks are kept, so that rows can build on others.
        steps: Steps of each training.
        makers: What trains the network of a row, by the row's name.
    """

    problem: Problem
    seed: int
    work: Path
    steps: int
    makers: dict[str, Callable[['Setting'], nn.Module]]
    _made: dict[str, nn.Module] = field(default_factory=dict)

    def network(self, row: str) -> nn.Module:
        """The network of a row: trained now, or before.

        Args:
            row: Name of the row.
        """
        if row not in self._made:
            name = f'{self.problem.set}-{self.seed}-{self.steps}-{row}.pt'
            path = self.work / 'networks' / name
            if path.exists():
                network = torch.load(path, weights_only=False)
            else:
                torch.manual_seed(self.seed)
                network = self.makers[row](self).eval()
                path.parent.mkdir(parents=True, exist_ok=True)
                torch.save(network, path)
            self._made[row] = network
        return self._made[row]

    @property
    def arguments(self) -> Batch:
        """What all tasks are given."""
        return {
            'model': MODEL,
            'backbone': BACKBONE,
            'bands': len(self.problem.source.images[0]),
            'legend': TARGET,
            'target': TARGET,
            'supervision': 'hr',  # the labels of the crops, which are coarse and noisy
            'lr': LEARNING_RATE,
        }

    def source(self) -> 'Crops':
        """Labelled crops of the source."""
        domain = self.problem.source
        return Crops(domain, domain.labels, self.seed, self.steps)

    def target(self, labels: tuple[Labels, ...] | None = None) -> 'Crops':
        """Crops of the target, without labels or with pseudo-labels.

        Args:
            labels: Class index of each image's pixels.
        """
        return Crops(self.problem.target, labels, self.seed + 1000, self.steps)

    def train(self, task: SegmentationTask, data: Any) -> nn.Module:
        """Train a task, one pass over batches.

        Args:
            task: The task.
            data: Batches: Crops, or a loader.

        Returns:
            Its network.
        """
        if isinstance(data, Dataset):
            data = DataLoader(data, batch_size=None)
        logging.getLogger('lightning.pytorch').setLevel(logging.ERROR)
        trainer = lightning.Trainer(
            accelerator='cpu',
            max_epochs=1,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(task, data)
        return task.network

    @torch.inference_mode()
    def maps(self, network: nn.Module) -> list[Labels]:
        """Map the target.

        Args:
            network: From images to scores.

        Returns:
            Class index of each image's pixels.
        """
        network.eval()
        images = self.problem.target.images
        return [network(image[None])[0].argmax(0).numpy() for image in images]


class Crops(Dataset[Batch]):
    """Batches of random crops, flipped and turned.

    Args:
        domain: Images to cut from.
        labels: Class index of their pixels, -1 if none; None for no labels.
        seed: Seed of the crops.
        steps: Number of batches.
    """

    def __init__(
        self, domain: Domain, labels: tuple[Labels, ...] | None, seed: int, steps: int
    ) -> None:
        self.domain, self.labels = domain, labels
        self.seed, self.steps = seed, steps
        areas = np.array([image[0].numel() for image in domain.images])
        self.chance = areas / areas.sum()

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, index: int) -> Batch:
        rng = np.random.default_rng([self.seed, index])
        crops = [self._crop(rng) for _ in range(BATCH)]
        return {key: torch.stack([crop[key] for crop in crops]) for key in crops[0]}

    def _crop(self, rng: np.random.Generator) -> dict[str, Tensor]:
        which = int(rng.choice(len(self.chance), p=self.chance))
        image = self.domain.images[which]
        top, left = (int(rng.integers(n - CROP + 1)) for n in image.shape[1:])
        box = (..., slice(top, top + CROP), slice(left, left + CROP))
        turns, flip = int(rng.integers(4)), bool(rng.integers(2))

        def cut(values: Tensor) -> Tensor:
            part = torch.rot90(values[box], turns, (-2, -1))
            return (part.flip(-1) if flip else part).contiguous()

        crop = {'image': cut(image)}
        if self.labels is not None:
            # codes of the legend are index + 1
            label = torch.from_numpy(self.labels[which])
            crop['mask'] = cut(torch.where(label >= 0, label + 1, -1))
        return crop
