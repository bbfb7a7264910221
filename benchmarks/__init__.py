# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""Benchmarks on real scenes: ``python -m benchmarks.scenes`` and ``.chesapeake``."""
