# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""The command as a user gives it, on real imagery."""

import json
from pathlib import Path

import rasterio

from torchgeo_mapsr.datasets.legends.crosswalk import Crosswalk
from torchgeo_mapsr.evaluation.accuracy import compare
from torchgeo_mapsr.main import main


def test_one_scene_with_its_own_labels(shared: Path, tmp_path: Path) -> None:
    scene = shared / 'data' / 'openearthmap' / 'austin_29'
    output = tmp_path / 'landcover.tif'
    args = ['map', str(scene / 'imagery.tif'), '--labels', str(scene / 'lr.tif')]
    args += ['--legend', 'land-cover-4', '--output', str(output), '--quiet']
    assert main(args) == 0
    with rasterio.open(output) as cover, rasterio.open(scene / 'imagery.tif') as image:
        assert (cover.crs, cover.transform, cover.shape) == (
            image.crs,
            image.transform,
            image.shape,
        )
    same = Crosswalk.load('land-cover-4', 'land-cover-4')
    truth = Crosswalk.load('openearthmap', 'land-cover-4')
    coarse = compare(scene / 'lr.tif', scene / 'hr.tif', same, truth)
    assert round(coarse.miou, 3) == 0.624  # as the scene's README has it
    assert compare(output, scene / 'hr.tif', same, truth).miou > 0.68


def test_eight_patches_as_one_region(shared: Path, tmp_path: Path) -> None:
    scenes = sorted((shared / 'data' / 'chesapeake_wv').iterdir())
    imagery = []
    for scene in scenes:  # all are called imagery.tif
        imagery.append(tmp_path / f'{scene.name}.tif')
        imagery[-1].symlink_to(scene / 'imagery.tif')
    labels = [str(scene / 'lr.tif') for scene in scenes]
    folder = tmp_path / 'maps'
    args = ['map', *map(str, imagery), '--labels', *labels, '--legend', 'nlcd']
    assert main([*args, '--output', str(folder), '--quiet']) == 0
    truth = [str(scene / 'hr.tif') for scene in scenes]
    maps = [str(folder / path.name) for path in imagery]
    args = ['evaluate', *maps, '--truth', *truth, '--truth-legend', 'chesapeake-7']
    assert main([*args, '--json', str(tmp_path / 'e.json')]) == 0
    found = json.loads((tmp_path / 'e.json').read_text())
    assert found['miou'] > 0.42  # the labels: 0.400
    assert sum(map(sum, found['confusion'])) == 8 * 256**2
