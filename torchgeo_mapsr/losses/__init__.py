# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""Losses for coarse, noisy and scarce labels."""

from .class_balanced import ClassBalancedCrossEntropy, class_weight, sample_weight
from .class_centre import ClassCentreContrast
from .class_prior import ClassPrior
from .lovasz import LovaszLoss
from .self_training import (
    SelfTrainingLoss,
    agreement,
    pseudo_labels,
    weighted_cross_entropy,
)
from .symmetric_cross_entropy import SymmetricCrossEntropy

__all__ = (
    'ClassBalancedCrossEntropy',
    'ClassCentreContrast',
    'ClassPrior',
    'LovaszLoss',
    'SelfTrainingLoss',
    'SymmetricCrossEntropy',
    'agreement',
    'class_weight',
    'pseudo_labels',
    'sample_weight',
    'weighted_cross_entropy',
)
