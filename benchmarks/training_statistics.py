# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""Rows of label super-resolution and its baselines (hard naive is the row *low*)."""

from typing import Any

import yaml

from torchgeo_mapsr.datasets import Legend
from torchgeo_mapsr.tasks import (
    ExpectationMaximizationTask,
    LabelSuperResolutionTask,
    SoftNaiveTask,
)

from .regions import TARGET
from .training_rows import ROWS, Maps, Trial, row

# Of the HR labels' cross entropy beside the statistics loss.
HR_WEIGHT = 1.0

# Chips of the paper's own method are drawn inversely to the frequency of their coarse
# classes; by its square root here, since some classes have a handful of cells.
BALANCE = 0.5


@row('soft', 'Soft naive')
def _soft(trial: Trial) -> Maps:
    return trial.fit(lambda: SoftNaiveTask(**_statistical(trial)))


@row('em', 'EM with superpixels')
def _em(trial: Trial) -> Maps:
    options = {'warmup_epochs': 6, 'round_epochs': 2}
    return trial.fit(
        lambda: ExpectationMaximizationTask(**_statistical(trial), **options), epochs=10
    )


@row('sr_area', 'SR, with chips by area')
def _sr_area(trial: Trial) -> Maps:
    return trial.fit(lambda: LabelSuperResolutionTask(**_statistical(trial)))


@row('sr', 'SR')
def _sr(trial: Trial) -> Maps:
    return trial.fit(
        lambda: LabelSuperResolutionTask(**_statistical(trial)), balance=BALANCE
    )


@row('sr_l2', 'SR without the log-variance term')
def _sr_l2(trial: Trial) -> Maps:
    return trial.fit(
        lambda: LabelSuperResolutionTask(**_statistical(trial), variance_weight=0.0),
        balance=BALANCE,
    )


@row('hr_sr', 'HR + SR (HR labels of the other place)')
def _hr_sr(trial: Trial) -> Maps:
    return trial.fit(
        lambda: LabelSuperResolutionTask(**_statistical(trial), hr_weight=HR_WEIGHT),
        labelled=trial.place.labelled,
        balance=BALANCE,
    )


def _statistical(trial: Trial) -> dict[str, Any]:
    """Malkin's table for NLCD; of majority labels, what a majority is."""
    if trial.options['legend'] == 'nlcd':
        return trial.options | {'statistics': 'malkin2019'}
    codes = Legend.load(TARGET).codes.tolist()
    path = trial.work / 'majority.yaml'
    shares = {code: {'shares': {code: [0.4, 1.0]}} for code in codes}
    content = {'source': TARGET, 'target': TARGET, 'classes': shares}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(content))
    return trial.options | {'statistics': str(path)}


# the bound is the last line of the table
ROWS['high'] = ROWS.pop('high')
