# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""What data modules draw, which they draw again in a training that goes on."""

from typing import Any

from torchgeo.datamodules import BaseDataModule

from .._compat import Sample
from ..seeds import seed_at, seeded


class RepeatableDataModule(BaseDataModule):
    """A data module whose augmentations follow from the seed, process, epoch and batch.

    A training that goes on from the checkpoint of an epoch augments as it would have,
    and processes that have the same seed augment each in its own way.
    """

    #: Number that sets what is drawn apart from what another data module draws that
    #: trains beside it.
    stream: int = 0

    _goes_on_at = 0

    def state_dict(self) -> dict[str, Any]:
        """The epoch with which a training goes on from a checkpoint.

        Lightning tells it when schedules have asked for the loader already, and processes
        that read have begun to draw.
        """
        if self.trainer is None:
            return {}
        loop = self.trainer.fit_loop
        ended = loop.epoch_loop.batch_progress.is_last_batch
        return {'epoch': loop.epoch_progress.current.ready - (not ended)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over what :meth:`state_dict` returned.

        Args:
            state_dict: That.
        """
        self._goes_on_at = state_dict.get('epoch', 0)

    @property
    def epoch(self) -> int:
        """The epoch whose chips are to be drawn."""
        if self.trainer is None:
            return 0
        loop = self.trainer.fit_loop
        return max(self._goes_on_at, loop.epoch_progress.current.ready)

    def on_after_batch_transfer(self, batch: Sample, dataloader_idx: int) -> Sample:
        """Augment a batch.

        Args:
            batch: The batch.
            dataloader_idx: Index of the loader.

        Returns:
            The augmented batch.
        """
        trainer = self.trainer
        if trainer is None or not trainer.training:
            return super().on_after_batch_transfer(batch, dataloader_idx)
        batches = trainer.fit_loop.epoch_loop.batch_progress.current
        place = trainer.global_rank, trainer.current_epoch, batches.ready
        with seeded(seed_at('augment', self.stream, *place), batch['image'].device):
            return super().on_after_batch_transfer(batch, dataloader_idx)
