# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""The rows of Liu et al. 2025: self-training, and a second stage on pseudo-labels."""

from collections.abc import Callable
from functools import partial
from typing import Any

from lightning.pytorch.utilities import CombinedLoader
from torch import nn
from torch.utils.data import DataLoader

from torchgeo_mapsr import PseudoLabelTask, SelfTrainingTask
from torchgeo_mapsr.models.networks.ensemble import Ensemble

from .training import Setting

# The paper's α of 0.999 looks back over a thousand steps, of tens of thousands.
EMA_DECAY = 0.97

TITLES = {
    'source': 'source only',
    'raa': '+ resolution alignment',
    'self': '+ self-training',
    'pseudo': 'second stage on its pseudo-labels: cross entropy',
    'sce': '+ symmetric cross entropy',
    'lovasz': '+ Lovász',
    'ensemble': 'ensemble of the rows + self-training, + SCE, + Lovász',
}


def first_stage(setting: Setting, **options: Any) -> nn.Module:
    """Train on source and target."""
    task = SelfTrainingTask(**setting.arguments, ema_decay=EMA_DECAY, **options)
    parts = {'source': setting.source(), 'target': setting.target()}
    loaders = {k: DataLoader(part, batch_size=None) for k, part in parts.items()}
    return setting.train(task, CombinedLoader(loaders, 'min_size'))


def second_stage(setting: Setting, **options: Any) -> nn.Module:
    """Train a new network on what the first stage says of the target."""
    labels = tuple(setting.maps(setting.network('self')))
    task = PseudoLabelTask(**setting.arguments, **options)
    return setting.train(task, setting.target(labels))


def ensemble(setting: Setting) -> nn.Module:
    """Average three networks."""
    return Ensemble([setting.network(row) for row in ('self', 'sce', 'lovasz')])


ROWS: dict[str, Callable[[Setting], nn.Module]] = {
    'source': partial(first_stage, target_weight=0, alignment=None),
    'raa': partial(first_stage, target_weight=0),
    'self': first_stage,
    'pseudo': partial(second_stage, sce_weight=0, lovasz_weight=0),
    'sce': partial(second_stage, lovasz_weight=0),
    'lovasz': second_stage,
    'ensemble': ensemble,
}
