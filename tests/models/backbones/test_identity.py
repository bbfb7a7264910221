# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch
from affine import Affine

from torchgeo_mapsr.datasets.imagery import Imagery
from torchgeo_mapsr.errors import InputError
from torchgeo_mapsr.models.backbones.create import create_backbone

AFFINE = Affine(10, 0, 6e5, 0, -10, 5e6)


def features(path: Path, spec: str) -> np.ndarray:
    imagery = Imagery(path)
    image, _ = imagery.read(imagery.geobox)
    tokens = create_backbone(spec, imagery.bands)(torch.from_numpy(image)[None])
    return tokens.levels[0][0].numpy()


def write(path: Path, values: np.ndarray, **profile: object) -> Path:
    count, height, width = values.shape
    with rasterio.open(
        path,
        'w',
        driver='GTiff',
        count=count,
        height=height,
        width=width,
        dtype=values.dtype,
        crs='EPSG:32631',
        transform=AFFINE,
        **profile,
    ) as dataset:
        dataset.write(values)
    return path


def test_alphaearth_from_a_file_of_its_layout(tmp_path: Path) -> None:
    """Unit vectors, quantised as v = sign(x) √|x| · 127.5, come back as unit vectors."""
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(64, 40, 30))
    vectors /= np.linalg.norm(vectors, axis=0)
    quantised = np.rint(np.sign(vectors) * np.sqrt(np.abs(vectors)) * 127.5)
    quantised[:, :5] = -128
    path = write(tmp_path / 'aef.tif', quantised.astype(np.int8), nodata=-128)
    found = features(path, 'identity?dequantise=alphaearth')
    assert found.shape == (64, 40, 30)
    np.testing.assert_allclose(np.linalg.norm(found[:, 5:], axis=0), 1, atol=0.02)
    np.testing.assert_allclose(found[:, 5:], vectors[:, 5:], atol=6e-3)
    assert (found[:, :5] == 0).all()
    # the values as they are stored are no embedding
    stored = features(path, 'identity')
    cosine = (stored[:, 5:] * vectors[:, 5:]).sum(0) / np.linalg.norm(
        stored[:, 5:], axis=0
    )
    assert cosine.max() < 0.999


def test_alphaearth_masks_what_no_file_says_is_no_data() -> None:
    image = torch.tensor([[-128.0, 100.0]]).expand(3, 2).reshape(1, 3, 1, 2)
    (grid,) = create_backbone('identity?dequantise=alphaearth', 3)(image).levels
    assert grid[0, :, 0, 0].tolist() == [0, 0, 0]
    assert grid[0, 0, 0, 1].item() == pytest.approx((100 / 127.5) ** 2)


def test_tessera_from_a_file_of_its_layout(tmp_path: Path) -> None:
    """Bytes with a scale a pixel: within half a step of what was quantised."""
    rng = np.random.default_rng(1)
    vectors = rng.normal(size=(128, 20, 25)) * rng.gamma(2, 1, (20, 25))
    scale = np.abs(vectors).max(0) / 127
    quantised = np.rint(vectors / scale)
    scale[:3] = np.nan
    stack = np.concatenate([quantised, scale[None]]).astype(np.float32)
    path = write(tmp_path / 'tessera.tif', stack)
    found = features(path, 'identity?dequantise=tessera')
    assert found.shape == (128, 20, 25)
    assert (np.abs(found - vectors)[:, 3:] <= 0.5001 * scale[3:]).all()
    assert (found[:, :3] == 0).all()


def test_mistakes_are_one_line() -> None:
    with pytest.raises(InputError, match='one of none, alphaearth, tessera'):
        create_backbone('identity?dequantise=google', 64)
    with pytest.raises(InputError, match='the raster has one band'):
        create_backbone('identity?dequantise=tessera', 1)
    with pytest.raises(InputError, match='dequantise'):
        create_backbone('identity?dequantize=alphaearth', 64)
