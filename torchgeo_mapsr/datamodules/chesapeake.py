# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""Data module of Chesapeake pairs."""

from collections.abc import Sequence

from ..datasets.chesapeake import ChesapeakePairs
from .pair import ChipDataModule


class ChesapeakePairsDataModule(ChipDataModule):
    """Data module of NAIP, NLCD and Chesapeake land cover.

    Args:
        root: Folder of the data, see :class:`~torchgeo_mapsr.datasets.ChesapeakePairs`.
        train_splits: Splits to fit on, such as ``['wv-train']``; None for all, and for
            folders of rasters.
        val_splits: Splits to validate on.
        test_splits: Splits to test on and to predict.
        target: Legend of ``mask``.
        crosswalk: Name or file of the crosswalk from NLCD to *target*.
        layer: Imagery of the tiles, ``naip-new`` or ``naip-old``.
        native_cells: Recover the cells of the tiles' NLCD layer.
        download: Let torchgeo download the tiles if they are not in *root*.
        batch_size: Chips in a batch.
        patch_size: Height and width of a chip, in pixels.
        stride: Pixels between chips when all are visited.
        length: Number of random chips in a training epoch (default: all chips).
        num_workers: Processes that read.
        augment: Flip and turn training chips.
        balance: With *length*, see
            :class:`~torchgeo_mapsr.samplers.BalancedChipSampler`.
    """

    def __init__(
        self,
        root: str = 'data',
        train_splits: Sequence[str] | None = None,
        val_splits: Sequence[str] | None = None,
        test_splits: Sequence[str] | None = None,
        target: str = 'land-cover-4',
        crosswalk: str | None = None,
        layer: str = 'naip-new',
        native_cells: bool = True,
        download: bool = False,
        batch_size: int = 1,
        patch_size: int = 448,
        stride: int | None = None,
        length: int | None = None,
        num_workers: int = 0,
        augment: bool = False,
        balance: float = 0.0,
    ) -> None:
        super().__init__(
            batch_size, patch_size, stride, length, num_workers, augment, balance
        )
        self.root = root
        self.splits = {
            'train': train_splits,
            'val': val_splits,
            'test': test_splits,
            'predict': test_splits,
        }
        self.target, self.crosswalk, self.layer = target, crosswalk, layer
        self.native_cells, self.download = native_cells, download

    def prepare_data(self) -> None:
        """Download the tiles, in one process."""
        if self.download:
            self.chips('train')

    def chips(self, split: str) -> ChesapeakePairs:
        """Make the dataset of a split."""
        return ChesapeakePairs(
            self.root,
            self.splits[split],
            self.target,
            self.crosswalk,
            self.layer,
            self.native_cells,
            download=self.download,
        )
