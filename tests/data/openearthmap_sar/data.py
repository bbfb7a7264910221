# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""Make small files in the layout of OpenEarthMap-SAR."""

import sys
from pathlib import Path

import numpy as np

from tests.data.openearthmap.data import SIZE, chip, write

COUNT = {'train': 4, 'val': 2, 'test': 1}
AREA = {'train': 'TrainArea', 'val': 'ValArea', 'test': 'TestArea'}

# Mean amplitude of each class: smooth surfaces send little back, buildings much.
AMPLITUDE = np.array([60, 50, 70, 60, 25, 110, 12, 80, 190])

# Share of pixels whose pseudo-label is wrong.
NOISE = 0.2


def make(root: Path, size: int = SIZE) -> None:
    """Make the data set.

    Args:
        root: folder to make it in
        size: height and width of images
    """
    for split, count in COUNT.items():
        for i in range(count):
            rng = np.random.default_rng([i, len(split)])
            name = f'{AREA[split]}_{i + 1:03}.tif'
            image, codes = chip(100 * len(split) + i, size)
            speckle = rng.gamma(4, 1 / 4, codes.shape)
            sar = (AMPLITUDE[codes] * speckle).clip(1, 255).astype('uint8')
            write(root / split / 'sar_images' / name, sar)
            if split == 'train':
                write(root / split / 'rgb_images' / name, image)
                wrong = rng.random(codes.shape) < NOISE
                noise = rng.integers(1, 9, codes.shape).astype('uint8')
                write(root / 'truth' / name, codes)
                codes = np.where(wrong, noise, codes)
            write(root / split / 'labels' / name, codes)


if __name__ == '__main__':
    make(Path(sys.argv[1] if len(sys.argv) > 1 else '.'))
