# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""Made scenes: imagery, coarse labels and truth, for trials and tests."""

from .scene import Scene, make_scene

__all__ = ('Scene', 'make_scene')
