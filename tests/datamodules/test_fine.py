# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

from pathlib import Path

import numpy as np
import rasterio
from lightning.pytorch import Trainer
from rasterio.control import GroundControlPoint
from rasterio.crs import CRS

from torchgeo_mapsr import ClassAwareTask, Classes, FineLabelDataModule, Network


def write(path: Path, values: np.ndarray, pixel: float) -> str:
    array = values if values.ndim == 3 else values[None]
    with rasterio.open(
        path, 'w', driver='GTiff', count=len(array), height=array.shape[1],
        width=array.shape[2], dtype=array.dtype, crs='EPSG:32650',
        transform=rasterio.Affine(pixel, 0, 4e5, 0, -pixel, 4e6),
    ) as file:  # fmt: skip
        file.write(array)
    return str(path)


def test_a_task_learns_from_finer_labels(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    imagery = write(tmp_path / 's2.tif', rng.integers(1, 9, (4, 64, 64), 'uint16'), 10)
    labels = write(tmp_path / 'l.tif', rng.integers(1, 25, (160, 160), 'uint8'), 4)
    data = FineLabelDataModule(
        imagery, labels, shares=True, least=0.4, batch_size=2, patch_size=32,
        augment=True,
    )  # fmt: skip
    task = ClassAwareTask(
        Network(image_dtype='uint16'),
        Classes('five-billion-pixels', 'five-billion-pixels'),
        supervision='hr',
    )  # fmt: skip
    run = Trainer(
        accelerator='cpu', max_epochs=1, logger=False, enable_progress_bar=False,
        enable_model_summary=False, enable_checkpointing=False,
    )  # fmt: skip
    run.fit(task, data)
    (found,) = run.test(task, data, verbose=False)
    assert 0 <= found['test_mIoU'] <= 1
    batch = next(iter(data.test_dataloader()))
    assert batch['mask_share'].shape == (2, 24, 32, 32)


def test_imagery_that_points_place(tmp_path: Path) -> None:
    """As FineLabelPair takes it: warped while it is read."""
    rng = np.random.default_rng(0)
    labels = write(tmp_path / 'l.tif', rng.integers(1, 25, (170, 170), 'uint8'), 4)
    path = str(tmp_path / 'points.tif')
    points = [
        GroundControlPoint(row, col, 4e5 + 10 * col, 4e6 - 10 * row)
        for row in (0, 64)
        for col in (0, 64)
    ]
    with rasterio.open(
        path, 'w', driver='GTiff', count=4, height=64, width=64, dtype='uint16',
    ) as file:  # fmt: skip
        file.write(rng.integers(1, 9, (4, 64, 64), 'uint16'))
        file.gcps = points, CRS.from_epsg(32650)
    data = FineLabelDataModule(path, labels, least=0.4, patch_size=32)
    data.setup('test')
    batches = list(data.test_dataloader())
    assert len(batches) == 4
    assert all((batch['mask'] >= 0).any() for batch in batches)
