# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""How often the intervals of ``torchgeo-mapsr area`` cover the truth: a simulation.

A map of known truth: both are rasters, the map is wrong at patches that depend on the class.
Each sample is drawn by ``torchgeo-mapsr sample``, labelled from the truth without an
error, and given to ``torchgeo-mapsr area``; areas and accuracies are counted.
"""

import argparse
from collections import defaultdict
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path

import geopandas
import numpy as np
import rasterio
from scipy.ndimage import gaussian_filter

from .package import TARGET, mapsr, read_intervals, run_command
from .scores import Matrix
from .store import Record, Release, Row
from .table import Table, Trial, grid

# Asked for: the share of 95 % intervals that cover the truth.
LEAST, MOST = 0.93, 0.97
SAMPLES, SIDE = 1000, 600
PIXEL = 10.0

# Of the points, beside which their style lies.
LAYER = 'points'

# What samples are stratified by: the map's classes, or those and their confidence. Of a map
# with a rare class most samples see none of its pixels that the map has as others.
STRATA = {
    'class': ('class',),
    'class-confidence': ('class', 'confidence'),
    'class-rare': ('class',),
}
WORDS = {'class-rare': 'class, Water 1 % of the ground and hardly seen elsewhere'}


def map_with_errors(folder: Path, side: int, rare: bool) -> tuple[Path, Matrix]:
    """A map with errors, and the codes of its truth."""
    rng = np.random.default_rng(0)

    def smooth(sigma: float) -> np.ndarray:
        return gaussian_filter(rng.standard_normal((side, side)), sigma)

    def ranks(values: np.ndarray) -> np.ndarray:
        return values.ravel().argsort().argsort().reshape(values.shape) / values.size

    # shares of the four classes: one rare, two common
    edges = [0.0125 if rare else 0.05, 0.45, 0.85]
    truth = 1 + np.searchsorted(edges, ranks(smooth(side / 40)))
    wrong = ranks(smooth(2)) < np.array([0.0, 0.25, 0.08, 0.15, 0.2])[truth]
    other = 1 + (truth + rng.integers(0, 3, truth.shape)) % 4
    if rare:
        other = 2 + (truth - 2 + rng.integers(1, 3, truth.shape)) % 3
        other[rng.random(truth.shape) < 0.004] = 1
    classes = np.where(wrong, other, truth)
    percent = np.where(wrong, 66, 80) + 12 * rng.standard_normal(truth.shape)
    profile = {'driver': 'GTiff', 'width': side, 'height': side, 'count': 1}
    profile |= {'dtype': 'uint8', 'crs': 'EPSG:5070'}
    profile['transform'] = rasterio.Affine(PIXEL, 0, 1.5e6, 0, -PIXEL, 1.9e6)
    for name, values in (('map', classes), ('map_confidence', percent.clip(30, 100))):
        nodata = {'map': 0, 'map_confidence': 255}[name]
        with rasterio.open(
            folder / f'{name}.tif', 'w', nodata=nodata, **profile
        ) as file:
            file.write(values.astype('uint8'), 1)
    return folder / 'map.tif', truth


def true_values(path: Path, truth: Matrix) -> dict[str, float]:
    """Hectares and accuracies of each class of the map, of all its pixels."""
    with rasterio.open(path) as file:
        mapped = file.read(1)
    right = mapped == truth
    values = {'overall accuracy': float(right.mean())}
    for item in mapsr.Legend.load(TARGET).classes:
        area = float((truth == item.code).sum()) * PIXEL**2 / 1e4
        values[f'area, {item.name}'] = area
        values[f'user’s accuracy, {item.name}'] = right[mapped == item.code].mean()
        values[f'producer’s accuracy, {item.name}'] = right[truth == item.code].mean()
    return values


def _run(*args: object) -> None:
    code, _, error = run_command(*args)
    if code:
        raise mapsr.InputError(f'torchgeo-mapsr {args[0]} failed: {error}')


def sample_covers(path: Path, truth: Matrix, strata: str, seed: int) -> Row:
    """Draw and label a sample; which intervals of the areas cover the truth's."""
    points = path.with_name(f'points-{strata}-{seed}.gpkg')
    figures = points.with_suffix('.json')
    by = '--strata', *STRATA[strata]
    _run('sample', path, '--output', points, '--seed', seed, '--overwrite', *by)
    frame = geopandas.read_file(points, layer=LAYER)
    with rasterio.open(path) as file:
        places = frame.geometry.to_crs(file.crs)
        rows, columns = rasterio.transform.rowcol(file.transform, places.x, places.y)
    frame['reference'] = truth[np.asarray(rows), np.asarray(columns)]
    frame.to_file(points, layer=LAYER, driver='GPKG')
    _run('area', path, '--points', points, '--json', figures, '--overwrite')
    values = true_values(path, truth)
    covers = {
        name: None not in interval and bool(interval[0] <= values[name] <= interval[1])
        for name, interval in read_intervals(figures).items()
    }
    points.unlink()
    figures.unlink()
    return {'covers': covers, 'points': len(frame)}


def trials(options: argparse.Namespace) -> Iterator[Trial]:
    """A sample each."""
    side, samples = (100, 2) if options.tiny else (SIDE, SAMPLES)
    for strata in options.rows:
        folder = options.work / 'coverage' / strata
        folder.mkdir(parents=True, exist_ok=True)
        path, truth = map_with_errors(folder, side, strata == 'class-rare')
        for seed in range(samples):
            key = {'strata': strata, 'seed': seed}
            yield key, partial(sample_covers, path, truth, strata, seed)


def release_rows(records: Iterable[Record]) -> Iterator[tuple[Row, Row]]:
    """A line for each figure and kind of strata: samples whose interval covers it."""
    groups: dict[str, list[Record]] = defaultdict(list)
    for record in records:
        groups[record.key['strata']].append(record)
    for strata, group in groups.items():
        points = group[0].figures['points']
        for figure in group[0].figures['covers']:
            covered = sum(record.figures['covers'][figure] for record in group)
            line = {'strata': strata, 'figure': figure, 'covered': covered}
            yield line | {'samples': len(group), 'points': points}, group[-1].origin


def markdown(release: Release) -> str:
    """Coverage of each interval, and whether it is as asked for."""
    body = []
    for row in release.rows:
        share = row['covered'] / row['samples']
        verdict = '**no**' if share < LEAST else 'yes' if share <= MOST else 'wide'
        strata = row['strata']
        kind = WORDS.get(strata, ', '.join(STRATA[strata]))
        words = [kind, row['figure'], f'{row["points"]}']
        body.append([*words, f'{share:.1%}', f'93 to 97 % {verdict}'])
    head = ['strata', 'figure', 'points', 'intervals that cover it', 'asked for']
    note = f'{release.rows[0]["samples"]} samples. Measured: {release.source()}.'
    return f'{grid(head, body, left=2)}\n\n{note}'


TABLE = Table(
    'coverage',
    'how often 95 % intervals of areas and accuracies cover the truth',
    trials,
    release_rows,
    markdown,
    rows=tuple(STRATA),
    pages=[(Path(__file__).parent.parent / 'docs' / 'area.md', 'coverage', markdown)],
)
