# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

import numpy as np

from torchgeo_mapsr.evaluation.reweighting import reweighted


def test_weights_of_one_change_nothing() -> None:
    """Also where whole percentages are equal."""
    rng = np.random.default_rng(0)
    p = rng.dirichlet(np.ones(4) * 2, (60, 70)).transpose(2, 0, 1)
    scores, index = (100 * p).round().astype(np.uint8), p.argmax(0)
    top = scores.max(0)
    assert ((scores == top).sum(0) > 1).any()
    np.testing.assert_array_equal(reweighted(scores, index, np.ones(4)), index)


def test_it_is_the_weighted_argmax() -> None:
    rng = np.random.default_rng(1)
    scores = rng.integers(0, 101, (3, 40, 50)).astype(np.uint8)
    index = scores.argmax(0)
    weights = np.array([1, np.pi, 0.31])
    expected = (scores * weights[:, None, None]).argmax(0)
    result = reweighted(scores, index, weights)
    np.testing.assert_array_equal(result, expected)
    assert (result != index).any()
    assert (reweighted(scores, index, [0, 0, 1])[scores[2] > 0] == 2).all()


def test_no_data_stays() -> None:
    scores = np.full((2, 1, 3), 50, np.uint8)
    scores[:, 0, 1] = 255
    index = np.array([[0, 1, -1]])
    assert reweighted(scores, index, [1, 9]).tolist() == [[1, -1, -1]]
