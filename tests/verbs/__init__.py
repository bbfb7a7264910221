# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.
