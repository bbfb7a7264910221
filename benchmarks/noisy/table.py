# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""The table of noisy and scarce labels, from the results file alone.

``python -m benchmarks.noisy.table`` puts it into ``benchmarks/README.md``.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .rows import TITLES
from .sets import SETS

HERE = Path(__file__).parents[1]
RESULTS = HERE / 'results' / 'noisy.json'
FROZEN = HERE / 'results' / 'frozen_noise.json'
README = HERE / 'README.md'
BEGIN, END = '<!-- table: python -m benchmarks.noisy.table -->', '<!-- end of noisy -->'

FIGURES = {
    'miou': 'mIoU',
    'accuracy': 'mean class accuracy',
    'minority_iou': 'minority IoU',
}


FROZEN_TITLES = {
    'default': 'the default',
    'sce': 'pseudo-label weights from symmetric cross entropy (`--noise sce`)',
    'small-loss': 'cells of small loss (`--noise small-loss`)',
    'log': 'classes weighed by W of Dong et al. (`--class-weight log`)',
    'log+sce': 'both W and symmetric cross entropy',
}
FITS = (
    'The fit on a frozen backbone (`rcf`), with the same options: `map` on whole scenes '
    'with `lr_noisy.tif`, each fitted and mapped by itself '
    '(`python -m benchmarks.frozen_noise`).'
)


def figure(results: dict[str, Any], name: str, row: str, key: str) -> str:
    """Mean ± standard deviation over the seeds; how many, where not three."""
    seeds = results['found'].get(name, {}).values()
    values = [found[row][key] for found in seeds if row in found]
    if not values:
        return '–'
    spread = f' ± {np.std(values, ddof=1):.3f}' if len(values) > 1 else ''
    few = '' if len(values) == 3 else f' ({len(values)})'
    return f'{np.mean(values):.3f}{spread}{few}'


def markdown(results: dict[str, Any]) -> str:
    """The table, and where the figures come from."""
    names = [name for name in SETS if name in results['found']]
    heads = [f'{name}: {title}' for name in names for title in FIGURES.values()]
    lines = ['| | ' + ' | '.join(heads) + ' |', '|---' + '|--:' * len(heads) + '|']
    for row, title in TITLES.items():
        cells = [figure(results, name, row, key) for name in names for key in FIGURES]
        if any(cell != '–' for cell in cells):
            lines.append(f'| {title} | ' + ' | '.join(cells) + ' |')
    found = [
        row
        for seeds in results['found'].values()
        for rows in seeds.values()
        for row in rows.values()
    ]
    if not found:
        return '\n'.join(lines)
    about = results['about']
    commits = ', '.join(sorted({row['commit'] for row in found}))
    seconds = sum(row['seconds'] for row in found)
    used = ', '.join(
        f'{name} {about["versions"][name]}' for name in ('python', 'torch', 'torchgeo')
    )
    source = (
        'Mean ± standard deviation of three seeds (in brackets: of so many). Measured '
        f'{about["date"]} on {about["machine"]} ({used}), commit {commits}; '
        f'{seconds / 60:.0f} minutes of processor time in all. Every training: '
        f'{about["network"]}, random start, steps of {about["batch"]} crops of '
        f'{about["crop"]}² pixels: {_steps(results)}.'
    )
    lines += ['', source]
    return '\n'.join(lines)


def _steps(results: dict[str, Any]) -> str:
    """How long the networks of each set were trained."""
    found = {
        name: sorted({row['steps'] for rows in seeds.values() for row in rows.values()})
        for name, seeds in results['found'].items()
    }
    return ', '.join(
        f'{" or ".join(map(str, steps))} for {name}' for name, steps in found.items()
    )


def frozen(results: dict[str, Any]) -> str:
    """The table of fits on a frozen backbone.

    A figure is the mean over a set's scenes, and then over the seeds.
    """
    regions = results['regions']
    names = list(dict.fromkeys(key.split('/')[0] for key in regions))
    heads = [f'{name}: {title}' for name in names for title in FIGURES.values()]
    lines = ['| | ' + ' | '.join(heads) + ' |', '|---' + '|--:' * len(heads) + '|']
    for row, title in FROZEN_TITLES.items():
        cells = []
        for name in names:
            scenes = [v for key, v in regions.items() if key.startswith(f'{name}/')]
            seeds = sorted({key.split('/')[1] for scene in scenes for key in scene})
            for key in FIGURES:
                each = [
                    np.mean([scene[f'{row}/{seed}'][key] for scene in scenes])
                    for seed in seeds
                ]
                cells.append(f'{np.mean(each):.3f} ± {np.std(each, ddof=1):.3f}')
        lines.append(f'| {title} | ' + ' | '.join(cells) + ' |')
    commits = {f['commit'] for scene in regions.values() for f in scene.values()}
    about = results['about']
    source = (
        f'Mean ± standard deviation of three seeds. Measured {about["date"]} on '
        f'{about["machine"]}, commit {", ".join(sorted(commits))}.'
    )
    return '\n'.join([*lines, '', source])


def fill(page: str, results: dict[str, Any], fits: dict[str, Any]) -> str:
    """A page with what stands between its two marks made anew."""
    before, rest = page.split(BEGIN)
    tables = f'{markdown(results)}\n\n{FITS}\n\n{frozen(fits)}'
    return f'{before}{BEGIN}\n{tables}\n{END}{rest.split(END)[1]}'


def main(args: Sequence[str] | None = None) -> None:
    """Put the table into the README."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--results', type=Path, default=RESULTS)
    parser.add_argument('--page', type=Path, default=README)
    options = parser.parse_args(args)
    results = json.loads(options.results.read_text())
    fits = json.loads(FROZEN.read_text())
    options.page.write_text(fill(options.page.read_text(), results, fits))


if __name__ == '__main__':
    main()
