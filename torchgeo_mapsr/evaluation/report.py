# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""What a run did, for people and for programs."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from ..versions import versions

if TYPE_CHECKING:  # Accuracy needs torch, and areas of points do not.
    from ..datasets.legends.statistics import JointStatistics
    from .confusion import Confusion
    from .consistency import MapSummary

#: Share of its labelled share below which a class is nearly absent from a map. With a
#: fifth of the labels wrong, 27 cells of one class became 15 pixels of 374 000.
NEARLY_ABSENT = 0.1


def run_report(
    settings: Mapping[str, Any],
    fit: Mapping[str, Any],
    maps: 'Mapping[str, MapSummary]',
    timings: Mapping[str, float],
    notes: Sequence[str] = (),
) -> dict[str, Any]:
    """The report of a run, as JSON types.

    Args:
        settings: What the run was told.
        fit: Where the fit comes from and what it has seen.
        maps: Summary of each map, by its path.
        timings: Seconds by stage.
        notes: Anything that a person should know.
    """
    return {
        'created': datetime.now(UTC).isoformat(timespec='seconds'),
        'versions': versions(),
        'settings': dict(settings),
        'fit': dict(fit),
        'maps': [{'map': path, **s.to_dict()} for path, s in maps.items()],
        'timings': dict(timings),
        'notes': list(notes),
    }


def map_notes(fit: Mapping[str, Any], maps: 'Sequence[MapSummary]') -> list[str]:
    """What a person should know of maps: no class is missing without a word.

    Args:
        fit: Where the fit comes from, see
            :attr:`~torchgeo_mapsr.models.model.LandCoverModel.provenance`.
        maps: Summary of each map of the run.

    Returns:
        The remarks of the fit, and a sentence for each other class that has no pixel, or
        less than a tenth of the share that coarse labels give it, or labels that the
        fit has not seen; nothing of trained networks.
    """
    fitted = fit.get('fit', {})
    notes = list(fitted.get('remarks', ()))
    if not fitted:
        return notes
    pixels, labelled = (
        np.sum([getattr(m, name) for m in maps], axis=0) for name in ('pixels', 'cells')
    )
    for name, mapped, expected, labels in zip(
        maps[0].legend.class_names,
        pixels / max(pixels.sum(), 1),
        labelled / max(labelled.sum(), 1),
        labelled.tolist(),
        strict=True,
    ):
        if name in fitted.get('unlabelled', ()) and labels:
            notes.append(
                f'{name}: {labels} coarse cells of the map are labelled so, and the fit has '
                'seen none of them; let it look at more chips (--max-chips), or fit here.'
            )
        if name in fitted.get('unmapped', ()):
            continue
        if mapped == 0:
            cells = fitted.get('cells', {}).get(name, 0)
            reason = 'it has no cell'
            if cells:
                few = 'cell is' if cells == 1 else 'cells are'
                reason = f'its {cells} {few} not enough to tell it from other classes'
            notes.append(
                f'{name} is on no pixel of the map: {reason}, or it is not in this '
                'imagery.'
            )
        elif mapped < NEARLY_ABSENT * expected and name not in fitted.get(
            'uncertain', ()
        ):
            notes.append(
                f'{name} is on {100 * mapped:.2g} % of the map, where '
                f'{100 * expected:.2g} % of the coarse cells are labelled so: the imagery '
                'hardly tells it from other classes, or these labels are wrong.'
            )
    return notes


def result_table(
    title: str,
    columns: Sequence[str],
    rows: Iterable[Sequence[str]],
    totals: Iterable[Sequence[str]] = (),
    names: int = 0,
    compact: bool = False,
) -> Table:
    """A table of figures for the terminal.

    Args:
        title: What stands above it.
        columns: Heads of the columns.
        rows: Cells of each row.
        totals: Rows of figures over all rows, under a line.
        names: Which column holds names: it is set to the left, figures to the right.
        compact: Leave out lines between columns, and never wrap a figure, so that nine
            columns go into a terminal of 80 characters.
    """
    table = Table(title=title)
    if compact:
        table = Table(
            title=title, box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False
        )
    for i, column in enumerate(columns):
        # As text: names with [brackets] are no markup.
        if i == names:
            table.add_column(Text(column))
        else:
            table.add_column(Text(column), justify='right', no_wrap=compact)
    for row in rows:
        table.add_row(*map(Text, row))
    table.add_section()
    for row in totals:
        table.add_row(*map(Text, row))
    return table


def area_table(maps: 'Sequence[MapSummary]') -> Table:
    """Classes, areas and agreement with the LR labels, over all maps."""
    hectares = np.sum([m.hectares for m in maps], axis=0)
    pixels = np.sum([m.pixels for m in maps], axis=0)
    cells = np.sum([m.cells for m in maps], axis=0)
    weights = np.sum([m.weights for m in maps], axis=0)
    agreeing = np.sum([m.agreeing for m in maps], axis=0)
    rows = []
    for i, name in enumerate(maps[0].legend.class_names):
        same = '–'
        if cells[i]:
            same = f'{percent(agreeing[i] / weights[i])} % of {cells[i]} cells'
        share = percent(pixels[i] / pixels.sum()) if pixels.any() else '–'
        rows.append((name, f'{hectares[i]:.2f}', f'{share} %', same))
    columns = 'class', 'hectares', 'share', 'agreement with coarse labels'
    return result_table('Land cover', columns, rows)


def accuracy_table(results: 'Mapping[str, Confusion]') -> Table:
    """Figures of merit in percent, a column for each result."""
    values = list(results.values())
    rows = []
    for i, name in enumerate(values[0].legend.class_names):
        absent = not any(result.present[i] for result in values)
        head = f'IoU {name}' + (' (absent in truth)' if absent else '')
        rows.append((head, *(percent(result.iou[i]) for result in values)))
    figures = {
        'mIoU': 'miou',
        'FWIoU': 'fwiou',
        'mean F1': 'macro_f1',
        'mean recall': 'mean_recall',
        'accuracy': 'accuracy',
        'kappa': 'kappa',
    }
    width = values[0].boundary_width
    if width is not None:
        figures[f'boundary IoU ({width:g} m)'] = 'mean_boundary_iou'
    totals = [
        (name, *(percent(getattr(result, figure)) for result in values))
        for name, figure in figures.items()
    ]
    title = 'Agreement with high-resolution labels (%)'
    return result_table(title, ['', *results], rows, totals)


def statistics_table(statistics: 'JointStatistics') -> Table:
    """Shares of the HR classes in percent, a row for each LR class that has any."""
    rows = []
    for i, item in enumerate(statistics.source.classes):
        if statistics.frequency[i] > 0:
            shares = zip(statistics.mean[i], statistics.std[i], strict=True)
            rows.append(
                (
                    str(item.code),
                    item.name,
                    percent(statistics.frequency[i]),
                    *(f'{100 * mean:.0f} ± {100 * std:.0f}' for mean, std in shares),
                )
            )
    return result_table(
        'Shares of high-resolution classes (%), mean ± deviation',
        ('code', 'coarse class', 'of all cells', *statistics.target.class_names),
        rows,
        names=1,
    )


def percent(value: float) -> str:
    """A share in percent with one decimal; a dash where it is undefined."""
    return '–' if np.isnan(value) else f'{100 * value:.1f}'
