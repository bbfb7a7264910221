# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""Random fields that are pure functions of a place, for the made scene."""

import numpy as np
from numpy.typing import NDArray

Coordinates = NDArray[np.float64]
Plane = NDArray[np.float32]

TABLE = 1 << 16


class Noise:
    """Seeded randomness over an endless plane.

    Every value depends on the seed, its place and a salt that tells fields apart, and
    on nothing else: windows of the plane can be drawn one by one, in any order.

    Args:
        seed: Seed of all fields.
    """

    def __init__(self, seed: int) -> None:
        generator = np.random.default_rng(seed)
        self._normal = generator.standard_normal(TABLE, dtype=np.float32)
        self._uniform = generator.random(TABLE, dtype=np.float32)

    def draw(self, i: NDArray[np.int64], j: NDArray[np.int64], salt: int) -> Plane:
        """Independent uniform numbers of integer places.

        Args:
            i: First coordinate, broadcast with *j*.
            j: Second coordinate.
            salt: Which field.

        Returns:
            Numbers in [0, 1).
        """
        return self._uniform[_hash(i, j, salt)]

    def normal(self, i: NDArray[np.int64], j: NDArray[np.int64], salt: int) -> Plane:
        """Independent standard normal numbers of integer places.

        Args:
            i: First coordinate, broadcast with *j*.
            j: Second coordinate.
            salt: Which field.

        Returns:
            Numbers of mean 0 and variance 1.
        """
        return self._normal[_hash(i, j, salt)]

    def smooth(self, y: Coordinates, x: Coordinates, scale: float, salt: int) -> Plane:
        """A smooth field: cubic B-splines through a lattice of normal numbers.

        The spline is separable, so a window is two matrix products, B_y L B_xᵀ.

        Args:
            y: Ordinates of the window's rows, of shape (H,).
            x: Abscissas of the window's columns, of shape (W,).
            scale: Spacing of the lattice, in the unit of the coordinates.
            salt: Which field.

        Returns:
            Field of mean 0 and variance 1 at each point, of shape (H, W).
        """
        first_i, rows = _splines(y / scale)
        first_j, columns = _splines(x / scale)
        i = first_i + np.arange(rows.shape[1])
        j = first_j + np.arange(columns.shape[1])
        field = rows @ self.normal(i[:, None], j, salt) @ columns.T
        return field.astype(np.float32, copy=False)

    def fractal(
        self, y: Coordinates, x: Coordinates, scale: float, salt: int, octaves: int
    ) -> Plane:
        """Sum of smooth fields, each of half the scale and amplitude of the last.

        Args:
            y: Ordinates of the window's rows, of shape (H,).
            x: Abscissas of the window's columns, of shape (W,).
            scale: Lattice spacing of the coarsest.
            salt: Which field.
            octaves: How many.

        Returns:
            Field of mean 0 and variance 1, of shape (H, W).
        """
        total = np.zeros((len(y), len(x)), dtype=np.float32)
        for octave in range(octaves):
            amplitude = np.float32(0.5**octave)
            # the salt of an octave must not be that of another field
            field = self.smooth(y, x, scale * 0.5**octave, salt + 1000 * octave)
            total += amplitude * field
        return total / np.float32(np.sqrt(sum(0.25**o for o in range(octaves))))


def _hash(i: NDArray[np.int64], j: NDArray[np.int64], salt: int) -> NDArray[np.uint32]:
    """Scatter integer places over the tables."""
    # unsigned arrays wrap around, which is what a hash wants
    mixed = np.asarray(i).astype(np.uint32) * np.uint32(0x9E3779B1)
    mixed = mixed ^ np.asarray(j).astype(np.uint32) * np.uint32(0x85EBCA77)
    mixed = mixed ^ np.uint32(salt * 0xC2B2AE3D & 0xFFFFFFFF)
    mixed ^= mixed >> np.uint32(15)
    mixed *= np.uint32(0x2C1B3CE3)
    mixed ^= mixed >> np.uint32(12)
    return mixed & np.uint32(TABLE - 1)


def _splines(t: Coordinates) -> tuple[int, Plane]:
    """Cubic B-spline weights of points on the integer lattice.

    Args:
        t: Points, of shape (N,).

    Returns:
        First lattice place, and weights of shape (N, places).
    """
    cell = np.floor(t).astype(np.int64)
    f = t - cell
    taps = np.stack(
        [(1 - f) ** 3, 3 * f**3 - 6 * f**2 + 4, -3 * f**3 + 3 * f**2 + 3 * f + 1, f**3],
        axis=1,
    )
    # a sum of independent normals has variance 1 if its weights have norm 1
    taps /= np.linalg.norm(taps, axis=1, keepdims=True)
    first = int(cell.min()) - 1
    weights = np.zeros((len(t), int(cell.max()) - first + 3), dtype=np.float32)
    np.put_along_axis(weights, (cell - first - 1)[:, None] + np.arange(4), taps, axis=1)
    return first, weights
