# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""What a fit says that its map may be wrong about."""

from itertools import combinations

import numpy as np
import torch
from torch import Tensor

from ...datasets.legends.crosswalk import Crosswalk
from .labelled import Labelled
from .neighbours import neighbour_weights
from .noise import FEWEST_CELLS
from .probe import HeldOut, one_hot

# Cells below which a class is reported as uncertain: of ten such on our scenes two
# had an IoU below .1, of fourteen of 10 to 30 cells one, whose labels are noisy.
FEW_CELLS = 10

# Labels are said to share errors where the imagery contradicts at least this part of
# them, so many times as often side by side as by chance, and this part of what lies
# beside them with their label, too; see _doubts.
CONTRADICTED, CLUSTERED, SHARED = 0.05, 1.5, 0.4

# Share of the pairs of held-out cells of two classes, one of each, that the imagery ranks
# as labelled, below which it does not tell them apart. With labels that are right the
# least of any two classes of our scenes was .74, and by noisy ones .49 to .60 were seen.
TOLD_APART = 0.6


def class_counts(data: Labelled, crosswalk: Crosswalk) -> dict[str, int]:
    """Cells used of each class, as the codes are called."""
    code = data.table.code[data.used].numpy()
    index = torch.from_numpy(crosswalk.index(code))
    count = torch.bincount(index[index >= 0], minlength=len(crosswalk.target))
    return dict(zip(crosswalk.target.class_names, count.tolist(), strict=True))


def remarks_of(
    data: Labelled,
    crosswalk: Crosswalk,
    cells: dict[str, int],
    held: HeldOut | None,
    composition: tuple[Tensor, Tensor],
    prompted: Tensor | None,
) -> dict[str, list[str]]:
    """What the map may be wrong about, one sentence each, and the classes it is of.

    *prompted* is which classes have prompts, where these alone score.
    """
    remarks: list[str] = []
    unmapped: list[str] = []
    unlabelled: list[str] = []
    uncertain: list[str] = []
    code = data.table.code
    index = torch.from_numpy(crosswalk.index(code.numpy()))
    seen = data.composition[data.cell_label].sum(0) > 0
    only_cut = ~torch.isin(composition[0], code[data.used])
    for c, name in enumerate(crosswalk.target.class_names):
        cut = int((index == c).sum()) - cells[name]
        if not seen[c]:
            unmapped.append(name)
            if cut or (only_cut & (composition[1][:, c] > 0)).any():
                of = f'its {cut} cells' if cut else 'the cells that may hold some of it'
                remarks.append(
                    f'{name} is not mapped: of none of {of} was half or more seen (the edge '
                    'of the imagery or of the area cuts them, pixels without data do, or '
                    'chips that the fit did not look at); give a larger area.'
                )
            else:
                unlabelled.append(name)
        elif prompted is not None and not prompted[c]:
            unmapped.append(name)
            remarks.append(
                f'{name} is not mapped: it has no prompt, for too few pixels that agree '
                'with their label; ask for fewer prompts, or another score.'
            )
        elif cells[name] == 0:
            uncertain.append(name)
            remarks.append(
                f'{name} has no cell of its own: it is known from mixed codes alone.'
            )
        elif cells[name] < FEW_CELLS:
            uncertain.append(name)
            few = 'cell' if cells[name] == 1 else 'cells'
            remarks.append(
                f'{name} has {cells[name]} {few}: where it is mapped, and where it is '
                'missed, is uncertain.'
            )
    listed = _left_out(code, crosswalk)
    if listed:
        remarks.append(
            f'Left out by the crosswalk: {listed}; the ground there is mapped as other '
            'classes.'
        )
    if unlabelled:
        be, it = ('are', 'them') if len(unlabelled) > 1 else ('is', 'it')
        remarks.append(
            f'{", ".join(unlabelled)} {be} not mapped: no label that the fit has seen '
            f'stands for {it}.'
        )
    if held is not None:
        remarks += _doubts(data, crosswalk, held)
    return {
        'remarks': remarks,
        'unmapped': unmapped,
        'unlabelled': unlabelled,
        'uncertain': uncertain,
    }


def _left_out(code: Tensor, crosswalk: Crosswalk) -> str:
    """Cells of codes that the legend has and the crosswalk does not, as words."""
    source = crosswalk.source
    codes, counts = code.unique(return_counts=True)
    return ', '.join(
        f'{count} cells of {value} ({source.class_names[int(source.index(value))]})'
        for value, count in zip(codes.tolist(), counts.tolist(), strict=True)
        if source.index(value) >= 0 and crosswalk.index(value) < 0
    )


def _doubts(data: Labelled, crosswalk: Crosswalk, held: HeldOut) -> list[str]:
    """What held-out cells say against the labels, one sentence each.

    Cells at the outline of a class are contradicted where labels are right, too, and lie
    together. So labels share errors only where those beside a contradicted cell that
    have its label are mostly contradicted as well. Of labels that are right .17 to .36
    were (.45 and .56 on two scenes whose truth is coarse polygons, which imagery
    contradicts by whole areas), and .41 to .72 of those whose errors are alike. Errors that
    cells have by themselves may be as many, but do not lie together.

    Returns:
        Sentences; none if there is nothing to say.
    """
    remarks = []
    label = data.cell_label[held.index]
    p = held.log_probability.double().exp() @ data.composition
    code = data.table.code[data.used][held.index]
    called = torch.from_numpy(crosswalk.index(code.numpy()))
    names = crosswalk.target.class_names
    log_p = p.clamp(min=1e-12).log()
    pairs = []
    for a, b in combinations(range(len(names)), 2):
        margin = (log_p[:, a] - log_p[:, b]).numpy()
        first, second = (np.sort(margin[(called == c).numpy()]) for c in (a, b))
        if min(len(first), len(second)) >= FEW_CELLS:
            # Mann and Whitney's count of pairs in order; half of those that are level.
            below, up_to = (second.searchsorted(first, s) for s in ('left', 'right'))
            if (below + up_to).mean() < 2 * TOLD_APART * len(second):
                pairs.append(f'{names[a]} and {names[b]}')
    if pairs:
        remarks.append(
            f'The imagery hardly tells cells labelled {"; ".join(pairs)} apart: many of '
            'these labels are wrong, or the map of these classes is.'
        )
    main = data.composition[label].argmax(1)
    wrong = (p.argmax(1) != main).double().numpy()
    if len(label) < FEWEST_CELLS or wrong.mean() < CONTRADICTED:
        return remarks
    around = neighbour_weights(data.place[held.index], 1.0, 1)
    near = around @ wrong / np.maximum(around.sum(1), 1e-9)
    ratio = float(near @ wrong / wrong.sum() / wrong.mean())
    same = one_hot(main, len(names)).numpy()
    # Beside each cell: those of its label, and of these those that are contradicted.
    beside = (same * (around @ same)).sum(1)
    shared = (same * (around @ (same * wrong[:, None]))).sum(1)
    part = float(wrong @ shared) / max(float(wrong @ beside), 1e-9)
    if ratio > CLUSTERED and part > SHARED:
        remarks.append(
            f'Cells whose label the imagery contradicts lie together ({ratio:.1f} times '
            f'as often as by chance), and {100 * part:.0f} % of those beside them with '
            'their label are contradicted, too: neighbouring labels seem to share errors.'
        )
    return remarks
