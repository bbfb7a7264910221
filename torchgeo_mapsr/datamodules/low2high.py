# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""Data module of Low2High."""

from collections.abc import Sequence
from typing import Literal

from ..arguments import check_arguments
from ..datasets.base import ChipDataset
from ..datasets.low2high import Low2High
from ..samplers import ChipSampler
from .pair import ChipDataModule


class Low2HighDataModule(ChipDataModule):
    """Data module of Low2High: trains, validates and tests on its splits.

    Training draws as many random chips as there are, since their order in the index is
    by state; the other stages visit every chip once.

    Args:
        root: Folder of the Chesapeake tiles.
        index: Folder of the index, which ``torchgeo-mapsr low2high`` makes.
        states: Such as ``['md', 'va']``; all by default.
        test_split: *test*, or *held-out* for what nothing was chosen by.
        target: Legend of ``mask``.
        crosswalk: Name or file of the crosswalk from NLCD to *target*.
        native_cells: Recover the cells of the tiles' NLCD layer.
        batch_size: Chips in a batch.
        patch_size: Height and width of a chip, in pixels; a smaller one than that of the
            index takes parts of its chips.
        stride: Pixels between chips when all are visited.
        length: Number of random chips in a training epoch (default: as many as there
            are).
        num_workers: Processes that read.
        augment: Flip and turn training chips.

    Raises:
        InputError: *test_split* is something else, or a number is out of its range.
    """

    def __init__(
        self,
        root: str = 'data',
        index: str = 'low2high',
        states: Sequence[str] | None = None,
        test_split: Literal['test', 'held-out'] = 'test',
        target: str = 'land-cover-4',
        crosswalk: str | None = None,
        native_cells: bool = True,
        batch_size: int = 8,
        patch_size: int = 512,
        stride: int | None = None,
        length: int | None = None,
        num_workers: int = 0,
        augment: bool = True,
    ) -> None:
        check_arguments(type(self).__init__, {'test_split': test_split})
        super().__init__(batch_size, patch_size, stride, length, num_workers, augment)
        self.root, self.folder, self.states = root, index, states
        self.splits = {'train': 'train', 'val': 'val'}
        self.splits |= dict.fromkeys(('test', 'predict'), test_split)
        self.target, self.crosswalk = target, crosswalk
        self.native_cells = native_cells

    def train_sampler_of(self, dataset: ChipDataset) -> ChipSampler:
        """As many random chips as there are.

        Args:
            dataset: The training chips.
        """
        return ChipSampler(dataset, self.size, length=self.length or len(dataset))

    def chips(self, split: str) -> Low2High:
        """Make the dataset of a split."""
        return Low2High(
            self.root,
            self.folder,
            self.splits[split],
            None if self.states is None else tuple(self.states),
            self.target,
            self.crosswalk,
            self.native_cells,
        )
