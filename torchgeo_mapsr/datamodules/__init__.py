# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""Data modules of LR/HR pairs."""

from .chesapeake import ChesapeakePairsDataModule
from .pair import ChipDataModule, PairDataModule

__all__ = ('ChesapeakePairsDataModule', 'ChipDataModule', 'PairDataModule')
