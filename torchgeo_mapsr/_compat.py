# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""The only file that knows which torchgeo is installed.

0.8.1 is the last for Python 3.11. 0.10 moved the tasks, gave the one for semantic
segmentation another name, and put ``transform`` into samples in place of ``crs``.
"""

from typing import Any

import torch
from odc.geo.geobox import GeoBox

__all__ = ('BaseTask', 'Sample', 'SemanticSegmentationTask', 'georeference')

Sample = dict[str, Any]

try:
    from torchgeo.tasks import BaseTask
    from torchgeo.tasks import SemanticSegmentation as SemanticSegmentationTask

    _AT_LEAST_0_10 = True
except ImportError:
    from torchgeo.trainers import (
        BaseTask,  # type: ignore[attr-defined]
        SemanticSegmentationTask,  # type: ignore[attr-defined]
    )

    _AT_LEAST_0_10 = False


def georeference(grid: GeoBox, times: slice) -> Sample:
    """Make the georeference keys that the installed torchgeo puts into a sample.

    They are for torchgeo: those of 0.10 are float32, in which a northing loses
    decimetres, so nothing in this package reads them.

    Args:
        grid: Grid of the chip, north-up.
        times: First and last time, and step.

    Returns:
        ``bounds`` and ``crs`` (0.8), or ``bounds`` and ``transform`` (0.10).
    """
    box = grid.boundingbox
    x = slice(box.left, box.right, abs(grid.affine.a))
    y = slice(box.bottom, box.top, abs(grid.affine.e))
    if not _AT_LEAST_0_10:
        assert grid.crs is not None
        return {'crs': grid.crs.proj, 'bounds': (x, y, times)}
    t = slice(times.start.timestamp(), times.stop.timestamp(), times.step)
    bounds = [edge for s in (x, y, t) for edge in (s.start, s.stop, s.step)]
    return {
        'bounds': torch.tensor(bounds, dtype=torch.float32),
        'transform': torch.tensor(tuple(grid.affine), dtype=torch.float32),
    }
