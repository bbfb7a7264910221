# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""Which places of an image resemble one another, and values spread among them."""

import math
from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor

from ..tokens.tokens import narrow

# Affinities that are held at once in the search for neighbours.
BLOCK = 2**18

# Nodes are not connected at distances where the Gaussian is below this.
FAINT = 1e-2

# Cosines below this count as zero. (Logarithms of zero take a CPU several times as long.)
NOTHING = 1e-30


@dataclass(frozen=True, eq=False)
class SimilarityGraph:
    r"""Nodes of an image, each connected with those that are like it and near.

    The affinity of two nodes with features f and positions x is

    .. math::
        A_{ij} = \max(\cos(f_i, f_j), 0)^\gamma \exp(-|x_i - x_j|^2 / 2\sigma^2)

    where one is among the strongest neighbours of the other, and zero elsewhere: A is
    symmetric and sparse, without loops. S = D^-1/2 A D^-1/2 with the degrees D = A 1.
    No N x N matrix is ever held.

    References:
        * Zhou et al. 2004, Learning with local and global consistency, NeurIPS
        * https://arxiv.org/abs/2503.19777 (LPOSS)

    Args:
        start: (N + 1,) int64, the edges of node i are start[i]:start[i + 1].
        other: (E,) int64, the node at the other end; every edge is there twice.
        affinity: (E,) A of each edge, above zero.
    """

    start: Tensor
    other: Tensor
    affinity: Tensor

    @classmethod
    def connect(
        cls,
        features: Tensor,
        positions: Tensor,
        neighbours: int,
        gamma: float = 1.0,
        sigma: float = math.inf,
    ) -> 'SimilarityGraph':
        """Connect every node with its strongest neighbours.

        Args:
            features: (N, D), of any length; a zero row is like nothing.
            positions: (N, 2), in pixels.
            neighbours: Neighbours that a node chooses, at most; others may choose it.
            gamma: Exponent of the cosine.
            sigma: Standard deviation of the Gaussian, in pixels.

        Returns:
            The graph.
        """
        n = len(features)
        key, affinity = _strongest(features, positions, neighbours, gamma, sigma)
        # One value for both directions, so that A is symmetric to the last bit.
        pair, inverse = torch.unique(narrow(key, n * n), return_inverse=True)
        pair = pair.long()
        affinity = affinity.new_zeros(len(pair)).scatter_reduce_(
            0, inverse, affinity, 'amax'
        )
        first, second = pair.div(n, rounding_mode='floor'), pair % n
        order = narrow(torch.cat([pair, second * n + first]), n * n).argsort()
        node = torch.cat([first, second])[order]
        start = torch.searchsorted(node, torch.arange(n + 1, device=node.device))
        other = torch.cat([second, first])[order]
        return cls(start, other, torch.cat([affinity, affinity])[order])

    def __len__(self) -> int:
        return len(self.start) - 1

    @cached_property
    def degrees(self) -> Tensor:
        """Sum of each node's affinities, (N,)."""
        return self._product(self.affinity, self.affinity.new_ones(len(self), 1))[:, 0]

    @cached_property
    def normalised(self) -> Tensor:
        """S of each edge, (E,)."""
        node = torch.repeat_interleave(self.start.diff())
        return self.affinity * (self.degrees[node] * self.degrees[self.other]).rsqrt()

    def solve(
        self,
        seeds: Tensor,
        alpha: float,
        tolerance: float = 1e-5,
        max_iterations: int = 200,
    ) -> Tensor:
        """Solve (I - alpha S) Y = Y0 for all columns at once, by conjugate gradients.

        The eigenvalues of S are in [-1, 1], so the matrix is positive definite with a
        condition number of at most (1 + alpha) / (1 - alpha).

        Args:
            seeds: Y0, (N, C).
            alpha: At least 0 and below 1.
            tolerance: Length of a column's residual as a share of the seed's, at which
                that column is left as it is.
            max_iterations: At which the others are, too.

        Returns:
            Y, (N, C).
        """
        solution, residual, direction = torch.zeros_like(seeds), seeds, seeds
        squared = residual.square().sum(0)
        enough = squared * tolerance**2
        for _ in range(max_iterations):
            active = squared > enough
            if not active.any():
                break
            image = direction - alpha * self._product(self.normalised, direction)
            curvature = (direction * image).sum(0)
            step = torch.where(active, squared / curvature, 0.0)
            solution = solution + step * direction
            residual = residual - step * image
            previous, squared = squared, residual.square().sum(0)
            momentum = torch.where(active, squared / previous, 0.0)
            direction = residual + momentum * direction
        return solution

    def spread(self, values: Tensor, alpha: float, tolerance: float = 1e-5) -> Tensor:
        """Weighted means of the values of all nodes, by H = (I - alpha S)^-1.

        H is not row-stochastic: well-connected nodes would get larger values. Divided
        by H 1, each row is a convex combination, whatever the values are.

        Args:
            values: (N, C).
            alpha: At least 0, which changes nothing, and below 1.
            tolerance: See :meth:`solve`.

        Returns:
            (N, C).
        """
        ones = values.new_ones(len(values), 1)
        solution = self.solve(torch.cat([values, ones], dim=1), alpha, tolerance)
        return solution[:, :-1] / solution[:, -1:]

    def _product(self, weight: Tensor, values: Tensor) -> Tensor:
        """The sparse matrix of edges' weights (E,) times (N, C)."""
        # Three to twenty times faster than a COO product or index_add on a CPU, with a
        # fixed order of summation on any device, and without torch's warnings of CSR.
        return F.embedding_bag(
            self.other,
            values,
            self.start[:-1],
            per_sample_weights=weight.to(values),
            mode='sum',
        )


def _strongest(
    features: Tensor, positions: Tensor, neighbours: int, gamma: float, sigma: float
) -> tuple[Tensor, Tensor]:
    """The edges that nodes choose: i * N + j with i < j, some twice, and affinities.

    Nodes are taken from top to bottom, some at a time, against the band of nodes that
    is within reach of these.
    """
    n = len(features)
    order = positions[:, 0].argsort()
    unit = F.normalize(features, dim=1)[order]
    place = positions.to(unit)[order].T.contiguous()
    row = place[0]
    reach = sigma * math.sqrt(-2 * math.log(FAINT))
    begins = torch.searchsorted(row, row - reach)
    ends = torch.searchsorted(row, row + reach, right=True)
    # Nodes in a row share one band of candidates, which is wider than that of a single
    # node by about their number.
    size = max(BLOCK // (2 * int((ends - begins).amax())), 1)
    keys, affinities = [], []
    for nodes in torch.arange(n, device=row.device).split(size):
        begin, end = int(begins[nodes[0]]), int(ends[nodes[-1]])
        band = slice(begin, end)
        distance = _squared_distances(place[:, nodes], place[:, band])
        # Beyond reach -inf; a mask would take a CPU several times as long.
        nearness = F.threshold(-distance, -(reach**2), -torch.inf)
        # The order of logarithms is that of affinities; few exponentials are needed.
        affinity = (unit[nodes] @ unit[band].T).clamp_(min=NOTHING).log_().mul_(gamma)
        affinity.add_(nearness, alpha=0.5 / sigma**2)
        affinity[nodes - nodes[0], nodes - begin] = -torch.inf
        strongest, index = affinity.topk(min(neighbours, end - begin), sorted=False)
        chosen = strongest > gamma * math.log(NOTHING)
        source = order[nodes[chosen.nonzero()[:, 0]]]
        target = order[index[chosen] + begin]
        keys.append(torch.minimum(source, target) * n + torch.maximum(source, target))
        affinities.append(strongest[chosen].exp_())
    return torch.cat(keys), torch.cat(affinities)


def _squared_distances(first: Tensor, second: Tensor) -> Tensor:
    """Squared distances of all pairs, (2, N) and (2, M) to (N, M)."""
    down = (first[0, :, None] - second[0]).square_()
    return down.add_((first[1, :, None] - second[1]).square_())
