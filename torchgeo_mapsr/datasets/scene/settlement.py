# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""Roads, houses, car parks and farms of the made landscape."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from .canvas import Canvas, Mask, Material
from .noise import Noise, Plane

# metres along u and v; blocks divide the mesh of the main roads, and lots the blocks
MAIN_U, MAIN_V = 420.0, 560.0
BLOCK_U, BLOCK_V = 70.0, 140.0
LOT_V = 20.0

DARK, BROWN, RED, WHITE, GREY = list(Material)[-5:]


class Streets:
    """Coordinates across and along the streets of a window.

    Args:
        u: Metres across, of shape (H, W).
        v: Metres along, of shape (H, W).

    Attributes:
        i: number of the block across
        j: number of the block along
    """

    def __init__(self, u: Plane, v: Plane) -> None:
        self.u, self.v = u, v
        self.i, self.j = _cell(u, BLOCK_U), _cell(v, BLOCK_V)


class Settlement:
    """What people built, lot by lot.

    Args:
        noise: Randomness of the landscape.
    """

    def __init__(self, noise: Noise) -> None:
        self._draw = noise.draw

    def homes(self, canvas: Canvas, streets: Streets, where: Mask) -> None:
        """Paint two rows of houses back to back in each block, with their drives.

        Args:
            canvas: Window.
            streets: Its streets.
            where: Residential parts of it, of shape (H, W).
        """
        u, v, draw, half = streets.u, streets.v, self._draw, BLOCK_U / 2
        i, j = _cell(u, half), _cell(v, LOT_V)
        depth = u - i * half
        # metres from the street: every other row of lots faces the other way
        depth = np.where(i % 2 == 0, depth, half - depth)
        along = v - (j + 0.5) * LOT_V - 3 * draw(i, j, 50) + 1.5
        setback, length = 10 + 5 * draw(i, j, 51), 8 + 5 * draw(i, j, 52)
        width = 4.5 + 2 * draw(i, j, 53)
        built = where & (draw(i, j, 54) < 0.88)
        drive = built & (depth < setback) & (np.abs(along - width + 2) < 1.7)
        canvas.paint(drive, Material.CONCRETE, 0.9)
        house = built & (np.abs(along) < width)
        house &= (depth > setback) & (depth < setback + length)
        roofs = _pick((DARK, DARK, BROWN, BROWN, RED, WHITE, GREY), draw(i, j, 55))
        # a gable: the side to the sun is brighter
        gable = np.where(depth - setback < length / 2, 1.12, 0.88)
        canvas.paint(house, roofs, gable * (0.85 + 0.3 * draw(i, j, 56)), 6)

    def centres(self, canvas: Canvas, streets: Streets, where: Mask) -> None:
        """Paint large flat roofs in car parks, and a green here and there.

        Args:
            canvas: Window.
            streets: Its streets.
            where: Centres of towns, of shape (H, W).
        """
        u, v, draw = streets.u, streets.v, self._draw
        i, j = _cell(u, BLOCK_U), _cell(v, BLOCK_U)
        paved = where & (draw(i, j, 60) < 0.8)
        canvas.paint(paved, Material.ASPHALT, 0.85 + 0.3 * draw(i, j, 61))
        a, b = _cell(u, 2.6), _cell(v, 5.2)
        car = paved & (draw(a, b, 62) < 0.3) & (np.abs(u - (a + 0.5) * 2.6) < 0.95)
        canvas.paint(car, Material.ASPHALT, 0.5 + 1.6 * draw(a, b, 63))
        hall = paved & (np.abs(u - (i + 0.5) * BLOCK_U) < 14 + 12 * draw(i, j, 64))
        hall &= np.abs(v - (j + 0.5) * BLOCK_U) < 12 + 14 * draw(i, j, 65)
        roofs = _pick((DARK, WHITE, WHITE, GREY, GREY, GREY), draw(i, j, 66))
        canvas.paint(hall, roofs, 0.85 + 0.3 * draw(i, j, 67), 9)

    def farms(self, canvas: Canvas, streets: Streets, where: Mask) -> None:
        """Paint yards with a barn and a house beside some main roads.

        Args:
            canvas: Window.
            streets: Its streets.
            where: Farmland, of shape (H, W).
        """
        draw = self._draw
        i, j = _cell(streets.u, MAIN_U), _cell(streets.v, BLOCK_V)
        p, q = streets.u - i * MAIN_U - 30, streets.v - (j + 0.5) * BLOCK_V
        yard = where & (draw(i, j, 70) < 0.4) & (np.abs(p) < 26) & (np.abs(q) < 18)
        canvas.paint(yard, Material.GRAVEL)
        gable = np.where(np.mod(q, 13) < 8, 1.1, 0.9)
        roofs = (BROWN, RED, WHITE, GREY)
        barn = yard & (np.abs(p + 6) < 14) & (np.abs(q - 8) < 6.5)
        canvas.paint(barn, _pick(roofs, draw(i, j, 71)), gable, 7)
        house = yard & (np.abs(p - 16) < 6) & (np.abs(q + 6) < 5)
        canvas.paint(house, _pick(roofs, draw(i, j, 72)), gable, 7)

    def roads(self, canvas: Canvas, streets: Streets, town: Mask, water: Mask) -> None:
        """Paint main roads everywhere, over bridges too, and streets in towns.

        Args:
            canvas: Window.
            streets: Its streets.
            town: Towns, of shape (H, W).
            water: Water, of shape (H, W).
        """
        u, v = streets.u, streets.v
        main = (_off(u, MAIN_U) < 4.5) | (_off(v, MAIN_V) < 4.5)
        street = (_off(u, BLOCK_U) < 3.5) | (_off(v, BLOCK_V) < 3.5)
        i, j = _cell(u + BLOCK_U / 2, BLOCK_U), _cell(v + BLOCK_V / 2, BLOCK_V)
        pale = self._draw(i, np.zeros(1, dtype=np.int64), 80) < 0.25
        kinds = np.where(pale | water, Material.CONCRETE, Material.ASPHALT)
        tone = 0.85 + 0.25 * self._draw(i, j, 81)
        canvas.paint(main | (street & town & ~water), kinds, tone)


def _cell(t: Plane, size: float) -> NDArray[np.int64]:
    return np.floor(t / size).astype(np.int64)


def _off(t: Plane, spacing: float) -> Plane:
    """Distance from the nearest multiple of *spacing*."""
    return np.abs(np.mod(t + spacing / 2, spacing) - spacing / 2)


def _pick(kinds: Sequence[Material], drawn: Plane) -> NDArray[np.uint8]:
    """One of several kinds for each number in [0, 1)."""
    return np.array(kinds, dtype=np.uint8)[(drawn * len(kinds)).astype(np.int64)]
