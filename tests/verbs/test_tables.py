# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

import subprocess
import sys

from rich.console import Console

from torchgeo_mapsr.evaluation.report import result_table


def lines(width: int = 80, names: int = 0, compact: bool = False) -> list[str]:
    console = Console(width=width)
    heads = ['code', 'class', 'a long head']
    rows, totals = [('1', 'Water', '5.0'), ('12', 'Ice', '10.0')], [('', 'all', '15.0')]
    with console.capture() as capture:
        console.print(result_table('Title', heads, rows, totals, names, compact))
    return [line.rstrip() for line in capture.get().splitlines()]


def test_names_to_the_left_figures_to_the_right() -> None:
    _, _, head, _, first, second, line, total, _ = lines(names=1)
    assert head == '┃ code ┃ class ┃ a long head ┃'
    assert first == '│    1 │ Water │         5.0 │'
    assert second == '│   12 │ Ice   │        10.0 │'
    assert set(line) == set('├─┼┤')
    assert total == '│      │ all   │        15.0 │'


def test_compact_does_not_wrap_figures() -> None:
    assert any(line.endswith(' 10.0') for line in lines(24, names=1, compact=True))
    assert not any('│' in line for line in lines(compact=True))


def test_tables_do_not_wait_for_torch() -> None:
    """`sample`, `area` and `postprocess` work without it."""
    script = (
        'import sys, torchgeo_mapsr.evaluation.report\n'
        "sys.exit(3 * ('torch' in sys.modules))"
    )
    done = subprocess.run([sys.executable, '-c', script], check=False)
    assert done.returncode == 0
