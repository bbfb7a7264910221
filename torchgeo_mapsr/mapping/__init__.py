# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""Planning, fitting, mapping, blending and writing whole rasters."""
