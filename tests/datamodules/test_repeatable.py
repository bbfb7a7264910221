# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""Data modules of a training that goes on draw what they would have drawn."""

from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint

from tests.data.openearthmap import data
from torchgeo_mapsr.datamodules import (
    OpenEarthMapDataModule,
    PairDataModule,
    SourceTargetDataModule,
)
from torchgeo_mapsr.datasets.scene.scene import Scene


class Recorder(LightningModule):
    """Keeps images, and asks for the number of steps, as schedules do."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen: list[list[torch.Tensor]] = []

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        self.seen.append([batch[part]['image'] for part in ('source', 'target')])
        return self.weight

    def configure_optimizers(self) -> torch.optim.Optimizer:
        assert self.trainer.estimated_stepping_batches > 0
        return torch.optim.SGD(self.parameters(), lr=0)


def pairs(scene: Scene, **options: Any) -> PairDataModule:
    return PairDataModule(
        str(scene.imagery), str(scene.labels), patch_size=32, length=2, **options
    )


def train(
    make: Any, folder: Path, epochs: int = 3, goes_on_from: str | None = None
) -> list[list[torch.Tensor]]:
    seed_everything(0, verbose=False)
    task = Recorder()
    every = ModelCheckpoint(folder, '{step}', save_top_k=-1, every_n_train_steps=1)
    Trainer(
        accelerator='cpu', max_epochs=epochs, logger=False, callbacks=[every],
        enable_progress_bar=False, enable_model_summary=False, limit_val_batches=0,
    ).fit(task, make(), ckpt_path=goes_on_from)  # fmt: skip
    return task.seen


def test_goes_on_as_if_it_had_not_stopped(made_scene: Scene, tmp_path: Path) -> None:
    data.make(tmp_path / 'oem', 48)

    def make() -> SourceTargetDataModule:
        images = OpenEarthMapDataModule(
            str(tmp_path / 'oem'), batch_size=2, patch_size=32
        )
        # a process that reads begins to draw before Lightning tells the epoch
        target = pairs(made_scene, augment=True, num_workers=1)
        return SourceTargetDataModule(images, target)

    whole = train(make, tmp_path / 'a')
    assert len(whole) == 6
    again = train(make, tmp_path / 'b', goes_on_from=str(tmp_path / 'a/step=2.ckpt'))
    for one, other in zip(whole[2:], again, strict=True):
        assert all(map(torch.equal, one, other))
    # epochs differ in both
    for part in (0, 1):
        assert not torch.equal(whole[0][part], whole[2][part])
        assert not torch.equal(whole[2][part], whole[4][part])


def test_source_and_target_of_the_same_files_are_other_chips(
    made_scene: Scene, tmp_path: Path
) -> None:
    """Pasting a chip on itself mixes nothing."""
    seen = train(
        lambda: SourceTargetDataModule(pairs(made_scene), pairs(made_scene)), tmp_path
    )
    assert not any(torch.equal(source, target) for source, target in seen)
