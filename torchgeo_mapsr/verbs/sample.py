# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""Draw reference points for a map."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .console import (
    check_json,
    json_option,
    legend_option,
    output_path,
    overwrite_option,
    seed_option,
    terminal,
    working,
    write_json,
)

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from ..evaluation.sampling import Strata, StrataSizes

DESCRIPTION = (
    'Draw a stratified random sample of a map: a GeoPackage of points with an empty '
    'column `reference` whose choices are the map’s classes. Labelled, it gives '
    'accuracy and areas with confidence intervals (`area`). How many points follows '
    'from the standard error of the overall accuracy that is wanted (Cochran 1977, eq. '
    '5.25; Olofsson et al. 2014, eq. 13), shared in proportion to area with a minimum '
    'for rare strata.'
)

EXAMPLES = """examples:
  torchgeo-mapsr sample landcover.tif --output points.gpkg
  torchgeo-mapsr sample maps/*.tif --output points.gpkg --standard-error 0.01
  torchgeo-mapsr sample map.tif --output points.gpkg --size 300 --minimum 30
  torchgeo-mapsr sample map.tif --output points.gpkg --strata class confidence
  torchgeo-mapsr sample map.tif --output points.gpkg --strata lr \\
      --labels nlcd.tif --labels-legend nlcd
  torchgeo-mapsr sample map.tif --output points.gpkg --expected 0.9 impervious=0.7

next: open points.gpkg in QGIS, choose a class for `reference` at each point while you
look at the imagery, not at the map, and run `torchgeo-mapsr area`.
"""


# How many points there are without --size.
_STANDARD_ERROR, _EXPECTED = 0.02, 0.8


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.add_argument(
        'maps',
        nargs='+',
        metavar='MAP',
        help='class maps, or folders of them; the first counts in overlaps',
    )
    parser.add_argument(
        '--output', type=Path, required=True, metavar='FILE', help='GeoPackage to write'
    )
    overwrite_option(parser)
    legend_option(parser)
    parser.add_argument(
        '--strata',
        nargs='+',
        default=['class'],
        choices=['class', 'confidence', 'lr', 'tile'],
        help='what strata are made of; several are crossed (default: class)',
    )
    parser.add_argument(
        '--labels', nargs='+', default=[], metavar='FILE', help='coarse labels, for lr'
    )
    parser.add_argument(
        '--labels-legend', metavar='NAME|FILE', help='legend of the coarse labels'
    )
    parser.add_argument(
        '--size', type=int, metavar='N', help='points in all, instead of an error'
    )
    parser.add_argument(
        '--standard-error',
        type=float,
        metavar='SHARE',
        help='standard error of the overall accuracy that is wanted '
        f'(default: {_STANDARD_ERROR})',
    )
    parser.add_argument(
        '--expected',
        nargs='+',
        default=[],
        metavar='SHARE|CLASS=SHARE',
        help='user’s accuracy that is expected, of all classes or of one '
        f'(default: {_EXPECTED})',
    )
    parser.add_argument(
        '--minimum',
        type=int,
        default=50,
        metavar='N',
        help='least points of a stratum (default: %(default)s)',
    )
    seed_option(parser)
    json_option(parser)


def run(options: argparse.Namespace) -> int:
    """Do it; returns the exit code."""
    import numpy as np

    from ..datasets.labels import LabelRaster
    from ..datasets.legends.legend import Legend
    from ..errors import InputError
    from ..evaluation.class_maps import ClassMaps, common_legend
    from ..evaluation.estimation import allocate, sample_size
    from ..evaluation.sampling import Strata, draw_sample, write_sample

    _check(options)
    inputs = [*options.maps, *options.labels]
    check_json(options, [*inputs, options.output])
    with output_path(options.output, inputs, options.overwrite) as scratch:
        maps = ClassMaps(options.maps, common_legend(options.maps, options.legend))
        legend = maps.legend
        lr_legend = (
            Legend.load(options.labels_legend) if options.labels_legend else None
        )
        labels = LabelRaster.open(options.labels) if options.labels else ()
        strata = Strata(maps, options.strata, labels, lr_legend)
        console = terminal()
        with working(console, 'Measuring strata'):
            sizes = strata.measure()
        size = options.size or sample_size(
            sizes.weights,
            _accuracy(options.expected, strata, sizes),
            _standard_error(options),
            float(sizes.pixels.sum()),
        )
        points = allocate(size, sizes.weights, options.minimum, sizes.most.tolist())
        few = np.flatnonzero((points < 2) & (sizes.pixels > 1))
        if few.size:
            raise InputError(
                f'Stratum {sizes.names[few[0]]!r} has a pixel that is more than half of '
                'its area, and points are drawn by area: add tile to --strata, or sample '
                'maps of other pixels apart.'
            )
        with working(console, 'Drawing points'):
            sample = draw_sample(strata, sizes, points, options.seed)
            write_sample(sample, scratch, legend)
    _show(console, sizes, points, size, options.minimum)
    console.print(f'Points: {options.output}')
    content = {
        'points': len(sample),
        'legend': legend.name,
        'strata': [
            {'name': n, 'hectares': round(a, 4), 'pixels': int(p), 'points': int(k)}
            for n, a, p, k in zip(
                sizes.names, sizes.hectares, sizes.pixels, points, strict=True
            )
        ],
        'seed': options.seed,
    }
    write_json(options, content, [*inputs, options.output])
    return 0


def _check(options: argparse.Namespace) -> None:
    """Refuse options that are out of range, or have no effect.

    Raises:
        InputError: If there are any.
    """
    from ..errors import InputError

    if options.output.suffix != '.gpkg':
        raise InputError(f'{options.output} is no GeoPackage; name it NAME.gpkg.')
    for name in ('standard_error', 'expected') if options.size is not None else ():
        if getattr(options, name) not in (None, []):
            option = '--' + name.replace('_', '-')
            raise InputError(f'{option} has no effect with --size: leave one out.')
    if not 0 < _standard_error(options) < 1:
        raise InputError('--standard-error is a share between 0 and 1, like 0.02.')
    if options.minimum < 2 or (options.size is not None and options.size < 2):
        raise InputError('--minimum and --size are at least 2: fewer have no variance.')
    if options.labels and 'lr' not in options.strata:
        raise InputError('--labels has no effect without --strata lr: leave it out.')
    if options.labels_legend and not options.labels:
        raise InputError(
            '--labels-legend has no effect without --labels: leave it out.'
        )
    common = [text for text in options.expected if '=' not in text]
    if len(common) > 1:
        raise InputError(
            f'--expected {" ".join(common)}: give one share of all classes, or some as '
            'CLASS=SHARE.'
        )


def _standard_error(options: argparse.Namespace) -> float:
    """The standard error that is wanted."""
    wanted: float | None = options.standard_error
    return _STANDARD_ERROR if wanted is None else wanted


def _accuracy(
    expected: list[str], strata: 'Strata', sizes: 'StrataSizes'
) -> 'NDArray[np.float64]':
    """The accuracy that is expected of each stratum.

    Args:
        expected: A share of all classes, or some as ``CLASS=SHARE``.
        strata: The strata.
        sizes: What they hold.

    Raises:
        InputError: If one is no share, or there are no strata of classes.
    """
    import numpy as np

    from ..errors import InputError
    from ..evaluation.named_classes import parse_named

    common = next((text for text in expected if '=' not in text), str(_EXPECTED))
    named = [text for text in expected if '=' in text]
    accuracy = np.full(len(sizes.names), _share(common))
    if named and 'class' not in strata.layers:
        raise InputError('--expected CLASS=SHARE needs class among --strata.')
    for index, value in parse_named(named, strata.maps.legend, '--expected').items():
        accuracy[strata.places('class', sizes.numbers) == index] = _share(str(value))
    return accuracy


def _show(
    console: Any,
    sizes: 'StrataSizes',
    points: 'NDArray[np.int64]',
    size: int,
    minimum: int,
) -> None:
    """Show the points of each stratum, and say where they are not what was asked for."""
    from ..evaluation.report import result_table

    total = int(points.sum())
    rows = zip(sizes.names, sizes.hectares, points, strict=True)
    console.print(
        result_table(
            'Reference points to be labelled',
            ('stratum', 'hectares', 'points'),
            [(name, f'{hectares:.2f}', str(k)) for name, hectares, k in rows],
            [('all', f'{sizes.hectares.sum():.2f}', str(total))],
        )
    )
    if total > size:
        console.print(
            f'{total} points, not {size}: each stratum has {minimum} at least '
            '(--minimum).'
        )
    fewer = (points == sizes.most) & (points < sizes.pixels)
    if fewer.any():
        name, count = sizes.names[fewer.argmax()], points[fewer.argmax()]
        console.print(
            f'Note: stratum {name!r} has no more than {count} points, since its largest '
            f'pixel is {1 / count:.0%} of its area; with tile among --strata it can have '
            'more.'
        )


def _share(text: str) -> float:
    from ..errors import InputError

    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise InputError(f'--expected {text} is not a share between 0 and 1.')
    return value
