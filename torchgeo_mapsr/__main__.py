# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""``python -m torchgeo_mapsr``."""

import sys

from .main import main

if __name__ == '__main__':
    sys.exit(main())
