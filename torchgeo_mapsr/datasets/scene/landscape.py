# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""A made landscape: rivers, lakes, fields, woods and towns."""

from dataclasses import dataclass

import numpy as np

from .canvas import COVER, Canvas, Mask, Material
from .noise import Coordinates, Noise, Plane
from .settlement import Settlement, Streets

# a crown or a lot that reaches over a window's edge is drawn right this far inside it
MARGIN = 16.0


@dataclass(frozen=True)
class Zones:
    """The large pattern that everything else follows; each of shape (H, W).

    Args:
        water: Rivers, lakes and ponds.
        town: Above 0 in towns, above 1 in their centres.
        wood: Above 0 in woods.
    """

    water: Mask
    town: Plane
    wood: Plane


class Landscape:
    """An endless made landscape, drawn window by window.

    Rivers, lakes, woods and towns come from fractal noise; roads are level lines of two
    warped coordinates u and v, so they connect; fields, yards and houses are lots
    between them; trees are crowns on jittered lattices.

    Args:
        seed: Which landscape.

    Attributes:
        noise: its randomness
    """

    def __init__(self, seed: int) -> None:
        self.noise = Noise(seed)
        angles = np.random.default_rng([seed, 1]).uniform(0, 2 * np.pi, 2)
        self._river, self._street = angles.tolist()
        self._settlement = Settlement(self.noise)

    def zones(self, y: Coordinates, x: Coordinates) -> Zones:
        """Lay out the large pattern.

        Args:
            y: Ordinates of rows in metres, downward, of shape (H,).
            x: Abscissas of columns in metres, of shape (W,).

        Returns:
            The pattern.
        """
        noise = self.noise
        across = np.cos(self._river) * x + np.sin(self._river) * y[:, None]
        across = across.astype(np.float32) + 110 * noise.fractal(y, x, 320, 10, 4)
        river = np.abs(np.mod(across, 1700) - 850)
        width = 20 + 6 * noise.smooth(y, x, 200, 11)
        water = (river < width) | (noise.fractal(y, x, 170, 12, 4) > 1.9)
        town = 1.6 * noise.fractal(y, x, 330, 13, 2) - 0.55
        wood = noise.fractal(y, x, 130, 14, 5) - 0.25
        # woods line the rivers, and give way to towns
        wood += 0.8 * np.exp(-((river / 60) ** 2)) - np.clip(town + 0.2, 0, 1.2)
        return Zones(water, town, wood)

    def draw(self, y: Coordinates, x: Coordinates) -> Canvas:
        """Lay out a window in full.

        Args:
            y: Ordinates of rows in metres, downward, evenly spaced, of shape (H,).
            x: Abscissas of columns in metres, of shape (W,).

        Returns:
            The window, right from :data:`MARGIN` metres inside its edge.
        """
        zones = self.zones(y, x)
        canvas = Canvas(y, x)
        streets = self._streets(y, x)
        town, wood, dry = zones.town > 0, zones.wood > 0, ~zones.water
        hedge = self._fields(canvas, streets) & ~town
        lawn = 0.9 + 0.2 * self.noise.draw(streets.i, streets.j, 22)
        canvas.paint(town, Material.LAWN, lawn)
        self._water(canvas, zones.water)
        centre = dry & (zones.town > 1.6)
        self._settlement.homes(canvas, streets, dry & town & ~centre)
        self._settlement.centres(canvas, streets, centre)
        self._settlement.farms(canvas, streets, dry & ~town & ~wood)
        self._settlement.roads(canvas, streets, town, zones.water)

        open_ground = COVER[canvas.material] == 3
        yards = np.clip(0.25 + 0.2 * self.noise.smooth(y, x, 45, 23), 0, 0.8)
        lone = np.where(canvas.material == Material.PASTURE, 0.02, 0.002)
        density = np.where(town, np.where(centre, 0.12, yards), lone)
        density = np.where(wood, 0.97, np.where(hedge, 0.8, density)) * open_ground
        self._trees(canvas, density.astype(np.float32))
        # the ground between the crowns of a wood counts as wood
        floor = wood & open_ground & (COVER[canvas.material] == 3)
        canvas.paint(floor, Material.BROADLEAF, 0.62)
        return canvas

    def _streets(self, y: Coordinates, x: Coordinates) -> Streets:
        c, s = np.cos(self._street), np.sin(self._street)
        u = c * x + s * y[:, None] + 16 * self.noise.smooth(y, x, 300, 20)
        v = c * y[:, None] - s * x + 16 * self.noise.smooth(y, x, 300, 21)
        return Streets(u.astype(np.float32), v.astype(np.float32))

    def _fields(self, canvas: Canvas, streets: Streets) -> Mask:
        """Fields in strips of 140 m; returns which of their edges are hedges."""
        noise, u, v = self.noise, streets.u, streets.v
        strip, zero = np.floor(u / 140).astype(np.int64), np.zeros(1, dtype=np.int64)
        length = 90 + 130 * noise.draw(strip, zero, 30)
        place = v / length + noise.draw(strip, zero, 31)
        number = np.floor(place).astype(np.int64)
        kind = np.searchsorted([0.3, 0.52, 0.72], noise.draw(strip, number, 32))
        tone = 0.85 + 0.3 * noise.draw(strip, number, 33)
        canvas.paint(np.ones_like(kind, dtype=bool), Material.PASTURE + kind, tone)
        # rows run along the field or across it, 2.5 to 5 m apart
        turned = noise.draw(strip, number, 34) < 0.5
        gap = 2.5 + 2.5 * noise.draw(strip, number, 35)
        np.copyto(canvas.rows, np.where(turned, u, v) / gap, where=kind > 0)
        side = np.abs(np.mod(u + 70, 140) - 70)
        end = np.abs(np.mod(place + 0.5, 1) - 0.5) * length
        hedge = (side < 3) & (noise.draw(strip, number, 36) < 0.5)
        return hedge | ((end < 3) & (noise.draw(strip, number, 37) < 0.3))

    def _water(self, canvas: Canvas, water: Mask) -> None:
        turbid = self.noise.smooth(canvas.y, canvas.x, 900, 40) > 0.4
        kinds = np.where(turbid, Material.TURBID_WATER, Material.CLEAR_WATER)
        stir = 1 + 0.08 * self.noise.fractal(canvas.y, canvas.x, 60, 41, 2)
        canvas.paint(water, kinds, stir)

    def _trees(self, canvas: Canvas, density: Plane) -> None:
        """Crowns on four jittered lattices; where they meet, the highest shows."""
        noise, y, x = self.noise, canvas.y, canvas.x
        stands = 0.45 * noise.fractal(y, x, 110, 90, 2)
        dome = np.zeros_like(density)
        for k, cell in enumerate((6.0, 7.5, 9.0, 12.0)):
            # each lattice is turned, or their lines would show
            c, s = np.cos(0.5 + 0.7 * k), np.sin(0.5 + 0.7 * k)
            p, q = c * y[:, None] + s * x, c * x - s * y[:, None]
            i, j = (
                np.floor(p / cell).astype(np.int64),
                np.floor(q / cell).astype(np.int64),
            )
            radius = cell * (0.24 + 0.2 * noise.draw(i, j, 91 + k))
            # a crown stays inside its cell, so only one can cover a place
            slack = cell / 2 - radius
            stem_p = (i + 0.5) * cell + slack * (2 * noise.draw(i, j, 101 + k) - 1)
            stem_q = (j + 0.5) * cell + slack * (2 * noise.draw(i, j, 111 + k) - 1)
            stem_y, stem_x = c * stem_p - s * stem_q, s * stem_p + c * stem_q
            # it stands or not by the place of its stem, so that none is cut
            grown = density[_nearest(y, stem_y), _nearest(x, stem_x)]
            grown = grown > noise.draw(i, j, 121 + k)
            off = ((p - stem_p) ** 2 + (q - stem_q) ** 2) / radius**2
            top = 3.3 * radius * np.sqrt(np.maximum(1 - off, 0))
            higher = grown & (top > dome)
            dome[higher] = top[higher]
            conifer = noise.draw(i, j, 131 + k) < 0.3 + stands
            kinds = np.where(conifer, Material.CONIFER, Material.BROADLEAF)
            tone = 0.82 + 0.36 * noise.draw(i, j, 141 + k)
            canvas.paint(higher, kinds, tone, np.maximum(canvas.height, dome))


def _nearest(axis: Coordinates, point: Coordinates) -> np.ndarray:
    index = np.rint((point - axis[0]) / (axis[1] - axis[0])).astype(np.int64)
    return np.clip(index, 0, len(axis) - 1)
