# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""The command line.

What a verb needs is imported when it runs: torch takes seconds, and ``--help`` and a
mistyped option should not.
"""

import argparse
import errno
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from . import __version__
from .errors import InputError
from .mapping.arguments import add_arguments, job_of
from .mapping.selecting import add_select_arguments
from .mapping.settings import MapJob

if TYPE_CHECKING:
    from rich.console import Console

    from .evaluation.accuracy import Confusion

LIGHTNING_VERBS = ('fit', 'validate', 'test', 'predict')

_EXAMPLES = """examples:
  torchgeo-mapsr demo
  torchgeo-mapsr map imagery.tif --labels nlcd.tif --legend nlcd --output landcover.tif
  torchgeo-mapsr map a.tif b.tif --labels la.tif lb.tif --legend nlcd --output maps/
  torchgeo-mapsr map c.tif --model fit.safetensors --output c_landcover.tif
  torchgeo-mapsr evaluate maps/*.tif --truth truth/*.tif --truth-legend chesapeake-7
  torchgeo-mapsr statistics nlcd.tif --truth lc.tif --legend nlcd --output stats.yaml
  torchgeo-mapsr select maps/*.tif --minority 4 --output patches.gpkg
  torchgeo-mapsr fit --config mapsr.yaml
  torchgeo-mapsr low2high tiles/ --output low2high/
"""

_KEPT = 'What is finished is kept: the same command again goes on from there.'
_DISK_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def main(args: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        args: Arguments; those of the process by default.

    Returns:
        The exit code: 0, 2 for what the user can put right, 130 after Ctrl-C.
    """
    # GDAL's own default is a share of all memory: it would grow with the raster.
    os.environ.setdefault('GDAL_CACHEMAX', '256')
    given = sys.argv[1:] if args is None else list(args)
    if given and given[0] in LIGHTNING_VERBS:
        return _lightning(None if args is None else given)
    parser = _parser()
    options = parser.parse_args(given)
    try:
        return int(options.run(options))
    except InputError as error:
        return _fail(str(error))
    except KeyboardInterrupt:
        sys.stderr.write('\n')
        _fail(f'Stopped. {_KEPT if options.run in _RESUMED else ""}')
        return 130
    except OSError as error:
        where = f' ({error.filename})' if error.filename else ''
        full = error.errno in _DISK_FULL
        what = 'The disk is full' if full else error.strerror or str(error)
        return _fail(f'{what}{where}. {_KEPT if options.run in _RESUMED else ""}')


def _fail(message: str) -> int:
    """One line for the person, and the exit code."""
    sys.stderr.write(f'torchgeo-mapsr: {" ".join(message.split())}\n')
    return 2


def _lightning(args: list[str] | None) -> int:
    """Torchgeo's own verbs, with this package's classes known by their names."""
    from torchgeo.main import main as torchgeo_main

    from . import datamodules, tasks  # noqa: F401

    try:
        torchgeo_main(args)
    except ValueError as error:
        # jsonargparse wraps what the constructor of a task raises
        own = error if isinstance(error, InputError) else error.__cause__
        if not isinstance(own, InputError):
            raise
        return _fail(str(own))
    return 0


class _Parser(argparse.ArgumentParser):
    """A parser whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f'{self.prog}: {message} (see {self.prog} --help)\n')


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog='torchgeo-mapsr',
        description='Land-cover maps at the resolution of imagery, from coarse labels.',
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument('--version', action='version', version=__version__)
    verbs = parser.add_subparsers(title='verbs', metavar='VERB', required=True)

    mapping = verbs.add_parser(
        'map',
        help='make a land-cover map from imagery and coarse labels',
        description='Make a land-cover map at the resolution of imagery, with no labels '
        'but coarse ones. Interrupted, the same command goes on where it stopped.',
    )
    add_arguments(mapping)
    mapping.set_defaults(run=_map)

    demo = verbs.add_parser(
        'demo',
        help='make a small scene, map it and evaluate the map',
        description='Make a small scene with imagery, coarse labels and truth, map it '
        'and compare the map with the truth.',
    )
    demo.add_argument(
        'folder',
        nargs='?',
        type=Path,
        default=Path('torchgeo-mapsr-demo'),
        help='where to put everything (default: %(default)s)',
    )
    demo.add_argument('--seed', type=int, default=0, help='default: %(default)s')
    demo.add_argument('--overwrite', action='store_true', help='replace an older demo')
    demo.set_defaults(run=_demo)

    evaluate = verbs.add_parser(
        'evaluate',
        help='compare maps with high-resolution labels',
        description='Accuracy, IoU of each class, mIoU and FWIoU from one confusion '
        'matrix pooled over all files. Where there is no data, nothing is compared.',
    )
    evaluate.add_argument('maps', nargs='+', metavar='MAP', help='class maps')
    evaluate.add_argument(
        '--truth',
        nargs='+',
        required=True,
        metavar='FILE',
        help='high-resolution labels: one a map, in the same order; any grid and CRS',
    )
    evaluate.add_argument(
        '--legend',
        default='land-cover-4',
        metavar='NAME|FILE',
        help='legend of the maps (default: %(default)s)',
    )
    evaluate.add_argument(
        '--truth-legend',
        metavar='NAME|FILE',
        help='legend of the truth (default: that of the maps)',
    )
    evaluate.add_argument(
        '--target',
        metavar='NAME|FILE',
        help='legend in which they are compared (default: that of the maps)',
    )
    evaluate.add_argument(
        '--crosswalk',
        metavar='NAME|FILE',
        help='how the truth’s classes become those, where there are several ways',
    )
    evaluate.add_argument(
        '--json', type=Path, metavar='FILE', help='write the figures to a file too'
    )
    evaluate.set_defaults(run=_evaluate)

    statistics = verbs.add_parser(
        'statistics',
        help='measure what coarse classes hold, for label super-resolution',
        description='Mean and standard deviation of the shares of high-resolution '
        'classes in the cells of each coarse class, as LabelSuperResolutionTask wants '
        'them (its argument statistics).',
    )
    statistics.add_argument(
        'labels', nargs='+', metavar='LABELS', help='coarse labels; any grid and CRS'
    )
    statistics.add_argument(
        '--truth',
        nargs='+',
        required=True,
        metavar='FILE',
        help='high-resolution labels of the same place; any grid and CRS',
    )
    statistics.add_argument(
        '--legend', required=True, metavar='NAME|FILE', help='legend of the labels'
    )
    statistics.add_argument(
        '--target',
        default='land-cover-4',
        metavar='NAME|FILE',
        help='legend of the high-resolution classes (default: %(default)s)',
    )
    statistics.add_argument(
        '--truth-legend',
        metavar='NAME|FILE',
        help='legend of the truth (default: that of --target)',
    )
    statistics.add_argument(
        '--crosswalk',
        metavar='NAME|FILE',
        help='how the truth’s classes become those, where there are several ways',
    )
    statistics.add_argument(
        '--output', type=Path, required=True, metavar='FILE', help='YAML file to write'
    )
    statistics.set_defaults(run=_statistics)

    low2high = verbs.add_parser(
        'low2high',
        help='choose the chips of Low2High from Chesapeake tiles',
        description='Choose chips of the CVPR 2019 Chesapeake tiles that show several '
        'classes, and divide them into splits (Workman et al. 2023). It writes an index; '
        'pixels stay in the tiles. Interrupted, the same command goes on.',
    )
    low2high.add_argument('root', type=Path, metavar='ROOT', help='folder of the tiles')
    low2high.add_argument(
        '--output',
        type=Path,
        required=True,
        metavar='DIR',
        help='where to put the index',
    )
    low2high.add_argument(
        '--size',
        type=int,
        default=512,
        help='height and width of a chip, in pixels (default: %(default)s)',
    )
    low2high.add_argument(
        '--layer',
        choices=('naip-new', 'naip-old'),
        default='naip-new',
        help='imagery (default: %(default)s)',
    )
    low2high.add_argument(
        '--crosswalk',
        metavar='NAME|FILE',
        help='how NLCD becomes the four classes, where there are several ways',
    )
    low2high.add_argument(
        '--seed', type=int, default=0, help='of the splits (default: %(default)s)'
    )
    low2high.set_defaults(run=_low2high)

    selecting = verbs.add_parser(
        'select',
        help='select patches of predicted maps that have minority classes',
        description='Select unlabelled patches by the share of minority classes in '
        'their predicted maps, and write their footprints for the training.',
    )
    add_select_arguments(selecting)
    selecting.set_defaults(run=_select)

    for verb in LIGHTNING_VERBS:
        verbs.add_parser(
            verb, help=f'Lightning: {verb} a task from a YAML configuration'
        )
    return parser


def _map(options: argparse.Namespace) -> int:
    job = job_of(options)
    from .mapping.job import map_region

    map_region(job, _console(job.quiet))
    return 0


def _demo(options: argparse.Namespace) -> int:
    from .datasets.crosswalk import Crosswalk
    from .datasets.scene import make_scene
    from .evaluation.accuracy import compare
    from .mapping.job import map_region

    folder: Path = options.folder
    if folder.exists() and any(folder.iterdir()) and not options.overwrite:
        raise InputError(
            f'{folder} is not empty; name another folder, or give --overwrite.'
        )
    console = _console()
    console.print(f'Making a scene in {folder} …')
    scene = make_scene(folder, seed=options.seed)
    job = MapJob(
        imagery=(str(scene.imagery),),
        labels=(str(scene.labels),),
        legend=scene.legend,
        output=folder / 'landcover.tif',
        overwrite=options.overwrite,
        seed=options.seed,
    )
    map_region(job, console)
    same = Crosswalk.load(job.target, scene.target)
    coarse = Crosswalk.load(scene.legend, scene.target)
    _show(
        console,
        {
            'coarse labels': compare(scene.labels, scene.truth, coarse, same),
            'map': compare(job.output, scene.truth, same, same),
        },
    )
    return 0


def _evaluate(options: argparse.Namespace) -> int:
    from .datasets.crosswalk import Crosswalk
    from .evaluation.accuracy import compare

    if len(options.maps) != len(options.truth):
        raise InputError(
            f'There are {len(options.maps)} maps and {len(options.truth)} files of '
            'truth; give one file of truth for each map, in the same order.'
        )
    target = options.target or options.legend
    map_crosswalk = Crosswalk.load(options.legend, target)
    truth_crosswalk = Crosswalk.load(
        options.truth_legend or options.legend, target, options.crosswalk
    )
    parts = [
        compare(path, truth, map_crosswalk, truth_crosswalk)
        for path, truth in zip(options.maps, options.truth, strict=True)
    ]
    total = sum(parts[1:], parts[0])
    if options.json is not None:
        content = {'crosswalk': truth_crosswalk.name, **total.to_dict()}
        options.json.write_text(json.dumps(content, indent=1) + '\n')
    _show(_console(), {'map': total})
    return 0


def _statistics(options: argparse.Namespace) -> int:
    from .datasets.crosswalk import Crosswalk
    from .datasets.legend import Legend
    from .datasets.measured import measure_statistics
    from .evaluation.report import statistics_table

    crosswalk = Crosswalk.load(
        options.truth_legend or options.target, options.target, options.crosswalk
    )
    found = measure_statistics(
        options.labels,
        options.truth,
        Legend.load(options.legend),
        crosswalk,
        options.output.stem,
    )
    found.save(options.output)
    _console().print(statistics_table(found))
    return 0


def _low2high(options: argparse.Namespace) -> int:
    from rich.progress import track

    from .datasets.low2high_index import build_index

    console = _console()
    counts = build_index(
        options.root,
        options.output,
        options.size,
        options.layer,
        options.crosswalk,
        options.seed,
        lambda tiles: track(tiles, 'tiles', console=console),
    )
    found = ', '.join(f'{name} {count}' for name, count in counts.items())
    console.print(f'{options.output}: {sum(counts.values())} chips ({found})')
    return 0


#: Verbs that go on where they stopped.
_RESUMED = (_map, _low2high)


def _select(options: argparse.Namespace) -> int:
    from .mapping.selecting import select

    given = {name: value for name, value in vars(options).items() if name != 'run'}
    chosen = select(**given)
    below = int(chosen['drawn'].sum())
    _console().print(
        f'{len(chosen)} of {chosen.attrs["candidates"]} patches: '
        f'{len(chosen) - below} have {options.threshold:.2%} of minority classes or '
        f'more, {below} are drawn from those that have less. {options.output}'
    )
    return 0


def _console(quiet: bool = False) -> 'Console':
    from rich.console import Console

    return Console(quiet=quiet, highlight=False, soft_wrap=True)


def _show(console: 'Console', results: 'dict[str, Confusion]') -> None:
    """Print figures of merit, and what they leave out."""
    from .evaluation.report import accuracy_table

    console.print(accuracy_table(results))
    for name, result in results.items():
        if result.unmapped:
            console.print(f'{name}: no data at {result.unmapped} pixels of the truth')
        if result.unknown:
            codes = ', '.join(map(str, sorted(result.unknown)))
            console.print(f'{name}: codes of the truth not in its legend: {codes}')
