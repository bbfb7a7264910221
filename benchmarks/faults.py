# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""Faults that are tried, and whether they are survived.

Bad input to the verbs: one line, exit code 2 and no output, or a whole output. Kills,
crash states (the folder as it is before each file operation), full disks and flipped bits:
the same command again has the same bytes as a run that nothing happened to, or says in one
line why not.
"""

import argparse
import contextlib
import errno
import itertools
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import rasterio

from .package import mapsr, run_command
from .store import ROOT, Record, Release, Row
from .table import Table, Trial, grid

PAGE = ROOT / 'docs' / 'faults.md'

# What is asked for: the least share that is survived, and how many are tried.
ASKED = {
    'bad input': (0.99, 300),
    'random kill': (1.0, 200),
    'crash state': (1.0, 1),
    'flipped bit': (1.0, 1),
    'disk full': (1.0, 20),
}
BACKBONE = 'rcf?filters=4&colours=8&strides=1,4'
MAP = (
    'map', 'imagery.tif', '--labels', 'lr.tif', '--legend', 'nlcd', '--output', 'map.tif',
    '--backbone', BACKBONE, '--tile-size', '96', '--chip-size', '96', '--quiet',
)  # fmt: skip
OUTPUTS = 'map.tif', 'map_confidence.tif'
WRITTEN = '.tif', '.gpkg', '.yaml', '.json'

# Values that no number of an option has, and numbers that few have.
VALUES = 'nan', 'inf', '-inf', '-1', '1e400', '', '0x10', '1,5', '\0', 'ä', '9' * 400
NUMBERS = (
    'prior', 'prompts', 'confidence-quantile', 'class-balance', 'chip-size', 'overlap',
    'tile-size', 'max-chips', 'bands', 'nodata', 'seed',
)  # fmt: skip
WORDS = (
    'legend', 'target', 'crosswalk', 'backbone', 'weights', 'model', 'checkpoint', 'score',
    'upsampler', 'propagate', 'device', 'precision', 'executor', 'output', 'recipe',
    'noise', 'class-weight',
)  # fmt: skip
WORD_VALUES = '', '\0', 'no such thing', '../..', '[', '/dev/null', 'x' * 5000

# Side of a scene that is enough for two classes of whole cells, in pixels of a metre.
SMALL = 112

# Seconds after which a run counts as hanging.
HANGS = 120


def make_folder(folder: Path, side: int) -> Path:
    """A made scene to run in, with a finished map of it in ``reference``."""
    if not (folder / 'reference' / 'map.tif').exists():
        mapsr.make_scene(folder / 'scene', size=(side, side))
        shutil.copytree(folder / 'scene', folder / 'reference', dirs_exist_ok=True)
        code, _, error = run_in(folder / 'reference')
        assert code == 0, error
    return folder


def run_in(folder: Path, *args: object) -> tuple[int, str, str]:
    """Run a command, by default MAP, in a folder of this process; -1 if it raises."""

    def stop(*_: object) -> None:
        raise TimeoutError(f'hangs for {HANGS} s')

    # Windows has no such clock.
    main_thread = threading.current_thread() is threading.main_thread()
    clock = main_thread and hasattr(signal, 'SIGALRM')
    before = signal.signal(signal.SIGALRM, stop) if clock else None
    if clock:
        signal.alarm(HANGS)
    try:
        with contextlib.chdir(folder):
            return run_command(*(args or MAP))
    except Exception as error:  # noqa: BLE001 (whatever gets out is looked for)
        return -1, '', repr(error)
    finally:
        if clock:
            signal.alarm(0)
            signal.signal(signal.SIGALRM, before)


def is_clean(code: int, error: str) -> bool:
    """Whether a command refused in one line; argparse writes its usage above it."""
    lines = error.strip().splitlines()
    last = lines[-1] if lines else ''
    return code == 2 and 'Traceback' not in error and last.startswith('torchgeo-mapsr')


def same_outputs(folder: Path, reference: Path) -> bool:
    """Whether the map and its confidence have the bytes of the reference."""
    pairs = ((folder / name, reference / name) for name in OUTPUTS)
    return all(a.exists() and a.read_bytes() == b.read_bytes() for a, b in pairs)


def recovers(folder: Path, reference: Path) -> str:
    """Run the command again; what is wrong then, or nothing."""
    code, _, error = run_in(folder)
    # A folder that was complete before is a refusal to overwrite it.
    complete = all((folder / name).exists() for name in OUTPUTS)
    if code == 0 or (complete and is_clean(code, error)):
        return '' if same_outputs(folder, reference) else 'other bytes'
    return error.strip()[-200:] or f'exit code {code}'


def bad_files(folder: Path) -> Iterator[tuple[str, Path]]:
    """Rasters that are none, or none that can be used."""
    folder.mkdir(parents=True, exist_ok=True)
    good = folder.parent / 'reference' / 'imagery.tif'
    data = good.read_bytes()
    contents = {'empty': b'', 'text': b'no raster', 'header': data[:200]}
    contents |= {'truncated': data[: len(data) // 2], 'zeros': bytes(4096)}
    for name, content in contents.items():
        path = folder / f'{name}.tif'
        path.write_bytes(content)
        yield name, path
    yield 'missing', folder / 'missing.tif'
    yield 'directory', folder
    loop = folder / 'loop.tif'
    if not loop.is_symlink():
        loop.symlink_to(loop)
    yield 'link to itself', loop
    with rasterio.open(good) as file:
        values, profile = file.read(), file.profile
    far = rasterio.Affine.translation(1e6, 1e6) @ profile['transform']
    changes: dict[str, dict[str, Any]] = {
        'no CRS': {'crs': None},
        'engineering CRS': {'crs': 'LOCAL_CS["pixels",UNIT["metre",1]]'},
        'elsewhere': {'transform': far},
        'complex': {'dtype': 'complex64'},
        'without data': {'nodata': 0},
    }
    for name, change in changes.items():
        path = folder / f'{name.replace(" ", "-")}.tif'
        content = values * (name != 'without data')
        with rasterio.open(path, 'w', **(profile | change)) as file:
            file.write(content.astype(file.dtypes[0]))
        yield name, path


def bad_inputs(folder: Path) -> Iterator[tuple[str, list[object]]]:
    """Names and arguments of commands that cannot be done."""
    numbers, words = (
        itertools.product(NUMBERS, VALUES),
        itertools.product(WORDS, WORD_VALUES),
    )
    for option, value in (*numbers, *words):
        yield f'map --{option} {value[:9]!r}', [*MAP, f'--{option}={value}']
    reference = folder / 'reference'
    truth, made = reference / 'hr.tif', reference / 'map.tif'
    for name, path in bad_files(folder / 'bad'):
        commands: dict[str, list[object]] = {
            'map IMAGERY': ['map', path, *MAP[2:]],
            'map --labels': [*MAP[:3], path, *MAP[4:]],
            'map --model': [*MAP, '--model', path],
            'map --legend': [*MAP, '--legend', path],
            'evaluate MAP': ['evaluate', path, '--truth', truth],
            'evaluate --truth': ['evaluate', made, '--truth', path],
            'statistics LABELS': [
                'statistics', path, '--truth', truth, '--legend', 'nlcd', '--output', 's.yaml',
            ],
            'select MAP': ['select', path, '--minority', 4, '--output', 'p.gpkg'],
            'sample MAP': ['sample', path, '--output', 'p.gpkg'],
            'area --points': ['area', made, '--points', path, '--json', 'a.json'],
            'change BEFORE': ['change', path, made, '--output', 'c.tif'],
            'change AFTER': ['change', made, path, '--output', 'c.tif'],
            'export MAP': ['export', path, '--polygons', 'p.gpkg'],
            'report REPORT': ['report', path],
            'postprocess MAP': ['postprocess', path, '--output', 'c.tif'],
            'low2high TILES': ['low2high', path, '--output', 'index'],
            'fit --config': ['fit', '--config', path],
            'predict --config': ['predict', '--config', path],
        }  # fmt: skip
        for verb, args in commands.items():
            yield f'{verb} {name}', args


def try_inputs(folder: Path, part: int, parts: int) -> Row:
    """A part of the bad inputs: every tenth, say."""
    failures = []
    commands = list(bad_inputs(folder))[part::parts]
    for name, args in commands:
        run = _fresh(folder, 'input')
        before = set(run.iterdir())
        code, _, error = run_in(run, *args)
        left = any(p.suffix in WRITTEN for p in set(run.iterdir()) - before)
        if code != 0 and (left or not is_clean(code, error)):
            failures.append(f'{name}: {error.strip()[-120:]}')
    return _result('bad input', len(commands), failures)


def try_kills(folder: Path, part: int, count: int) -> Row:
    """Kill a run after a random time, and run it again."""
    rng, failures = random.Random(part), []
    start = time.monotonic()
    _start(_fresh(folder, 'kill')).wait()
    duration = time.monotonic() - start
    for number in range(count):
        run = _fresh(folder, 'kill')
        process = _start(run)
        time.sleep(rng.uniform(0, duration))
        process.kill()
        process.wait()
        if wrong := recovers(run, folder / 'reference'):
            failures.append(f'kill {part}.{number}: {wrong}')
    return _result('random kill', count, failures)


def _start(run: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, '-m', 'torchgeo_mapsr', *MAP]
    options: dict[str, Any] = dict.fromkeys(('stdout', 'stderr'), subprocess.DEVNULL)
    options['env'] = {**os.environ, 'PYTHONPATH': str(ROOT)}
    return subprocess.Popen(command, cwd=run, **options)


_WRITES = {'os.rename', 'os.remove', 'os.mkdir', 'os.rmdir', 'os.link', 'os.truncate'}
_hook: Callable[[], None] | None = None


def _audit(event: str, args: tuple[Any, ...]) -> None:
    """Calls the hook before whatever changes a file."""
    if _hook is None:
        return
    flags = args[2] if event == 'open' and len(args) > 2 else 0
    writes = isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
    if event in _WRITES or (event == 'open' and writes):
        _hook()


@contextlib.contextmanager
def before_writes(call: Callable[[], None]) -> Iterator[None]:
    """Have something called before each file operation of this process."""
    global _hook
    if not getattr(before_writes, 'added', False):
        sys.addaudithook(_audit)  # for good: there is no way to take one back
        before_writes.added = True  # type: ignore[attr-defined]
    busy = threading.RLock()
    calling = threading.local()

    def once() -> None:
        if getattr(calling, 'now', False):
            return  # by the hook's own copies
        with busy:
            calling.now = True
            try:
                call()
            finally:
                calling.now = False

    _hook = once
    try:
        yield
    finally:
        _hook = None


def crash_states(folder: Path) -> list[Path]:
    """Copies of a run's folder before each of its file operations."""
    states, run = folder / 'states', _fresh(folder, 'traced')
    shutil.rmtree(states, ignore_errors=True)
    copies: list[Path] = []

    def copy() -> None:
        copies.append(states / f'{len(copies):04}')
        shutil.copytree(run, copies[-1], symlinks=True)

    with before_writes(copy):
        run_in(run)
    return copies


def try_crashes(folder: Path, step: int = 1) -> Row:
    """Resume every crash state, or every tenth, say."""
    failures, states = [], crash_states(folder)[::step]
    for state in states:
        if wrong := recovers(state, folder / 'reference'):
            failures.append(f'state {state.name}: {wrong}')
    return _result('crash state', len(states), failures)


def try_full_disk(folder: Path, moments: int) -> Row:
    """No space left from a file operation on, at moments over a run; then again with."""
    operations = len(crash_states(folder))
    failures = []
    for moment in np.linspace(0, operations - 1, moments).astype(int).tolist():
        run, count = _fresh(folder, 'full'), itertools.count()

        def fail(moment: int = moment, count: Iterator[int] = count) -> None:
            if next(count) >= moment:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        with before_writes(fail):
            code, _, error = run_in(run)
        wrong = '' if code == 0 or is_clean(code, error) else error.strip()[-200:]
        if wrong := wrong or recovers(run, folder / 'reference'):
            failures.append(f'operation {moment} of {operations}: {wrong}')
    return _result('disk full', moments, failures)


def try_bits(folder: Path, sections: int) -> Row:
    """Flip a bit in each section of each file that a run keeps, and resume."""
    rng, failures, tried = random.Random(0), [], 0
    states = crash_states(folder)
    # the work is largest where the map is about to be put together
    unfinished = [s for s in states if not (s / 'map.tif').exists()]
    state = max(unfinished, key=lambda s: sum(p.lstat().st_size for p in s.rglob('*')))
    kept = [p.relative_to(state) for p in state.rglob('*') if p.is_file()]
    inputs = {p.name for p in (folder / 'scene').iterdir()}
    for name in (n for n in kept if n.name not in inputs):
        for section in range(sections):
            run = _fresh(folder, 'flipped', state)
            data = bytearray((run / name).read_bytes())
            if not data:
                continue
            place = int((section + rng.random()) / sections * len(data))
            data[place] ^= 1 << rng.randrange(8)
            (run / name).write_bytes(data)
            tried += 1
            code, _, error = run_in(run)
            same = same_outputs(run, folder / 'reference')
            if not (same if code == 0 else is_clean(code, error)):
                failures.append(f'{name}, byte {place}: {error.strip()[-120:]}')
    return _result('flipped bit', tried, failures)


def _fresh(folder: Path, name: str, source: Path | None = None) -> Path:
    run = folder / name
    shutil.rmtree(run, ignore_errors=True)
    return Path(shutil.copytree(source or folder / 'scene', run, symlinks=True))


def _result(kind: str, tried: int, failures: list[str]) -> Row:
    return {'kind': kind, 'tried': tried, 'failures': failures}


def trials(options: argparse.Namespace) -> Iterator[Trial]:
    """Parts of each kind of fault."""
    folder = make_folder(options.work / 'faults', SMALL if options.tiny else 192)
    parts, each, moments, step = (60, 1, 2, 20) if options.tiny else (10, 20, 20, 1)
    kinds: dict[str, list[Callable[[], Row]]] = {
        'bad input': [partial(try_inputs, folder, p, parts) for p in range(parts)],
        'random kill': [partial(try_kills, folder, p, each) for p in range(10)],
        'crash state': [partial(try_crashes, folder, step)],
        'disk full': [partial(try_full_disk, folder, moments)],
        'flipped bit': [partial(try_bits, folder, 1 if options.tiny else 8)],
    }
    for kind in options.rows:
        for part, call in enumerate(kinds[kind][: 1 if options.tiny else None]):
            yield {'kind': kind, 'part': part}, call


def release_rows(records: Iterable[Record]) -> Iterator[tuple[Row, Row]]:
    """A line for each kind of fault, with what was not survived."""
    kinds: dict[str, list[Record]] = {}
    for record in records:
        kinds.setdefault(record.key['kind'], []).append(record)
    for kind, group in kinds.items():
        failures = [text for record in group for text in record.figures['failures']]
        tried = sum(record.figures['tried'] for record in group)
        yield _result(kind, tried, failures), group[-1].origin


def markdown(release: Release) -> str:
    """What was tried and survived, and what was not."""
    body, failures = [], []
    for row in release.rows:
        least, count = ASKED[row['kind']]
        share = 1 - len(row['failures']) / max(row['tried'], 1)
        good = share >= least and row['tried'] >= count
        verdict = 'yes' if good else '**no**'
        asked = f'{least:.0%} of at least {count}'
        body.append(
            [row['kind'], f'{row["tried"]}', f'{share:.1%}', f'{asked}: {verdict}']
        )
        failures += [f'- {row["kind"]}: `{_plain(text)}`' for text in row['failures']]
    table = grid(['fault', 'tried', 'survived', 'asked for'], body)
    lost = '\n'.join(failures)
    return '\n\n'.join(t for t in (table, lost, f'Measured: {release.source()}.') if t)


def _plain(text: str) -> str:
    return ' '.join(text.replace('`', "'").split())


TABLE = Table(
    'faults',
    'bad input, kills, crash states, full disks and flipped bits',
    trials,
    release_rows,
    markdown,
    rows=tuple(ASKED),
    pages=((PAGE, 'faults', markdown),),
)
