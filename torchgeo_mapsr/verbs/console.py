# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""What verbs have in common: options, files that they write, the terminal."""

import argparse
import json
import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..arguments import check_local
from ..atomic import replacing
from ..errors import InputError
from ..geopackage import check_closed
from ..models.head.options import RANGES

if TYPE_CHECKING:
    from rich.console import Console

    from ..evaluation.confusion import Confusion

# Options that are a name, or a file of the user's.
_NAMED = 'legend', 'truth_legend', 'labels_legend', 'target', 'crosswalk', 'statistics'


def finite(text: str) -> float:
    """A number of the command line, neither infinite nor ``nan``.

    Args:
        text: What was given.
    """
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f'{text!r} is not a number')
    return value


def seed_option(parser: argparse.ArgumentParser, what: str = '') -> None:
    """Add ``--seed``.

    Args:
        parser: The parser to add it to.
        what: What it is the seed of.
    """
    least, largest = RANGES['seed']

    def seed(text: str) -> int:
        if not text.isdecimal() or int(text) > largest:
            raise argparse.ArgumentTypeError(
                f'{text!r} is not a whole number from {least} to {largest}'
            )
        return int(text)

    parser.add_argument(
        '--seed', type=seed, default=0, metavar='N', help=f'{what}default: %(default)s'
    )


def terminal(quiet: bool = False) -> 'Console':
    """The terminal.

    Args:
        quiet: Print nothing.
    """
    from rich.console import Console

    return Console(quiet=quiet, highlight=False, soft_wrap=True, markup=False)


def show_accuracy(out: 'Console', results: 'dict[str, Confusion]') -> None:
    """Print figures of merit, and what they leave out.

    Args:
        out: Where to.
        results: Confusions by their names.
    """
    from ..evaluation.report import accuracy_table

    out.print(accuracy_table(results))
    for name, result in results.items():
        if result.unmapped:
            out.print(f'{name}: no data at {result.unmapped} pixels of the truth')
        if result.unknown:
            codes = ', '.join(map(str, sorted(result.unknown)))
            out.print(f'{name}: codes of the truth not in its legend: {codes}')


def json_option(parser: argparse.ArgumentParser) -> None:
    """Add ``--json``.

    Args:
        parser: The parser to add it to.
    """
    parser.add_argument(
        '--json', type=Path, metavar='FILE', help='write the figures to a file too'
    )


def overwrite_option(
    parser: argparse.ArgumentParser, what: str = 'files that exist'
) -> None:
    """Add ``--overwrite``.

    Args:
        parser: The parser to add it to.
        what: What is replaced.
    """
    parser.add_argument('--overwrite', action='store_true', help=f'replace {what}')


def legend_option(
    parser: argparse.ArgumentParser,
    text: str = 'legend of the maps (default: what the map says, or land-cover-4)',
) -> None:
    """Add ``--legend``.

    Args:
        parser: The parser to add it to.
        text: What ``--help`` says of it.
    """
    parser.add_argument('--legend', metavar='NAME|FILE', help=text)


def check_output(path: Path, inputs: Iterable[object], overwrite: bool | None) -> None:
    """Make sure that a file can be written, before there is work.

    Args:
        path: The file.
        inputs: Files that are read, or written otherwise.
        overwrite: Whether a file that exists may be replaced; an input never is. None
            where a verb replaces none.

    Raises:
        InputError: If it is an address or an input, exists, is open in another program,
            or has no folder.
    """
    check_local(path)
    if path.resolve() in {Path(str(name)).resolve() for name in inputs}:
        raise InputError(
            f'{path} is an input or another output, and would be overwritten; name '
            'another file.'
        )
    if path.exists() and not overwrite:
        raise InputError(_exists(path, overwrite))
    check_closed(path)
    if not path.parent.is_dir():
        raise InputError(f'{path.parent} is not a folder; make it first.')
    if any(mark in str(path) for mark in ';!'):
        # It takes seconds to import.
        from ..datasets.geo.vector import check_vector_name

        check_vector_name(path)


def _exists(path: Path, overwrite: bool | None) -> str:
    """What is said of a file that is there."""
    text = f'{path} exists; name another file'
    return text + ('.' if overwrite is None else ', or give --overwrite.')


def check_json(options: argparse.Namespace, inputs: Iterable[object]) -> None:
    """Make sure, before there is work, that ``--json`` can be written.

    Args:
        options: What was parsed.
        inputs: Files that are read or written otherwise.

    Raises:
        InputError: See :func:`check_output`.
    """
    if options.json is not None:
        named = (getattr(options, name, None) for name in _NAMED)
        files = [name for name in named if name and Path(name).is_file()]
        overwrite = getattr(options, 'overwrite', None)
        check_output(options.json, [*inputs, *files], overwrite)


@contextmanager
def output_path(
    path: Path, inputs: Iterable[object], overwrite: bool | None
) -> Iterator[Path]:
    """A name to write a file under, which gets its own name when it is complete.

    Args:
        path: The file.
        inputs: Files that are read.
        overwrite: See :func:`check_output`.

    Yields:
        A name in the same folder; what is there after an error is removed.

    Raises:
        InputError: See :func:`check_output`.
    """
    check_output(path, inputs, overwrite)
    try:
        with replacing(path, bool(overwrite)) as part:
            yield part
    except FileExistsError:
        raise InputError(_exists(path, overwrite)) from None


def write_json(
    options: argparse.Namespace, content: dict[str, Any], inputs: Iterable[object]
) -> None:
    """Write the figures, if ``--json`` asks for them.

    Args:
        options: What was parsed.
        content: JSON types.
        inputs: Files that are read or written otherwise.
    """
    if options.json is not None:
        overwrite = getattr(options, 'overwrite', None)
        with output_path(options.json, inputs, overwrite) as scratch:
            text = json.dumps(content, indent=1, allow_nan=False)
            scratch.write_text(text + '\n', encoding='utf-8')


@contextmanager
def working(console: 'Console', what: str) -> Iterator[None]:
    """A sign of life on a terminal while something takes its time.

    Args:
        console: Where to.
        what: What is done.
    """
    if console.is_terminal and not console.quiet:
        with console.status(f'{what} …'):
            yield
    else:
        yield
