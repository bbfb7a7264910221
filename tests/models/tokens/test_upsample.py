# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

import kornia
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from torchgeo_mapsr.models.tokens.bilateral import JointBilateral
from torchgeo_mapsr.models.tokens.upsample import Bilinear, Upsampler, whole

SHAPES = st.tuples(st.integers(1, 23), st.integers(1, 23))


def rand(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=dtype)


def cover(size: tuple[int, int], stride: int, extra: int = 0) -> tuple[int, int]:
    """Shape of a token grid that covers the image, and `extra` tokens more."""
    return -(-size[0] // stride) + extra, -(-size[1] // stride) + extra


def matrix(
    upsampler: Upsampler, stride: int, size: tuple[int, int], tokens: tuple[int, int]
) -> Tensor:
    """U itself, (pixels, tokens), for the first image."""
    h, w = tokens
    unit = torch.eye(h * w, dtype=torch.float64).reshape(1, h * w, h, w)
    return upsampler.apply(unit, stride, whole(size))[0].flatten(1).T


def operator(name: str, size: tuple[int, int], batch: int = 1) -> Upsampler:
    if name == 'bilinear':
        return Bilinear()
    return JointBilateral(rand(batch, 3, *size, seed=9), radius=1, sigma_range=1.0)


def loop_jbu(guide: Tensor, s: int, r: int, space: float, colour: float) -> Tensor:
    """Kopf et al. 2007, eq. 3, pixel by pixel in plain Python: U (pixels, tokens)."""
    height, width = guide.shape[-2:]
    h, w = cover((height, width), s)
    rows = []
    for y in range(height):
        for x in range(width):
            weights = torch.zeros(h, w, dtype=guide.dtype)
            for i in range(max(y // s - r, 0), min(y // s + r + 1, h)):
                for j in range(max(x // s - r, 0), min(x // s + r + 1, w)):
                    token = guide[:, i * s : i * s + s, j * s : j * s + s].mean((1, 2))
                    far = (i - (y + 0.5) / s + 0.5) ** 2 + (
                        j - (x + 0.5) / s + 0.5
                    ) ** 2
                    unlike = (token - guide[:, y, x]).square().sum()
                    weights[i, j] = torch.exp(
                        -unlike / (2 * colour**2) - far / (2 * space**2)
                    )
            rows.append((weights / weights.sum()).flatten())
    return torch.stack(rows)


@pytest.mark.parametrize('stride', [1, 2, 3, 14, 16])
@pytest.mark.parametrize('extra', [0, 1, 3])
@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
def test_bilinear_is_interpolate(stride: int, extra: int, dtype: torch.dtype) -> None:
    size = (37, 50)
    grid = rand(2, 5, *cover(size, stride, extra), dtype=dtype)
    dense = F.interpolate(grid, scale_factor=stride, mode='bilinear')
    torch.testing.assert_close(
        Bilinear().apply(grid, stride, whole(size)), dense[..., : size[0], : size[1]]
    )
    window = slice(17, 37), slice(21, 50)
    part = Bilinear().apply(grid, stride, window)
    torch.testing.assert_close(part, dense[..., window[0], window[1]])


@pytest.mark.parametrize(('stride', 'size'), [(1, (6, 7)), (4, (11, 9)), (5, (3, 16))])
def test_joint_bilateral_is_kopf(stride: int, size: tuple[int, int]) -> None:
    guide = rand(2, 3, *size)
    fast = JointBilateral(guide, radius=2, sigma_space=0.8, sigma_range=0.9)
    slow = loop_jbu(guide[0], stride, 2, 0.8, 0.9)
    torch.testing.assert_close(matrix_of_first(fast, stride, size), slow)


def matrix_of_first(jbu: JointBilateral, stride: int, size: tuple[int, int]) -> Tensor:
    first = JointBilateral(jbu.guide[:1], jbu.radius, jbu.sigma_space, jbu.sigma_range)
    return matrix(first, stride, size, cover(size, stride))


@pytest.mark.parametrize('radius', [1, 2])
def test_joint_bilateral_at_stride_one_is_kornias_filter(radius: int) -> None:
    guide, values = rand(2, 3, 20, 17), rand(2, 4, 20, 17, seed=1)
    ours = JointBilateral(guide, radius, sigma_space=1.3, sigma_range=0.7)
    theirs = kornia.filters.joint_bilateral_blur(
        values, guide, 2 * radius + 1, 0.7, (1.3, 1.3), color_distance_type='l2'
    )
    # Kornia reflects at the border where we leave the neighbours out.
    inner = (..., slice(radius, -radius), slice(radius, -radius))
    torch.testing.assert_close(
        ours.apply(values, 1, whole((20, 17)))[inner], theirs[inner]
    )


def test_joint_bilateral_keeps_an_edge() -> None:
    guide = torch.zeros(1, 1, 16, 16)
    guide[..., 6:] = 1.0
    grid = torch.zeros(1, 1, 4, 4)
    grid[..., 2:] = 1.0
    sharp = JointBilateral(guide, sigma_range=0.05).apply(grid, 4, whole((16, 16)))
    # Column 6 looks like the right-hand tokens, column 3 like the left-hand ones,
    # though the middle of the grid is nearer to column 6's left.
    assert sharp[..., :4].max() < 1e-3
    assert sharp[..., 6:].min() > 1 - 1e-3
    soft = Bilinear().apply(grid, 4, whole((16, 16)))
    assert soft[..., 6].max() < 0.7


def test_joint_bilateral_far_from_every_token_stays_convex() -> None:
    guide = torch.zeros(1, 1, 8, 8)
    guide[..., 3, 3] = 1e4
    out = JointBilateral(guide, sigma_range=1e-3).apply(
        torch.ones(1, 1, 2, 2), 4, whole((8, 8))
    )
    torch.testing.assert_close(out, torch.ones(1, 1, 8, 8))


@settings(max_examples=25, deadline=None)
@given(
    name=st.sampled_from(['bilinear', 'joint']),
    size=SHAPES,
    stride=st.integers(1, 6),
    extra=st.integers(0, 2),
)
def test_operator_algebra(
    name: str, size: tuple[int, int], stride: int, extra: int
) -> None:
    """Rows are convex; adjoint, norms and taps are those of the matrix U."""
    upsampler, shape = operator(name, size, batch=2), cover(size, stride, extra)
    grid, maps = rand(2, 4, *shape), rand(2, 4, *size, seed=1)
    first = operator(name, size, batch=2)
    if isinstance(first, JointBilateral):
        first = JointBilateral(first.guide[:1], radius=1, sigma_range=1.0)
    dense = matrix(first, stride, size, shape)
    assert dense.min() >= 0
    torch.testing.assert_close(dense.sum(1), torch.ones_like(dense[:, 0]))

    up = upsampler.apply(grid, stride, whole(size))
    torch.testing.assert_close(up[0].flatten(1), grid[0].flatten(1) @ dense.T)
    down = upsampler.adjoint(maps, stride, shape)
    torch.testing.assert_close((up * maps).sum(), (grid * down).sum())
    torch.testing.assert_close(
        upsampler.squared_norms(grid, stride, size),
        up.square().sum(1),
        atol=1e-10,
        rtol=1e-10,
    )

    batch, rows, cols = torch.ones(2, *size).nonzero(as_tuple=True)
    taps = upsampler.taps(batch, rows, cols, stride, shape, torch.float64)
    index = (taps.base[:, None] + taps.offsets).clamp(0, shape[0] * shape[1] - 1)
    values = grid.flatten(2)[batch[:, None], :, index]
    gathered = (taps.weights[..., None] * values).sum(1)
    torch.testing.assert_close(gathered, up[batch, :, rows, cols])
    # Or with an axis each.
    axes = torch.arange(2)[:, None, None], torch.arange(size[0])[:, None]
    every = upsampler.taps(*axes, torch.arange(size[1]), stride, shape, torch.float64)
    base = every.base.expand(2, *size).flatten()
    weights = every.weights.expand(2, *size, -1).flatten(0, 2)
    assert torch.equal(base, taps.base)
    torch.testing.assert_close(weights, taps.weights)


@pytest.mark.parametrize('name', ['bilinear', 'joint'])
def test_gradients(name: str) -> None:
    size, stride = (7, 9), 3
    upsampler = operator(name, size)
    grid = rand(1, 2, *cover(size, stride)).requires_grad_()
    maps = rand(1, 2, *size).requires_grad_()
    assert torch.autograd.gradcheck(
        lambda g: upsampler.apply(g, stride, whole(size)), grid
    )
    assert torch.autograd.gradcheck(
        lambda g: upsampler.squared_norms(g, stride, size), grid
    )
    assert torch.autograd.gradcheck(
        lambda m: upsampler.adjoint(m, stride, cover(size, stride)), maps
    )
