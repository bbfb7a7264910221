# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""Losses for coarse, noisy and scarce labels."""

from .lovasz import LovaszLoss
from .self_training import (
    SelfTrainingLoss,
    agreement,
    pseudo_labels,
    weighted_cross_entropy,
)
from .symmetric_cross_entropy import SymmetricCrossEntropy

__all__ = (
    'LovaszLoss',
    'SelfTrainingLoss',
    'SymmetricCrossEntropy',
    'agreement',
    'pseudo_labels',
    'weighted_cross_entropy',
)
