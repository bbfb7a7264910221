# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

import numpy as np
import pytest

from torchgeo_mapsr.datasets.scene.canvas import COVER, Canvas, Material
from torchgeo_mapsr.datasets.scene.noise import Noise
from torchgeo_mapsr.datasets.scene.photograph import (
    COLOR,
    SUN_DOWN,
    SUN_RIGHT,
    SUN_SLOPE,
    photograph,
)


def flat(material: Material, resolution: float = 1.0) -> Canvas:
    axis = (np.arange(160) + 0.5) * resolution
    canvas = Canvas(axis, axis)
    canvas.paint(np.ones((160, 160), dtype=bool), material)
    return canvas


def test_every_material_has_a_class_and_a_color() -> None:
    assert len(COVER) == len(COLOR) == len(Material)
    assert set(COVER.tolist()) == {1, 2, 3, 4}


@pytest.mark.parametrize('material', [Material.CLEAR_WATER, Material.SOIL])
def test_flat_ground_has_its_color(material: Material) -> None:
    image = photograph(flat(material), Noise(0))
    np.testing.assert_allclose(
        image.mean(axis=(1, 2)), COLOR[material], rtol=0.08, atol=1
    )
    assert image.std() > 0


@pytest.mark.parametrize('resolution', [0.5, 1.0])
def test_a_tower_casts_a_shadow_of_the_right_length(resolution: float) -> None:
    height, half = 12.0, 4
    canvas = flat(Material.CONCRETE, resolution)
    tower = np.zeros((160, 160), dtype=bool)
    tower[80 - half : 80 + half + 1, 80 - half : 80 + half + 1] = True
    canvas.paint(tower, Material.CONCRETE, height=height)
    near = photograph(canvas, Noise(0)).astype(float)[0]
    bare = photograph(flat(Material.CONCRETE, resolution), Noise(0)).astype(float)[0]
    dark = near < 0.7 * bare
    assert dark.any()
    # away from the sun, from the tower's middle out
    far = int(height / SUN_SLOPE / resolution)
    step = np.arange(1, far + 15)
    ray = dark[
        80 - np.rint(step * SUN_DOWN).astype(int),
        80 - np.rint(step * SUN_RIGHT).astype(int),
    ]
    tip = step[ray].max()
    # it starts at the tower's edge; blur and the threshold eat a pixel or two
    assert abs(tip - (far + half / SUN_DOWN)) <= 2.5
    # and nowhere towards the sun
    assert not dark[80 + half + 2 :, :].any()
    assert not dark[:, 80 + half + 2 :].any()
