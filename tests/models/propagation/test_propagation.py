# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

import itertools
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from torchgeo_mapsr.errors import InputError
from torchgeo_mapsr.models.propagation.propagation import (
    Propagation,
    parse_propagation,
    principal,
)
from torchgeo_mapsr.models.propagation.superpixels import superpixels
from torchgeo_mapsr.models.tokens.tokens import Tokens

from .test_graph import dense

SIZE = (37, 45)

# Few and weak neighbours would make a graph that is easy to get right.
STRONG: dict[str, Any] = {
    'spacing': 6,
    'neighbours': 5,
    'gamma': 1.5,
    'sigma': 14.0,
    'alpha': 0.8,
}


def case(batch: int = 2) -> tuple[Tensor, Tokens, Tensor, Tensor]:
    """Probabilities, tokens, images with two sides, and validity."""
    generator = torch.Generator().manual_seed(0)

    def noise(*shape: int) -> Tensor:
        return torch.randn(batch, *shape, generator=generator)

    side = (torch.arange(SIZE[1]) > 20).float().expand(batch, 1, *SIZE)
    levels = []
    for stride, channels in ((1, 4), (3, 5), (8, 3)):
        shape = [-(-n // stride) for n in SIZE]
        coarse = F.interpolate(side, shape, mode='nearest')
        levels.append(3 * coarse + 5 + noise(channels, *shape))
    tokens = Tokens(tuple(levels), (1, 3, 8), SIZE)
    image = 100 + 20 * side + noise(3, *SIZE)
    valid = torch.ones(batch, *SIZE, dtype=torch.int64)
    valid[0, :19, 30:] = 0
    valid[-1, 5, 7] = 0
    p = (noise(3, *SIZE) + torch.cat([side, -side, 0 * side], 1)).softmax(1)
    return p, tokens, image, valid


def squares(side: int) -> Tensor:
    rows, cols = torch.meshgrid(*(torch.arange(n) // side for n in SIZE), indexing='ij')
    return rows * -(-SIZE[1] // side) + cols + 1


def plain(
    options: Propagation,
    given: Tensor,
    features: Tensor,
    label: NDArray[np.int64],
    grid: tuple[int, int] | None,
) -> NDArray[np.float64]:
    """The same of one image with dense features (D, H, W) and dense matrices."""
    p = given.double().flatten(1).numpy()
    f = features.double().flatten(1).numpy()
    flat = label.ravel()
    nodes = np.unique(flat[flat > 0])
    means = np.stack([f[:, flat == i].mean(1) for i in nodes])
    before = np.stack([p[:, flat == i].mean(1) for i in nodes])
    centre = np.stack([np.argwhere(label == i).mean(0) for i in nodes])
    standard = (means - means.mean(0)) / means.std(0)
    a = dense(
        torch.from_numpy(standard),
        torch.from_numpy(centre),
        options.neighbours,
        options.gamma,
        options.sigma,
    )
    degree = np.where(a.sum(1) > 0, a.sum(1), 1)
    system = np.eye(len(a)) - options.alpha * a / np.sqrt(np.outer(degree, degree))
    weights = np.linalg.inv(system)
    after = weights @ before / weights.sum(1, keepdims=True)
    change = after - options.detail * before
    if grid is None:
        added = np.zeros_like(p)
        for i, value in zip(nodes, change, strict=True):
            added[:, flat == i] = value[:, None]
    else:
        h, w = grid
        side = options.spacing
        full = np.zeros((h * w, 4))
        full[nodes - 1] = np.column_stack([change, np.ones(len(nodes))])
        up = F.interpolate(
            torch.from_numpy(full.T.reshape(1, 4, h, w)),
            scale_factor=side,
            mode='bilinear',
        )[0, :, : SIZE[0], : SIZE[1]]
        added = (up[:3] / up[3:].clamp(min=1e-30)).flatten(1).numpy()
    result = (options.detail * p + added).clip(0)
    result = np.where(flat > 0, result / result.sum(0).clip(1e-30), p)
    return result.reshape(given.shape)


@pytest.mark.parametrize('nodes', ['superpixels', 'tokens'])
@pytest.mark.parametrize('masked', [True, False])
@pytest.mark.parametrize('detail', [0.0, 0.5, 1.0])
def test_agrees_with_the_dense_form(nodes: str, masked: bool, detail: float) -> None:
    p, tokens, image, valid = case()
    options = Propagation(nodes=nodes, detail=detail, **STRONG)
    found = options(p, tokens, image, valid if masked else None)
    assert found.shape == p.shape
    features = tokens.project(torch.eye(12))
    for b in range(2):
        inside = valid[b] if masked else torch.ones_like(valid[b])
        if nodes == 'tokens':
            label, grid = squares(6) * inside, (7, 8)
        else:
            label, grid = superpixels(image[b], 6, options.compactness, inside), None
        expected = plain(options, p[b], features[b], label.numpy(), grid)
        np.testing.assert_allclose(found[b].numpy(), expected, atol=1e-5)
    total = found.sum(1)
    torch.testing.assert_close(total, torch.ones_like(total))


@pytest.mark.parametrize('components', [0, 64])
def test_pixels_agree_with_the_dense_form(components: int) -> None:
    """Each window by itself; the image is a part of a larger one."""
    p, tokens, image, valid = case()
    options = Propagation(nodes='pixels', window=20, components=components, **STRONG)
    part = slice(2, 30), slice(5, 40)
    seen = options(
        p[..., *part], tokens, image[..., *part], valid[..., *part], window=part
    )
    features = tokens.project(torch.eye(12))[..., *part].double()
    for b, top, left in itertools.product(range(2), (0, 20), (0, 20)):
        window = slice(top, top + 20), slice(left, left + 20)
        inside = valid[b][part][window] > 0
        f = features[b][:, *window][:, inside].mT
        if components:
            f = (f - f.mean(0)) / f.std(0, correction=0)
        places = torch.stack(torch.where(inside), 1)
        a = dense(f, places, options.neighbours, options.gamma, options.sigma)
        degree = np.where(a.sum(1) > 0, a.sum(1), 1)
        system = np.eye(len(a)) - options.alpha * a / np.sqrt(np.outer(degree, degree))
        weights = np.linalg.inv(system)
        expected = p[b][:, *part][:, *window].double()
        before = expected[:, inside].mT.numpy()
        after = weights @ before / weights.sum(1, keepdims=True)
        expected[:, inside] = torch.from_numpy(after).mT
        torch.testing.assert_close(
            seen[b][:, *window].double(), expected, atol=1e-5, rtol=0
        )


def test_published_constants() -> None:
    """exp(-d^2 / .01) with distances in sides of a window of 112 pixels."""
    published = parse_propagation('published')
    assert 2 * published.sigma**2 == pytest.approx(0.01 * 112**2, rel=1e-4)
    assert (published.nodes, published.window, published.components) == (
        'pixels',
        112,
        0,
    )
    assert (published.neighbours, published.gamma, published.alpha) == (400, 3, 0.95)
    assert parse_propagation('published?alpha=0.5').alpha == 0.5


@pytest.mark.parametrize('nodes', ['superpixels', 'tokens'])
def test_images_do_not_depend_on_each_other(nodes: str) -> None:
    p, tokens, image, valid = case()
    options = Propagation(nodes=nodes, **STRONG)
    both = options(p, tokens, image, valid)
    for b in range(2):
        own = replace(tokens, levels=tuple(level[b : b + 1] for level in tokens.levels))
        alone = options(p[b], own, image[b], valid[b])
        torch.testing.assert_close(alone, both[b])


@pytest.mark.parametrize('nodes', ['superpixels', 'tokens'])
def test_invalid_pixels_take_no_part(nodes: str) -> None:
    p, tokens, image, valid = case()
    options = Propagation(nodes=nodes, **STRONG)
    inside = valid[:, None] > 0
    found = options(p, tokens, image, valid)
    other = torch.where(inside, p, p.flip(1))
    dark = torch.where(inside, image, 0)
    changed = options(other, tokens, dark, valid)
    assert torch.equal(torch.where(inside, found, 0), torch.where(inside, changed, 0))
    assert torch.equal(torch.where(inside, 0, changed), torch.where(inside, 0, other))
    nothing = torch.zeros_like(valid)
    assert torch.equal(options(p, tokens, image, nothing), p)


@pytest.mark.parametrize('nodes', ['superpixels', 'tokens'])
def test_part_of_an_image(nodes: str) -> None:
    """Pixels of a window, with the tokens of the whole image."""
    p, tokens, image, valid = case()
    rows, cols = slice(6, 30), slice(12, 45)
    inside = torch.zeros_like(valid)
    inside[:, rows, cols] = valid[:, rows, cols]
    options = Propagation(nodes=nodes, **STRONG)
    found = options(
        p[..., rows, cols],
        tokens,
        image[..., rows, cols],
        valid[:, rows, cols],
        (rows, cols),
    )
    assert found.shape == (2, 3, 24, 33)
    if nodes == 'tokens':
        # Nodes start at the window's corner, here at a node of the image.
        whole = options(p, tokens, image, inside)
        torch.testing.assert_close(found, whole[..., rows, cols])
    features = tokens.project(torch.eye(12))[..., rows, cols].contiguous()
    same = options(
        p[..., rows, cols],
        Tokens((features,), (1,), (24, 33)),
        image[..., rows, cols],
        valid[:, rows, cols],
    )
    torch.testing.assert_close(found, same, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize('nodes', ['superpixels', 'tokens'])
@pytest.mark.parametrize('odd', [False, True])
def test_coarse_tokens(nodes: str, odd: bool) -> None:
    """Features of every other pixel do, and those of a node without one are exact."""
    p, tokens, image, _ = case()
    valid = torch.ones(2, *SIZE, dtype=torch.int64)
    if odd:  # of the last node, pixels of odd rows only
        valid[:, 32:, 40:] = 0
        valid[:, 33, 41:43] = 1
    coarse = Tokens(tokens.levels[2:], (8,), SIZE)
    options = Propagation(**{**STRONG, 'nodes': nodes, 'spacing': 8})
    found = options(p, coarse, image, valid)
    dense = Tokens((coarse.project(torch.eye(3)),), (1,), SIZE)
    expected = options(p, dense, image, valid)
    exact = odd and nodes == 'tokens'
    close = {'atol': 1e-5 if exact else 0.01, 'rtol': 0}
    torch.testing.assert_close(found, expected, **close)


@pytest.mark.parametrize('nodes', ['superpixels', 'tokens'])
def test_nothing_to_do(nodes: str) -> None:
    p, tokens, image, _ = case()
    options = Propagation(nodes=nodes, **{**STRONG, 'alpha': 0.0, 'detail': 1.0})
    torch.testing.assert_close(options(p, tokens, image), p)


@pytest.mark.parametrize('detail', [0.0, 0.3])
def test_one_superpixel(detail: float) -> None:
    p, tokens, image, _ = case()
    options = Propagation(spacing=200, detail=detail)
    expected = detail * p + (1 - detail) * p.mean((2, 3), keepdim=True)
    torch.testing.assert_close(options(p, tokens, image), expected)


@pytest.mark.parametrize('nodes', ['superpixels', 'tokens'])
def test_constant_image(nodes: str) -> None:
    """What looks the same everywhere says nothing about who is like whom."""
    p, tokens, image, _ = case()
    # Not a sum of powers of two: means of its copies differ in their last bits.
    flat = tuple(torch.full_like(level, 0.1234567) for level in tokens.levels)
    options = Propagation(nodes=nodes, detail=1.0)
    found = options(p, replace(tokens, levels=flat), torch.ones_like(image))
    torch.testing.assert_close(found, p)


def test_absent_classes_stay_absent() -> None:
    p, tokens, image, _ = case()
    p[:, 1] = 0
    found = Propagation(**STRONG)(p / p.sum(1, keepdim=True), tokens, image)
    assert found.isfinite().all()
    assert found[:, 1].max() < 1e-30


def test_tokens_are_not_divided() -> None:
    p, tokens, image, _ = case()
    coarse = Tokens(tokens.levels[2:], (8,), SIZE)
    fine = Propagation(nodes='tokens', spacing=3)(p, coarse, image)
    same = Propagation(nodes='tokens', spacing=8)(p, coarse, image)
    assert torch.equal(fine, same)


@pytest.mark.parametrize('nodes', ['superpixels', 'tokens'])
def test_removes_noise(nodes: str) -> None:
    _, tokens, image, _ = case()
    truth = (torch.arange(SIZE[1]) > 20).long().expand(2, *SIZE)
    generator = torch.Generator().manual_seed(1)
    logits = F.one_hot(truth, 3).permute(0, 3, 1, 2) * 0.7
    p = (logits + torch.randn(logits.shape, generator=generator)).softmax(1)
    options = Propagation(nodes=nodes, spacing=5, alpha=0.9, detail=0)
    refined = options(p, tokens, image)
    before = (p.argmax(1) == truth).double().mean()
    after = (refined.argmax(1) == truth).double().mean()
    assert before < 0.65
    assert after > 0.95


def test_repeats() -> None:
    p, tokens, image, valid = case()
    wide = Tokens((torch.cat([tokens.levels[0]] * 20, 1).sin(),), (1,), SIZE)
    state = torch.get_rng_state()
    first = Propagation()(p, wide, image, valid)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(Propagation()(p, wide, image, valid), first)


def test_principal_keeps_cosines() -> None:
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(300, 8, generator=generator)
    mixed = hidden @ torch.randn(8, 90, generator=generator) + 50
    mixed[:, 3] = 7  # says nothing
    kept = mixed[:, torch.arange(90) != 3]
    standard = F.normalize((kept - kept.mean(0)) / kept.std(0, correction=0))
    reduced = F.normalize(principal(mixed, 8))
    assert reduced.shape == (300, 8)
    torch.testing.assert_close(
        reduced @ reduced.T, standard @ standard.T, rtol=0, atol=1e-4
    )

    # With noise, as much of it is kept as by the principal components themselves.
    noisy = mixed + torch.randn(300, 90, generator=generator)
    standard = (noisy - noisy.mean(0)) / noisy.std(0, correction=0)
    best = torch.linalg.svdvals(standard)[:8].square().sum()
    assert principal(noisy, 8).square().sum() > 0.999 * best


@pytest.mark.parametrize(
    'options',
    [
        {'nodes': 'lines'},
        {'spacing': 0},
        {'components': -1},
        {'window': 0},
        {'neighbours': 0},
        {'compactness': 0.0},
        {'gamma': -1.0},
        {'sigma': 0.0},
        {'alpha': 1.0},
        {'alpha': -0.1},
        {'detail': 1.5},
    ],
)
def test_bad_options(options: dict[str, Any]) -> None:
    with pytest.raises(InputError, match='Propagation takes'):
        Propagation(**options)


@pytest.mark.parametrize(
    ('spec', 'expected'),
    [
        ('tokens', Propagation(nodes='tokens')),
        ('superpixels', Propagation(nodes='superpixels')),
        (
            'superpixels?neighbours=100&alpha=0.5',
            Propagation(nodes='superpixels', neighbours=100, alpha=0.5),
        ),
        ('tokens?spacing=16', Propagation(nodes='tokens', spacing=16)),
    ],
)
def test_spec(spec: str, expected: Propagation) -> None:
    assert parse_propagation(spec) == expected


@pytest.mark.parametrize(
    'spec',
    ['lines', '', 'tokens:x', 'tokens?alpha=2', 'tokens?beta=1', 'tokens?alpha=much'],
)
def test_mistakes_in_a_spec(spec: str) -> None:
    with pytest.raises(InputError) as error:
        parse_propagation(spec)
    assert '\n' not in str(error.value)
