# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""Which LR cells lie beside which."""

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from torch import Tensor


def neighbour_weights(place: Tensor, sigma: float, reach: int) -> sparse.csr_array:
    """Gaussian weights of each cell's neighbours, without the cell itself.

    Args:
        place: Raster, row and column of each cell, (n, 3) int64.
        sigma: Standard deviation, in cells.
        reach: Cells to each side that are looked at.

    Returns:
        (n, n): row i has the weights of the neighbours of cell i. All that there may be
        sum to one, so that a row's sum is the support.
    """
    places = place.numpy()
    offset = np.mgrid[-reach : reach + 1, -reach : reach + 1].reshape(2, -1).T
    weight = np.exp(-(offset**2).sum(1) / (2 * sigma**2))
    centre = (offset == 0).all(1)
    offset, weight = offset[~centre], weight[~centre] / weight[~centre].sum()

    rows, cols, values = [], [], []
    for (down, right), part in zip(offset.tolist(), weight.tolist(), strict=True):
        index = row_of(places, places + np.array([0, down, right]))
        hit = np.flatnonzero(index >= 0)
        rows.append(hit)
        cols.append(index[hit])
        values.append(np.full(len(hit), part))
    shape = len(places), len(places)
    entries = np.concatenate(values), (np.concatenate(rows), np.concatenate(cols))
    return sparse.csr_array(entries, shape=shape)


def row_of(places: NDArray[np.int64], queries: NDArray[np.int64]) -> NDArray[np.int64]:
    """Find cells by their places.

    Args:
        places: Raster, row and column of each cell, (n, 3).
        queries: Those to find, (m, 3).

    Returns:
        Row of each in *places*, (m,); -1 where there is none.
    """
    # By a number that orders them by raster, row and column; margins keep a neighbour
    # beyond an edge from being one of the next line.
    low = np.minimum(places.min(0), queries.min(0))
    span = np.maximum(places.max(0), queries.max(0)) - low + 1

    def number(of: NDArray[np.int64]) -> NDArray[np.int64]:
        raster, row, col = (of - low).T
        result: NDArray[np.int64] = (raster * span[1] + row) * span[2] + col
        return result

    keys = number(places)
    order = np.argsort(keys)
    index = np.searchsorted(keys[order], number(queries)).clip(max=len(order) - 1)
    return np.where(keys[order[index]] == number(queries), order[index], -1)
