# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""Speed and memory, as ratios that are each measured in one run.

Parts: overhead (what follows the backbone), published (the published way done plainly),
accuracy (mean IoU of both ways on real scenes), fit, flat (memory and time against the
raster's size), read (chips a second without a backbone) and gpu. Each keeps its figures
in ``benchmarks/results/speed.json``; ``python -m benchmarks.table`` puts them into the
pages.
"""

import argparse
import json
import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from . import (
    speed_fit,
    speed_flat,
    speed_gpu,
    speed_overhead,
    speed_published,
    speed_read,
)
from .measure import CLOCK, clock
from .origin import ROOT, about, commit
from .speed_table import RESULTS, checks

SHARED = ROOT.parent / 'shared'
WEIGHTS = SHARED / 'weights' / 'mobilenetv2_100_imagenet.safetensors'

# Small enough for a test of minutes on a CPU: it says that everything runs, no more.
TINY = {
    'overhead': {
        'size': 512,
        'rcf': 'rcf?filters=4&colours=8&strides=1,4',
        'rounds': 1,
    },
    'published': {'chip': 448, 'window': 32},
    'fit': {'cells': 2000, 'dimensions': 32, 'pixels': 4000},
    'flat': {'sizes': (256, 512)},
    'read': {'size': 512, 'rounds': 1},
    'gpu': {
        'size': 256,
        'specs': ('timm:test_vit?weights=random',),
        'chip': 160,
        'repeats': 3,
    },
}


def parts(folder: Path) -> dict[str, Callable[..., dict[str, Any]]]:
    """What can be measured.

    Args:
        folder: Where scenes are kept and maps are put.
    """
    return {
        'overhead': lambda **how: speed_overhead.measure(folder, **how),
        'published': lambda **how: speed_published.measure(folder, **how),
        'accuracy': lambda: speed_published.accuracy(SHARED / 'data', WEIGHTS),
        'fit': lambda **how: speed_fit.measure(folder, **how),
        'flat': lambda **how: speed_flat.measure(folder, **how),
        'read': lambda **how: speed_read.measure(folder, **how),
        'gpu': lambda **how: speed_gpu.measure(folder, **how),
    }


def main(args: Sequence[str] | None = None) -> None:
    """Measure, keep and print."""
    parser = argparse.ArgumentParser(
        prog='python -m benchmarks.speed',
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    names = list(parts(Path()))
    parser.add_argument('parts', nargs='*', metavar='PART', help=', '.join(names))
    parser.add_argument('--scenes', type=Path, help='folder that keeps made scenes')
    parser.add_argument('--output', type=Path, default=RESULTS)
    parser.add_argument(
        '--tiny', action='store_true', help='whether it runs, on tiny scenes'
    )
    parser.add_argument(
        '--clock',
        choices=('wall', 'cpu'),
        default=clock(),
        help='cpu: CPU time of all threads, for a machine that others use too; with '
        'OMP_NUM_THREADS=1, or threads that wait for one another count',
    )
    options = parser.parse_args(args)
    os.environ[CLOCK] = options.clock
    unknown = set(options.parts) - set(names)
    if unknown:
        parser.error(f'no such part: {", ".join(sorted(unknown))}')
    console = Console(highlight=False, soft_wrap=True)
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.scenes or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        for name in options.parts or names:
            how = TINY.get(name, {}) if options.tiny else {}
            found = parts(folder)[name](**how)
            console.print_json(json.dumps({name: found}))
            origin = {**about(), 'commit': commit(), 'clock': options.clock}
            keep(options.output, name, {**origin, **found})
    for text, good in checks(json.loads(options.output.read_text())):
        console.print(f'{"yes" if good else "NO":>3}: {text}')


def keep(path: Path, name: str, found: dict[str, Any]) -> None:
    """Put the figures of a part into the results file.

    Args:
        path: The file.
        name: The part.
        found: Its figures.
    """
    results = json.loads(path.read_text()) if path.exists() else {}
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix('.part')
    part.write_text(json.dumps({**results, name: found}, indent=1) + '\n')
    part.replace(path)


if __name__ == '__main__':
    main()
