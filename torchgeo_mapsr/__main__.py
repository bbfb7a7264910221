# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""``python -m torchgeo_mapsr``."""

from .main import command

if __name__ == '__main__':
    command()
