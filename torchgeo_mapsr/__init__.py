# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""Land-cover map super-resolution for torchgeo."""

__version__ = '0.1.0'
