# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""Class maps that are read block by block, each piece of ground once."""

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox

from ..datasets.geo.areas import PixelAreas
from ..datasets.geo.grid import blocks_of, crop, same_place, window_in
from ..datasets.geo.names import PathLike, list_rasters
from ..datasets.geo.opened import open_raster
from ..datasets.geo.raster import open_rasters
from ..datasets.geo.round_earth import circumference, span
from ..datasets.labels import LabelRaster
from ..datasets.legends.legend import Legend
from ..errors import InputError

#: Files that ``map`` writes beside NAME.tif, by what their names end with.
LAYERS = ('_confidence', '_scores')

#: No data in the confidence and scores beside a map, whose values are percentages.
NO_PERCENT = 255


def layer_path(map_path: PathLike, layer: str) -> Path:
    """The file that ``map`` writes beside a map.

    Args:
        map_path: The map, NAME.tif.
        layer: 'confidence' or 'scores'.

    Returns:
        NAME_confidence.tif or NAME_scores.tif, whether it exists or not.

    >>> layer_path('maps/a.tif', 'scores').name
    'a_scores.tif'
    """
    path = Path(map_path)
    return path.with_name(f'{path.stem}_{layer}.tif')


def without_layers(paths: Iterable[PathLike]) -> list[str]:
    """Name the class maps among files, and in folders and ZIP archives.

    ``maps/*.tif`` holds NAME.tif, NAME_confidence.tif and NAME_scores.tif; only the
    first is a class map. A file is left out only if the map that it belongs to is in
    the list or on the disk beside it.

    Args:
        paths: Files, as a shell expands ``maps/*.tif``, addresses, folders or archives.

    Returns:
        The class maps, in their order; those of a folder or an archive by name.

    Raises:
        InputError: If a folder or an archive holds no raster, or cannot be read.

    >>> without_layers(['maps/a.tif', 'maps/a_confidence.tif', 'maps/a_scores.tif'])
    ['maps/a.tif']
    """
    files = list(paths)
    names = list_rasters(files) if files else []
    listed = set(names)

    def belongs(name: str) -> bool:
        # As text: pathlib drops a slash of https://.
        stem, suffix = os.path.splitext(name)
        for layer in LAYERS:
            # Layers of a .tiff are .tif.
            owners = {stem.removesuffix(layer) + end for end in (suffix, '.tiff')}
            if stem.endswith(layer) and (
                owners & listed or any(map(os.path.exists, owners))
            ):
                return True
        return False

    return [name for name in names if not belongs(name)]


def map_legend(
    path: PathLike,
    legend: str | Path | None = None,
    default: str | None = 'land-cover-4',
) -> Legend:
    """The legend of a map.

    Args:
        path: The map; of a folder or an archive, its first class map.
        legend: What the user names; it goes before what the file says.
        default: The legend of a file that says nothing; None to refuse it.

    Returns:
        That legend, or the shipped one that the file's tag LEGEND names, if its tag
        CLASSES does not say otherwise, or one of the names there and the colours of its
        table, or the default.

    Raises:
        InputError: If there is no such legend, or the map cannot be read.
    """
    if legend is not None:
        return Legend.load(legend)
    first, *_ = without_layers([path]) or list_rasters(path)
    (file,) = open_rasters(first)
    with open_raster(file.path) as dataset:
        tags = dataset.tags()
        name, classes = tags.get('LEGEND'), tags.get('CLASSES')
        try:
            colors = dataset.colormap(1) if classes else {}
        except ValueError:  # the band has no colour table
            colors = {}
    shipped = Legend.load(name) if name in Legend.names() else None
    if classes:
        try:
            rows = [
                {'code': code, 'name': text}
                | ({'color': colors[int(code)][:3]} if int(code) in colors else {})
                for code, text in json.loads(classes).items()
            ]
        except (ValueError, AttributeError):
            raise InputError(
                f'{file.path}: its tag CLASSES is not as map writes it; name its legend '
                'with --legend.'
            ) from None
        title = name or PurePosixPath(file.path).stem
        own = Legend.load({'name': title, 'classes': rows})
        # A user's legend may have the name of one that ships.
        if shipped is None or not own.words.items() <= shipped.words.items():
            return own
    if shipped is not None:
        return shipped
    if default is None:
        raise InputError(
            f'{file.path}: says nothing of its classes; name its legend with --legend.'
        )
    return Legend.load(default)


def common_legend(
    paths: Sequence[PathLike], legend: str | Path | None = None
) -> Legend:
    """The legend of several maps.

    Args:
        paths: The maps; confidence and scores that lie beside them are left out.
        legend: What the user names; it goes before what the files say.

    Returns:
        The legend of each by :func:`map_legend`.

    Raises:
        InputError: If the maps have different legends, or one cannot be read.
    """
    first, *others = without_layers(paths) or list_rasters(paths)
    common = map_legend(first, legend)
    for path in others if legend is None else ():
        other = map_legend(path)
        if other.words != common.words:
            raise InputError(
                f'{first} and {path} are maps of different legends ({common.name!r}, '
                f'{other.name!r}): make them of one (map --target), or take them apart.'
            )
    return common


def known_index(
    codes: NDArray[np.int64], legend: Legend, path: PathLike
) -> NDArray[np.int64]:
    """Class indices of a map's codes, all of which its legend must have.

    Args:
        codes: Codes of the map; -1 = no data.
        legend: Its legend.
        path: The map, for the message.

    Returns:
        Class indices; -1 where there is no data, or the legend's code for it.

    Raises:
        InputError: If a code is not in the legend: it would be no data without a word.
    """
    index = legend.index(codes)
    unlisted = np.unique(codes[(index < 0) & (codes >= 0)]).tolist()
    unknown = sorted(set(unlisted) - {legend.nodata})
    if unknown:
        raise InputError(
            f'{path} has codes {unknown[:5]} that are not in the legend '
            f'{legend.name!r}; give the legend of the map with --legend.'
        )
    return index


def one_grid(paths: PathLike | Iterable[PathLike]) -> LabelRaster:
    """Open codes that are a file, or files of one grid; where they overlap, the first counts.

    Args:
        paths: The files, or a folder of them.

    Raises:
        InputError: If they are not on one grid, or cannot be read.
    """
    first, *others = LabelRaster.open(paths)
    if others:
        raise InputError(
            f'{others[0].paths[0]}: is not on the grid of {first.paths[0]}, and here one '
            'raster is taken: name one of them, or make them one (gdalwarp).'
        )
    return first


def one_map(paths: PathLike | Iterable[PathLike]) -> LabelRaster:
    """Open a class map, which may be a file or tiles of one grid.

    Args:
        paths: The file, or the tiles.

    Raises:
        InputError: If two tiles are of one place: then they are not one map. Or if they
            are not on one grid, or cannot be read.
    """
    raster = one_grid(paths)
    for first, second in same_place(raster.boxes):
        raise InputError(
            f'{raster.paths[first]} and {raster.paths[second]} are of one place, and a map '
            'has one of each: leave one of them out.'
        )
    return raster


@dataclass(frozen=True)
class MapBlock:
    """One block of a map.

    Args:
        number: Number of the map in the list, from 0.
        geobox: Grid of the block.
        origin: Row and column of its first pixel in the map.
        index: Class index of each pixel, (H, W); -1 = no data, or ground that an earlier
            map of the list has shown already.
        areas: Square metres of each pixel, (H, W).
    """

    number: int
    geobox: GeoBox
    origin: tuple[int, int]
    index: NDArray[np.int64]
    areas: NDArray[np.float64]

    def codes(self, raster: LabelRaster) -> NDArray[np.int64]:
        """Codes of another raster at the centres of the pixels, (H, W); -1 = none."""
        return raster.at(self.geobox)


class ClassMaps:
    """Class maps of one legend; where they overlap, the first counts.

    Args:
        paths: Class maps, folders or archives of them, in any grids and CRSs; confidence
            and scores that lie beside them are left out.
        legend: Their legend.

    Raises:
        InputError: If a file cannot be read, or there is none.
    """

    def __init__(self, paths: Sequence[PathLike], legend: Legend) -> None:
        self.paths = tuple(without_layers(paths))
        self.legend = legend
        self.rasters = tuple(LabelRaster(open_rasters([path])) for path in self.paths)
        if not self.rasters:
            raise InputError('There is no class map among the files; name one.')

    def blocks(self, size: int = 1024) -> Iterator[MapBlock]:
        """Go through all maps.

        Args:
            size: Height and width of a block, in pixels.

        Raises:
            InputError: If a map has codes that are not in the legend.
        """
        for number, raster in enumerate(self.rasters):
            areas = PixelAreas(raster.geobox)
            for rows, cols in blocks_of(raster.geobox, size):
                codes = raster.read(rows, cols)
                index = known_index(codes, self.legend, self.paths[number])
                block = crop(
                    raster.geobox, (rows.start, cols.start, rows.stop, cols.stop)
                )
                for earlier in self.rasters[:number]:
                    top, left, bottom, right = window_in(block, earlier.geobox)
                    if top < bottom and left < right and (index >= 0).any():
                        index[self.legend.index(earlier.at(block)) >= 0] = -1
                origin, area = (rows.start, cols.start), areas(rows, cols)
                yield MapBlock(number, block, origin, index, area)

    def areas(self) -> NDArray[np.float64]:
        """Square metres of each class, (C,)."""
        total = np.zeros(len(self.legend))
        for block in self.blocks():
            valid = block.index >= 0
            total += np.bincount(
                block.index[valid], block.areas[valid], minlength=len(self.legend)
            )
        return total

    def at_points(
        self, x: NDArray[np.float64], y: NDArray[np.float64], crs: Any
    ) -> NDArray[np.int64]:
        """Class indices at points.

        Args:
            x: Eastings or longitudes, (n,).
            y: Northings or latitudes, (n,).
            crs: Their CRS, as pyproj knows it.

        Returns:
            Class index of the first map that has one there, (n,); -1 = none.
        """
        from pyproj import Transformer

        result = np.full(len(x), -1, np.int64)
        for raster in self.rasters:
            grid = raster.geobox
            assert grid.crs is not None
            transformer = Transformer.from_crs(crs, grid.crs.proj, always_xy=True)
            east, north = transformer.transform(x, y)
            turn = circumference(grid.crs)
            with np.errstate(invalid='ignore'):
                if turn is not None:  # longitudes count from -180 or from 0
                    west, _ = span(grid)
                    east = west + np.mod(np.asarray(east) - west, turn)
                col, row = grid.wld2pix(np.asarray(east), np.asarray(north))
                col, row = np.floor(col), np.floor(row)
                inside = (col >= 0) & (row >= 0)
                inside &= (col < grid.width) & (row < grid.height)
            for i in np.flatnonzero(inside & (result < 0)):
                r, c = int(row[i]), int(col[i])
                code = raster.read(slice(r, r + 1), slice(c, c + 1))
                result[i] = known_index(code, self.legend, raster.paths[0])[0, 0]
        return result
