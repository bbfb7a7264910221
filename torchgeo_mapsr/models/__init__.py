# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""Frozen backbones, token-space operators, and what is fitted on them."""
