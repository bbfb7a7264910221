# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""What a table is, how it is measured, and how it gets into a page."""

import argparse
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from .scores import mean_and_spread
from .store import HERE, Record, Release, Row, Store, origin

README = HERE / 'README.md'

#: Something to measure: its key, and the function that does it.
Trial = tuple[Row, Callable[[], Row]]


@dataclass(frozen=True)
class Table:
    """A table of a page.

    Args:
        name: Its subcommand, and its files.
        about: One sentence.
        trials: What is to be measured, by the options of the command line.
        rows_of: Rows with their origins, from records.
        markdown: What stands in the page, from what was released.
        sets: Sets that can be chosen.
        rows: Rows that can be chosen.
        seeds: Seeds by default.
        arguments: More options of the command line, and their default values.
        pages: Where else something stands: page, mark, and what makes the text.
    """

    name: str
    about: str
    trials: Callable[[argparse.Namespace], Iterator[Trial]]
    rows_of: Callable[[Iterable[Record]], Iterator[tuple[Row, Row]]]
    markdown: Callable[[Release], str]
    sets: Sequence[str] = ()
    rows: Sequence[str] = ()
    seeds: Sequence[int] = (0,)
    arguments: Mapping[str, Any] | None = None
    pages: Sequence[tuple[Path, str, Callable[[Release], str]]] = ()

    def measure(self, options: argparse.Namespace, console: Console) -> None:
        """Measure what the store does not have yet, and keep each figure."""
        store = Store(options.raw / f'{self.name}.jsonl', options.any_commit)
        trials = list(self.trials(options))
        if options.again:
            store.discard(key for key, _ in trials)
        start = time.monotonic()
        for key, function in trials:
            if key in store:
                continue
            if time.monotonic() - start > options.seconds:
                console.print('The time is over; the same command goes on from here.')
                return
            begin = time.perf_counter()
            figures = function()
            figures.setdefault('seconds', round(time.perf_counter() - begin, 1))
            store.append(Record(key, figures, origin(options.clock)))
            shown = {k: v for k, v in figures.items() if isinstance(v, (float, int))}
            console.print(' '.join(map(str, key.values())), str(shown))

    def release(self, raw: Path, any_commit: bool, mixed: bool) -> Release:
        """The rows that the records come to.

        Raises:
            InputError: If they are of several commits, unless *mixed*.
        """
        store = Store(raw / f'{self.name}.jsonl', any_commit)
        release = Release.of(self.rows_of(sorted(store, key=self._place)))
        if not mixed:
            release.check_commit()
        return release

    def _place(self, record: Record) -> list[int]:
        """Where a record stands, however runs side by side came to it."""
        kinds = ('set', self.sets), ('row', self.rows), ('seed', self.seeds)
        return [
            list(names).index(record.key[kind]) if record.key.get(kind) in names else -1
            for kind, names in kinds
        ]

    def fill(self, pages: dict[Path, str], release: Release) -> None:
        """Put what was released into the pages, between the marks of the table."""
        for page, mark, make in ((README, self.name, self.markdown), *self.pages):
            command = f'python -m benchmarks {self.name} --release'
            text = make(release) if release.rows else f'Not measured yet: `{command}`.'
            pages[page] = fill(pages.get(page) or page.read_text(), mark, text)


def fill(page: str, name: str, text: str) -> str:
    """A page with what stands between the two marks of a table made anew."""
    begin = f'<!-- table {name}: python -m benchmarks tables -->'
    end = f'<!-- end of table {name} -->'
    before, rest = page.split(begin)
    return f'{before}{begin}\n{text}\n{end}{rest.split(end)[1]}'


def grid(head: Sequence[str], body: Iterable[Sequence[str]], left: int = 1) -> str:
    """A table in Markdown, whose first columns are words and the others figures."""
    rule = '|---' * left + '|--:' * (len(head) - left) + '|'
    lines = ['| ' + ' | '.join(line) + ' |' for line in (head, *body)]
    return '\n'.join([lines[0], rule, *lines[1:]])


def unique(values: Iterable[Any]) -> list[Any]:
    """Different values, in the order of their first ones."""
    return list(dict.fromkeys(values))


def seed_rows(
    records: Iterable[Record], figures: Iterable[str]
) -> Iterator[tuple[Row, Row]]:
    """A line for each row on a set: the mean over its scenes, of each seed."""
    groups: dict[tuple[str, str], dict[int, list[Record]]] = {}
    scenes: dict[str, set[str]] = defaultdict(set)
    for record in records:
        key = record.key
        scenes[key['set']].add(key.get('scene', ''))
        seeds = groups.setdefault((key['set'], key['row']), defaultdict(list))
        seeds[key['seed']].append(record)
    for (name, row), seeds in groups.items():
        complete = [g for g in seeds.values() if len(g) == len(scenes[name])]
        every = [record for group in seeds.values() for record in group]
        line: Row = {'set': name, 'row': row, 'steps': every[0].key.get('steps', 0)}
        for figure in figures:
            means = [np.mean([r.figures[figure] for r in group]) for group in complete]
            line[figure] = [round(float(mean), 5) for mean in means]
        line['seconds'] = round(sum(record.figures['seconds'] for record in every), 1)
        yield line, every[-1].origin


def seed_grid(
    release: Release, rows: Mapping[str, tuple[str, Any]], figures: Mapping[str, str]
) -> str:
    """The table of lines with seeds: rows, which begin with a title, and figures."""
    sets = unique(row['set'] for row in release.rows)
    lines = {(row['set'], row['row']): row for row in release.rows}
    places = [(name, figure) for name in sets for figure in figures]
    body = []
    for row, (title, _) in rows.items():
        values = [lines.get((name, row), {}).get(figure, []) for name, figure in places]
        if any(values):
            body.append([title, *map(mean_and_spread, values)])
    return grid(['', *(f'{name} {figures[f]}' for name, f in places)], body)


def source_of_seeds(release: Release) -> str:
    """Where lines with seeds were measured, and how long that took."""
    minutes = sum(row['seconds'] for row in release.rows) / 60
    return (
        'Mean ± standard deviation over seeds (the number in brackets, where it is not '
        f'three). Measured: {release.source()}; {minutes:.0f} minutes in all.'
    )
