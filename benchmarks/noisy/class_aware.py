# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""The rows of Dong et al. 2023: class-aware selection, balance and contrast.

Their supervised baseline weighs classes, so that it finds the minority at all, and so do
all rows.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pandas
import torch
from lightning.pytorch.utilities import CombinedLoader
from torch import nn
from torch.utils.data import DataLoader, Dataset

from torchgeo_mapsr import ClassAwareTask, InputError
from torchgeo_mapsr.datasets.geo.grid import starts
from torchgeo_mapsr.datasets.patches import select_patches

from .sets import Domain, Labels
from .training import CROP, Batch, Crops, Setting

TITLES = {
    'supervised': 'supervised, classes weighed by W (eq. 3)',
    'selection': '+ pseudo-labels of selected patches',
    'cbce': 'supervised, W from the prior of source and selected patches (eq. 4)',
    'contrast': '+ class centre contrast (eq. 6): the default',
    'random': 'the default, with random patches',
    'likelihood': 'the default, with s(x, y) (eq. 2) as a likelihood',
    'detached': 'the default, with s(x, y) as a number, cut at 0',
}


def selected(setting: Setting, *, minority: bool = True) -> tuple[Domain, list[Labels]]:
    """Patches of the target, and what the network of the row “supervised” says of them.

    Args:
        setting: Where.
        minority: Select those with the minority class; as many at random otherwise.
    """
    target = setting.problem.target
    maps = setting.maps(setting.network('supervised'))
    boxes, shares = [], []
    for number, found in enumerate(maps):
        for top in starts(found.shape[0], CROP, CROP):
            for left in starts(found.shape[1], CROP, CROP):
                box = (slice(top, top + CROP), slice(left, left + CROP))
                boxes.append((number, box))
                count = np.bincount(found[box].ravel(), minlength=4)
                shares.append(count / count.sum())
    try:
        table = select_patches(
            pandas.DataFrame(shares), [setting.problem.minority], seed=setting.seed
        )
        chosen = table.index.to_numpy()
    except InputError:  # the network finds none
        chosen = np.arange(len(boxes))
    if not minority:
        rng = np.random.default_rng(setting.seed)
        chosen = rng.permutation(len(boxes))[: len(chosen)]
    taken = [boxes[i] for i in chosen]
    patches = Domain(
        tuple(target.images[n][:, *box] for n, box in taken),
        tuple(target.truth[n][box] for n, box in taken),
        tuple(target.labels[n][box] for n, box in taken),
    )
    return patches, [maps[n][box] for n, box in taken]


class Together(Dataset[Batch]):
    """Batches of two sources of crops, one under the other."""

    def __init__(self, *parts: Crops) -> None:
        self.parts = parts

    def __len__(self) -> int:
        return len(self.parts[0])

    def __getitem__(self, index: int) -> Batch:
        first, second = (part[index] for part in self.parts)
        return {key: torch.cat([first[key], second[key]]) for key in first}


def shares(setting: Setting) -> list[float]:
    """Share of each class in the labels of the source."""
    labels = setting.problem.source.labels
    known = np.concatenate([label[label >= 0] for label in labels])
    return (np.bincount(known, minlength=4) / len(known)).tolist()


def supervised(setting: Setting) -> nn.Module:
    """Train on labels of the source."""
    task = ClassAwareTask(**setting.arguments, shares=shares(setting), contrast=0.0)
    return setting.train(task, setting.source())


def pseudo_labelled(setting: Setting) -> nn.Module:
    """Train on labels of the source and on pseudo-labels of selected patches."""
    patches, labels = selected(setting)
    crops = Crops(patches, tuple(labels), setting.seed + 1000, setting.steps)
    task = ClassAwareTask(**setting.arguments, shares=shares(setting), contrast=0.0)
    return setting.train(task, Together(setting.source(), crops))


def class_aware(
    setting: Setting, *, minority: bool = True, **options: Any
) -> nn.Module:
    """Train on the source and on patches without labels."""
    patches, _ = selected(setting, minority=minority)
    crops = Crops(patches, None, setting.seed + 1000, setting.steps)
    task = ClassAwareTask(**setting.arguments, shares=shares(setting), **options)
    parts = {'source': setting.source(), 'target': crops}
    loaders = {k: DataLoader(part, batch_size=None) for k, part in parts.items()}
    return setting.train(task, CombinedLoader(loaders, 'min_size'))


ROWS: dict[str, Callable[[Setting], nn.Module]] = {
    'supervised': supervised,
    'selection': pseudo_labelled,
    'cbce': partial(class_aware, contrast=0.0),
    'contrast': class_aware,
    'random': partial(class_aware, minority=False),
    'likelihood': partial(class_aware, sampling='likelihood'),
    'detached': partial(class_aware, sampling='detached'),
}
