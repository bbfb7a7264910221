# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""Where one pixel grid lies in another."""

from collections.abc import Sequence

from affine import Affine
from odc.geo.geobox import GeoBox
from odc.geo.geom import Geometry

#: Top, left, bottom and right edge, in pixels of a grid; may reach beyond it.
Box = tuple[int, int, int, int]

# Two grids are one if their pixels are nowhere further apart than this part of a pixel.
ALIGNED = 0.01


def pixel_offset(grid: GeoBox, reference: GeoBox) -> tuple[int, int] | None:
    """Row and column of a grid's first pixel in a reference grid.

    Returns:
        None if the grids are not one: another CRS, or pixels that lie elsewhere
    """
    if grid.crs != reference.crs:
        return None
    place = ~reference.affine * grid.affine
    col, row = round(place.c), round(place.f)
    height, width = grid.shape
    apart = [
        abs(moved - kept)
        for x, y in ((0, 0), (width, 0), (0, height), (width, height))
        for moved, kept in zip(place * (x, y), (x + col, y + row), strict=True)
    ]
    return (row, col) if max(apart) < ALIGNED else None


def outline(grid: GeoBox) -> Geometry:
    """What a grid covers; straight edges of one projection are curves in another."""
    return grid.extent.segmented(grid.extent.length / 64)


def box_in(grid: GeoBox, reference: GeoBox) -> Box:
    """Pixels of a reference grid that a grid covers, whole ones."""
    offset = pixel_offset(grid, reference)
    if offset is not None:
        return (*offset, offset[0] + grid.height, offset[1] + grid.width)
    left, bottom, right, top = reference.project(outline(grid)).boundingbox.round().bbox
    # rows count downward: the box's bottom is the first row
    return int(bottom), int(left), int(top), int(right)


def crop(grid: GeoBox, box: Box) -> GeoBox:
    """The pixels of a grid that a box names."""
    top, left, bottom, right = box
    affine = grid.affine * Affine.translation(left, top)
    return GeoBox((bottom - top, right - left), affine, grid.crs)


def clip(box: Box, height: int, width: int) -> Box:
    """The part of a box that lies in a grid of this size; empty if there is none."""
    top, bottom = (min(max(edge, 0), height) for edge in box[::2])
    left, right = (min(max(edge, 0), width) for edge in box[1::2])
    return top, left, bottom, right


def hull(boxes: Sequence[Box]) -> Box:
    """Smallest box that holds all boxes."""
    tops, lefts, bottoms, rights = zip(*boxes, strict=True)
    return min(tops), min(lefts), max(bottoms), max(rights)
