# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from torchgeo_mapsr.models.tokens.bilateral import JointBilateral
from torchgeo_mapsr.models.tokens.tokens import LazyTokens, Tokens
from torchgeo_mapsr.models.tokens.upsample import whole

CASES = st.fixed_dictionaries(
    {
        'size': st.tuples(st.integers(3, 30), st.integers(3, 30)),
        'strides': st.lists(st.sampled_from([1, 2, 3, 4, 7]), min_size=1, max_size=3),
        'extra': st.integers(0, 2),
        'guided': st.booleans(),
        'seed': st.integers(0, 1000),
    }
)


def make(
    size: tuple[int, int],
    strides: list[int],
    extra: int = 0,
    guided: bool = False,
    seed: int = 0,
    dtype: torch.dtype = torch.float64,
) -> Tokens:
    generator = torch.Generator().manual_seed(seed)
    levels = []
    for i, s in enumerate(strides):
        shape = (2, 3 + i, -(-size[0] // s) + extra, -(-size[1] // s) + extra)
        levels.append(torch.randn(shape, generator=generator, dtype=dtype))
    tokens = Tokens(tuple(levels), tuple(strides), size)
    if guided:
        guide = torch.rand(2, 3, *size, generator=generator, dtype=dtype)
        tokens = tokens.with_upsampler(JointBilateral(guide, 1, sigma_range=0.3))
    return tokens


def dense(tokens: Tokens) -> Tensor:
    """The high-resolution features, (B, D, H, W): the map that is never made."""
    (height, width), maps = tokens.size, []
    for level, stride in zip(tokens.levels, tokens.strides, strict=True):
        if stride == 1:
            up = level
        elif isinstance(tokens.upsampler, JointBilateral):
            up = tokens.upsampler.apply(level, stride, whole(tokens.size))
        else:
            up = F.interpolate(level, scale_factor=stride, mode='bilinear')
        maps.append(up[..., :height, :width])
    return torch.cat(maps, dim=1)


def rand(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(3), dtype=dtype)


@settings(max_examples=40, deadline=None)
@given(CASES)
def test_equals_dense_features(case: dict) -> None:
    tokens = make(**case)
    features = dense(tokens)
    d = features.shape[1]

    weight, bias = rand(5, d), rand(5)
    scores = torch.einsum('kd,bdij->bkij', weight, features) + bias[:, None, None]
    torch.testing.assert_close(tokens.project(weight, bias), scores)
    window = tuple(slice(n // 3, n - n // 4) for n in tokens.size)
    torch.testing.assert_close(
        tokens.project(weight, bias, window), scores[:, :, *window]
    )

    norms = features.norm(dim=1)
    torch.testing.assert_close(tokens.norms(), norms, atol=1e-7, rtol=1e-9)

    maps = rand(2, 4, *tokens.size)
    sums = torch.einsum('bkij,bdij->bkd', maps, features)
    torch.testing.assert_close(tokens.adjoint(maps), sums, atol=1e-9, rtol=1e-9)

    generator = torch.Generator().manual_seed(case['seed'])
    batch = torch.randint(2, (50,), generator=generator)
    rows = torch.randint(tokens.size[0], (50,), generator=generator)
    cols = torch.randint(tokens.size[1], (50,), generator=generator)
    torch.testing.assert_close(
        tokens.gather(batch, rows, cols), features[batch, :, rows, cols]
    )

    scale, shift = rand(d), rand(d)
    torch.testing.assert_close(
        dense(tokens.affine(scale, shift)),
        features * scale[:, None, None] + shift[:, None, None],
    )


@settings(max_examples=40, deadline=None)
@given(CASES, st.integers(1, 9), st.booleans())
def test_pool_equals_dense_region_means(case: dict, n: int, masked: bool) -> None:
    tokens = make(**case)
    features = dense(tokens)
    generator = torch.Generator().manual_seed(case['seed'])
    # Contiguous stripes of cells and some scattered pixels, as after a rotation.
    region = torch.randint(0, n + 1, (2, 3, 3), generator=generator)
    region = F.interpolate(region[:, None].double(), tokens.size)[:, 0].long()
    noise = torch.rand(2, *tokens.size, generator=generator) < 0.1
    region = torch.where(noise, torch.randint(0, n + 1, region.shape), region)
    valid = torch.rand(2, *tokens.size, generator=generator) < 0.7 if masked else None

    means, count = tokens.pool(region, n, valid)
    for b in range(2):
        for i in range(n):
            inside = region[b] == i + 1
            if valid is not None:
                inside &= valid[b]
            assert count[b, i] == inside.sum()
            expected = torch.zeros(features.shape[1], dtype=torch.float64)
            if inside.any():
                expected = features[b][:, inside].mean(1)
            torch.testing.assert_close(means[b, i], expected)

    # Some of the pixels, given as a window or as the valid ones of all.
    step = case['seed'] % 3 + 1
    window = tuple(slice(n // 3, n - n // 4, step) for n in tokens.size)
    inside = torch.zeros(2, *tokens.size, dtype=torch.bool)
    inside[:, *window] = True if valid is None else valid[:, *window]
    part = None if valid is None else valid[:, *window]
    found = tokens.pool(region[:, *window], n, part, window)
    torch.testing.assert_close(found, tokens.pool(region, n, inside))


@pytest.mark.parametrize('guided', [False, True])
def test_single_precision(guided: bool) -> None:
    """All fast forms agree with the dense ones to 1e-5 in float32."""
    tokens = make((65, 97), [1, 2, 8, 14], 1, guided, dtype=torch.float32)
    features = dense(tokens)
    d = features.shape[1]
    close = {'atol': 1e-5, 'rtol': 1e-5}
    prompt = F.normalize(rand(3, d, dtype=torch.float32), dim=1)
    cosine = torch.einsum('kd,bdij->bkij', prompt, F.normalize(features, dim=1))
    fast = tokens.project(prompt) / tokens.norms()[:, None]
    torch.testing.assert_close(fast, cosine, **close)
    region = torch.arange(65)[:, None] // 10 * 10 + torch.arange(97) // 10
    region = region.expand(2, -1, -1)
    means, _ = tokens.pool(region, 80)
    one_hot = F.one_hot(region, 81)[..., 1:].float()
    expected = torch.einsum('bijn,bdij->bnd', one_hot, features)
    expected = expected / one_hot.sum((1, 2)).clamp(min=1)[..., None]
    torch.testing.assert_close(means, expected, **close)
    weights = torch.softmax(cosine, dim=1) / tokens.norms()[:, None]
    sums = torch.einsum('bkij,bdij->bkd', weights.double(), features.double())
    torch.testing.assert_close(
        tokens.adjoint(weights), sums.float(), atol=2e-3, rtol=1e-5
    )


@pytest.mark.parametrize('guided', [False, True])
def test_gradients_flow_to_the_levels(guided: bool) -> None:
    tokens = make((7, 8), [1, 3], guided=guided)
    region = torch.arange(7)[:, None] // 3 * 3 + torch.arange(8) // 3
    region = region.expand(2, -1, -1)
    pixels = torch.tensor([0, 1]), torch.tensor([2, 6]), torch.tensor([7, 0])

    def outputs(*levels: Tensor) -> tuple[Tensor, ...]:
        new = Tokens(levels, tokens.strides, tokens.size, tokens.upsampler)
        return new.pool(region, 9)[0], new.gather(*pixels), new.norms()

    levels = tuple(level.clone().requires_grad_() for level in tokens.levels)
    assert torch.autograd.gradcheck(outputs, levels)


def test_concat_and_to() -> None:
    a, b = make((9, 9), [1, 4]), make((9, 9), [2], seed=5)
    both = Tokens.concat([a, b])
    assert both.strides == (1, 4, 2)
    assert both.channels == (3, 4, 3)
    torch.testing.assert_close(dense(both), torch.cat([dense(a), dense(b)], dim=1))
    assert {level.dtype for level in both.to(torch.float32).levels} == {torch.float32}
    assert both.levels[0].dtype == torch.float64


def test_grid_that_does_not_cover_the_image() -> None:
    with pytest.raises(ValueError, match='does not cover'):
        Tokens((torch.zeros(1, 2, 3, 3),), (4,), (13, 12))


def test_lazy_members_are_converted_too() -> None:
    """In half precision sums over a cell would overflow."""

    class Made(LazyTokens):
        def make_level(self, index: int, window: object = None) -> torch.Tensor:
            return torch.full((1, 2, 8, 8), 6e4)

    lazy = Made((2,), (1,), (8, 8), torch.device('cpu'))
    half = Tokens((torch.full((1, 3, 2, 2), 6e4, dtype=torch.float16),), (4,), (8, 8))
    both = Tokens.concat([lazy, half]).to(torch.float32)
    assert [level.dtype for level in both.levels] == [torch.float32, torch.float32]
    mean, count = both.pool(torch.ones(1, 8, 8, dtype=torch.int64), 1)
    assert count == 64
    torch.testing.assert_close(mean, torch.full((1, 1, 5), 6e4), rtol=1e-3, atol=0)
