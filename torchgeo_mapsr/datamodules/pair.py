# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""Data modules of LR/HR pairs."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import shapely
import torch
from lightning.pytorch import LightningDataModule
from torch import nn
from torch.utils.data import DataLoader
from torchgeo.datamodules import GeoDataModule
from torchgeo.datasets import random_bbox_splitting, roi_split
from torchgeo.samplers import GeoSampler

from .._compat import Sample
from ..arguments import check_numbers, check_range
from ..datasets.base import ChipDataset
from ..datasets.collate import collate_pairs
from ..datasets.mosaic import LRHRPairs
from ..datasets.pair import LRHRPair
from ..errors import InputError
from ..samplers import BalancedChipSampler, ChipSampler
from ..samplers.chips import RandomSampler
from ..transforms.flips_and_turns import FlipsAndTurns
from .repeatable import RepeatableDataModule


class ChipDataModule(RepeatableDataModule, GeoDataModule, ABC):
    """What data modules of LR/HR pairs have in common.

    Batches keep the values of the imagery as they are stored (torchgeo's base class
    would divide them by 255): backbones know their own mean and standard deviation.

    Args:
        batch_size: Chips in a batch.
        patch_size: Height and width of a chip, in pixels.
        stride: Pixels between chips when all are visited (default: *patch_size*).
        length: Number of random chips in a training epoch. By default all chips are
            visited once, which is what a convex fit on LR cells wants.
        num_workers: Processes that read.
        augment: Flip and turn training chips.
        balance: Exponent of the inverse frequency of LR classes by which random chips
            are drawn, see :class:`~torchgeo_mapsr.samplers.BalancedChipSampler`; 0: by
            area.

    Raises:
        InputError: An argument is out of its range.
    """

    def __init__(
        self,
        batch_size: int = 1,
        patch_size: int = 448,
        stride: int | None = None,
        length: int | None = None,
        num_workers: int = 0,
        augment: bool = False,
        balance: float = 0.0,
    ) -> None:
        if balance and not length:
            raise InputError('balance is of random chips: give their number, length')
        for name, count in (
            ('batch_size', batch_size),
            ('patch_size', patch_size),
            ('stride', stride),
            ('length', length),
        ):
            check_range(name, count, 1, whole=True)
        check_range('num_workers', num_workers, 0, whole=True)
        check_range('balance', balance, 0, 1)
        super().__init__(LRHRPairs, batch_size, patch_size, length, num_workers)
        self.size, self.stride, self.balance = patch_size, stride, balance
        self.collate_fn = collate_pairs  # type: ignore[assignment]
        self.aug = nn.Identity()
        if augment:
            self.train_aug = FlipsAndTurns()

    #: Whether its samples have LR labels.
    has_lr_labels = True

    @property
    def visits_all(self) -> bool:
        """Whether training visits all chips, in an order that a task may choose."""
        return self.length is None and self.stride is None

    @abstractmethod
    def chips(self, split: str) -> ChipDataset:
        """Make the dataset of a split: train, val, test or predict."""

    def setup(self, stage: str) -> None:
        """Set up datasets and samplers.

        Args:
            stage: Fit, validate, test or predict.
        """
        self._goes_on_at = 0
        if stage == 'fit':
            self.train_dataset = self.chips('train')
            self.train_sampler = self.train_sampler_of(self.train_dataset)
        stages = {'fit': 'val', 'validate': 'val', 'test': 'test', 'predict': 'predict'}
        split = stages[stage]
        dataset = self.chips(split)
        setattr(self, f'{split}_dataset', dataset)
        setattr(self, f'{split}_sampler', self.sampler_of(dataset, split))

    def train_sampler_of(self, dataset: ChipDataset) -> GeoSampler:
        """The chips of a training epoch.

        Args:
            dataset: The training chips.
        """
        if self.length and self.balance:
            return BalancedChipSampler(dataset, self.size, self.length, self.balance)
        return ChipSampler(dataset, self.size, self.stride, self.length)

    def sampler_of(self, dataset: ChipDataset, split: str) -> GeoSampler:
        """All chips of a split, in order.

        Args:
            dataset: The chips.
            split: val, test or predict.
        """
        return ChipSampler(dataset, self.size, self.stride)

    def train_dataloader(self) -> DataLoader[Sample]:
        """Load the training chips, the last incomplete batch included.

        torchgeo drops that batch: of a few chips nothing would be left.
        """
        sampler = self._valid_attribute('train_sampler')
        if isinstance(sampler, RandomSampler) and self.trainer is not None:
            # Lightning sets the epoch only after the reading processes have begun to draw.
            sampler.stream = self.stream
            sampler.set_epoch(self.epoch)
        return DataLoader(
            self._valid_attribute('train_dataset'),
            batch_size=self.batch_size,
            sampler=sampler,
            num_workers=self.num_workers,
            collate_fn=self.collate_fn,
            persistent_workers=self.num_workers > 0,
        )

    def transfer_batch_to_device(
        self, batch: Sample, device: torch.device, dataloader_idx: int
    ) -> Sample:
        """Move tensors, leave the rest.

        torchgeo 0.8.1 deletes ``crs`` and ``bounds`` here, so that predictions lose
        their place; Lightning leaves alone what it cannot move.

        Args:
            batch: The batch.
            device: Where to.
            dataloader_idx: Not used.

        Returns:
            The batch on the device.
        """
        return LightningDataModule.transfer_batch_to_device(
            self, batch, device, dataloader_idx
        )


class PairDataModule(ChipDataModule):
    """Data module of imagery, LR labels and, where there are any, HR labels.

    Each imagery file is read in its own grid. All stages see the same files: LR labels
    are not the truth, and *truth* is not used in training unless a task asks for it. With
    *val_split*, validation and test see a part of each file that training does not.

    Args:
        imagery: Files or folders.
        labels: Files or folders of LR labels, in any CRS and grid.
        truth: Files or folders of HR labels.
        bands: Bands of the imagery, from 1.
        nodata: No-data value of the imagery.
        batch_size: Chips in a batch.
        patch_size: Height and width of a chip, in pixels.
        stride: Pixels between chips when all are visited.
        length: Number of random chips in a training epoch (default: all chips).
        num_workers: Processes that read.
        augment: Flip and turn training chips.
        balance: With *length*, see
            :class:`~torchgeo_mapsr.samplers.BalancedChipSampler`.
        roi: Region of interest of all stages: xmin, ymin, xmax and ymax in the CRS of
            the first imagery file.
        val_split: Share of each file for validation and test, 0..1: it is cut along a
            line by torchgeo's ``random_bbox_splitting``, and no pixel is in both parts.
            Prediction sees both.
        seed: Which of the ways to cut.
        stack: Files of one place, two dates say, are bands of one image, and all files
            are one place.

    Raises:
        InputError: An argument is out of its range.
    """

    def __init__(
        self,
        imagery: str | Sequence[str],
        labels: str | Sequence[str],
        truth: str | Sequence[str] | None = None,
        bands: Sequence[int] | None = None,
        nodata: float | None = None,
        batch_size: int = 1,
        patch_size: int = 448,
        stride: int | None = None,
        length: int | None = None,
        num_workers: int = 0,
        augment: bool = False,
        balance: float = 0.0,
        roi: Sequence[float] | None = None,
        val_split: float = 0.0,
        seed: int = 0,
        stack: bool = False,
    ) -> None:
        super().__init__(
            batch_size, patch_size, stride, length, num_workers, augment, balance
        )
        check_range('val_split', val_split)
        check_range('seed', seed, whole=True)
        check_numbers('roi', roi)
        if not 0 <= val_split < 1:
            raise InputError(f'val_split must be from 0 to below 1, not {val_split}')
        if roi is not None and len(roi) != 4:
            raise InputError(f'roi is xmin, ymin, xmax and ymax, not {list(roi)}')
        self.roi, self.val_split, self.seed = roi, val_split, seed
        self.imagery, self.labels, self.truth = imagery, labels, truth
        self.bands, self.nodata, self.stack = bands, nodata, stack

    def chips(self, split: str) -> LRHRPairs:
        """Pair the files, and take the part of them that a split sees."""
        options: dict[str, Any] = {'bands': self.bands, 'nodata': self.nodata}
        files = self.imagery, self.labels, self.truth
        dataset: Any
        if self.stack:
            dataset = LRHRPairs([LRHRPair(*files, stack=True, **options)])
        else:
            dataset = LRHRPairs.from_files(*files, **options)
        if self.roi is not None:
            (dataset,) = roi_split(
                dataset,
                [shapely.box(self.roi[0], self.roi[1], self.roi[2], self.roi[3])],
            )
            if not len(dataset):
                raise InputError(
                    f'roi {list(self.roi)} does not meet the imagery; give it in the CRS '
                    f'of the first file, {dataset.crs.name}'
                )
        if self.val_split and split != 'predict':
            shares = [1 - self.val_split, self.val_split]
            generator = torch.Generator().manual_seed(self.seed)
            parts: Any = random_bbox_splitting(dataset, shares, generator)
            dataset = parts[0 if split == 'train' else 1]
        pairs: LRHRPairs = dataset
        return pairs
