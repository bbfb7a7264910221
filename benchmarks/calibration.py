# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""How far the confidence of a map is from its accuracy, before and after calibration.

A fit is made of each scene as the command makes it, and maps the scene twice: as it is, and
with ``--no-calibrate``. HR labels score the confidence and nothing else.
"""

import argparse
from collections import defaultdict
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path

import numpy as np

from .package import TARGET, Reliability, map_reliability, mapsr, run_job
from .regions import REAL, SETS, TOGETHER, UNSOUND, Region, find_regions, tiny_data
from .scenes import TINY
from .store import Record, Release, Row
from .table import Table, Trial, grid

# Asked for: what is left of the calibration error.
LEFT = 0.5
BINS = 15
KINDS = {'nlcd': 'NLCD-like', REAL: 'NLCD', 'noisy': 'noisy', 'clean': 'clean'}


def measure(region: Region, work: Path, seed: int, backbone: str) -> Row:
    """Map a region with and without calibration."""
    imagery = region.links(work)
    fit = work / 'fit.safetensors'
    common = {'seed': seed, 'backbone': backbone}
    report = run_job(
        imagery,
        region.label_files,
        region.legend,
        f'{work / "calibrated"}/',
        save_model=fit,
        **common,
    )
    raw = {'model': fit, 'calibrate': False, 'seed': seed}
    run_job(imagery, region.label_files, region.legend, f'{work / "raw"}/', **raw)
    calibrated, before = (_reliability(region, work / n) for n in ('calibrated', 'raw'))
    right = calibrated.right.sum() / calibrated.pixels.sum()
    return {
        'accuracy': round(float(right), 4),
        'before': round(before.ece, 4),
        'after': round(calibrated.ece, 4),
        'temperature': report['fit']['calibration']['temperature'],
        'description': report['fit']['calibration']['description'],
    }


def _reliability(region: Region, folder: Path) -> Reliability:
    """Confidence of the maps of a folder against the HR labels of sound scenes."""
    total = Reliability.of(np.zeros(0), np.zeros(0), BINS)
    target = mapsr.Legend.load(TARGET)
    same = mapsr.Crosswalk.load(target, target)
    walk = mapsr.Crosswalk.load(region.truth_legend, target)
    for scene in region.scenes:
        if region.set in TOGETHER and scene.name.endswith(UNSOUND):
            continue
        path = folder / f'{scene.name}.tif'
        beside = path.with_name(f'{path.stem}_confidence.tif')
        truth = mapsr.LabelRaster.open([scene / 'hr.tif'])
        total += map_reliability(path, beside, truth, same, walk, BINS)
    return total


def trials(options: argparse.Namespace) -> Iterator[Trial]:
    """A region each."""
    data = tiny_data(options.work / 'tiny') if options.tiny else options.data
    for seed in options.seeds:
        for region in find_regions(data, options.sets):
            if region.labels not in options.rows:
                continue
            key = {'set': region.set, 'labels': region.labels, 'scene': region.name}
            name = f'{region.set}-{region.name}-{region.labels}-{seed}'
            work = options.work / 'calibration' / name
            backbone = TINY if options.tiny else 'rcf'
            yield key | {'seed': seed}, partial(measure, region, work, seed, backbone)


def release_rows(records: Iterable[Record]) -> Iterator[tuple[Row, Row]]:
    """A line for each region."""
    for record in records:
        yield {**record.key, **record.figures}, record.origin


def markdown(release: Release) -> str:
    """Errors of each region, and the mean of each kind of labels."""
    groups: dict[str, list[Row]] = defaultdict(list)
    for row in release.rows:
        groups[row['labels']].append(row)
    body, verdicts = [], []
    for kind, rows in groups.items():
        for row in rows:
            name = f'{row["set"]} {"" if row["scene"] == "all" else row["scene"]}'
            figures = [row['accuracy'], row['before'], row['after'], row['temperature']]
            body.append([KINDS[kind], name.strip(), *(f'{f:.3f}' for f in figures)])
        before, after = (np.mean([r[n] for r in rows]) for n in ('before', 'after'))
        body.append([KINDS[kind], '**mean**', '', f'{before:.3f}', f'{after:.3f}', ''])
        good = 'yes' if after <= LEFT * before else '**no**'
        verdicts.append(f'{KINDS[kind]}: {after / before:.2f} of it is left ({good})')
    scenes: dict[tuple[str, str], list[Row]] = defaultdict(list)
    for row in release.rows:
        scenes[row['set'], row['scene']].append(row)
    left = [
        sum(r['after'] for r in rows) / sum(r['before'] for r in rows)
        for rows in scenes.values()
    ]
    halved = sum(share <= LEFT for share in left)
    verdicts.append(
        f'by scene, over its kinds of labels: {min(left):.2f} to {max(left):.2f} of it, '
        f'at most half on {halved} of {len(left)}'
    )
    head = ['labels', 'scene', 'accuracy', 'ECE before', 'ECE after', 'temperature']
    asked = f'Asked for: at most half is left. {"; ".join(verdicts)}.'
    note = f'{BINS} bins. Measured: {release.source()}.'
    return f'{grid(head, body, left=2)}\n\n{asked} {note}'


TABLE = Table(
    'calibration',
    'calibration error of the confidence on real scenes',
    trials,
    release_rows,
    markdown,
    sets=tuple(SETS),
    rows=tuple(KINDS),
    pages=[
        (Path(__file__).parent.parent / 'docs' / 'evaluate.md', 'calibration', markdown)
    ],
)
