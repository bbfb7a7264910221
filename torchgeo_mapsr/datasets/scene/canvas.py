# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""What covers each place of a window of the made landscape."""

from enum import IntEnum

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .noise import Coordinates

Mask = NDArray[np.bool_]


class Material(IntEnum):
    """What a place is made of, as it looks from above."""

    CLEAR_WATER = 0
    TURBID_WATER = 1
    BROADLEAF = 2
    CONIFER = 3
    LAWN = 4
    PASTURE = 5
    GREEN_CROP = 6
    DRY_CROP = 7
    SOIL = 8
    ASPHALT = 9
    CONCRETE = 10
    GRAVEL = 11
    DARK_ROOF = 12
    BROWN_ROOF = 13
    RED_ROOF = 14
    WHITE_ROOF = 15
    GREY_ROOF = 16


# class of each material in the legend land-cover-4
COVER = np.array([1, 1, 2, 2, 3, 3, 3, 3, 3, 4, 4, 4, 4, 4, 4, 4, 4], dtype=np.uint8)


class Canvas:
    """A window of the landscape while it is laid out: what comes later covers.

    Args:
        y: Ordinates of the rows in metres, downward, of shape (H,).
        x: Abscissas of the columns in metres, of shape (W,).

    Attributes:
        material: :class:`Material`, of shape (H, W)
        tone: brightness of the object relative to its material, of shape (H, W)
        height: height above the ground in metres, of shape (H, W)
        rows: phase of crop rows in turns, NaN where there are none, of shape (H, W)
    """

    def __init__(self, y: Coordinates, x: Coordinates) -> None:
        self.y, self.x = y, x
        shape = len(y), len(x)
        self.material = np.zeros(shape, dtype=np.uint8)
        self.tone = np.ones(shape, dtype=np.float32)
        self.height = np.zeros(shape, dtype=np.float32)
        self.rows = np.full(shape, np.nan, dtype=np.float32)

    @property
    def cover(self) -> NDArray[np.uint8]:
        """Codes of the legend land-cover-4, of shape (H, W)."""
        return COVER[self.material]

    def paint(
        self,
        where: Mask,
        material: ArrayLike,
        tone: ArrayLike = 1.0,
        height: ArrayLike = 0.0,
    ) -> None:
        """Cover part of the window; crop rows there are gone.

        Args:
            where: The part, of shape (H, W).
            material: New material, one or of shape (H, W).
            tone: Its brightness, likewise.
            height: Its height in metres, likewise.
        """
        np.copyto(self.material, material, where=where, casting='unsafe')
        np.copyto(self.tone, tone, where=where, casting='unsafe')
        np.copyto(self.height, height, where=where, casting='unsafe')
        self.rows[where] = np.nan
