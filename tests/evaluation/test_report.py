# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

from collections.abc import Sequence
from typing import Any

import numpy as np

from torchgeo_mapsr.datasets.legends.legend import Legend
from torchgeo_mapsr.evaluation.consistency import MapSummary
from torchgeo_mapsr.evaluation.report import map_notes

NAMES = 'Forest', 'Forest, wet', 'Water', 'Open water'
LEGEND = Legend.load(
    {
        'name': 'near names',
        'classes': [{'code': i, 'name': name} for i, name in enumerate(NAMES, 1)],
    }
)


def summary(pixels: Sequence[int], cells: Sequence[int] = (0, 0, 0, 0)) -> MapSummary:
    counts, labelled = np.array(pixels), np.array(cells)
    weights = labelled.astype(float)
    return MapSummary(LEGEND, counts, counts / 1e4, 0, labelled, weights, weights)


def fitted(
    cells: Sequence[int],
    *remarks: str,
    unmapped: Sequence[str] = (),
    uncertain: Sequence[str] = (),
) -> dict[str, Any]:
    said = {'remarks': remarks, 'unmapped': unmapped, 'uncertain': uncertain}
    return {'fit': {**said, 'cells': dict(zip(NAMES, cells, strict=True))}}


def test_every_class_without_a_pixel_is_named() -> None:
    """Also where another class, whose name holds its own, is explained already."""
    remarks = (
        'Forest, wet is not mapped: of none of its 3 cells was half or more seen.',
        'Open water is not mapped: no label stands for it.',
    )
    maps = [summary([0, 0, 0, 0]), summary([0, 0, 0, 0])]
    explained = fitted([1, 0, 0, 0], *remarks, unmapped=['Forest, wet', 'Open water'])
    notes = map_notes(explained, maps)
    assert notes[:2] == list(remarks)
    assert [note.split(' is on no pixel')[0] for note in notes[2:]] == [
        'Forest',
        'Water',
    ]
    assert 'its 1 cell is not enough' in notes[2]
    assert 'it has no cell' in notes[3]


def test_classes_of_one_remark_are_explained() -> None:
    remark = 'Forest, wet, Open water are not mapped: no label stands for them.'
    explained = fitted([9, 0, 9, 0], remark, unmapped=['Forest, wet', 'Open water'])
    notes = map_notes(explained, [summary([50, 0, 50, 0])])
    assert notes == [remark]
    # Labels in chips that the fit did not look at, or where another fit is used.
    explained['fit']['unlabelled'] = ['Forest, wet', 'Open water']
    told = map_notes(explained, [summary([50, 0, 50, 0], [5, 7, 5, 0])])
    assert told[0] == remark
    assert told[1].startswith('Forest, wet: 7 coarse cells of the map are labelled so')
    assert len(told) == 2


def test_class_that_is_nearly_absent_is_named() -> None:
    """Shares are of all maps of a run: 4 of 1000 pixels, and 30 of 300 cells."""
    maps = [summary([398, 50, 51, 1], [90, 30, 15, 15])] * 2
    maps[1] = summary([197, 150, 150, 3], [90, 30, 15, 15])
    (note,) = map_notes(fitted([90, 30, 15, 15]), maps)
    assert note.startswith('Open water is on 0.4 % of the map, where 10 % of the')


def test_class_that_is_rare_and_mapped_is_not_named() -> None:
    maps = [summary([489, 250, 250, 11], [90, 30, 15, 15])]
    assert map_notes(fitted([90, 30, 15, 15]), maps) == []


def test_uncertain_class_is_named_once() -> None:
    remark = 'Open water has 2 cells: where it is mapped is uncertain.'
    maps = [summary([499, 250, 250, 1], [90, 30, 15, 15])]
    known = fitted([90, 30, 15, 2], remark, uncertain=['Open water'])
    assert map_notes(known, maps) == [remark]
    # without a pixel it is named again: the remark does not say that it is missing
    gone = [summary([500, 250, 250, 0], [90, 30, 15, 15])]
    assert len(map_notes(known, gone)) == 2


def test_maps_without_labels_or_of_networks() -> None:
    assert map_notes(fitted([1, 1, 1, 1]), [summary([1, 1, 1, 997])]) == []
    assert map_notes({}, [summary([0, 0, 0, 1000], [90, 30, 15, 15])]) == []
