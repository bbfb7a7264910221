# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""What a run did, for people and for programs."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np
from rich.table import Table

from ..datasets.legends.statistics import JointStatistics
from ..versions import versions
from .accuracy import Confusion
from .consistency import MapSummary

#: Share of its labelled share below which a class is nearly absent from a map. With a
#: fifth of the labels wrong, 27 cells of one class became 15 pixels of 374 000.
NEARLY_ABSENT = 0.1


def run_report(
    settings: Mapping[str, Any],
    fit: Mapping[str, Any],
    maps: Mapping[str, MapSummary],
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


def map_notes(fit: Mapping[str, Any], maps: Sequence[MapSummary]) -> list[str]:
    """What a person should know of maps: no class is missing without a word.

    Args:
        fit: Where the fit comes from, see
            :attr:`~torchgeo_mapsr.models.model.LandCoverModel.provenance`.
        maps: Summary of each map of the run.

    Returns:
        The remarks of the fit, and a sentence for each other class that has no pixel, or
        less than a tenth of the share that coarse labels give it; nothing of trained
        networks.
    """
    fitted = fit.get('fit', {})
    notes = list(fitted.get('remarks', ()))
    if not fitted:
        return notes
    pixels, labelled = (
        np.sum([getattr(m, name) for m in maps], axis=0) for name in ('pixels', 'cells')
    )
    for name, mapped, expected in zip(
        maps[0].legend.class_names,
        pixels / max(pixels.sum(), 1),
        labelled / max(labelled.sum(), 1),
        strict=True,
    ):
        if any(_says_unmapped(note, name) for note in notes):
            continue
        if mapped == 0:
            cells = fitted.get('cells', {}).get(name, 0)
            reason = 'it has no whole cell'
            if cells:
                few = 'cell is' if cells == 1 else 'cells are'
                reason = (
                    f'its {cells} whole {few} not enough to tell it from other classes'
                )
            notes.append(
                f'{name} is on no pixel of the map: {reason}, or it is not in this '
                'imagery.'
            )
        elif mapped < NEARLY_ABSENT * expected and not any(
            note.startswith(f'{name} has ') for note in notes
        ):
            notes.append(
                f'{name} is on {100 * mapped:.2g} % of the map, where '
                f'{100 * expected:.2g} % of the coarse cells are labelled so: the imagery '
                'hardly tells it from other classes, or these labels are wrong.'
            )
    return notes


def _says_unmapped(note: str, name: str) -> bool:
    """Whether a remark explains already why a class is not mapped."""
    several, found, _ = note.partition(' are not mapped: ')
    return note.startswith(f'{name} is not mapped: ') or (
        bool(found) and f', {name},' in f', {several},'
    )


def area_table(maps: Sequence[MapSummary]) -> Table:
    """Classes, areas and agreement with the LR labels, over all maps."""
    table = Table(title='Land cover')
    for name in ('class', 'hectares', 'share', 'agreement with coarse labels'):
        table.add_column(name, justify='left' if name == 'class' else 'right')
    legend = maps[0].legend
    hectares = np.sum([m.hectares for m in maps], axis=0)
    pixels = np.sum([m.pixels for m in maps], axis=0)
    cells = np.sum([m.cells for m in maps], axis=0)
    agreeing = np.sum([m.agreeing for m in maps], axis=0)
    for i, item in enumerate(legend.classes):
        same = f'{agreeing[i]} of {cells[i]} cells' if cells[i] else '–'
        share = percent(pixels[i] / pixels.sum()) if pixels.any() else '–'
        table.add_row(item.name, f'{hectares[i]:.2f}', f'{share} %', same)
    return table


def accuracy_table(results: Mapping[str, Confusion]) -> Table:
    """Figures of merit in percent, a column for each result."""
    table = Table(title='Agreement with high-resolution labels (%)')
    table.add_column('')
    for name in results:
        table.add_column(name, justify='right')
    values = list(results.values())
    for i, item in enumerate(values[0].legend.classes):
        absent = not any(result.present[i] for result in values)
        name = f'IoU {item.name}' + (' (absent in truth)' if absent else '')
        table.add_row(name, *(percent(result.iou[i]) for result in values))
    table.add_section()
    for name, figure in (
        ('mIoU', 'miou'),
        ('FWIoU', 'fwiou'),
        ('mean F1', 'macro_f1'),
        ('mean recall', 'mean_recall'),
        ('accuracy', 'accuracy'),
        ('kappa', 'kappa'),
    ):
        table.add_row(name, *(percent(getattr(result, figure)) for result in values))
    width = values[0].boundary_width
    if width is not None:
        table.add_row(
            f'boundary IoU ({width:g} m)',
            *(percent(result.mean_boundary_iou) for result in values),
        )
    return table


def statistics_table(statistics: JointStatistics) -> Table:
    """Shares of the HR classes in percent, a row for each LR class that has any."""
    table = Table(title='Shares of high-resolution classes (%), mean ± deviation')
    table.add_column('code', justify='right')
    table.add_column('coarse class')
    for name in ('of all cells', *statistics.target.class_names):
        table.add_column(name, justify='right')
    for i, item in enumerate(statistics.source.classes):
        if statistics.frequency[i] > 0:
            shares = zip(statistics.mean[i], statistics.std[i], strict=True)
            table.add_row(
                str(item.code),
                item.name,
                percent(statistics.frequency[i]),
                *(f'{100 * mean:.0f} ± {100 * std:.0f}' for mean, std in shares),
            )
    return table


def percent(value: float) -> str:
    """A share in percent with one decimal; a dash where it is undefined."""
    return '–' if np.isnan(value) else f'{100 * value:.1f}'
