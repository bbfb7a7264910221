# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

import pytest
import torch
from lightning.pytorch import Trainer

from torchgeo_mapsr.datamodules import PairDataModule
from torchgeo_mapsr.datasets import Crosswalk
from torchgeo_mapsr.datasets.scene.scene import Scene
from torchgeo_mapsr.errors import InputError
from torchgeo_mapsr.evaluation.accuracy import compare
from torchgeo_mapsr.tasks import OracleTask


def test_scores_as_the_labels_do(made_scene: Scene) -> None:
    paths = [str(p) for p in (made_scene.imagery, made_scene.labels, made_scene.truth)]
    # chips that fill the scene and do not overlap
    data = PairDataModule(*paths, patch_size=64, batch_size=7)
    run = Trainer(accelerator='cpu', logger=False, enable_progress_bar=False)
    (found,) = run.test(OracleTask(), data, verbose=False)
    same = Crosswalk.load('land-cover-4', 'land-cover-4')
    coarse = Crosswalk.load('nlcd', 'land-cover-4')
    copy = compare(made_scene.labels, made_scene.truth, coarse, same)
    assert copy.unmapped == 0
    assert found['test_mIoU'] == pytest.approx(copy.miou, abs=1e-5)
    assert found['test_F1'] == pytest.approx(copy.macro_f1, abs=1e-5)
    assert found['test_OverallAccuracy'] == pytest.approx(copy.accuracy, abs=1e-5)
    assert found['test_LRAgreement'] == 1
    with pytest.raises(InputError, match='nothing to fit'):
        run.fit(OracleTask(), data)


def test_without_labels_all_classes_are_equal() -> None:
    batch = {
        'image': torch.zeros(1, 4, 2, 2),
        'mask_region': torch.tensor([[[0, 1], [2, 1]]]),
        'lr_label': torch.tensor([[[82, -1]]]),
        'lr_pixels': torch.tensor([[[2.0, 1.0]]]),
    }
    found = OracleTask().log_probabilities(batch).exp()[0]
    assert found[:, 0, 1].tolist() == [0, 0, 1, 0]
    for i, j in ((0, 0), (1, 0)):
        torch.testing.assert_close(found[:, i, j], torch.full((4,), 0.25))
