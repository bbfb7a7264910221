# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from numpy.typing import ArrayLike
from rasterio.transform import Affine

Write = Callable[..., str]

# One metre NAIP-like pixels, near the Chesapeake Bay.
HR = Affine(1, 0, 535094.3394961194, 0, -1, 4170780.3227984044)
UTM = 'EPSG:26917'


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write (H, W) or (C, H, W) to a GeoTIFF of the given name, return its path."""

    def _write(
        name: str,
        values: ArrayLike,
        transform: Affine | None = HR,
        crs: str | None = UTM,
        mask: ArrayLike | None = None,
        colorinterp: Any = None,
        **profile: Any,
    ) -> str:
        array = np.asarray(values)
        array = array[None] if array.ndim == 2 else array
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with (
            rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True),
            rasterio.open(
                path,
                'w',
                driver='GTiff',
                count=array.shape[0],
                height=array.shape[1],
                width=array.shape[2],
                dtype=array.dtype,
                crs=crs,
                transform=transform,
                **profile,
            ) as target,
        ):
            if colorinterp is not None:
                target.colorinterp = colorinterp
            target.write(array)
            if mask is not None:
                target.write_mask(np.asarray(mask))
        return str(path)

    return _write
