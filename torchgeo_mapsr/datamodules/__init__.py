# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""Data modules: LR/HR pairs, labelled chips, and source with target."""

from .chesapeake import ChesapeakePairsDataModule
from .fine import FineLabelDataModule
from .images import (
    ImageChipsDataModule,
    OpenEarthMapDataModule,
    OpenEarthMapSARDataModule,
)
from .low2high import Low2HighDataModule
from .pair import ChipDataModule, PairDataModule
from .source_target import SourceTargetDataModule
from .unlabelled import UnlabelledDataModule

__all__ = (
    'ChesapeakePairsDataModule',
    'ChipDataModule',
    'FineLabelDataModule',
    'ImageChipsDataModule',
    'Low2HighDataModule',
    'OpenEarthMapDataModule',
    'OpenEarthMapSARDataModule',
    'PairDataModule',
    'SourceTargetDataModule',
    'UnlabelledDataModule',
)
