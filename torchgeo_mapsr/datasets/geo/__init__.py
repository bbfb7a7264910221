# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""Grids, raster files, chips and tiles: where pixels lie."""
