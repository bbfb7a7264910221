# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""Areas that went from class to class between two class maps."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..datasets.geo.areas import PixelAreas
from ..datasets.geo.grid import blocks_of, crop
from ..datasets.geo.names import PathLike
from ..datasets.legends.legend import Legend
from ..errors import InputError
from .class_maps import known_index, one_map

_BLOCK = 1024


@dataclass(frozen=True, eq=False)
class Transitions:
    """Area by class before (row) and after (column).

    Args:
        legend: The classes.
        hectares: Areas, (C, C).
    """

    legend: Legend
    hectares: NDArray[np.float64]

    def save_csv(self, path: str | Path) -> None:
        """Write the areas: a row for each class before, a column for each after.

        Args:
            path: CSV file to write.
        """
        import pandas

        names = self.legend.class_names
        pandas.DataFrame(self.hectares.round(4), names, names).to_csv(
            path,
            index_label='before \\ after (ha)',
            lineterminator='\r\n',
            compression=None,
        )

    def to_dict(self) -> dict[str, Any]:
        """Everything as JSON types."""
        total, same = self.hectares.sum(), np.trace(self.hectares)
        return {
            'classes': list(self.legend.class_names),
            'hectares': self.hectares.round(4).tolist(),
            'total_hectares': round(float(total), 4),
            'changed_hectares': round(float(total - same), 4),
        }


def transitions(
    before: PathLike | Sequence[PathLike],
    after: PathLike | Sequence[PathLike],
    legend: Legend,
) -> Transitions:
    """Areas that went from class to class, on the grid of the second map.

    Args:
        before: Class map of the first date, or its tiles; looked up at pixel centres.
        after: Class map of the second date, or its tiles.
        legend: Their legend.

    Raises:
        InputError: If they have no pixels in common.
    """
    old, new = one_map(before), one_map(after)
    size = len(legend)
    areas, total = PixelAreas(new.geobox), np.zeros(size * size)
    for rows, cols in blocks_of(new.geobox, _BLOCK):
        block = crop(new.geobox, (rows.start, cols.start, rows.stop, cols.stop))
        one = known_index(old.at(block), legend, old.paths[0])
        two = known_index(new.read(rows, cols), legend, new.paths[0])
        valid = (one >= 0) & (two >= 0)
        hectares = areas(rows, cols)[valid] / 1e4
        total += np.bincount((one * size + two)[valid], hectares, size * size)
    if not total.any():
        raise InputError(f'{old.paths[0]} and {new.paths[0]} have no pixels in common.')
    return Transitions(legend, total.reshape(size, size))
