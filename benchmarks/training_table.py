# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""The table of trained networks, from its results file alone.

``python -m benchmarks.training_table`` puts it into ``benchmarks/README.md``.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .table import README
from .training import RESULTS
from .training_places import TRAINING_SETS
from .training_rows import ROWS

BEGIN = '<!-- table: python -m benchmarks.training_table -->'
END = '<!-- end of the table of trained networks -->'

FIGURES = {'miou': 'mIoU', 'accuracy': 'accuracy', 'f1': 'F1'}

# What the papers found: the first row is above the second.
CLAIMS = (
    ('app', 'low'),
    ('pre', 'app'),
    ('low', 'agg'),
    ('sr', 'low'),
    ('high', 'low'),
)


def values(results: dict[str, Any], name: str, row: str, figure: str) -> list[float]:
    """A row's figure on a set, of each seed: the mean over the set's places.

    Args:
        results: Content of the results file.
        name: Set.
        row: Row.
        figure: Which figure.

    Returns:
        One value a seed; only of seeds that all places have, where any row has them.
    """
    parts = [(key.split('/'), run) for key, run in results['runs'].items()]
    scenes = {scene for (place, scene, *_), _ in parts if place == name}
    by_seed: dict[str, list[float]] = {}
    for (place, _, kind, seed), run in parts:
        if (place, kind) == (name, row):
            by_seed.setdefault(seed, []).append(run[figure])
    return [
        float(np.mean(v)) for _, v in sorted(by_seed.items()) if len(v) == len(scenes)
    ]


def cells(results: dict[str, Any]) -> list[list[str]]:
    """The table: a header, then a line for each row that has a figure."""
    sets = [s for s in TRAINING_SETS if any(k.startswith(s) for k in results['runs'])]
    columns = [(name, figure) for name in sets for figure in FIGURES]
    lines = [['', *(f'{name} {FIGURES[figure]}' for name, figure in columns)]]
    for name, row in ROWS.items():
        found = [values(results, column, name, figure) for column, figure in columns]
        if any(found):
            lines.append([row.title, *map(_cell, found)])
    return lines


def checks(results: dict[str, Any]) -> list[str]:
    """What the papers found, and whether it was found here."""
    found = []
    for above, below in CLAIMS:
        if above not in ROWS or below not in ROWS:
            continue
        for name in TRAINING_SETS:
            a, b = (values(results, name, row, 'miou') for row in (above, below))
            if not a or not b:
                continue
            gain = float(np.mean(a) - np.mean(b))
            # of two means, by the spread of the seeds
            spread = [np.var(v, ddof=1) / len(v) if len(v) > 1 else 0 for v in (a, b)]
            noise = float(np.sqrt(sum(spread)))
            verdict = 'yes' if gain > noise else 'no' if gain < -noise else 'level'
            if min(len(a), len(b)) == 1:
                verdict = 'a single seed'
            found.append(
                f'{verdict}: {ROWS[above].title} above {ROWS[below].title}, {name}: '
                f'{gain:+.3f} mIoU (± {noise:.3f})'
            )
    return found


def markdown(results: dict[str, Any]) -> str:
    """Table and checks, and where the figures come from."""
    head, *body = cells(results)
    lines = ['| ' + ' | '.join(head) + ' |', '|---' + '|--:' * (len(head) - 1) + '|']
    lines += ['| ' + ' | '.join(line) + ' |' for line in body]
    lines += ['', *(f'- {text}' for text in checks(results))]
    runs = results['runs'].values()
    about, settings = results['about'], results['settings']
    used = ', '.join(
        f'{name} {about["versions"][name]}' for name in ('python', 'torch', 'torchgeo')
    )
    steps = ' or '.join(str(n) for n in sorted({r['steps'] for r in runs} - {0}))
    lines += [
        '',
        (
            f'Mean ± standard deviation over seeds (the number in brackets, where it is not '
            f'three). Each network was trained for {steps} steps of {settings["batch"]} crops '
            f'of {settings["crop"]}² pixels. Measured {about["date"]} on {about["machine"]} '
            f'({used}), commit {", ".join(sorted({r["commit"] for r in runs}))}; '
            f'{sum(r["seconds"] for r in runs) / 60:.0f} minutes of wall time in all, on '
            'cores that others used too.'
        ),
    ]
    return '\n'.join(lines)


def fill(page: str, results: dict[str, Any]) -> str:
    """A page with what stands between its two marks made anew."""
    before, rest = page.split(BEGIN)
    return f'{before}{BEGIN}\n{markdown(results)}\n{END}{rest.split(END)[1]}'


def _cell(found: list[float]) -> str:
    if not found:
        return '–'
    text = f'{np.mean(found):.3f}'
    if len(found) > 1:
        text += f' ± {np.std(found, ddof=1):.3f}'
    return text if len(found) in (1, 3) else f'{text} ({len(found)})'


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
