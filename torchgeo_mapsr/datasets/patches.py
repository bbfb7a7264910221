# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""Patches of class maps: their class shares, which to learn from, footprint files."""

import hashlib
import math
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pandas
from odc.geo.geobox import GeoBox

from ..arguments import check_range
from ..atomic import replacing
from ..errors import InputError
from ..geopackage import write_geopackage
from .geo.grid import crop, starts
from .geo.names import PathLike
from .geo.raster import open_rasters
from .geo.vector import read_vector
from .labels import COUNTED, COUNTED_BLOCKS, LabelRaster

#: Suffixes of footprint files: GeoPackage and GeoParquet.
SUFFIXES = ('.gpkg', '.parquet')

#: Share of the minority classes from which on every patch is selected.
THRESHOLD = 0.01

#: Classes are minorities below this share of the labelled data.
MINORITY = 0.01


def class_shares(
    maps: PathLike | Iterable[PathLike], size: int, stride: int | None = None
) -> geopandas.GeoDataFrame:
    """Find the share of each class in the patches of class maps.

    Patches lie as the chips of :class:`~torchgeo_mapsr.samplers.ChipSampler` do. They
    are read one at a time: memory does not grow with the maps.

    Args:
        maps: Files or folders of class maps, each in its own grid and CRS.
        size: Height and width of a patch, in pixels of its map.
        stride: Pixels between patches (default: *size*).

    Returns:
        A row a patch: ``map`` (the file), ``row``, ``col`` and ``size``, a column for
        each code with its share of the patch's pixels (those without data count), and
        the footprint, in the CRS of the first map. The index is the place of the
        patch's centre, a name that depends on neither file names nor order.

    Raises:
        InputError: A file cannot be used, or a number is below 1.
    """
    check_range('size', size, 1, whole=True)
    check_range('stride', stride, 1, whole=True)
    rows: list[dict[Any, Any]] = []
    geometries: list[Any] = []
    crs = None
    for file in open_rasters(maps):
        raster, crs = LabelRaster([file]), crs or file.geobox.crs
        assert crs is not None
        for patch, row, col in _patches(raster.geobox, size, stride or size):
            # A patch may be larger than the map.
            end = min(row + size, raster.geobox.height)
            right = min(col + size, raster.geobox.width)
            window = raster.read(slice(row, end), slice(col, right))
            classes, counts = np.unique(window[window >= 0], return_counts=True)
            rows.append(
                {
                    'name': _name(patch),
                    'map': file.path,
                    'row': row,
                    'col': col,
                    'size': size,
                    **dict(zip(classes.tolist(), counts / size**2, strict=True)),
                }
            )
            outline = patch.extent if patch.crs == crs else patch.footprint(crs)
            geometries.append(outline.geom)
    assert crs is not None
    table = pandas.DataFrame(rows).set_index('name')
    codes = sorted(column for column in table if isinstance(column, int))
    table = table[['map', 'row', 'col', 'size', *codes]]
    table = table.fillna(dict.fromkeys(codes, 0.0))
    return geopandas.GeoDataFrame(table, geometry=geometries, crs=crs.proj)


def select_patches(
    shares: pandas.DataFrame,
    minority: Sequence[int],
    threshold: float = THRESHOLD,
    fraction: float | None = 0.5,
    seed: int = 0,
) -> pandas.DataFrame:
    """Select patches by their predicted share of minority classes.

    Dong et al. 2023, §3.2: with P_m, the share of all minority classes in a patch, all
    patches of P_m ≥ 1 % are selected, and some of those of 0 < P_m < 1 %, at random.

    What is drawn depends on the seed and on the patches' names, not on their order: the
    patches whose name has the least digest are drawn.

    Args:
        shares: Share of each class (columns: codes) in each patch (rows: names), 0..1.
        minority: Codes of the minority classes.
        threshold: P_m from which on every patch is selected.
        fraction: How many of the others that have a minority class are drawn, 0..1.
            None: as many as reach the threshold, as in the paper, if there are so many.
        seed: Seed of the draw.

    Returns:
        ``minority``, the P_m of each selected patch, and ``drawn``, whether it is below
        the threshold; sorted by name.

    Raises:
        InputError: Two patches have one name, a number is out of its range, or no patch
            has a minority class.
    """
    if not 0 < threshold <= 1:
        raise InputError(
            f'the threshold must be above 0 and at most 1, not {threshold}'
        )
    if fraction is not None and not 0 <= fraction <= 1:
        raise InputError(f'the fraction must be from 0 to 1, not {fraction}')
    twice = shares.index[shares.index.duplicated()]
    if len(twice):
        raise InputError(f'the patch {twice[0]} occurs twice; give each map once')
    present = [code for code in dict.fromkeys(minority) if code in shares.columns]
    p_m = shares[present].sum(axis=1).sort_index()
    if not (p_m > 0).any():
        codes = ', '.join(str(code) for code in sorted(shares.columns))
        raise InputError(
            f'no patch has a minority class ({", ".join(map(str, minority))}); '
            f'the maps have the classes {codes}'
        )
    above = p_m.index[p_m >= threshold]
    below = p_m.index[(p_m > 0) & (p_m < threshold)]
    count = len(above) if fraction is None else round(fraction * len(below))
    drawn = sorted(below, key=lambda name: (_digest(name, seed), name))[:count]
    chosen = p_m.index.isin(above) | p_m.index.isin(drawn)
    selected = p_m[chosen]
    return pandas.DataFrame({'minority': selected, 'drawn': selected < threshold})


def minority_classes(
    labels: PathLike | Iterable[PathLike], limit: float = MINORITY
) -> tuple[int, ...]:
    """Classes that have less than a share of labelled rasters, rarest first.

    Dong et al. 2023, §3.2: classes below 1 % of the labelled data are minorities; their
    accuracy was below 30 % there.

    Of large rasters some blocks, evenly spread, are looked at.

    Args:
        labels: Files or folders of labels.
        limit: Share of the labelled pixels below which a class that occurs is a
            minority.

    Returns:
        Their codes.

    Raises:
        InputError: A file cannot be used, or no class is that rare.
    """
    counts: Counter[int] = Counter()
    for file in open_rasters(labels):
        found, _ = LabelRaster([file]).count_codes()
        # Of a large file one block stands for several.
        blocks = math.prod(-(-size // COUNTED) for size in file.geobox.shape)
        stands_for = max(1, -(-blocks // COUNTED_BLOCKS))
        counts.update({code: count * stands_for for code, count in found.items()})
    total = counts.total()
    rare = [code for code in counts if counts[code] < limit * total]
    if not rare:
        raise InputError(
            f'no class has less than {100 * limit:g} % of the labels: name the minority'
        )
    return tuple(sorted(rare, key=lambda code: (counts[code], code)))


def write_footprints(patches: geopandas.GeoDataFrame, path: PathLike) -> None:
    """Write a footprint file, and write over nothing.

    Args:
        patches: Footprints and whatever else there is to say of them.
        path: A GeoPackage (.gpkg) or GeoParquet (.parquet).

    Raises:
        InputError: The file exists, or cannot be written in that format.
    """
    check_footprints(path)
    target = Path(path)
    table = patches.rename(columns=str)
    try:
        with replacing(target, overwrite=False) as part:
            if target.suffix == '.parquet':
                table.reset_index().to_parquet(part)
            else:
                write_geopackage(table.reset_index(), part, 'patches')
    except FileExistsError:
        raise InputError(f'{target} exists; give another name') from None


def check_footprints(path: PathLike) -> None:
    """Make sure that a footprint file can be written, before there is work.

    Args:
        path: The file.

    Raises:
        InputError: It exists, its folder does not, or its format cannot be written.
    """
    target = Path(path)
    if target.suffix not in SUFFIXES:
        raise InputError(
            f'{target} is neither a {SUFFIXES[0]} nor a {SUFFIXES[1]} file'
        )
    if target.exists():
        raise InputError(f'{target} exists; give another name')
    if not target.parent.is_dir():
        raise InputError(f'{target.parent} is not a folder; make it first')


def read_footprints(path: PathLike) -> geopandas.GeoDataFrame:
    """Read a footprint file.

    Args:
        path: What :func:`write_footprints` wrote, or any file of polygons.

    Returns:
        The footprints.

    Raises:
        InputError: The file cannot be read, holds none, or has no CRS.
    """
    patches = read_vector(path)
    if not len(patches):
        raise InputError(f'{os.fspath(path)}: has no footprints')
    return patches


def _patches(grid: GeoBox, size: int, stride: int) -> Iterator[tuple[GeoBox, int, int]]:
    """The patches of a grid, and the row and column where each begins."""
    for row in starts(grid.height, size, stride):
        for col in starts(grid.width, size, stride):
            yield crop(grid, (row, col, row + size, col + size)), row, col


def _name(patch: GeoBox) -> str:
    """The place of a patch, to the millimetre in metres."""
    x, y = patch.pix2wld(patch.width / 2, patch.height / 2)
    digits = 8 if patch.crs is not None and patch.crs.geographic else 3
    return f'{patch.crs}:{x:.{digits}f}:{y:.{digits}f}'


def _digest(name: object, seed: int) -> bytes:
    """A number that looks random, and is the same on every machine."""
    return hashlib.blake2b(f'{seed}/{name}'.encode(), digest_size=16).digest()
