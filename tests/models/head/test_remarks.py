# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

from dataclasses import replace
from typing import Any

import pytest
import torch

from torchgeo_mapsr.datasets.legends.crosswalk import Crosswalk
from torchgeo_mapsr.errors import InputError
from torchgeo_mapsr.models.head.cells import CellTable
from torchgeo_mapsr.models.head.fit import FitOptions, fit_head

from .tables import SAME, TARGET, Blobs, mixtures


def remarks_of(
    table: CellTable, crosswalk: Crosswalk = SAME, **options: Any
) -> list[str]:
    made = fit_head(table, crosswalk, FitOptions(l2=0.01, **options))
    remarks: list[str] = made.provenance['fit']['remarks']
    return remarks


def test_classes_that_are_not_mapped_are_named() -> None:
    blobs = Blobs(side=15, classes=(0, 2))
    code = blobs.table.code.clone()
    share = blobs.table.share.clone()
    code[:3], share[:3] = 4, 0.4  # impervious: three cells that are cut
    made = fit_head(replace(blobs.table, code=code, share=share), SAME)
    remarks = made.provenance['fit']['remarks']
    cut = 'Impervious is not mapped: of none of its 3 cells was half or more seen'
    assert any(r.startswith(cut) for r in remarks)
    unseen = 'not mapped: no label that the fit has seen stands for'
    assert f'Forest is {unseen} it.' in remarks
    assert made.provenance['fit']['unmapped'] == ['Forest', 'Impervious']
    assert made.provenance['fit']['unlabelled'] == ['Forest']
    one = Blobs(side=15, classes=(0, 0, 3)).table
    assert f'Forest, Field are {unseen} them.' in remarks_of(one)
    with pytest.raises(InputError, match='half or more lies in the imagery, its data'):
        remarks_of(replace(one, share=0.4 * one.share))
    code[3], share[3] = 4, 1
    made = fit_head(replace(blobs.table, code=code, share=share), SAME)
    remarks = made.provenance['fit']['remarks']
    assert any(r.startswith('Impervious has 1 cell:') for r in remarks)
    assert made.provenance['fit']['uncertain'] == ['Impervious']


def test_reason_of_a_class_that_mixed_codes_may_hold() -> None:
    """Cells of 90 hold some water, but none is called so, which is all that counts
    where classes are learned; where the one cell of 90 is cut, that is the reason.
    """
    blobs = Blobs(side=9, classes=(1, 2))
    code = torch.where(blobs.table.code == 2, 90, 81)
    walk = Crosswalk.load('nlcd', TARGET)
    table = replace(blobs.table, code=code)
    (reason,) = (
        r for r in remarks_of(table, walk, recipe='classes') if r.startswith('Water')
    )
    assert reason.startswith('Water, Impervious are not mapped: no label')
    assert any('known from mixed codes' in r for r in remarks_of(table, walk))
    code = torch.where(blobs.table.code == 2, 41, 81)
    share = blobs.table.share.clone()
    code[0], share[0] = 90, 0.4
    (reason,) = (
        r
        for r in remarks_of(replace(table, code=code, share=share), walk)
        if r.startswith('Water')
    )
    assert (
        'of none of the cells that may hold some of it was half or more seen' in reason
    )


def test_codes_that_the_crosswalk_leaves_out_are_named() -> None:
    table, _ = mixtures(side=12)
    code = table.code.clone()
    code[:7], code[7:9] = 12, 60  # ice and snow; and what the legend does not have
    walk = Crosswalk.load('nlcd', TARGET)
    (told,) = (r for r in remarks_of(replace(table, code=code), walk) if 'Left' in r)
    assert '7 cells of 12 (Perennial Ice/Snow); the ground' in told
    assert '60' not in told


def test_doubts_about_labels_are_told() -> None:
    """Errors that neighbours share, and classes that look alike; not labels that are
    right, whose outlines are contradicted side by side, nor errors one by one.
    """
    blobs = Blobs(side=18, classes=(0, 2, 3), patch=4, apart=2.0)
    alone = Blobs(side=18, classes=(0, 2, 3), patch=4, apart=2.0, wrong=0.3)
    code, place = blobs.table.code, blobs.table.place[:, 1:]
    shared = code.clone()
    for corner in ((1, 1), (10, 9)):
        inside = ((place - torch.tensor(corner)) // 5 == 0).all(1)
        shared[inside] = torch.tensor([0, 4, 0, 1, 3])[code[inside]]
    split = code.clone()
    draw = torch.rand(len(code), generator=torch.Generator().manual_seed(0)) < 0.5
    split[(code == 1) & draw] = 2
    right, errors, alike = (
        ' '.join(remarks_of(replace(blobs.table, code=codes)))
        for codes in (code, shared, split)
    )
    for said in (right, ' '.join(remarks_of(alone.table))):
        assert 'share errors' not in said
        assert ' apart' not in said
    assert 'share errors' in errors
    assert 'cells labelled Water and Forest apart' in alike
