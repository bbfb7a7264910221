# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

import math
from typing import Any

import numpy as np
import pytest
import scipy.sparse
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.sparse.linalg import cg, spsolve
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from torchgeo_mapsr.models.propagation import graph as module
from torchgeo_mapsr.models.propagation.graph import FAINT, SimilarityGraph

Array = NDArray[np.float64]


def places(n: int, seed: int = 0, features: int = 6) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(n, features, generator=generator, dtype=torch.float64)
    return values, torch.rand(n, 2, generator=generator, dtype=torch.float64) * 60


def seeds(n: int, classes: int = 4) -> Tensor:
    generator = torch.Generator().manual_seed(9)
    return torch.rand(n, classes, generator=generator, dtype=torch.float64)


def dense(
    features: Tensor, positions: Tensor, k: int, gamma: float, sigma: float
) -> Array:
    """The affinity as its definition reads, pair by pair."""
    f, x = features.numpy(), positions.numpy()
    n = len(f)
    a = np.zeros((n, n))
    for i in range(n):
        for j in range(n):
            cosine = f[i] @ f[j] / np.linalg.norm(f[i]) / np.linalg.norm(f[j])
            near = math.exp(-float(((x[i] - x[j]) ** 2).sum()) / (2 * sigma**2))
            if i != j and near >= FAINT:
                a[i, j] = max(cosine, 0) ** gamma * near
    chosen = np.zeros((n, n), bool)
    for i in range(n):
        chosen[i, np.argsort(-a[i])[:k]] = True
    return np.where(chosen | chosen.T, a, 0)


def matrix(graph: SimilarityGraph, values: Tensor) -> Array:
    """A matrix from the values of its edges."""
    n = len(graph)
    csr = (values.numpy(), graph.other.numpy(), graph.start.numpy())
    return scipy.sparse.csr_array(csr, shape=(n, n)).toarray()


@given(
    n=st.integers(1, 40),
    k=st.integers(1, 12),
    gamma=st.sampled_from([0.5, 1.0, 3.0]),
    sigma=st.sampled_from([4.0, 15.0, math.inf]),
    block=st.sampled_from([1, 70, 2**20]),
    seed=st.integers(0, 1000),
)
@settings(max_examples=30, deadline=None)
def test_affinity_is_the_dense_one(
    n: int, k: int, gamma: float, sigma: float, block: int, seed: int
) -> None:
    features, positions = places(n, seed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, 'BLOCK', block)
        graph = SimilarityGraph.connect(features, positions, k, gamma, sigma)
    found = matrix(graph, graph.affinity)
    np.testing.assert_allclose(
        found, dense(features, positions, k, gamma, sigma), atol=1e-12
    )
    assert (found == found.T).all()
    assert (graph.affinity > 0).all()
    assert not found.diagonal().any()


def test_normalised_matrix() -> None:
    graph = SimilarityGraph.connect(*places(50), 6, 1, 20)
    affinity, s = matrix(graph, graph.affinity), matrix(graph, graph.normalised)
    degree = affinity.sum(1)
    np.testing.assert_allclose(graph.degrees.numpy(), degree)
    assert (degree > 0).all()
    np.testing.assert_allclose(s, affinity / np.sqrt(np.outer(degree, degree)))
    # The root of the degrees is the eigenvector of the largest eigenvalue, one.
    np.testing.assert_allclose(s @ np.sqrt(degree), np.sqrt(degree))
    values = np.linalg.eigvalsh(s)
    assert values.min() >= -1 - 1e-12
    assert values.max() == pytest.approx(1)


@pytest.mark.parametrize('alpha', [0.3, 0.6, 0.95, 0.99])
def test_solution_is_the_dense_one(alpha: float) -> None:
    graph = SimilarityGraph.connect(*places(80), 8, 3, 25)
    start = seeds(80)
    system = np.eye(80) - alpha * matrix(graph, graph.normalised)
    expected = np.linalg.solve(system, start.numpy())
    found = graph.solve(start, alpha, tolerance=1e-10).numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-7)
    single = graph.solve(start.float(), alpha).numpy()
    np.testing.assert_allclose(single, expected, rtol=1e-4 / (1 - alpha) ** 0.5)
    single = graph.solve(start.float(), alpha, tolerance=1e-7).numpy()
    np.testing.assert_allclose(single, expected, rtol=1e-5)

    sparse = scipy.sparse.csc_array(system)
    np.testing.assert_allclose(found, spsolve(sparse, start.numpy()), rtol=1e-7)
    for column, y in zip(found.T, start.numpy().T, strict=True):
        theirs, failed = cg(sparse, y, rtol=1e-12)
        assert not failed
        np.testing.assert_allclose(column, theirs, rtol=1e-7)


def test_classes_do_not_depend_on_each_other() -> None:
    graph = SimilarityGraph.connect(*places(60), 5, 1, 30)
    start = seeds(60)
    # Of very different size, one absent: a common stopping rule would stop too soon.
    start = start * start.new_tensor([1, 1e-8, 0, 1e4])
    together = graph.solve(start, 0.9)
    for i in range(4):
        alone = graph.solve(start[:, [i]], 0.9)
        torch.testing.assert_close(together[:, [i]], alone, rtol=1e-12, atol=0)
    assert not together[:, 2].any()


def test_no_propagation_is_the_identity() -> None:
    graph = SimilarityGraph.connect(*places(30), 5)
    assert torch.equal(graph.solve(seeds(30), 0), seeds(30))
    assert torch.equal(graph.spread(seeds(30), 0), seeds(30))


def test_iterations_are_bounded() -> None:
    graph = SimilarityGraph.connect(*places(30), 5)
    first = graph.solve(seeds(30), 0.9, max_iterations=1)
    y = seeds(30)
    image = y - 0.9 * torch.from_numpy(matrix(graph, graph.normalised)) @ y
    torch.testing.assert_close(first, y * (y * y).sum(0) / (y * image).sum(0))


def test_order_of_nodes_does_not_matter() -> None:
    features, positions = places(70)
    start = seeds(70)
    order = torch.randperm(70, generator=torch.Generator().manual_seed(1))
    whole = SimilarityGraph.connect(features, positions, 6, 2, 20).spread(start, 0.8)
    mixed = SimilarityGraph.connect(features[order], positions[order], 6, 2, 20)
    torch.testing.assert_close(mixed.spread(start[order], 0.8), whole[order])


def test_spread_is_a_weighted_mean() -> None:
    graph = SimilarityGraph.connect(*places(50), 6, 1, 20)
    system = np.eye(50) - 0.8 * matrix(graph, graph.normalised)
    weights = np.linalg.inv(system)
    weights /= weights.sum(1, keepdims=True)
    assert (weights >= -1e-12).all()
    start = seeds(50)
    found = graph.spread(start, 0.8, tolerance=1e-10)
    np.testing.assert_allclose(found.numpy(), weights @ start.numpy(), rtol=1e-7)
    shares = start / start.sum(1, keepdim=True)
    total = graph.spread(shares, 0.8, tolerance=1e-10).sum(1)
    torch.testing.assert_close(total, torch.ones_like(total))


def test_lonely_nodes_keep_their_values() -> None:
    features, positions = places(20)
    features[3] = 0  # like nothing
    positions[7] += 1e4  # beyond reach
    start = seeds(20)
    graph = SimilarityGraph.connect(features, positions, 5, 1, 10)
    found = graph.spread(start, 0.9, tolerance=1e-12)
    assert graph.start.diff()[[3, 7]].tolist() == [0, 0]
    torch.testing.assert_close(found[[3, 7]], start[[3, 7]])
    alone = SimilarityGraph.connect(features[:1], positions[:1], 5, 1, 10)
    assert len(alone) == 1
    torch.testing.assert_close(alone.spread(start[:1], 0.9), start[:1])


class Largest(TorchDispatchMode):
    """The largest tensor that any operation makes."""

    numel = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        made = func(*args, **(kwargs or {}))
        for tensor in made if isinstance(made, (tuple, list)) else [made]:
            if isinstance(tensor, Tensor):
                self.numel = max(self.numel, tensor.numel())
        return made


def test_no_matrix_of_all_pairs() -> None:
    features, positions = places(20_000)
    with Largest() as largest:
        graph = SimilarityGraph.connect(features.float(), positions * 40, 10, 1, 12)
        graph.spread(seeds(20_000).float(), 0.5)
    # Nothing but the edges themselves is larger than a block.
    assert len(graph.other) > 100_000
    assert largest.numel <= max(module.BLOCK, len(graph.other))

    features, positions = places(1200)
    with Largest() as largest:
        graph = SimilarityGraph.connect(features, positions, 5)
    assert largest.numel <= module.BLOCK
