# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

import numpy as np
from scipy import stats
from scipy.interpolate import BSpline

from torchgeo_mapsr.datasets.scene.noise import Noise


def test_draws_are_uniform_normal_and_independent() -> None:
    noise = Noise(0)
    i, j = np.arange(-200, 200)[:, None], np.arange(-200, 200)
    uniform, normal = noise.draw(i, j, 5), noise.normal(i, j, 6)
    # 160 000 places share 65 536 numbers: a looser test than for fresh ones
    assert stats.kstest(uniform.ravel(), 'uniform').statistic < 0.01
    assert stats.kstest(normal.ravel(), 'norm').statistic < 0.01
    for other in (
        noise.draw(i, j, 7),
        noise.draw(i + 1, j, 5),
        noise.draw(i, j + 1, 5),
    ):
        assert abs(np.corrcoef(uniform.ravel(), other.ravel())[0, 1]) < 0.02


def test_smooth_against_scipys_splines() -> None:
    noise, scale = Noise(1), 7.0
    y, x = np.linspace(-31, 25, 40), np.linspace(100.5, 130.5, 31)
    knots = np.arange(-2.0, 3.0)
    i, j = np.arange(-10, 10), np.arange(8, 25)
    # the cubic B-spline of lattice place k lives on k - 2 to k + 2
    rows = BSpline.basis_element(knots, extrapolate=False)(y[:, None] / scale - i)
    columns = BSpline.basis_element(knots, extrapolate=False)(x[:, None] / scale - j)
    rows, columns = np.nan_to_num(rows), np.nan_to_num(columns)
    rows /= np.sqrt((rows**2).sum(axis=1, keepdims=True))
    columns /= np.sqrt((columns**2).sum(axis=1, keepdims=True))
    expected = rows @ noise.normal(i[:, None], j, 3) @ columns.T
    np.testing.assert_allclose(noise.smooth(y, x, scale, 3), expected, atol=1e-4)


def test_fields_have_variance_one() -> None:
    noise = Noise(2)
    y = x = np.arange(0, 40_000, 53.0)
    for field in (noise.smooth(y, x, 40, 1), noise.fractal(y, x, 160, 2, 4)):
        assert abs(field.mean()) < 0.02
        assert abs(field.var() - 1) < 0.05
        assert field.dtype == np.float32


def test_a_window_does_not_depend_on_what_is_around_it() -> None:
    noise = Noise(3)
    y, x = np.arange(-50.0, 60), np.arange(1000.0, 1080)
    whole = noise.fractal(y, x, 45, 9, 4)
    part = noise.fractal(y[20:33], x[40:], 45, 9, 4)
    np.testing.assert_allclose(part, whole[20:33, 40:], atol=1e-5)
