# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""LR/HR label pairs, legends, crosswalks, joint statistics and region geometry."""
