# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""Compare maps with HR labels, or with the LR labels that they came from."""

import argparse
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import InputError
from .console import (
    check_json,
    check_output,
    finite,
    json_option,
    legend_option,
    output_path,
    overwrite_option,
    show_accuracy,
    terminal,
    working,
    write_json,
)

if TYPE_CHECKING:
    from rich.console import Console

    from ..evaluation.accuracy import Assessment
    from ..evaluation.confusion import Confusion

DESCRIPTION = (
    'With --truth: accuracy, kappa, mean recall, and IoU, F1 and boundary IoU of each '
    'class, from one confusion matrix pooled over all files; the same by coarse class '
    '(--labels), file and stratum. Where there is no data, nothing is compared; '
    'classes that the truth does not have are marked and are in no mean. Without '
    '--truth: what the coarse labels and their joint statistics say of a map.'
)

EXAMPLES = """examples:
  torchgeo-mapsr evaluate map.tif --truth lc.tif --truth-legend chesapeake-7
  torchgeo-mapsr evaluate maps/*.tif --truth truth/*.tif --json accuracy.json
  torchgeo-mapsr evaluate map.tif --truth lc.tif --matrix matrix.png matrix.csv
  torchgeo-mapsr evaluate map.tif --truth lc.tif --labels nlcd.tif \\
      --labels-legend nlcd --lr-group developed=21,22,23,24
  torchgeo-mapsr evaluate map.tif --labels nlcd.tif --labels-legend nlcd

The confidence and scores that lie beside a map (NAME_confidence.tif, NAME_scores.tif) are
no maps and are left out of MAP…; the confidence is compared with the truth.
"""

# Figures of a group, and how they are called.
_FIGURES = {
    'accuracy': 'accuracy',
    'miou': 'mIoU',
    'fwiou': 'FWIoU',
    'macro_f1': 'F1',
    'mean_recall': 'recall',
    'kappa': 'kappa',
    'mean_boundary_iou': 'boundary',
}


# Up to this ratio of their areas, pixels are of one size.
_ALIKE = 1.2


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.add_argument('maps', nargs='+', metavar='MAP', help='class maps')
    parser.add_argument(
        '--truth',
        nargs='+',
        default=[],
        metavar='FILE',
        help='high-resolution labels: one a map, in the same order, or a folder of them; '
        'any grid and CRS',
    )
    legend_option(parser)
    parser.add_argument(
        '--truth-legend',
        metavar='NAME|FILE',
        help='legend of the truth (default: that of the maps)',
    )
    parser.add_argument(
        '--target',
        metavar='NAME|FILE',
        help='legend in which they are compared (default: that of the maps)',
    )
    parser.add_argument(
        '--crosswalk',
        metavar='NAME|FILE',
        help='how the truth’s classes become those, where there are several ways',
    )
    parser.add_argument(
        '--labels',
        nargs='+',
        default=[],
        metavar='FILE',
        help='coarse labels: figures by coarse class, and consistency with them',
    )
    parser.add_argument(
        '--labels-legend', metavar='NAME|FILE', help='legend of the coarse labels'
    )
    parser.add_argument(
        '--lr-group',
        nargs='+',
        default=[],
        metavar='NAME=CODES',
        help='coarse classes that are one group, too, like developed=21,22,23,24',
    )
    parser.add_argument(
        '--statistics',
        metavar='NAME|FILE',
        help='joint statistics that the map is compared with (default: malkin2019 where '
        'it has the legends)',
    )
    parser.add_argument(
        '--strata', metavar='FILE', help='raster of codes: figures by its codes, too'
    )
    parser.add_argument(
        '--boundary',
        type=finite,
        metavar='METRES',
        help='width of boundaries for the boundary IoU (default: two of the largest '
        'pixels that are compared)',
    )
    parser.add_argument(
        '--matrix',
        nargs='+',
        type=Path,
        default=[],
        metavar='FILE',
        help='write the confusion matrix as .csv or .png',
    )
    parser.add_argument(
        '--reliability', type=Path, metavar='FILE', help='reliability diagram as .png'
    )
    json_option(parser)
    overwrite_option(parser)


def run(options: argparse.Namespace) -> int:
    """Do it; returns the exit code."""
    from ..datasets.geo.names import list_rasters
    from ..evaluation.class_maps import common_legend, without_layers

    maps = without_layers(options.maps)
    if not maps:
        raise InputError('There is no class map among the files; name one.')
    if not options.truth and not options.labels:
        raise InputError('Give --truth, or --labels and --labels-legend.')
    if options.labels and not options.labels_legend:
        raise InputError('--labels needs its legend: give --labels-legend.')
    _check_effect(options)
    named = 'strata', 'statistics', 'legend', 'truth_legend', 'target', 'crosswalk'
    files = (getattr(options, name) for name in (*named, 'labels_legend'))
    inputs = [*options.maps, *options.truth, *options.labels, *filter(None, files)]
    _check_outputs(options, inputs)
    truth = options.truth
    if truth and len(maps) != len(truth):
        # A folder may be the truth of one map, or hold that of several.
        truth = list_rasters(truth)
    if truth and len(maps) != len(truth):
        raise InputError(
            f'There are {len(maps)} maps and {len(truth)} files of '
            'truth; give one file of truth for each map, in the same order.'
        )
    console = terminal()
    legend = common_legend(maps, options.legend)
    content: dict[str, Any] = {'maps': maps}
    if options.truth:
        pairs = list(zip(maps, truth, strict=True))
        content |= _with_truth(options, pairs, legend, console, inputs)
    if options.labels:
        content['lr'] = _with_labels(options, maps, legend, console)
    write_json(options, content, inputs)
    return 0


def _check_effect(options: argparse.Namespace) -> None:
    """Refuse options that have no effect without another."""
    of_truth = '--truth-legend --target --crosswalk --lr-group --strata --boundary'
    needs = {'--truth': f'{of_truth} --matrix --reliability'}
    needs['--labels'] = '--labels-legend --statistics'
    for needed, names in needs.items():
        if getattr(options, needed[2:]):
            continue
        for name in names.split():
            if getattr(options, name[2:].replace('-', '_')) not in (None, []):
                raise InputError(
                    f'{name} has no effect without {needed}: leave it out.'
                )


def _check_outputs(options: argparse.Namespace, inputs: list[str]) -> None:
    """Nothing is written over, and that before there is work."""
    outputs = [*options.matrix, *filter(None, [options.reliability])]
    check_json(options, [*inputs, *outputs])
    for i, path in enumerate(outputs):
        check_output(path, [*inputs, *outputs[:i]], options.overwrite)
    for path in options.matrix:
        if path.suffix not in {'.csv', '.png'}:
            raise InputError(f'--matrix {path} is neither a .csv nor a .png file.')
    if options.reliability is not None and options.reliability.suffix != '.png':
        raise InputError(f'--reliability {options.reliability} is not a .png file.')


def _with_truth(
    options: argparse.Namespace,
    pairs: list[tuple[str, str]],
    legend: Any,
    console: 'Console',
    inputs: list[str],
) -> dict[str, Any]:
    """Figures against HR labels."""
    from ..datasets.geo.names import distinct_names
    from ..datasets.labels import LabelRaster
    from ..datasets.legends.crosswalk import Crosswalk
    from ..datasets.legends.legend import Legend
    from ..evaluation.accuracy import assess, compared_pixel
    from ..evaluation.class_maps import layer_path
    from ..evaluation.groups import Groups, code_groups, lr_groups, whole_group
    from ..evaluation.reliability import map_reliability

    target = options.target or legend
    map_crosswalk = Crosswalk.load(legend, target)
    truth_crosswalk = Crosswalk.load(
        options.truth_legend or legend, target, options.crosswalk
    )
    names = distinct_names([path for path, _ in pairs])
    pixels = [compared_pixel(*pair) for pair in pairs]
    width = options.boundary
    if width is None:
        width = round(2 * max(map(max, pixels)), 3)
    groups: Groups = {}
    if options.labels:
        lr_legend = Legend.load(options.labels_legend)
        groups |= lr_groups(options.labels, lr_legend, options.lr_group)
    elif options.lr_group:
        raise InputError('--lr-group needs --labels and --labels-legend.')
    if options.strata:
        groups |= code_groups(options.strata)
    parts, reliability = [], None
    with working(console, 'Comparing'):
        for name, (path, truth) in zip(names, pairs, strict=True):
            tile = whole_group('tile', name) if len(pairs) > 1 else {}
            parts.append(
                assess(
                    path, truth, map_crosswalk, truth_crosswalk, width, groups | tile
                )
            )
            beside = layer_path(path, 'confidence')
            if beside.exists():
                part = map_reliability(
                    path,
                    beside,
                    LabelRaster.open(truth),
                    map_crosswalk,
                    truth_crosswalk,
                )
                reliability = part if reliability is None else reliability + part
    result = sum(parts[1:], parts[0])
    with ExitStack() as stack:
        for path in options.matrix:
            scratch = stack.enter_context(output_path(path, inputs, options.overwrite))
            save = result.total.save_csv if path.suffix == '.csv' else None
            (save or result.total.save_png)(scratch)
        if options.reliability is not None:
            if reliability is None:
                raise InputError(
                    '--reliability needs NAME_confidence.tif beside a map.'
                )
            path = options.reliability
            scratch = stack.enter_context(output_path(path, inputs, options.overwrite))
            reliability.save_png(scratch, 'high-resolution labels')
    show_accuracy(console, {'map': result.total})
    _show_classes(console, result.total)
    _show_matrix(console, result.total)
    _show_groups(console, result)
    notes = _notes([path for path, _ in pairs], pixels)
    for note in notes:
        console.print(f'Note: {note}', markup=False)
    content = {'crosswalk': truth_crosswalk.name, **result.to_dict(), 'notes': notes}
    if reliability is not None:
        console.print(f'Expected calibration error: {100 * reliability.ece:.1f} %')
        content['reliability'] = reliability.to_dict()
    return content


def _notes(maps: list[str], pixels: list[tuple[float, float]]) -> list[str]:
    """What has to be said of figures that are pooled over pixels of several sizes."""
    areas = [high * wide for high, wide in pixels]
    fine, coarse = areas.index(min(areas)), areas.index(max(areas))
    ratio = areas[coarse] / areas[fine]
    if ratio < _ALIKE:
        return []
    note = (
        f'Every pixel counts alike, and those compared have {max(pixels[fine]):.3g} m '
        f'({maps[fine]}) to {max(pixels[coarse]):.3g} m ({maps[coarse]}): of the same '
        f'ground, the first counts {ratio:.3g} times as much. See the figures by tile, '
        'or compare files of one pixel size at a time.'
    )
    return [note]


def _show_classes(console: 'Console', result: 'Confusion') -> None:
    from ..evaluation.report import percent, result_table

    width = result.boundary_width
    figures = {
        'IoU': 'iou',
        'F1': 'f1',
        'user’s': 'precision',
        'producer’s': 'recall',
        'boundary IoU' + ('' if width is None else f' ({width:g} m)'): 'boundary_iou',
        'of truth': 'share',
    }
    rows = [
        (name, *(percent(getattr(result, figure)[i]) for figure in figures.values()))
        for i, name in enumerate(_marked(result))
    ]
    console.print(result_table('By class (%)', ('', *figures), rows))


def _show_matrix(console: 'Console', result: 'Confusion') -> None:
    from ..evaluation.report import result_table

    rows = [
        (name, *(f'{count:,}' for count in counts))
        for name, counts in zip(_marked(result), result.matrix.tolist(), strict=True)
    ]
    title = 'Pixels by true class (row) and mapped class (column)'
    console.print(result_table(title, ('truth', *result.legend.class_names), rows))


def _marked(result: 'Confusion') -> list[str]:
    """Names of classes, those marked that the truth does not have."""
    named = zip(result.legend.class_names, result.present, strict=True)
    return [name if present else f'{name} (absent)' for name, present in named]


def _show_groups(console: 'Console', result: 'Assessment') -> None:
    from ..evaluation.report import percent, result_table

    width = result.total.boundary_width
    near = '' if width is None else f' within {width:g} m'
    for kind, by_name in result.groups.items():
        title = f'By {kind} (%; F1 and recall: means; boundary: IoU{near})'
        rows = []
        for name, part in by_name.items():
            pixels = int(part.matrix.sum())
            if pixels:
                figures = (percent(getattr(part, figure)) for figure in _FIGURES)
                rows.append((name, f'{pixels:,}', *figures))
        columns = '', 'pixels', *_FIGURES.values()
        console.print(result_table(title, columns, rows, compact=True))


def _with_labels(
    options: argparse.Namespace, maps: list[str], legend: Any, console: 'Console'
) -> dict[str, Any]:
    """Figures against coarse labels."""
    from ..datasets.labels import LabelRaster
    from ..datasets.legends.legend import Legend
    from ..datasets.legends.statistics import JointStatistics
    from ..evaluation.consistency import WARNING, composition
    from ..evaluation.report import result_table

    lr_legend = Legend.load(options.labels_legend)
    statistics = None
    if options.statistics:
        statistics = JointStatistics.load(options.statistics)
    else:
        shipped = JointStatistics.load('malkin2019')
        if (shipped.source, shipped.target) == (lr_legend, legend):
            statistics = shipped
    labels = LabelRaster.open(options.labels)
    with working(console, 'Comparing with coarse labels'):
        parts = [composition(path, legend, labels, lr_legend) for path in maps]
        result = sum(parts[1:], parts[0])
    if not result.cells.any():
        raise InputError('No cell of the coarse labels lies on the maps.')
    rows = []
    scores = None if statistics is None else result.z_scores(statistics)
    for i, item in enumerate(lr_legend.classes):
        if result.cells[i]:
            shown = [f'{100 * share:.0f}' for share in result.mean[i]]
            if scores is not None and scores[0][i][0] == scores[0][i][0]:
                shown = [
                    f'{text} ({z:+.1f})'
                    for text, z in zip(shown, scores[0][i], strict=True)
                ]
            rows.append((item.name, str(result.cells[i]), *shown))
    title = 'Share of each class in the cells of a coarse class (%)'
    columns = 'coarse class', 'cells', *legend.class_names
    console.print(result_table(title, columns, rows))
    if statistics is not None:
        console.print(
            f'In brackets: mean z-score against the statistics {statistics.name!r}.'
        )
    console.print(f'Note: {WARNING}')
    return {**result.to_dict(statistics), 'warning': WARNING}
