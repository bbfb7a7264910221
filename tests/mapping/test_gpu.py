# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""The same on a GPU, or on a pretended one where there is none."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import torch

from torchgeo_mapsr.datasets.scene.scene import Scene
from torchgeo_mapsr.mapping.config import MapJob
from torchgeo_mapsr.mapping.run import map_region

from .conftest import changed

VIT = 'timm:test_vit?weights=random'


@pytest.fixture
def fit(mapped: Path) -> Path:
    """A saved fit of the job's backbone."""
    return mapped / 'fit.safetensors'


def test_tensors_here_and_there(gpu: Counter[str] | None) -> None:
    """What the tests below rest on."""
    there = torch.arange(4.0, device='cuda')
    assert there.is_cuda
    with pytest.raises(RuntimeError, match=r'on the|same device'):
        there + torch.arange(4.0)
    with pytest.raises((RuntimeError, TypeError), match='numpy'):
        there.numpy()
    there[1:3].mul_(10)
    assert (there + 1).cpu().tolist() == [1, 11, 21, 4]
    assert float(there.new_tensor([1, 2]).sum()) == 3
    moved = torch.nn.Linear(4, 2).to('cuda')
    assert moved(there).is_cuda


@pytest.fixture(scope='module')
def corner(scene: Scene, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A quarter of the imagery, in four chips: a pretended GPU is slow."""
    path = tmp_path_factory.mktemp('corner') / 'imagery.tif'
    with rasterio.open(scene.imagery) as file:
        profile = file.profile | {'height': 180, 'width': 170}
        values = file.read(window=((0, 180), (0, 170)))
    with rasterio.open(path, 'w', **profile) as file:
        file.write(values)
    return str(path)


@pytest.mark.parametrize(
    'changes',
    [
        {'model': None, 'scores': True},
        {'model': None, 'score': 'cosine'},
        {'propagate': 'tokens'},
        {'propagate': 'superpixels'},
        {'upsampler': 'bilateral'},
        {'model': None, 'backbone': VIT, 'chip_size': 224, 'propagate': 'tokens'},
    ],
    ids=lambda changes: '-'.join(map(str, changes.values())),
)
def test_map(
    fit: Path,
    corner: str,
    gpu: Counter[str] | None,
    job: MapJob,
    changes: dict[str, Any],
) -> None:
    changes = {'model': fit, 'imagery': (corner,), **changes}
    maps = []
    for device in 'cpu', 'cuda':
        output = job.output.with_name(f'{device}.tif')
        done = map_region(changed(job, output=output, device=device, **changes))
        with rasterio.open(done.maps[0]) as dataset:
            maps.append(dataset.read(1))
    same = np.mean(maps[0] == maps[1])
    # Kernels of a real one round in their own ways.
    assert same > 0.99 if torch.cuda.is_available() else same == 1
