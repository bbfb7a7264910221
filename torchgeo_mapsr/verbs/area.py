# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""Areas and accuracies from labelled points."""

import argparse
from pathlib import Path
from typing import Any

from .console import (
    check_json,
    json_option,
    legend_option,
    overwrite_option,
    terminal,
    working,
    write_json,
)

DESCRIPTION = (
    'User’s, producer’s and overall accuracy and the area of each class, with standard '
    'errors and confidence intervals, from a stratified random sample that has been '
    'labelled (`sample` draws one). Olofsson et al. 2014, eq. 1 to 11; Stehman 2014 '
    'where the strata are not the map’s classes. Strata come from the column `stratum` '
    'of the points, with their areas from `stratum_hectares`; without, they are the '
    'map’s classes. Areas are measured on the ground.'
)

# Relative difference of areas up to which strata of points count as those of the maps:
# files round areas.
_SAME_AREA = 1e-4

EXAMPLES = """examples:
  torchgeo-mapsr area landcover.tif --points points.gpkg
  torchgeo-mapsr area maps/*.tif --points points.gpkg --json areas.json
  torchgeo-mapsr area nlcd.tif --legend nlcd --points survey.shp --reference observed

Pixels that are counted inherit the map's mistakes: a class that is mapped too often looks
too large, and no number of pixels puts that right. A random sample of reference points
does, and says how sure it is.
"""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.add_argument(
        'maps',
        nargs='+',
        metavar='MAP',
        help='the class maps that were sampled, or folders of them',
    )
    parser.add_argument(
        '--points', type=Path, required=True, metavar='FILE', help='labelled points'
    )
    parser.add_argument(
        '--reference',
        default='reference',
        metavar='COLUMN',
        help='column with the true class, a code or a name (default: %(default)s)',
    )
    legend_option(parser)
    parser.add_argument(
        '--confidence',
        type=float,
        default=0.95,
        metavar='SHARE',
        help='coverage of the intervals (default: %(default)s)',
    )
    json_option(parser)
    overwrite_option(parser, 'a file that exists')


def run(options: argparse.Namespace) -> int:
    """Do it; returns the exit code."""
    from ..errors import InputError
    from ..evaluation.class_maps import ClassMaps, common_legend
    from ..evaluation.points import LabelledPoints

    if not 0 < options.confidence < 1 - 1e-12:
        raise InputError('--confidence is a share between 0 and 1, like 0.95.')
    check_json(options, [*options.maps, options.points])
    maps = ClassMaps(options.maps, common_legend(options.maps, options.legend))
    legend = maps.legend
    console = terminal()
    with working(console, 'Measuring strata'):
        points = LabelledPoints.read(options.points, maps, options.reference)
    sample = points.sample(options.confidence)
    with working(console, 'Measuring the map'):
        counted = maps.areas() / 1e4
    _show(console, sample, legend.class_names, counted)
    if points.unlabelled:
        console.print(
            f'{points.unlabelled} points have no reference class and are left out.'
        )
    if points.outside:
        console.print(
            f'{points.outside} points lie where the maps have no data; left out.'
        )
    if points.repeated:
        console.print(
            f'Note: {points.repeated} points lie where others do, and each counts: leave '
            'them out, unless they were drawn again.'
        )
    whole = float(counted.sum())
    if abs(whole - sample.area) > _SAME_AREA * whole:
        why = (
            'ground in no stratum that has points is left out of all figures.'
            if whole > sample.area
            else 'were these the maps that were sampled?'
        )
        console.print(
            f'Note: the strata of the points have {sample.area:,.2f} ha and the maps '
            f'{whole:,.2f} ha: {why}'
        )
    classes = [
        {
            'code': item.code,
            'name': item.name,
            'mapped_hectares': round(float(counted[k]), 4),
            'area_hectares': sample.areas[k].to_dict(4),
            'users_accuracy': sample.users_accuracy[k].to_dict(),
            'producers_accuracy': sample.producers_accuracy[k].to_dict(),
        }
        for k, item in enumerate(legend.classes)
    ]
    strata = zip(points.names, points.hectares, points.per_stratum, strict=True)
    content: dict[str, Any] = {
        'legend': legend.name,
        'points': int(points.used.sum()),
        'points_without_reference': points.unlabelled,
        'points_without_map': points.outside,
        'points_in_one_place': points.repeated,
        'confidence': options.confidence,
        'hectares': round(sample.area, 4),
        'mapped_hectares': round(whole, 4),
        'overall_accuracy': sample.overall_accuracy.to_dict(),
        'classes': classes,
        'strata': [
            {'name': name, 'hectares': round(float(area), 4), 'points': int(count)}
            for name, area, count in strata
        ],
        'error_matrix_points': sample.counts.tolist(),
        'error_matrix_shares': sample.matrix.round(8).tolist(),
    }
    write_json(options, content, [*options.maps, options.points])
    return 0


def _show(console: Any, sample: Any, names: Any, counted: Any) -> None:
    from ..evaluation.report import result_table

    def percent(item: Any) -> str:
        if item.value != item.value:
            return '–'
        low, high = (100 * end for end in item.interval)
        return f'{100 * item.value:.1f} ({low:.1f}–{high:.1f})'

    rows = [
        (
            name,
            f'{counted[k]:,.2f}',
            f'{area.value:,.2f} ({max(area.interval[0], 0):,.2f}–{area.interval[1]:,.2f})',
            percent(sample.users_accuracy[k]),
            percent(sample.producers_accuracy[k]),
        )
        for k, (name, area) in enumerate(zip(names, sample.areas, strict=True))
    ]
    title = f'Area and accuracy with {100 * sample.confidence:g} % intervals'
    columns = 'class', 'pixels counted, ha', 'area, ha', 'user’s, %', 'producer’s, %'
    console.print(result_table(title, columns, rows))
    console.print(f'Overall accuracy: {percent(sample.overall_accuracy)} %')
