# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""Tables of cells whose truth is known."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from torchgeo_mapsr.datasets.legends.crosswalk import Crosswalk
from torchgeo_mapsr.datasets.legends.legend import Legend
from torchgeo_mapsr.models.head.cells import CellTable
from torchgeo_mapsr.models.head.head import Head
from torchgeo_mapsr.models.tokens.tokens import Tokens

TARGET = Legend.load('land-cover-4')
SAME = Crosswalk.load(TARGET, TARGET)
PIXELS = 60  # a cell


# Codes of a legend whose classes are mixtures, as NLCD's developed ones are.
MIXED = {11: (0.9, 0.1, 0, 0), 21: (0, 0.3, 0.6, 0.1), 23: (0, 0.1, 0.3, 0.6)}


def predict(head: Head, features: Tensor) -> Tensor:
    """Probabilities (n, C) of features (n, D), as the pixels of a strip."""
    strip = Tokens((features.T[None, :, None],), (1,), (1, len(features)))
    return head.probabilities(strip)[0, :, 0].T


class Blobs:
    """A landscape of Gaussian pixels in cells; each class has a mean, all a covariance.

    A cell's label is its most frequent class, which has 70 % of it at least. Cells in
    squares of *patch* share theirs.
    """

    def __init__(
        self,
        side: int = 15,
        d: int = 6,
        apart: float = 1.2,
        classes: tuple[int, ...] = (0, 1, 2, 3),
        wrong: float = 0.0,
        patch: int = 1,
        seed: int = 0,
    ) -> None:
        rng = np.random.default_rng(seed)
        mix = rng.normal(size=(d, d))
        self.means = apart * rng.normal(size=(4, d)) @ mix.T
        self.covariance = mix @ mix.T
        self.units = 10.0 ** rng.uniform(-2, 3, d)
        n = side * side
        label = rng.choice(classes, (side, side))
        label = label.repeat(patch, 0).repeat(patch, 1)[:side, :side].ravel()
        purity = rng.uniform(0.7, 1, n)
        other = rng.choice(classes, (n, PIXELS))
        own = rng.random((n, PIXELS)) < purity[:, None]
        self.truth = np.where(own, label[:, None], other)
        x = self.means[self.truth] + rng.normal(size=(n, PIXELS, d)) @ mix.T
        self.x = x
        features = torch.from_numpy(x * self.units).float()
        said = np.where(rng.random(n) < wrong, rng.choice(classes, n), label)
        rows, cols = np.divmod(np.arange(n), side)
        # Codes of the legend are 1 to 4.
        self.table = CellTable(
            features.mean(1),
            torch.from_numpy(said) + 1,
            torch.ones(n).double(),
            torch.from_numpy(np.stack([0 * rows, rows, cols], 1)),
            features.flatten(0, 1),
            torch.arange(n).repeat_interleave(PIXELS),
        )

    @property
    def label(self) -> Tensor:
        """Class index of each cell's label."""
        return self.table.code - 1

    def bayes(self) -> float:
        """Accuracy of the classifier that knows means and covariance."""
        x = self.x.reshape(-1, self.x.shape[-1])
        residual = x[:, None] - self.means
        inverse = np.linalg.inv(self.covariance)
        distance = np.einsum('nci,ij,ncj->nc', residual, inverse, residual)
        return float((distance.argmin(1) == self.truth.ravel()).mean())

    def accuracy(self, head: Head) -> float:
        found = predict(head, self.table.pixels).argmax(1)
        return float((found.numpy() == self.truth.ravel()).mean())


def mixed_codes() -> Crosswalk:
    """A crosswalk of the same four codes, each of several classes."""
    rows = {c + 1: tuple((0.1 + 0.6 * np.eye(4)[c]).tolist()) for c in range(4)}
    return Crosswalk('mixed', TARGET, TARGET, {}, '', rows)


def mixtures(seed: int = 0, side: int = 24) -> tuple[CellTable, NDArray[np.int64]]:
    """Cells of three codes whose pixels are drawn by MIXED, and the pixels' classes."""
    rng = np.random.default_rng(seed)
    n, d = side * side, 6
    means = 2.5 * rng.normal(size=(4, d))
    codes = rng.choice(list(MIXED), n)
    truth = np.stack([rng.choice(4, PIXELS, p=MIXED[c]) for c in codes.tolist()])
    x = torch.from_numpy(means[truth] + rng.normal(size=(n, PIXELS, d))).float()
    rows, cols = np.divmod(np.arange(n), side)
    table = CellTable(
        x.mean(1),
        torch.from_numpy(codes),
        torch.ones(n).double(),
        torch.from_numpy(np.stack([0 * rows, rows, cols], 1)),
        x.flatten(0, 1),
        torch.arange(n).repeat_interleave(PIXELS),
    )
    return table, truth.ravel()
