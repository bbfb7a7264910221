# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""Points that people have labelled, on the class maps that they were drawn from."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Self

import geopandas
import numpy as np
import pandas
from numpy.typing import NDArray

from ..datasets.geo.vector import layers_of, read_vector, split_layer
from ..errors import InputError
from .class_maps import ClassMaps
from .estimation import StratifiedSample
from .named_classes import class_of

#: Layer of points in the files of :func:`~torchgeo_mapsr.evaluation.sampling.write_sample`.
LAYER = 'points'


@dataclass(frozen=True)
class LabelledPoints:
    """Reference points: what they are, what maps say of them, and their strata.

    Args:
        path: Where they come from, for errors.
        reference: True class of each, an index of the maps' legend, (n,); -1 = not
            labelled.
        mapped: Class index of the maps there, (n,); -1 = no data.
        places: Where they lie, in the CRS of their file, (n, 2).
        stratum: Number of the stratum of each, (n,); -1 = none.
        names: Name of each stratum.
        hectares: Its area, (H,).
        pixels: Its pixels, (H,); None = not known, and taken for many.
        classes: Number of classes.
    """

    path: Path
    reference: NDArray[np.int64]
    mapped: NDArray[np.int64]
    places: NDArray[np.float64]
    stratum: NDArray[np.int64]
    names: tuple[str, ...]
    hectares: NDArray[np.float64]
    pixels: NDArray[np.int64] | None
    classes: int

    @classmethod
    def read(cls, path: Path, maps: ClassMaps, column: str = 'reference') -> Self:
        """Read points and look them up on maps.

        Strata are those of the column ``stratum``, with their areas and pixels from
        ``stratum_hectares`` and ``stratum_pixels``, as
        :func:`~torchgeo_mapsr.evaluation.sampling.draw_sample` writes them; without
        areas they are classes of the maps, and without the column each point is in that
        of its mapped class.

        Args:
            path: See :func:`read_sample`.
            maps: The maps that were sampled.
            column: The column with the true class, codes or names.

        Raises:
            InputError: If the file cannot be read, no point can be used, or a column
                holds something else than it should.
        """
        points = read_sample(path, column)
        where = f'{path}: column {column!r}'
        reference = class_of(list(points[column]), maps.legend, where)
        x, y = points.geometry.x.to_numpy(), points.geometry.y.to_numpy()
        mapped = maps.at_points(x, y, points.crs)
        if not ((reference >= 0) & (mapped >= 0)).any():
            raise InputError(
                f'{path}: no point has a reference class and lies on the maps; fill the '
                f'column {column!r}.'
            )
        strata = _strata(path, maps, points, mapped)
        places = np.stack([x, y], 1)
        return cls(path, reference, mapped, places, *strata, len(maps.legend))

    @cached_property
    def used(self) -> NDArray[np.bool_]:
        """Which points count: labelled, and where the maps have data, (n,)."""
        return (self.reference >= 0) & (self.mapped >= 0)

    @property
    def unlabelled(self) -> int:
        """Points that have no reference class."""
        return int((self.reference < 0).sum())

    @property
    def outside(self) -> int:
        """Labelled points where the maps have no data."""
        return int(((self.reference >= 0) & (self.mapped < 0)).sum())

    @property
    def repeated(self) -> int:
        """Points that count and lie where another does."""
        places = self.places[self.used]
        return len(places) - len(np.unique(places, axis=0))

    @property
    def per_stratum(self) -> NDArray[np.int64]:
        """Points of each stratum that count, (H,)."""
        stratum = self.stratum[self.used]
        return np.bincount(stratum[stratum >= 0], minlength=len(self.names))

    def sample(self, confidence: float = 0.95) -> StratifiedSample:
        """The points that count, as a stratified sample of the maps.

        Args:
            confidence: Coverage of the intervals.

        Raises:
            InputError: If a point has no stratum, or a stratum fewer points than a
                variance needs, or more than it has pixels.
        """
        stratum = self.stratum[self.used]
        if (stratum < 0).any():
            raise InputError(
                f'{self.path}: a point has no stratum; fill the column stratum.'
            )
        count, pixels = self.per_stratum, self.pixels
        least = 2 if pixels is None else np.minimum(pixels, 2)
        few = np.flatnonzero((count < least) & (self.hectares > 0))
        if few.size:
            raise InputError(
                f'{self.path}: stratum {self.names[few[0]]!r} has {count[few[0]]} labelled '
                'point(s) and needs at least 2; label more of them.'
            )
        if pixels is not None and (count > pixels).any():
            many = int((count > pixels).argmax())
            raise InputError(
                f'{self.path}: stratum {self.names[many]!r} has {count[many]} labelled '
                f'points and {pixels[many]} pixels: leave out points that lie where others '
                'do, or correct the column stratum_pixels.'
            )
        return StratifiedSample(
            stratum,
            self.mapped[self.used],
            self.reference[self.used],
            self.hectares,
            self.classes,
            pixels,
            confidence,
        )


_Sizes = tuple[
    NDArray[np.int64], tuple[str, ...], NDArray[np.float64], NDArray[np.int64] | None
]


def _strata(
    path: Path,
    maps: ClassMaps,
    points: geopandas.GeoDataFrame,
    mapped: NDArray[np.int64],
) -> _Sizes:
    """Number of each point's stratum; names, hectares and, if known, pixels of strata."""
    if 'stratum' not in points:
        return mapped, maps.legend.class_names, maps.areas() / 1e4, None
    empty = points['stratum'].isna()
    if empty.any():
        raise InputError(
            f'{path}: row {empty.argmax() + 1} has no stratum; fill the column stratum.'
        )
    if 'stratum_hectares' not in points:
        where = f'{path}: column stratum (there is no column stratum_hectares)'
        numbers = class_of(list(points['stratum']), maps.legend, where)
        return numbers, maps.legend.class_names, maps.areas() / 1e4, None
    column = points['stratum'].astype(str)
    hectares = pandas.to_numeric(points['stratum_hectares'], errors='coerce')
    if not (np.isfinite(hectares) & (hectares >= 0)).all():
        raise InputError(
            f'{path}: column stratum_hectares has something that is no area.'
        )
    area = _one_each(path, hectares, column, 'areas')
    if not area.any():
        raise InputError(
            f'{path}: all areas of the column stratum_hectares are 0; fill in those of the '
            'strata, or leave out the column.'
        )
    numbers = np.searchsorted(area.index.to_numpy(str), column.to_numpy(str))
    pixels = None
    if 'stratum_pixels' in points:
        number = pandas.to_numeric(points['stratum_pixels'], errors='coerce')
        if not (np.isfinite(number) & (number >= 0) & (number % 1 == 0)).all():
            raise InputError(
                f'{path}: column stratum_pixels has something that is no number of pixels.'
            )
        pixels = _one_each(path, number, column, 'numbers').to_numpy(int)
    return numbers, tuple(area.index), area.to_numpy(float), pixels


def _one_each(
    path: Path, values: pandas.Series, stratum: pandas.Series, what: str
) -> pandas.Series:
    """The value of each stratum, by their names; an error if points differ on it."""
    groups = values.groupby(stratum)
    for name, count in groups.nunique().items():
        if count > 1:
            raise InputError(
                f'{path}: stratum {name!r} has two {what} in the column {values.name}.'
            )
    return groups.first()


def read_sample(path: Path, column: str = 'reference') -> geopandas.GeoDataFrame:
    """Read labelled points.

    Args:
        path: A GeoPackage, or any file of points that GDAL reads; of several layers
            the one that is called points, or that is named: ``file.gpkg:layer``.
        column: The column with the reference class.

    Returns:
        Its rows; a multipoint of one point, as some programs write it, is that point.

    Raises:
        InputError: If it cannot be read, is not of points, lacks the column, or has
            several layers and none of them is named.
    """
    file, layer = split_layer(path)
    layers = [
        name
        for name, kind in layers_of(file).items()
        if 'Point' in kind or kind == 'Unknown'
    ]
    if layer is None and LAYER in layers:
        layer = LAYER
    if layer is None and len(layers) > 1:
        raise InputError(
            f'{file}: has several layers of points ({", ".join(layers)}); name one, as '
            f'{file}:{layers[0]}'
        )
    points = read_vector(file, layer or next(iter(layers), None))
    empty = points.geometry.isna() | points.geometry.is_empty
    if empty.any():
        raise InputError(f'{path}: row {empty.argmax() + 1} has no point; delete it.')
    kinds = sorted(set(points.geom_type) - {'Point', 'MultiPoint'})
    if kinds:
        raise InputError(f'{path}: holds {", ".join(kinds)}; reference is points.')
    rows = len(points)
    points = points.explode(ignore_index=True)
    if len(points) != rows:
        raise InputError(f'{path}: a row has several points; give each its own.')
    if column not in points.columns.drop(points.geometry.name):
        raise InputError(
            f'{path}: has no column {column!r}; it has '
            f'{", ".join(map(str, points.columns))}. Give its name with --reference.'
        )
    return points
