# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""Areas and accuracies from labelled points."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .console import (
    check_json,
    json_option,
    legend_option,
    overwrite_option,
    terminal,
    working,
    write_json,
)

if TYPE_CHECKING:
    from geopandas import GeoDataFrame

    from ..evaluation.class_maps import ClassMaps

DESCRIPTION = (
    'User’s, producer’s and overall accuracy and the area of each class, with standard '
    'errors and confidence intervals, from a stratified random sample that has been '
    'labelled (`sample` draws one). Olofsson et al. 2014, eq. 1 to 11; Stehman 2014 '
    'where the strata are not the map’s classes. Strata come from the column `stratum` '
    'of the points, with their areas from `stratum_hectares`; without, they are the '
    'map’s classes. Areas are measured on the ground.'
)

# Strata whose areas were rounded are those of the maps still.
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
    import numpy as np

    from ..errors import InputError
    from ..evaluation.class_maps import ClassMaps, common_legend
    from ..evaluation.estimation import StratifiedSample
    from ..evaluation.sampling import class_of, read_sample

    if not 0 < options.confidence < 1 - 1e-12:
        raise InputError('--confidence is a share between 0 and 1, like 0.95.')
    check_json(options, [*options.maps, options.points])
    maps = ClassMaps(options.maps, common_legend(options.maps, options.legend))
    legend = maps.legend
    points = read_sample(options.points, options.reference)
    where = f'{options.points}: column {options.reference!r}'
    reference = class_of(list(points[options.reference]), legend, where)
    x, y = points.geometry.x.to_numpy(), points.geometry.y.to_numpy()
    mapped = maps.at_points(x, y, points.crs)
    used = (reference >= 0) & (mapped >= 0)
    if not used.any():
        raise InputError(
            f'{options.points}: no point has a reference class and lies on the maps; '
            f'fill the column {options.reference!r}.'
        )
    console = terminal()
    with working(console, 'Measuring strata'):
        stratum, names, hectares, pixels = _strata(options.points, maps, points, mapped)
    _check(options.points, stratum[used], names, hectares, pixels)
    sample = StratifiedSample(
        stratum[used],
        mapped[used],
        reference[used],
        hectares,
        len(legend),
        pixels,
        options.confidence,
    )
    unlabelled = int((reference < 0).sum())
    outside = int(((reference >= 0) & (mapped < 0)).sum())
    places = np.stack([x, y], 1)[used]
    again = len(places) - len(np.unique(places, axis=0))
    with working(console, 'Measuring the map'):
        counted = maps.areas() / 1e4
    _show(console, sample, legend.class_names, counted)
    if unlabelled:
        console.print(f'{unlabelled} points have no reference class and are left out.')
    if outside:
        console.print(f'{outside} points lie where the maps have no data; left out.')
    if again:
        console.print(
            f'Note: {again} points lie where others do, and each counts: leave them out, '
            'unless they were drawn again.'
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
    per_stratum = np.bincount(stratum[used], minlength=len(names)).tolist()
    content: dict[str, Any] = {
        'legend': legend.name,
        'points': int(used.sum()),
        'points_without_reference': unlabelled,
        'points_without_map': outside,
        'points_in_one_place': again,
        'confidence': options.confidence,
        'hectares': round(sample.area, 4),
        'mapped_hectares': round(whole, 4),
        'overall_accuracy': sample.overall_accuracy.to_dict(),
        'classes': classes,
        'strata': [
            {'name': name, 'hectares': round(float(area), 4), 'points': count}
            for name, area, count in zip(names, hectares, per_stratum, strict=True)
        ],
        'error_matrix_points': sample.counts.tolist(),
        'error_matrix_shares': sample.matrix.round(8).tolist(),
    }
    write_json(options, content, [*options.maps, options.points])
    return 0


def _strata(path: Path, maps: 'ClassMaps', points: 'GeoDataFrame', mapped: Any) -> Any:
    """Number of each point's stratum; names, hectares and, if known, pixels of strata."""
    import numpy as np
    import pandas

    from ..errors import InputError
    from ..evaluation.sampling import class_of

    if 'stratum' not in points:
        return mapped, maps.legend.class_names, maps.areas() / 1e4, None
    empty = points['stratum'].isna()
    if empty.any():
        raise InputError(
            f'{path}: row {empty.argmax() + 1} has no stratum; fill the column stratum.'
        )
    column = points['stratum'].astype(str)
    if 'stratum_hectares' in points:
        hectares = pandas.to_numeric(points['stratum_hectares'], errors='coerce')
        if not (np.isfinite(hectares) & (hectares >= 0)).all():
            raise InputError(
                f'{path}: column stratum_hectares has something that is no area.'
            )
        table = hectares.groupby(column, sort=True)
        for name in table.groups:
            if table.get_group(name).nunique() > 1:
                raise InputError(
                    f'{path}: stratum {name!r} has two areas in the column '
                    'stratum_hectares.'
                )
        area = table.first()
        if not area.any():
            raise InputError(
                f'{path}: all areas of the column stratum_hectares are 0; fill in those '
                'of the strata, or leave out the column.'
            )
        numbers = np.searchsorted(area.index.to_numpy(str), column.to_numpy(str))
        pixels = None
        if 'stratum_pixels' in points:
            number = pandas.to_numeric(points['stratum_pixels'], errors='coerce')
            if not (np.isfinite(number) & (number >= 0) & (number % 1 == 0)).all():
                raise InputError(
                    f'{path}: column stratum_pixels has something that is no number of '
                    'pixels.'
                )
            by_stratum = number.groupby(column, sort=True)
            for name, count in by_stratum.nunique().items():
                if count > 1:
                    raise InputError(
                        f'{path}: stratum {name!r} has two numbers in the column '
                        'stratum_pixels.'
                    )
            pixels = by_stratum.first().to_numpy(int)
        return numbers, tuple(area.index), area.to_numpy(float), pixels
    where = f'{path}: column stratum (there is no column stratum_hectares)'
    numbers = class_of(list(points['stratum']), maps.legend, where)
    return numbers, maps.legend.class_names, maps.areas() / 1e4, None


def _check(path: Path, stratum: Any, names: Any, hectares: Any, pixels: Any) -> None:
    """Each stratum has points enough for a variance."""
    import numpy as np

    from ..errors import InputError

    if (stratum < 0).any():
        raise InputError(f'{path}: a point has no stratum; fill the column stratum.')
    count = np.bincount(stratum, minlength=len(names))
    least = 2 if pixels is None else np.minimum(pixels, 2)
    few = np.flatnonzero((count < least) & (hectares > 0))
    if few.size:
        raise InputError(
            f'{path}: stratum {names[few[0]]!r} has {count[few[0]]} labelled point(s) and '
            'needs at least 2; label more of them.'
        )
    many = np.flatnonzero(count > (np.inf if pixels is None else pixels))
    if many.size:
        raise InputError(
            f'{path}: stratum {names[many[0]]!r} has {count[many[0]]} labelled points and '
            f'{pixels[many[0]]} pixels: leave out points that lie where others do, or '
            'correct the column stratum_pixels.'
        )


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
