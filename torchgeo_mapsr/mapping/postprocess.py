# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""A map of a map: classes weighed anew, patches below a mapping unit dissolved."""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from ..arguments import POSITIVE, check_range, plain
from ..atomic import replacing
from ..datasets.geo.areas import PixelAreas, pixel_sides
from ..datasets.geo.grid import blocks_of
from ..datasets.geo.plan import Tile
from ..datasets.geo.raster import RasterFile, open_rasters
from ..datasets.labels import LabelRaster
from ..datasets.legends.legend import Legend
from ..errors import InputError
from ..evaluation.class_maps import known_index, layer_path
from ..evaluation.reweighting import check_weights, reweighted
from .cog import Layer, map_codes, map_nodata, write_cog
from .mapping_unit import MappingUnit
from .style import drop_sidecars, sidecar_of

# Height and width of what is read at a time; the result does not depend on it.
_TILE = 2048


@dataclass(frozen=True)
class LandCoverChange:
    """What post-processing has changed.

    Args:
        before: Hectares of each class on the ground before it, (C,).
        after: Hectares of each class after it, (C,).
        changed: Hectares that have another class.
    """

    before: NDArray[np.float64]
    after: NDArray[np.float64]
    changed: float


@dataclass(frozen=True)
class Postprocessing:
    """How a map is made of a map; :meth:`write` does it, tile by tile.

    Args:
        map: The map.
        legend: Its classes.
        weights: Weight of each class's scores (Malkin et al. 2019, appendix E), (C,).
        scores: Scores of the map in percent, a band a class; None = no weights.
        min_area: Least area of a patch in square metres; None = any.

    Raises:
        InputError: If weights are not those of the classes, or have no scores, or the
            area is not above 0.
    """

    map: LabelRaster
    legend: Legend
    weights: tuple[float, ...]
    scores: RasterFile | None = None
    min_area: float | None = None

    def __post_init__(self) -> None:
        check_weights(self.weights, self.legend)
        check_range('min_area', self.min_area, POSITIVE)
        if self.scores is None and {*self.weights} != {1.0}:
            raise InputError('weights are of scores, and none are given.')

    @classmethod
    def of(
        cls,
        maps: Sequence[str | Path],
        legend: Legend,
        weights: Sequence[float] = (),
        min_area: float | None = None,
        scores: str | Path | None = None,
    ) -> Self:
        """Open a map, and its scores if they are needed.

        Args:
            maps: The map, or tiles of it that have one grid.
            legend: Its classes.
            weights: Weight of each class, (C,), or nothing.
            min_area: Least area of a patch in square metres.
            scores: Scores of the map (default: NAME_scores.tif beside it).

        Raises:
            InputError: If a file cannot be read, the scores are not of this map, or
                the weights or the area are none.
        """
        raster = LabelRaster(open_rasters(maps))
        if not len(weights):
            return cls(raster, legend, (1.0,) * len(legend), None, min_area)
        path = Path(scores or layer_path(maps[0], 'scores'))
        if not path.exists():
            raise InputError(
                f'{path} is not there; make the map with --scores, or name them with '
                '--scores.'
            )
        (opened,) = open_rasters([path])
        if opened.geobox != raster.geobox or opened.count != len(legend):
            raise InputError(
                f'{path} is not of this map: it needs its grid and a band for each of '
                f'the {len(legend)} classes.'
            )
        if {*opened.dtypes} != {'uint8'}:
            raise InputError(
                f'{path} holds {opened.dtypes[0]}, and scores are percent of uint8, as '
                'map --scores writes them.'
            )
        return cls(raster, legend, tuple(plain(weights)), opened, min_area)

    @cached_property
    def tiles(self) -> list[Tile]:
        """What is read and written at a time."""
        return [
            Tile(rows.start // _TILE, cols.start // _TILE, rows, cols)
            for rows, cols in blocks_of(self.map.geobox, _TILE)
        ]

    @property
    def steps(self) -> int:
        """How often :meth:`write` calls *tick*."""
        # A tile is written, checked in the file and compared with the map before; with a
        # minimum mapping unit it is scanned, too.
        return len(self.tiles) * (3 if self.min_area is None else 4)

    def read(self, rows: slice, cols: slice) -> NDArray[np.int64]:
        """Classes of a window by their weighted scores.

        Args:
            rows: Its rows.
            cols: Its columns.

        Returns:
            Class index, (H, W); -1 = no data.
        """
        codes = self.map.read(rows, cols)
        index = known_index(codes, self.legend, self.map.paths[0])
        if self.scores is None:
            return index
        bands = list(range(1, len(self.legend) + 1))
        values = self.scores.read(bands, rows, cols)
        return reweighted(values.astype(np.uint8), index, self.weights)

    def patches_file(self, output: Path) -> Path:
        """Where the patches that were found are kept until the map is complete.

        Args:
            output: The map that is written.
        """
        settings = [
            self.map.fingerprint(),
            self.scores and self.scores.fingerprint(),
            self.weights,
            self.min_area,
            self.legend.codes.tolist(),
            _TILE,
        ]
        key = hashlib.sha256(json.dumps(settings).encode()).hexdigest()[:16]
        return output.with_name(f'.{output.stem}.{key}.safetensors')

    def write(
        self,
        output: Path,
        overwrite: bool = False,
        tick: Callable[[], None] = lambda: None,
    ) -> LandCoverChange:
        """Write the new map; interrupted, the next call goes on with the patches found.

        Args:
            output: A .tif file.
            overwrite: Whether a file that is there is replaced.
            tick: Called after each step.

        Raises:
            FileExistsError: If the file is there.
            InputError: If the map has a code that the legend lacks.
        """
        unit = None if self.min_area is None else self._unit(output, tick)
        codes = map_codes(self.legend)

        def load(tile: Tile) -> NDArray[np.uint8]:
            index = self.read(tile.rows, tile.cols)
            if unit is not None:
                index = unit.apply(tile.rows, tile.cols, index)
            tick()
            return codes[index]

        layer = Layer.classes(self.legend, map_nodata(self.legend))
        with (
            replacing(output, overwrite) as part,
            replacing(sidecar_of(output)) as side,
        ):
            write_cog(part, self.map.geobox, layer, self.tiles, load)
            sidecar_of(part).replace(side)
            if overwrite:
                drop_sidecars(output)
        if unit is not None:
            self.patches_file(output).unlink(missing_ok=True)
        return self._change(output, tick)

    def _unit(self, output: Path, tick: Callable[[], None]) -> MappingUnit:
        """What becomes of each patch."""
        assert self.min_area is not None
        saved = self.patches_file(output)
        if saved.exists():
            return MappingUnit.load(saved)
        grid = self.map.geobox
        unit = MappingUnit.scan(
            self.read,
            grid.shape.yx,
            PixelAreas(grid),
            self.min_area,
            _TILE,
            tick,
            pixel_sides(grid),
        )
        unit.save(saved)
        return unit

    def _change(self, output: Path, tick: Callable[[], None]) -> LandCoverChange:
        """Areas in the map and in the new one."""
        areas = PixelAreas(self.map.geobox)
        rasters = self.map, LabelRaster.open(output)[0]
        hectares, changed = np.zeros((2, len(self.legend))), 0.0
        for tile in self.tiles:
            window = tile.rows, tile.cols
            pair = [self.legend.index(raster.read(*window)) for raster in rasters]
            weight = areas(*window) / 1e4
            for total, index in zip(hectares, pair, strict=True):
                valid = index >= 0
                total += np.bincount(index[valid], weight[valid], len(self.legend))
            changed += float(weight[pair[0] != pair[1]].sum())
            tick()
        return LandCoverChange(hectares[0], hectares[1], changed)
