# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""The published Chesapeake protocols, end to end: tiles in, figures per state out.

For each state the tiles of the list are fitted together, on their own NLCD labels, and
mapped. HR labels score the maps and nothing else. Each figure is that of one confusion
matrix over all tiles of a state; the last line is the mean over states.

Two layouts are known by what is in ROOT:

* the CVPR 2019 tiles (https://lila.science/datasets/chesapeakelandcover), unpacked:
  {state}_1m_{year}_extended-debuffered-{split}_tiles/{tile}_{naip-new,nlcd,lc}.tif.
  Their NLCD was warped to 1 m; it is put back into its native cells first
* folders {state}/naip, {state}/nlcd and {state}/lc of rasters, each in its own CRS and
  grid; imagery and truth of a tile have the same name
"""

import argparse
import csv
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import rasterio

from .package import TARGET, Confusion, RecoveredLabels, compare, mapsr, run_job
from .regions import SHARED
from .scores import figures_of
from .store import Record, Release, Row
from .table import Table, Trial, grid

CROSSWALKS = ('ddtm', 'dfc2021')
TINY = 'rcf?filters=6&colours=24&strides=1,4'

# mIoU in percent, as published. DDTM's tiles are those of the list; MapSR's ten a state
# are not named anywhere, so its figure is of other tiles.
PUBLISHED = {'MapSR (2026)': 59.64, 'DDTM (arXiv 2512.19990)': 66.52}

# Options of the command line beside those of all tables. --root is the folder of one of the
# layouts, --tiles a CSV with columns state and tile, or all; the others are settings of
# torchgeo-mapsr map.
ARGUMENTS: dict[str, Any] = {
    'root': '',
    'tiles': str(SHARED / 'protocols' / 'chesapeake_ddtm_tiles.csv'),
    'states': ('all',),
    'backbone': 'rcf',
    'backbone-weights': '',
    'bands': (0,),
    'score': 'auto',
    'propagate': 'none',
    'chip-size': 448,
    'device': 'auto',
}

# What the papers print, in percent; their OA is the mean of recalls.
FIGURES = {'miou': 'mIoU', 'accuracy': 'accuracy', 'recall': 'mean recall (OA)'}


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

    Raises:
        mapsr.InputError: If there is none.
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
        raise mapsr.InputError(
            f'{root} has no tiles with NAIP, NLCD and land cover; the two layouts are '
            'described by --help.'
        )
    return tiles


def write_native(warped: Path, native: Path) -> None:
    """Put NLCD that was warped to fine pixels back into its cells of 30 m."""
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


def choose(tiles: Iterable[Tile], listed: Path | None) -> list[Tile]:
    """The tiles of a list, and a word about those that are not there.

    Raises:
        mapsr.InputError: If none of the list is there.
    """
    tiles = list(tiles)
    if listed is None:
        return tiles
    with listed.open(newline='') as file:
        wanted = {(row['state'], row['tile']) for row in csv.DictReader(file)}
    chosen = [tile for tile in tiles if (tile.state, tile.name) in wanted]
    if not chosen:
        raise mapsr.InputError(
            f'None of the {len(wanted)} tiles of {listed} is there; give --tiles all, or '
            'another list.'
        )
    if len(chosen) < len(wanted):
        print(
            f'Note: {len(chosen)} of the {len(wanted)} tiles of {listed.name} are there.'
        )
    return chosen


def measure_state(
    tiles: Sequence[Tile], crosswalk: str, options: argparse.Namespace
) -> Row:
    """Fit and map the tiles of a state, and count over all of them."""
    folder = options.work / 'chesapeake' / crosswalk / tiles[0].state
    labels = sorted(
        path
        for source in {tile.labels for tile in tiles}
        for path in (source.glob('*.tif') if source.is_dir() else [source])
    )
    settings = {name: getattr(options, name) for name in (*_SETTINGS, 'device')}
    settings |= {'bands': tuple(options.bands) if any(options.bands) else None}
    settings |= {'score': None if options.score == 'auto' else options.score}
    settings |= {'weights': options.backbone_weights or None, 'crosswalk': crosswalk}
    imagery = [tile.imagery for tile in tiles]
    run_job(imagery, labels, 'nlcd', f'{folder}/', **settings)
    same = mapsr.Crosswalk.load(TARGET, TARGET)
    truth = mapsr.Crosswalk.load('chesapeake-7', TARGET)
    counts: list[Confusion] = [
        compare(folder / f'{tile.imagery.stem}.tif', tile.truth, same, truth)
        for tile in tiles
    ]
    total = np.sum([count.matrix for count in counts], 0)
    figures = figures_of(total)
    return {
        'tiles': len(tiles),
        **{name: round(100 * figures[name], 2) for name in FIGURES},
        'confusion': total.tolist(),
    }


def trials(options: argparse.Namespace) -> Iterator[Trial]:
    """A state with a crosswalk each.

    Raises:
        mapsr.InputError: If there are no tiles.
    """
    if options.tiny:
        options.root, options.tiles, options.backbone = options.work, 'all', TINY
        place = options.root / 'made'
        mapsr.make_scene(place, seed=0, size=(160, 160))
        for file, name in (('imagery', 'naip'), ('lr', 'nlcd'), ('hr', 'lc')):
            (place / name).mkdir()
            (place / f'{file}.tif').rename(place / name / 'tile.tif')
    if not options.root:
        raise mapsr.InputError('Give the folder of the tiles with --root.')
    listed = None if options.tiles == 'all' else Path(options.tiles)
    tiles = choose(find_tiles(Path(options.root), options.work), listed)
    states = sorted({tile.state for tile in tiles})
    if 'all' not in options.states:
        states = [state for state in states if state in options.states]
    if not states:
        raise mapsr.InputError(f'There are no tiles of {", ".join(options.states)}.')
    for crosswalk in options.rows:
        for state in states:
            chosen = [tile for tile in tiles if tile.state == state]
            key = {
                'state': state,
                'crosswalk': crosswalk,
                'tiles': [tile.name for tile in chosen],
                **{name: getattr(options, name) for name in _SETTINGS},
            }
            yield key, partial(measure_state, chosen, crosswalk, options)


_SETTINGS = 'backbone', 'score', 'propagate', 'bands', 'chip_size'


def release_rows(records: Iterable[Record]) -> Iterator[tuple[Row, Row]]:
    """A line for each state and crosswalk."""
    for record in records:
        names = ('state', 'crosswalk', 'backbone', 'score', 'propagate')
        row = {name: record.key[name] for name in names}
        figures = {k: record.figures[k] for k in ('tiles', *FIGURES)}
        yield row | figures, record.origin


def markdown(release: Release) -> str:
    """A line for each state, their mean, and the published figures."""
    body = []
    for crosswalk in CROSSWALKS:
        rows = [row for row in release.rows if row['crosswalk'] == crosswalk]
        body += [[f'{r["state"]} ({r["tiles"]})', crosswalk, *_cells(r)] for r in rows]
        if rows:
            mean = {name: np.mean([row[name] for row in rows]) for name in FIGURES}
            body.append(['mean', crosswalk, *_cells(mean)])
    body += [[work, '', f'{miou:.2f}', '', ''] for work, miou in PUBLISHED.items()]
    head = ['state (tiles)', 'crosswalk', *FIGURES.values()]
    return f'{grid(head, body, left=2)}\n\nMeasured: {release.source()}.'


def _cells(row: Row) -> list[str]:
    return [f'{row[name]:.2f}' for name in FIGURES]


TABLE = Table(
    'chesapeake',
    'the published Chesapeake protocols, for whoever has the tiles',
    trials,
    release_rows,
    markdown,
    rows=CROSSWALKS,
    arguments=ARGUMENTS,
)
