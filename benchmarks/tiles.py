# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""Tiles of Chesapeake land cover on disk, and lists of them."""

import csv
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import rasterio
from rich.console import Console

from torchgeo_mapsr.datasets import RecoveredLabels
from torchgeo_mapsr.errors import InputError


@dataclass(frozen=True)
class Tile:
    """Files of a tile.

    Args:
        state: Two letters.
        name: Its name in the list.
        imagery: NAIP.
        labels: NLCD in its own grid.
        truth: Chesapeake land cover.
    """

    state: str
    name: str
    imagery: Path
    labels: Path
    truth: Path


def find_tiles(root: Path, work: Path) -> list[Tile]:
    """All tiles under a folder.

    Args:
        root: Folder of one of the layouts.
        work: Where NLCD of the CVPR tiles goes, put back into its cells.

    Raises:
        InputError: If there is none.
    """
    tiles = []
    for imagery in sorted(
        root.glob('??_1m_*_extended-debuffered-*_tiles/*_naip-new.tif')
    ):
        name = imagery.name.removesuffix('_naip-new.tif')
        nlcd, truth = (
            imagery.with_name(f'{name}_{layer}.tif') for layer in ('nlcd', 'lc')
        )
        native = work / 'native' / f'{name}.tif'
        if nlcd.is_file() and truth.is_file():
            if not native.is_file():
                write_native(nlcd, native)
            tiles.append(Tile(imagery.parent.name[:2], name, imagery, native, truth))
    for imagery in sorted(root.glob('*/naip/*.tif')):
        folder = imagery.parents[1]
        truth = folder / 'lc' / imagery.name
        if truth.is_file() and (folder / 'nlcd').is_dir():
            labels = folder / 'nlcd'
            tiles.append(Tile(folder.name, imagery.stem, imagery, labels, truth))
    if not tiles:
        raise InputError(
            f'{root} has no tiles with NAIP, NLCD and land cover; the two layouts are '
            'described by --help.'
        )
    return tiles


def write_native(warped: Path, native: Path) -> None:
    """Put NLCD that was warped to fine pixels back into its cells of 30 m.

    Args:
        warped: NLCD in the grid of the imagery.
        native: File to write, in NLCD's grid; 0 = no data.
    """
    labels = RecoveredLabels(warped)
    height, width = labels.geobox.shape
    codes = labels.read(slice(0, height), slice(0, width))
    native.parent.mkdir(parents=True, exist_ok=True)
    part = native.with_suffix('.part')
    with rasterio.open(
        part,
        'w',
        driver='GTiff',
        dtype='uint8',
        count=1,
        height=height,
        width=width,
        crs=str(labels.geobox.crs),
        transform=labels.geobox.affine,
        nodata=0,
        compress='deflate',
    ) as file:
        file.write(np.where(codes < 0, 0, codes).astype(np.uint8), 1)
    part.replace(native)


def choose(tiles: Iterable[Tile], listed: Path | None, console: Console) -> list[Tile]:
    """The tiles of a list, and a word about those that are not there.

    Args:
        tiles: What there is.
        listed: CSV with columns state and tile; None for all tiles.
        console: Where to say it.

    Raises:
        InputError: If none of the list is there.
    """
    tiles = list(tiles)
    if listed is None:
        return tiles
    with listed.open(newline='') as file:
        wanted = {(row['state'], row['tile']) for row in csv.DictReader(file)}
    chosen = [tile for tile in tiles if (tile.state, tile.name) in wanted]
    if not chosen:
        raise InputError(
            f'None of the {len(wanted)} tiles of {listed} is there; give --tiles all, or '
            'another list.'
        )
    if len(chosen) < len(wanted):
        console.print(
            f'Note: {len(chosen)} of the {len(wanted)} tiles of {listed.name} are there.'
        )
    return chosen
