# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

from typing import Any

import pytest
import torch
import torch.nn.functional as F

from torchgeo_mapsr import Crosswalk, LRHRPair, SoftNaiveTask, collate_pairs
from torchgeo_mapsr.datasets import JointStatistics
from torchgeo_mapsr.datasets.scene.scene import Scene


@pytest.fixture(scope='module')
def batch(made_scene: Scene) -> dict[str, Any]:
    pair = LRHRPair(made_scene.imagery, made_scene.labels)
    grid = pair.imagery.geobox
    sample = collate_pairs(
        [pair.sample(grid[:64, :64]), pair.sample(grid[100:164, :64])]
    )
    sample['mask_valid'][:, :5] = 0
    return sample


@pytest.mark.parametrize('weights', [None, (1.0, 2.0, 0.5, 4.0)])
def test_loss_is_the_cross_entropy_with_expected_shares(
    weights: Any, batch: dict[str, Any]
) -> None:
    torch.manual_seed(0)
    task = SoftNaiveTask(class_weights=weights).eval()
    task.log = lambda *_, **__: None  # type: ignore[method-assign]
    loss = task.training_step(batch, 0)
    logits, table = task(batch['image']), JointStatistics.load('malkin2019')
    total = weight = 0.0
    for b in range(2):
        codes = [-1, *batch['lr_label'][b].flatten().tolist()]
        for number in batch['mask_region'][b].unique().tolist():
            inside = batch['mask_region'][b] == number
            inside &= batch['mask_valid'][b] > 0
            if table.source.index(codes[number]) < 0 or not inside.any():
                continue
            shares = torch.from_numpy(table.proportions(codes[number])).float()
            target = shares.expand(int(inside.sum()), -1)
            if weights is None:
                pixels = F.cross_entropy(
                    logits[b][:, inside].T, target, reduction='sum'
                )
                total, weight = total + pixels, weight + len(target)
            else:
                target = target * torch.tensor(weights)
                log_p = logits[b][:, inside].log_softmax(0).T
                total, weight = total - (target * log_p).sum(), weight + target.sum()
    torch.testing.assert_close(loss, total / weight)


def test_hard_naive_is_the_argmax_of_the_soft_targets(batch: dict[str, Any]) -> None:
    """The crosswalk ``scenes`` was made of the same table."""
    task = SoftNaiveTask()
    shares = task.pixel_shares(batch)
    assert torch.equal(shares.sum(1) > 0, batch['mask_valid'] > 0)
    cells = task.cells(batch)
    hard = cells.of_pixels(cells.label, -1)
    known = shares.sum(1) > 0
    assert torch.equal(shares.argmax(1)[known], hard[known])
    assert task.crosswalk == Crosswalk.load('nlcd', 'land-cover-4', 'scenes')


def test_no_label(batch: dict[str, Any]) -> None:
    task = SoftNaiveTask()
    task.log = lambda *_, **__: None  # type: ignore[method-assign]
    loss = task.training_step(batch | {'lr_label': batch['lr_label'] * 0}, 0)
    loss.backward()
    assert loss == 0
