# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""One store for all tables: raw runs that resume, and released rows beside the code.

A raw record is a line of JSON in ``benchmarks/raw``, which git ignores: what was
measured (``key``), the figures, and where (``origin``). A record of another commit does
not count, so that a table is measured by one. A released table is a file of lines in
``benchmarks/results``: first the origins, then a row each, with no more than the page
needs.
"""

import json
import os
import platform
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import torch

from .package import mapsr, versions

HERE = Path(__file__).parent
ROOT = HERE.parent
RAW = HERE / 'raw'
RESULTS = HERE / 'results'

Row = dict[str, Any]

# Versions that decide figures most.
_VERSIONS = 'torchgeo-mapsr', 'python', 'torch', 'torchgeo'


@cache
def commit() -> str:
    """The last commit that changed what is measured; with a + if files differ from it.

    BENCHMARK_COMMIT says it on a machine that has the files and not their history.
    """
    if 'BENCHMARK_COMMIT' in os.environ:
        return os.environ['BENCHMARK_COMMIT']

    def git(*args: str) -> str:
        done = subprocess.run(
            ['git', '-C', str(ROOT), *args], capture_output=True, text=True, check=False
        )
        return done.stdout.strip()

    code = '--', 'torchgeo_mapsr', 'benchmarks/*.py'
    changed = git('status', '--porcelain', *code)
    last = git('log', '-1', '--format=%h', *code)
    return (last or 'unknown') + '+' * bool(changed)


def origin(clock: str = 'wall') -> Row:
    """Date, machine, versions and commit."""
    return {
        'date': datetime.now(UTC).date().isoformat(),
        'machine': f'{_processor()}, {torch.get_num_threads()} thread(s) of torch',
        'versions': {name: versions()[name] for name in _VERSIONS},
        'commit': commit(),
        'clock': clock,
    }


def _processor() -> str:
    """Name of the processor, where it can be read."""
    try:
        lines = Path('/proc/cpuinfo').read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.split(':')[1].strip() for line in lines if 'model name' in line]
    return names[0] if names else platform.machine()


@dataclass(frozen=True)
class Record:
    """Something that was measured.

    Args:
        key: What: set, row, seed…
        figures: What came out.
        origin: Where and when.
    """

    key: Row
    figures: Row
    origin: Row


@dataclass(frozen=True)
class Store:
    """Raw records of a table: lines that several processes may append to.

    Args:
        path: The file.
        any_commit: Whether records of other commits count.
    """

    path: Path
    any_commit: bool = False

    def __iter__(self) -> Iterator[Record]:
        """The last record of each key, in the order of their first ones."""
        latest: dict[str, Record] = {}
        lines = self.path.read_text().splitlines() if self.path.exists() else []
        for number, line in enumerate(lines, 1):
            try:
                record = Record(**json.loads(line))
            except json.JSONDecodeError:
                if number < len(lines):
                    raise
                continue  # a run was killed while it wrote its last line
            if self.any_commit or record.origin['commit'] == commit():
                latest[_text(record.key)] = record
        return iter(latest.values())

    def __contains__(self, key: object) -> bool:
        text = _text(key)
        return any(_text(record.key) == text for record in self)

    def append(self, record: Record) -> None:
        """Add a record, in one write."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        line = json.dumps({**vars(record)}) + '\n'
        content = self.path.read_bytes() if self.path.exists() else b''
        with self.path.open('ab') as file:
            # Half a line, of a run that was killed while it wrote, is written over.
            file.truncate(content.rfind(b'\n') + 1)
            file.write(line.encode())

    def discard(self, keys: Iterable[Row]) -> None:
        """Leave out records."""
        texts = set(map(_text, keys))
        kept = [vars(r) for r in Store(self.path, True) if _text(r.key) not in texts]
        _write(self.path, kept)


@dataclass(frozen=True)
class Release:
    """The rows of a table, and where they were measured.

    Args:
        rows: The rows; ``origin`` of each is the index of its origin.
        origins: The origins.
    """

    rows: tuple[Row, ...]
    origins: tuple[Row, ...] = ()

    @classmethod
    def of(cls, rows: Iterable[tuple[Row, Mapping[str, Any]]]) -> 'Release':
        """Number the origins of rows."""
        origins: list[Row] = []
        numbered = []
        for row, where in rows:
            if where not in origins:
                origins.append(dict(where))
            numbered.append({**row, 'origin': origins.index(dict(where))})
        return cls(tuple(numbered), tuple(origins))

    @classmethod
    def load(cls, name: str, folder: Path = RESULTS) -> 'Release':
        """Read a released table; an empty one if there is none."""
        path = folder / f'{name}.jsonl'
        lines = path.read_text().splitlines() if path.exists() else []
        content = [json.loads(line) for line in lines]
        return cls(
            tuple(line for line in content if 'commit' not in line),
            tuple(line for line in content if 'commit' in line),
        )

    def save(self, name: str, folder: Path = RESULTS) -> None:
        """Write the table: its origins, then a row a line."""
        _write(folder / f'{name}.jsonl', (*self.origins, *self.rows))

    def check_commit(self) -> None:
        """Refuse a table of several commits, or of changes that were not committed.

        Raises:
            InputError: If it is one.
        """
        commits = {where['commit'] for where in self.origins}
        if len(commits) != 1 or commits.pop().endswith('+'):
            raise mapsr.InputError(
                'A table is released from rows that were all measured at one commit; '
                'commit first, and measure again (or give --mixed).'
            )

    def source(self, number: int | None = None) -> str:
        """Where rows were measured, in words."""
        chosen = self.origins if number is None else (self.origins[number],)
        return '; '.join(
            f'{"CPU" if where["clock"] == "cpu" else "wall"} time, {where["machine"]}, '
            f'{where["date"]}, commit {where["commit"]}, torch '
            f'{where["versions"]["torch"]}, torchgeo {where["versions"]["torchgeo"]}'
            for where in chosen
        )


def _text(key: object) -> str:
    return json.dumps(key, sort_keys=True)


def _write(path: Path, lines: Iterable[Row]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix('.part')
    part.write_text(''.join(json.dumps(line) + '\n' for line in lines))
    part.replace(path)
