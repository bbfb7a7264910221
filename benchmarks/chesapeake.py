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
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from torchgeo_mapsr.datasets.legends.crosswalk import Crosswalk
from torchgeo_mapsr.errors import InputError
from torchgeo_mapsr.evaluation.accuracy import Confusion, compare
from torchgeo_mapsr.mapping.config import MapJob
from torchgeo_mapsr.mapping.run import map_region
from torchgeo_mapsr.versions import versions

from .tiles import Tile, choose, find_tiles

TARGET = 'land-cover-4'
CROSSWALKS = ('ddtm', 'dfc2021')
SHARED = Path(__file__).parents[2] / 'shared'

# mIoU in percent, as published. DDTM's tiles are those of the list; MapSR's ten a state
# are not named anywhere, so its figure is of other tiles.
PUBLISHED = {'MapSR (2026)': 59.64, 'DDTM (arXiv 2512.19990)': 66.52}


def run_state(
    tiles: Sequence[Tile], crosswalk: str, options: argparse.Namespace
) -> Confusion:
    """Fit and map the tiles of a state, and count over all of them.

    Args:
        tiles: The tiles.
        crosswalk: From NLCD to the four classes.
        options: Those of the command line.
    """
    folder = options.output / crosswalk / tiles[0].state
    labels = sorted(
        path
        for source in {tile.labels for tile in tiles}
        for path in (source.glob('*.tif') if source.is_dir() else [source])
    )
    job = MapJob.from_flags(
        imagery=tuple(str(tile.imagery) for tile in tiles),
        labels=tuple(str(path) for path in labels),
        legend='nlcd',
        crosswalk=crosswalk,
        bands=tuple(options.bands) if options.bands else None,
        output=f'{folder}/',
        overwrite=True,
        backbone=options.backbone,
        weights=options.weights,
        score=options.score,
        propagate=options.propagate,
        chip_size=options.chip_size,
        device=options.device,
    )
    if not finished(job, folder / 'report.json'):
        map_region(job)
    same = Crosswalk.load(TARGET, TARGET)
    truth = Crosswalk.load('chesapeake-7', TARGET)
    counts = [
        compare(folder / f'{tile.imagery.stem}.tif', tile.truth, same, truth)
        for tile in tiles
    ]
    return sum(counts[1:], counts[0])


def finished(job: MapJob, report: Path) -> bool:
    """Whether maps are there, made by the same settings."""
    if not report.is_file():
        return False
    # Through JSON and back, as the report went.
    asked = json.loads(json.dumps(job.to_dict()))
    return bool(json.loads(report.read_text())['settings'] == asked)


def figures(result: Confusion) -> dict[str, float]:
    """What the papers print, in percent; their OA is the mean of recalls."""
    return {
        'mIoU': 100 * result.miou,
        'accuracy': 100 * result.accuracy,
        'mean recall (OA)': 100 * float(result.recall[result.present].mean()),
    }


def table_of(crosswalk: str, states: dict[str, dict[str, float]]) -> Table:
    """A line for each state, their mean, and the published figures."""
    reference = Crosswalk.load('nlcd', TARGET, crosswalk).reference.strip()
    table = Table(title=f'Chesapeake, crosswalk {crosswalk} ({reference})')
    names = list(next(iter(states.values())))
    table.add_column('state')
    for name in names:
        table.add_column(name, justify='right')
    for state, values in states.items():
        table.add_row(state, *(f'{values[name]:.2f}' for name in names))
    table.add_section()
    means = (np.mean([values[name] for values in states.values()]) for name in names)
    table.add_row('mean', *(f'{value:.2f}' for value in means))
    for work, miou in PUBLISHED.items():
        table.add_row(work, f'{miou:.2f}', '', '')
    return table


def parse(args: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog='python -m benchmarks.chesapeake',
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add('--root', type=Path, required=True, help='folder of one of the layouts')
    add(
        '--tiles',
        default=SHARED / 'protocols' / 'chesapeake_ddtm_tiles.csv',
        help='CSV with columns state and tile, or all (default: %(default)s)',
    )
    add('--states', nargs='+', help='only these (default: all)')
    add('--crosswalk', choices=(*CROSSWALKS, 'both'), default='both')
    add('--backbone', default='rcf', help='spec, e.g. timm:vit_base_patch14_dinov2')
    add('--weights', help='weight file of the backbone')
    add('--bands', type=int, nargs='+', help='bands of NAIP, from 1 (default: all)')
    add('--score', default='auto', help='as in torchgeo-mapsr map')
    add('--propagate', default='none', help='as in torchgeo-mapsr map')
    add('--chip-size', type=int, default=448)
    add('--device', default='auto')
    add('--output', type=Path, default=Path('chesapeake'), help='maps and figures')
    return parser.parse_args(args)


def main(args: Sequence[str] | None = None) -> dict[str, Any]:
    """Run the protocols; finished states are not mapped again.

    Returns:
        What is written to ``figures.json`` in the output folder.
    """
    options = parse(args)
    console = Console(highlight=False)
    listed = None if str(options.tiles) == 'all' else Path(options.tiles)
    tiles = choose(find_tiles(options.root, options.output), listed, console)
    states = sorted({tile.state for tile in tiles})
    states = [
        state for state in states if not options.states or state in options.states
    ]
    if not states:
        raise InputError(f'There are no tiles of {", ".join(options.states)}.')
    chosen = CROSSWALKS if options.crosswalk == 'both' else (options.crosswalk,)
    content: dict[str, Any] = {
        'settings': {k: str(v) for k, v in vars(options).items()},
        'versions': versions(),
        'published': PUBLISHED,
        'crosswalks': {},
    }
    for crosswalk in chosen:
        found = content['crosswalks'][crosswalk] = {}
        for state in states:
            some = [tile for tile in tiles if tile.state == state]
            result = run_state(some, crosswalk, options)
            found[state] = {
                'tiles': [tile.name for tile in some],
                **figures(result),
                'confusion': result.matrix.tolist(),
            }
        rows = {s: {k: f[k] for k in figures(result)} for s, f in found.items()}
        console.print(table_of(crosswalk, rows))
    text = json.dumps(content, indent=1) + '\n'
    (options.output / 'figures.json').write_text(text)
    return content


if __name__ == '__main__':
    try:
        main()
    except InputError as error:
        raise SystemExit(f'chesapeake: {error}') from None
