# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""Losses for coarse, noisy and scarce labels."""

from .adversarial import discriminator_hinge, generator_hinge, sargmax
from .class_balanced import ClassBalancedCrossEntropy, class_weight, sample_weight
from .class_centre import ClassCentreContrast
from .class_prior import ClassPrior
from .interval_constraint import IntervalConstraintLoss
from .label_counting import LabelCounts, block_regions, box_counts, label_counts
from .lovasz import LovaszLoss
from .region_cross_entropy import RegionCrossEntropy
from .self_training import (
    SelfTrainingLoss,
    agreement,
    pseudo_labels,
    weighted_cross_entropy,
)
from .statistics_matching import StatisticsMatchingLoss
from .symmetric_cross_entropy import SymmetricCrossEntropy

__all__ = (
    'ClassBalancedCrossEntropy',
    'ClassCentreContrast',
    'ClassPrior',
    'IntervalConstraintLoss',
    'LabelCounts',
    'LovaszLoss',
    'RegionCrossEntropy',
    'SelfTrainingLoss',
    'StatisticsMatchingLoss',
    'SymmetricCrossEntropy',
    'agreement',
    'block_regions',
    'box_counts',
    'class_weight',
    'discriminator_hinge',
    'generator_hinge',
    'label_counts',
    'pseudo_labels',
    'sample_weight',
    'sargmax',
    'weighted_cross_entropy',
)
