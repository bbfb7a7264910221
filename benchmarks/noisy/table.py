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
README = HERE / 'README.md'
BEGIN, END = '<!-- table: python -m benchmarks.noisy.table -->', '<!-- end of noisy -->'

FIGURES = {
    'miou': 'mIoU',
    'accuracy': 'mean class accuracy',
    'minority_iou': 'minority IoU',
}


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


def fill(page: str, results: dict[str, Any]) -> str:
    """A page with what stands between its two marks made anew."""
    before, rest = page.split(BEGIN)
    return f'{before}{BEGIN}\n{markdown(results)}\n{END}{rest.split(END)[1]}'


def main(args: Sequence[str] | None = None) -> None:
    """Put the table into the README."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--results', type=Path, default=RESULTS)
    parser.add_argument('--page', type=Path, default=README)
    options = parser.parse_args(args)
    results = json.loads(options.results.read_text())
    options.page.write_text(fill(options.page.read_text(), results))


if __name__ == '__main__':
    main()
