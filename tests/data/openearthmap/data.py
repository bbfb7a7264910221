# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""Make small files in the layout of OpenEarthMap."""

import sys
from pathlib import Path

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.transform import Affine
from scipy.ndimage import gaussian_filter

SIZE = 72

# Files of each split. The last one of training is an image of xBD, which is listed and
# not there; the one of test has no label.
SPLITS = {
    'train': ('aachen_1.tif', 'aachen_2.tif', 'coxsbazar_7.tif', 'santa-rosa_3.tif'),
    'val': ('coxsbazar_12.tif',),
    'test': ('aachen_5.tif',),
}
ABSENT = 'santa-rosa_3.tif'

# Colour of each class, and codes: 0 is no label.
COLOURS = np.array(
    [
        [0, 0, 0],
        [170, 120, 80],
        [150, 190, 90],
        [150, 150, 150],
        [90, 90, 90],
        [40, 90, 40],
        [30, 60, 120],
        [190, 190, 60],
        [200, 80, 60],
    ]
)


def chip(
    seed: int, size: int = SIZE, classes: int = 9
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Image (3, size, size) and codes (size, size) of fields of the classes."""
    rng = np.random.default_rng(seed)
    fields = gaussian_filter(rng.normal(size=(classes, size, size)), (0, 6, 6))
    codes = fields.argmax(0).astype('uint8')
    image = COLOURS[codes].transpose(2, 0, 1) + rng.normal(0, 8, (3, size, size))
    return image.clip(1, 255).astype('uint8'), codes


def write(path: Path, values: NDArray[np.uint8], resolution: float = 0.5) -> None:
    values = values[None] if values.ndim == 2 else values
    path.parent.mkdir(parents=True, exist_ok=True)
    with rasterio.open(
        path,
        'w',
        driver='GTiff',
        count=values.shape[0],
        height=values.shape[1],
        width=values.shape[2],
        dtype='uint8',
        crs='EPSG:32632',
        transform=Affine(resolution, 0, 300000, 0, -resolution, 5600000),
    ) as file:
        file.write(values)


def make(root: Path, size: int = SIZE) -> None:
    """Make the data set.

    Args:
        root: folder to make it in
        size: height and width of images; those of one region are wider
    """
    seed = 0
    for split, names in SPLITS.items():
        (root / f'{split}.txt').parent.mkdir(parents=True, exist_ok=True)
        (root / f'{split}.txt').write_text('\n'.join(names) + '\n')
        for name in names:
            seed += 1
            region = name.rsplit('_', 1)[0]
            image, codes = chip(seed, size + 8 * (region == 'coxsbazar'))
            if name != ABSENT:
                write(root / region / 'images' / name, image)
            if split != 'test':
                write(root / region / 'labels' / name, codes)


if __name__ == '__main__':
    make(Path(sys.argv[1] if len(sys.argv) > 1 else '.'))
