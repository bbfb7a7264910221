# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""A made landscape: noise, what covers the ground, and how it looks from the air."""
