# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""Networks trained from coarse labels, beside what they are compared with.

HR labels of a scene score its maps, and train nothing but the row that is called a
bound; exemplars are HR labels of elsewhere. Figures are kept after each training: the
same command again goes on from there, and several with different ``--rows`` can fill
one file.
"""

import argparse
import fcntl
import json
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console

from . import training_statistics  # noqa: F401 (more rows)
from .origin import ROOT, about, commit
from .training_places import MADE, TRAINING_SETS, Place, find_places
from .training_rows import BATCH, CROP, ROWS, Trial

RESULTS = Path(__file__).parent / 'results' / 'training.json'
SEEDS = (0, 1, 2)
STEPS = 120


def measure(trial: Trial, name: str) -> dict[str, Any]:
    """Train, map and score.

    Args:
        trial: Where, and with what seed.
        name: Which row.

    Returns:
        Figures, as JSON types.
    """
    start = time.perf_counter()
    maps = ROWS[name].make(trial)
    seconds = time.perf_counter() - start
    parts = list(trial.place.region.score(maps).values())
    total = sum(parts[1:], parts[0])
    developed = trial.place.region.score_developed(maps)
    return {
        'miou': round(total.miou, 5),
        'accuracy': round(total.accuracy, 5),
        'f1': round(total.macro_f1, 5),
        'confusion': total.matrix.tolist(),
        'developed': None if developed is None else developed.matrix.tolist(),
        'unmapped': total.unmapped,
        'steps': trial.steps if ROWS[name].trained else 0,
        'seconds': round(seconds, 1),
        'commit': commit(),
    }


def run(
    places: Sequence[Place],
    output: Path,
    console: Console,
    work: Path,
    rows: Sequence[str] | None = None,
    seeds: Sequence[int] = SEEDS,
    steps: int = STEPS,
    seconds: float = float('inf'),
) -> dict[str, Any]:
    """Measure what is not in the results file yet, seed by seed.

    Args:
        places: Where to train.
        output: Results file, JSON.
        console: Says what is found.
        work: Folder for files that are made.
        rows: Rows to measure; all by default.
        seeds: Seeds.
        steps: Batches that a network is trained on.
        seconds: Begin nothing after so long.

    Returns:
        The content of the results file.
    """
    start = time.monotonic()
    for seed in seeds:
        for place in places:
            for name in rows or ROWS:
                # what knows no seed is measured once
                drawn = seed if ROWS[name].trained else SEEDS[0]
                key = f'{place.name}/{name}/{drawn}'
                if key in read(output)['runs']:
                    continue
                if time.monotonic() - start > seconds:
                    return read(output)
                found = measure(Trial(place, seed, steps, work), name)
                console.print(
                    f'{key:40} mIoU {found["miou"]:.3f} accuracy '
                    f'{found["accuracy"]:.3f} F1 {found["f1"]:.3f} '
                    f'{found["seconds"]:6.1f} s'
                )
                with changed(output) as results:
                    results['runs'][key] = found
                    results['about'] = about()
                    results['settings'] = {'crop': CROP, 'batch': BATCH}
    return read(output)


def read(path: Path) -> dict[str, Any]:
    """Read a results file; an empty one if it is not there.

    Args:
        path: The file.
    """
    if not path.exists():
        return {'about': {}, 'settings': {}, 'runs': {}}
    return dict(json.loads(path.read_text()))


@contextmanager
def changed(path: Path) -> Iterator[dict[str, Any]]:
    """Change a results file, one process at a time.

    Args:
        path: The file.

    Yields:
        Its content; what is made of it is written, by a rename.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with (Path(tempfile.gettempdir()) / f'{path.name}.lock').open('w') as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        results = read(path)
        yield results
        results['runs'] = dict(sorted(results['runs'].items(), key=_order))
        part = path.with_suffix(f'.{os.getpid()}.part')
        part.write_text(json.dumps(results, indent=1) + '\n')
        part.replace(path)


def _order(item: tuple[str, Any]) -> tuple[int, str, int, int]:
    name, scene, kind, seed = item[0].split('/')
    known = list(ROWS)
    place = known.index(kind) if kind in known else len(known)
    return TRAINING_SETS.index(name), scene, place, int(seed)


def main(args: Sequence[str] | None = None) -> None:
    """Measure, keep and print."""
    parser = argparse.ArgumentParser(
        prog='python -m benchmarks.training',
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    work = Path(tempfile.gettempdir()) / 'torchgeo-mapsr-training'
    parser.add_argument('--data', type=Path, default=ROOT.parent / 'shared' / 'data')
    parser.add_argument('--work', type=Path, default=work, help='for what is made')
    parser.add_argument('--output', type=Path, default=RESULTS)
    parser.add_argument('--sets', nargs='+', choices=TRAINING_SETS)
    parser.add_argument('--rows', nargs='+', choices=ROWS)
    parser.add_argument('--seeds', nargs='+', type=int, default=list(SEEDS))
    parser.add_argument('--steps', type=int, default=STEPS)
    parser.add_argument('--side', type=int, default=MADE, help='of the made scene')
    parser.add_argument(
        '--seconds',
        type=float,
        default=float('inf'),
        help='begin nothing after so long',
    )
    parser.add_argument('--again', action='store_true', help='measure these rows anew')
    options = parser.parse_args(args)
    sets, rows = options.sets or TRAINING_SETS, options.rows or list(ROWS)
    if options.again:
        with changed(options.output) as results:
            for key in list(results['runs']):
                name, _, kind, seed = key.split('/')
                if name in sets and kind in rows and int(seed) in options.seeds:
                    del results['runs'][key]
    places = list(find_places(options.data, options.work, sets, options.side))
    run(
        places,
        options.output,
        Console(highlight=False, soft_wrap=True),
        options.work,
        rows,
        options.seeds,
        options.steps,
        options.seconds,
    )


if __name__ == '__main__':
    main()
