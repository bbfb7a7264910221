# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""Groups of pixels whose accuracy is asked apart."""

from collections.abc import Callable, Iterable, Sequence

import numpy as np
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox

from ..datasets.geo.names import PathLike
from ..datasets.labels import LabelRaster, first_code
from ..datasets.legends.legend import Legend
from ..errors import InputError

#: Gives the number of the group of each pixel of a grid, (H, W); -1 = none.
Grouping = Callable[[GeoBox], NDArray[np.int64]]

#: Names of groups and what gives their numbers, by kind; without names, a group is called
#: by its number.
Groups = dict[str, tuple[Sequence[str] | None, Grouping]]


def lr_groups(
    paths: PathLike | Iterable[PathLike], legend: Legend, combined: Iterable[str] = ()
) -> Groups:
    """Groups by the LR class that a pixel lies in.

    Args:
        paths: LR labels; the first that has a label at a pixel counts.
        legend: Their legend.
        combined: Classes that are one group, too: ``NAME=CODES`` each.

    Returns:
        ``lr``, a group a class, and ``lr: NAME`` of one group for each that is combined.

    Raises:
        InputError: If the labels cannot be read, or what is combined is not in the legend
            or has a name that is taken.
    """
    labels = LabelRaster.open(paths)

    def coarse(grid: GeoBox) -> NDArray[np.int64]:
        return legend.index(first_code(labels, grid))

    groups: Groups = {'lr': (legend.class_names, coarse)}
    for text in combined:
        name, _, codes = text.partition('=')
        try:
            members = legend.index([int(code) for code in codes.split(',')])
        except ValueError:
            members = np.array([-1])
        if (members < 0).any():
            raise InputError(
                f'--lr-group {text} is not NAME=CODES of the legend {legend.name!r}.'
            )

        def member(
            grid: GeoBox, members: NDArray[np.int64] = members
        ) -> NDArray[np.int64]:
            return np.where(np.isin(coarse(grid), members), 0, -1)

        if f'lr: {name}' in groups:
            raise InputError(f'--lr-group {text}: there is a group {name!r} already.')
        groups[f'lr: {name}'] = ((name,), member)
    return groups


def code_groups(path: PathLike) -> Groups:
    """Groups by the codes of a raster: ``stratum``.

    Args:
        path: The raster.

    Raises:
        InputError: If it cannot be read.
    """
    rasters = LabelRaster.open(path)
    return {'stratum': (None, lambda grid: first_code(rasters, grid))}


def whole_group(kind: str, name: str) -> Groups:
    """One group of all pixels.

    Args:
        kind: What it is a group of, as ``tile``.
        name: Its name.
    """
    return {kind: ((name,), lambda grid: np.zeros(grid.shape, np.int64))}
