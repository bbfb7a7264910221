# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""Rasters of a million pixels a side, and imagery in ten thousand files.

Each row is a process of its own: its seconds, and the most memory that it held. The
smallest run of the same kind stands beside it, since torch alone takes some hundred
megabytes.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from rasterio.warp import transform_bounds

from .package import mapsr
from .store import ROOT, Record, Release, Row
from .table import Table, Trial, grid

# Asked for: megabytes of the largest row, and seconds to open all files.
MEGABYTES, SECONDS = 2000, 60

SCENE, HUGE, TILES, TILE = 512, 10**6, 3, 1024
FILES, FILE = 10_000, 64
BACKBONE = 'rcf?filters=4&colours=8&strides=1,4'

# Rows: what is opened, and what is done with it.
ROWS = {
    'scene, box': f'{SCENE}² pixels; fit and map of a box',
    'huge, box': f'VRT of {HUGE:.0e}² pixels with data in a corner; fit and map of a box there',
    'scene': f'{SCENE}² pixels; fit, and all tiles',
    'huge': f'the VRT; fit on all of it, and its first {TILES} tiles of {TILE}²',
    'one file': 'imagery of one file: opened, told from others, a chip read',
    'many files': f'{FILES} files of {FILE}² pixels in a folder: the same',
}

_SCRIPT = """
import json, resource, sys, time
from benchmarks.package import first_tiles, open_files, run_job, mapsr
kind, values = json.loads(sys.argv[1])
start = time.perf_counter()
if kind == 'open':
    open_files(**values)
elif kind == 'map':
    run_job(**values)
else:
    first_tiles(**values)
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
scale = 1 if sys.platform == 'darwin' else 1024
print(json.dumps([time.perf_counter() - start, peak * scale / 1e6]))
"""


def measured(kind: str, **values: Any) -> Row:
    """Seconds and megabytes of a process that opens, maps, or begins to map."""
    done = subprocess.run(
        [sys.executable, '-c', _SCRIPT, json.dumps([kind, values])],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, 'PYTHONPATH': str(ROOT)},
    )
    if done.returncode:
        raise mapsr.InputError(f'{kind} failed: {done.stderr.strip()[-300:]}')
    seconds, megabytes = json.loads(done.stdout.splitlines()[-1])
    return {'seconds': round(seconds, 1), 'megabytes': round(megabytes)}


def write_vrt(path: Path, imagery: Path, side: int) -> None:
    """A raster that holds another in its first corner, and nothing elsewhere."""
    with rasterio.open(imagery) as file:
        geo = ', '.join(map(repr, file.transform.to_gdal()))
        corner = f'xOff="0" yOff="0" xSize="{file.width}" ySize="{file.height}"'
        bands = [
            f'<VRTRasterBand dataType="Byte" band="{band}"><NoDataValue>0</NoDataValue>'
            f'<ComplexSource><SourceFilename>{imagery}</SourceFilename><SourceBand>{band}'
            f'</SourceBand><SrcRect {corner}/><DstRect {corner}/></ComplexSource>'
            '</VRTRasterBand>'
            for band in range(1, file.count + 1)
        ]
        path.write_text(
            f'<VRTDataset rasterXSize="{side}" rasterYSize="{side}"><SRS>'
            f'{file.crs.to_wkt()}</SRS><GeoTransform>{geo}</GeoTransform>'
            f'{"".join(bands)}</VRTDataset>'
        )


def write_files(folder: Path, count: int) -> None:
    """A square mosaic of so many files."""
    if folder.exists():
        return
    folder.mkdir(parents=True)
    side = round(count**0.5)
    values = np.random.default_rng(0).integers(1, 250, (3, FILE, FILE), np.uint8)
    profile = {'driver': 'GTiff', 'width': FILE, 'height': FILE, 'count': 3}
    profile |= {'dtype': 'uint8', 'crs': 'EPSG:32618'}
    for number in range(count):
        row, col = divmod(number, side)
        place = rasterio.Affine(1, 0, 5e5 + FILE * col, 0, -1, 4e6 - FILE * row)
        with rasterio.open(
            folder / f'{number:05}.tif', 'w', transform=place, **profile
        ) as file:
            file.write(values)


def trials(options: argparse.Namespace) -> Iterator[Trial]:
    """A process each."""
    folder = options.work / 'large'
    count = 100 if options.tiny else FILES
    scene = mapsr.make_scene(folder / 'scene', size=(SCENE, SCENE))
    write_vrt(folder / 'huge.vrt', scene.imagery, HUGE)
    with rasterio.open(scene.imagery) as file:
        west, south, east, north = transform_bounds(file.crs, 'EPSG:4326', *file.bounds)
    inner = 0.1 * (east - west), 0.1 * (north - south)
    box = west + inner[0], south + inner[1], east - inner[0], north - inner[1]
    common: dict[str, Any] = {'backbone': BACKBONE, 'tile_size': TILE, 'device': 'cpu'}
    common |= {'labels': [str(scene.labels)], 'legend': scene.legend}
    images = {'scene': str(scene.imagery), 'huge': str(folder / 'huge.vrt')}
    for name in options.rows:
        imagery = images.get(name.split(',')[0], '')
        output = str(folder / f'{name.replace(", ", "-")}.tif')
        call = partial(measured, 'tiles', count=TILES, imagery=[imagery], output=output)
        if 'box' in name:
            call = partial(
                measured, 'map', imagery=[imagery], output=output, bbox=box, nodata=0
            )
        if 'file' in name:
            some = folder / (f'files-{count}' if name == 'many files' else 'files-1')
            write_files(some, count if name == 'many files' else 1)
            call = partial(measured, 'open', folder=str(some))
        yield {'row': name}, call if 'file' in name else partial(call, **common)


def release_rows(records: Iterable[Record]) -> Iterator[tuple[Row, Row]]:
    """A line a process."""
    for record in records:
        yield record.key | record.figures, record.origin


def markdown(release: Release) -> str:
    """Seconds and memory of each process."""
    body = [
        [ROWS[row['row']], f'{row["seconds"]:.1f}', f'{row["megabytes"]:,}']
        for row in release.rows
    ]
    most = max(row['megabytes'] for row in release.rows)
    asked = (
        f'Asked for: below {MEGABYTES:,} MB ({"yes" if most < MEGABYTES else "**no**"})'
    )
    slow = [row for row in release.rows if row['row'] == 'many files']
    if slow:
        verdict = 'yes' if slow[0]['seconds'] < SECONDS else '**no**'
        asked += f', all files within {SECONDS} s ({verdict})'
    table = grid(['what', 's', 'MB'], body)
    return f'{table}\n\n{asked}. Measured: {release.source()}.'


TABLE = Table(
    'large',
    'memory and time of rasters of 10⁶ pixels a side, and of 10 000 files',
    trials,
    release_rows,
    markdown,
    rows=tuple(ROWS),
)
