# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""What options for noisy and rare labels do in the fit on a frozen backbone.

``map`` on whole scenes with ``lr_noisy.tif``, each fitted and mapped by itself with each
option and seed (of folds and of the drawn pixels that prompts are made from).
"""

import argparse
from collections.abc import Iterator
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

from .regions import Region, find_regions, tiny_data
from .scenes import TINY
from .scores import figures_of
from .store import Release, Row
from .table import Table, Trial, seed_grid, seed_rows, source_of_seeds

SETS = ('openearthmap', 'deepglobe', 'sentinel2_korea')
FIGURES = {
    'miou': 'mIoU',
    'recall': 'mean class accuracy',
    'minority_iou': 'minority IoU',
}

#: Title of each row, and its options of the fit.
ROWS: dict[str, tuple[str, dict[str, Any]]] = {
    'default': ('the default', {}),
    'none': ('labels as they are (`--noise none`)', {'noise': 'none'}),
    'sce': (
        'pseudo-label weights from symmetric cross entropy (`--noise sce`)',
        {'noise': 'sce'},
    ),
    'small-loss': (
        'cells of small loss (`--noise small-loss`)',
        {'noise': 'small-loss'},
    ),
    'log': (
        'classes weighed by W of Dong et al. (`--class-weight log`)',
        {'class_weight': 'log', 'noise': 'none'},  # denoising has weights of its own
    ),
    'log+sce': (
        'both W and symmetric cross entropy',
        {'class_weight': 'log', 'noise': 'sce'},
    ),
}


def trials(options: argparse.Namespace) -> Iterator[Trial]:
    """A scene with an option and a seed each."""
    data = tiny_data(options.work / 'tiny') if options.tiny else options.data
    regions = [r for r in find_regions(data, options.sets) if r.labels == 'noisy']
    backbone = TINY if options.tiny else 'rcf'
    for seed, region, row in product(options.seeds, regions, options.rows):
        key = {'set': region.set, 'scene': region.name, 'row': row, 'seed': seed}
        settings = {'seed': seed, 'backbone': backbone, **ROWS[row][1]}
        yield key, partial(_measure, region, options.work / 'noise', settings)


def _measure(region: Region, work: Path, settings: Row) -> Row:
    (matrix,) = region.score(region.map(work, **settings)).values()
    figures = figures_of(matrix)
    return {name: round(figures[name], 5) for name in FIGURES}


def markdown(release: Release) -> str:
    """The table, and where it was measured."""
    return f'{seed_grid(release, ROWS, FIGURES)}\n\n{source_of_seeds(release)}'


TABLE = Table(
    'frozen-noise',
    'options for noisy labels in the fit on a frozen backbone',
    trials,
    partial(seed_rows, figures=FIGURES),
    markdown,
    sets=SETS,
    rows=tuple(ROWS),
    seeds=(0, 1, 2),
)
