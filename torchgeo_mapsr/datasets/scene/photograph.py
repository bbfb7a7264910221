# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""How the made landscape looks from the air: red, green, blue and near infrared."""

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from .canvas import COVER, Canvas, Material
from .noise import Noise, Plane

BANDS = ('red', 'green', 'blue', 'near infrared')

# digital numbers of each material in full sun, and how much they vary within it.
# Classes overlap on purpose: shaded or dark roofs with water, turbid water with
# asphalt, dry crops with gravel and concrete, lawns with crowns.
COLOR = np.array(
    [
        [44, 62, 64, 40],  # clear water
        [98, 94, 76, 72],  # turbid water
        [66, 88, 58, 146],  # broadleaf
        [48, 68, 54, 110],  # conifer
        [96, 118, 78, 154],  # lawn
        [122, 126, 90, 142],  # pasture
        [74, 104, 62, 162],  # green crop
        [172, 158, 122, 150],  # dry crop
        [146, 124, 102, 122],  # soil
        [106, 106, 106, 98],  # asphalt
        [176, 170, 158, 154],  # concrete
        [164, 152, 132, 144],  # gravel
        [62, 66, 68, 62],  # dark roof
        [124, 106, 92, 110],  # brown roof
        [140, 96, 82, 118],  # red roof
        [218, 216, 208, 196],  # white roof
        [142, 138, 134, 132],  # grey roof
    ],
    dtype=np.float32,
)
# by land cover: no data, water, forest, field, impervious
ROUGHNESS = np.array([0, 0.03, 0.16, 0.10, 0.05], dtype=np.float32)

# by band: how vigour moves plants, how stains move everything (lighter, warmer, more
# infrared), and the light that is left in shadow
VIGOUR = (-0.10, -0.03, -0.08, 0.08)
STAINS = np.array(
    [[0.06, 0.06, 0.06, 0.06], [0.03, 0, -0.03, 0.01], [0, 0, 0, 0.07]],
    dtype=np.float32,
)
SKY = (0.40, 0.45, 0.55, 0.38)

# towards the sun: right and down in the image, 48° above the horizon
SUN_RIGHT, SUN_DOWN, SUN_SLOPE = 0.6, 0.8, 1.11
TALLEST = 20.0
# how far light, shadow and blur reach: the margin that a window needs, in metres
REACH = TALLEST / SUN_SLOPE + 3


def photograph(canvas: Canvas, noise: Noise) -> NDArray[np.uint8]:
    """Take a picture of a window.

    Args:
        canvas: The window; a margin of :data:`REACH` metres in it is wrongly lit.
        noise: Randomness of the landscape.

    Returns:
        Image of shape (4, H, W).
    """
    y, x = canvas.y, canvas.x
    resolution = float(y[1] - y[0])
    cover = COVER[canvas.material]

    texture = 0.75 * noise.smooth(y, x, 2.2, 200) + 0.65 * noise.smooth(y, x, 9, 201)
    light = canvas.tone * (1 + ROUGHNESS[cover] * texture)
    light *= 1 + 0.05 * noise.fractal(y, x, 220, 202, 2)
    phase = canvas.rows
    furrow = np.where(np.isnan(phase), 0, np.sin(2 * np.pi * np.nan_to_num(phase)))
    light *= 1 + 0.05 * furrow
    light *= _shading(canvas.height, resolution, cover == 2)
    shade = _shadow(canvas.height, resolution)

    image = np.empty((len(BANDS), *cover.shape), dtype=np.uint8)
    # greener or drier: red moves against near infrared
    green = canvas.material >= Material.BROADLEAF
    green &= canvas.material <= Material.GREEN_CROP
    vigour = noise.fractal(y, x, 70, 203, 3) * green
    # nothing looks quite like its like: weather, age, moss and dust
    stains = [
        noise.smooth(y, x, 4, 210 + k) + noise.smooth(y, x, 28, 220 + k)
        for k in range(len(STAINS))
    ]
    i = np.floor(y / resolution).astype(np.int64)[:, None]
    j = np.floor(x / resolution).astype(np.int64)
    for band in range(len(BANDS)):
        change = VIGOUR[band] * vigour
        for amount, stain in zip(STAINS[:, band], stains, strict=True):
            change += amount * stain
        # what lies in shadow has only the light of the sky, which is blue
        lit = np.where(shade, np.float32(SKY[band]), np.float32(1))
        plane = COLOR[canvas.material, band] * light * lit * (1 + change)
        plane = ndimage.gaussian_filter(plane, 0.8, truncate=3)
        plane += 3 * noise.normal(i, j, 230 + band)
        image[band] = np.clip(np.rint(plane), 1, 255)
    return image


def _shading(height: Plane, resolution: float, crown: NDArray[np.bool_]) -> Plane:
    """Brightness of crowns by the slope of their surface towards the sun."""
    down, right = np.gradient(height, resolution)
    facing = SUN_RIGHT * right + SUN_DOWN * down
    lit = np.clip(1 - 0.22 * facing, 0.55, 1.3)
    return np.where(crown, lit, 1).astype(np.float32)


def _shadow(height: Plane, resolution: float) -> NDArray[np.bool_]:
    """What something towards the sun stands high enough to shade."""
    shade = np.zeros(height.shape, dtype=bool)
    steps = int(TALLEST / SUN_SLOPE / resolution)
    for step in range(1, steps + 1):
        down, right = round(step * SUN_DOWN), round(step * SUN_RIGHT)
        inner = (slice(0, height.shape[0] - down), slice(0, height.shape[1] - right))
        lost = step * resolution * SUN_SLOPE
        shade[inner] |= height[down:, right:] - lost > height[inner] + 0.5
    return shade
