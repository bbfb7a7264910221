# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

from pathlib import Path
from runpy import run_path
from typing import Any

EXAMPLES = Path(__file__).parents[2] / 'docs' / 'examples'


def load(name: str) -> dict[str, Any]:
    return run_path(str(EXAMPLES / f'{name}.py'))


def test_lymphocytes_are_learned_from_quantised_probabilities() -> None:
    compare = load('lymphocytes')['compare']
    auc, iou = compare(ways=('super-resolution',))['super-resolution']
    # measured 0.989 and 0.754; chance is 0.5, and a sixth of the pixels
    assert auc > 0.93
    assert iou > 0.55
    # no region is mostly lymphocytes: no label that is a class can say so
    for _, naive in compare(60, ways=('hard naive', 'soft naive')).values():
        assert naive < 0.01


def test_people_are_learned_from_boxes() -> None:
    compare = load('boxes')['compare']
    (boxes,) = compare(ways=('boxes',)).values()
    (naive,) = compare(100, ways=('naive',)).values()
    # measured 0.794 and 0.696
    assert boxes > 0.72
    assert boxes > naive + 0.05


def test_blocks_hold_what_they_are_called() -> None:
    """Three classes of coarse blocks, on a grid."""
    (blocks,) = load('boxes')['compare'](100, ways=('blocks',)).values()
    assert blocks > 0.6
