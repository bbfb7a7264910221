# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""All rows of the table, in its order."""

from collections.abc import Callable

from torch import nn

from . import class_aware, self_training
from .training import Setting

#: What makes the network of a row. It gives scores (B, C, H, W) of images.
ROWS: dict[str, Callable[[Setting], nn.Module]] = {
    **self_training.ROWS,
    **class_aware.ROWS,
}

#: What the table calls it.
TITLES: dict[str, str] = {**self_training.TITLES, **class_aware.TITLES}
