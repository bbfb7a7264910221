# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

import numpy as np
import pytest
import torch
from torch import Tensor

from torchgeo_mapsr.losses import block_regions, box_counts, label_counts
from torchgeo_mapsr.models.propagation.superpixels import superpixels


def predictions(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(*shape, generator=generator, dtype=torch.float64)
    return logits.softmax(1)


def literal(p: Tensor, inside: Tensor) -> tuple[list[float], list[float]]:
    """Equation 4, pixel by pixel, of one set (H, W)."""
    size = int(inside.sum())
    mean, variance = [0.0] * len(p), [0.0] * len(p)
    for row, column in inside.nonzero().tolist():
        for k in range(len(p)):
            value = float(p[k, row, column])
            mean[k] += value / size
            variance[k] += value * (1 - value) / size**2
    return mean, variance


def test_region_map_against_a_literal_loop() -> None:
    p = predictions(2, 3, 7, 9)
    region = torch.randint(0, 5, (2, 7, 9), generator=torch.Generator().manual_seed(1))
    valid = torch.rand(2, 7, 9, generator=torch.Generator().manual_seed(2)) < 0.8
    counts = label_counts(p, region, 4, valid)
    for b in range(2):
        for cell in range(4):
            inside = (region[b] == cell + 1) & valid[b]
            mean, variance = literal(p[b], inside)
            assert counts.pixels[b, cell] == inside.sum()
            assert counts.mean[b, cell].tolist() == pytest.approx(mean)
            assert counts.variance[b, cell].tolist() == pytest.approx(variance)
    # an expectation over all classes: shares sum to one
    torch.testing.assert_close(counts.mean.sum(-1), torch.ones(2, 4).double())


def test_moments_are_those_of_drawn_labels() -> None:
    """Equation 3, by Monte Carlo."""
    p = predictions(1, 3, 6, 6)
    counts = label_counts(p, torch.ones(1, 6, 6, dtype=torch.long), 1)
    draws = torch.distributions.Categorical(p[0].permute(1, 2, 0))
    torch.manual_seed(0)
    drawn = draws.sample((40_000,)).flatten(1)
    shares = torch.stack([(drawn == k).double().mean(1) for k in range(3)], -1)
    torch.testing.assert_close(shares.mean(0), counts.mean[0, 0], atol=2e-3, rtol=0)
    torch.testing.assert_close(shares.var(0), counts.variance[0, 0], atol=0, rtol=0.05)


def test_boxes_that_overlap_against_a_literal_loop() -> None:
    p = predictions(2, 3, 8, 10)
    boxes = torch.tensor(
        [
            [[0, 0, 10, 8], [1.2, 2, 5.8, 6.4], [3, 1, 9, 7]],
            [[2, 2, 3, 3], [-4, -4, 2, 30], [0, 0, 0, 0]],
        ]
    )
    valid = torch.rand(2, 8, 10, generator=torch.Generator().manual_seed(2)) < 0.9
    p = torch.where(valid[:, None], p, torch.nan)
    counts = box_counts(p, boxes, valid)
    y, x = torch.meshgrid(torch.arange(8) + 0.5, torch.arange(10) + 0.5, indexing='ij')
    for b in range(2):
        for i, (left, top, right, bottom) in enumerate(boxes[b].tolist()):
            inside = (x >= left) & (x < right) & (y >= top) & (y < bottom) & valid[b]
            assert counts.pixels[b, i] == inside.sum()
            mean, variance = literal(p[b], inside)
            assert counts.mean[b, i].tolist() == pytest.approx(mean)
            assert counts.variance[b, i].tolist() == pytest.approx(variance)
    assert counts.pixels[1, 2] == 0


def test_boxes_that_do_not_overlap_are_regions() -> None:
    p = predictions(1, 2, 6, 10)
    region = block_regions(6, 10, 2, 2)[None]
    boxes = torch.tensor([[[0, 0, 5, 3], [5, 0, 10, 3], [0, 3, 5, 6], [5, 3, 10, 6]]])
    for found, expected in zip(
        box_counts(p, boxes), label_counts(p, region, 4), strict=True
    ):
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(
    ('height', 'width', 'rows', 'columns'), [(6, 9, 2, 3), (7, 5, 3, 2)]
)
def test_blocks(height: int, width: int, rows: int, columns: int) -> None:
    region = block_regions(height, width, rows, columns).numpy()
    assert region.shape == (height, width)
    assert np.unique(region).tolist() == list(range(1, rows * columns + 1))
    for number in range(1, rows * columns + 1):
        y, x = np.nonzero(region == number)
        # a filled rectangle, at its place in the order of reading
        assert len(y) == (np.ptp(y) + 1) * (np.ptp(x) + 1)
        assert np.ptp(y) + 1 in (height // rows, -(-height // rows))
        assert np.ptp(x) + 1 in (width // columns, -(-width // columns))
        assert y.mean() * rows // height == (number - 1) // columns
        assert x.mean() * columns // width == (number - 1) % columns


def test_superpixels() -> None:
    image = torch.rand(4, 40, 40, generator=torch.Generator().manual_seed(0))
    segments = superpixels(image, 8, 0.1)
    n = int(segments.max())
    counts = label_counts(predictions(1, 3, 40, 40), segments[None], n)
    assert counts.pixels.sum() == 1600
    torch.testing.assert_close(counts.mean.sum(-1), torch.ones(1, n).double())


@pytest.mark.parametrize('boxes', [False, True])
def test_gradient(boxes: bool) -> None:
    logits = torch.randn(1, 3, 4, 5, dtype=torch.float64, requires_grad=True)
    region = block_regions(4, 5, 2, 2)[None]
    edges = torch.tensor([[[0, 0, 3, 2], [1, 1, 5, 4]]])

    def count(values: Tensor) -> tuple[Tensor, Tensor]:
        p = values.softmax(1)
        counts = box_counts(p, edges) if boxes else label_counts(p, region, 4)
        return counts.mean, counts.variance

    assert torch.autograd.gradcheck(count, logits)


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_half_precision(dtype: torch.dtype) -> None:
    """A cell of 40 000 pixels: halves would stop counting at 2048, or at 256."""
    p = predictions(1, 3, 200, 200).to(dtype)
    ones = torch.ones(1, 200, 200, dtype=torch.long)
    exact = label_counts(p.double(), ones, 1)
    for counts in (
        label_counts(p, ones, 1),
        box_counts(p, torch.tensor([[[0, 0, 200, 200]]])),
    ):
        assert counts.mean.dtype == torch.float32
        assert counts.pixels.item() == 40_000
        torch.testing.assert_close(counts.mean, exact.mean.float(), rtol=1e-4, atol=0)
        torch.testing.assert_close(
            counts.variance, exact.variance.float(), rtol=1e-4, atol=0
        )


def test_sets_of_one_pixel_and_of_none() -> None:
    p = predictions(1, 3, 1, 2).requires_grad_()
    counts = label_counts(p, torch.tensor([[[1, 0]]]), 3)
    torch.testing.assert_close(counts.mean[0, 0], p[0, :, 0, 0])
    torch.testing.assert_close(counts.variance[0, 0], (p * (1 - p))[0, :, 0, 0])
    assert counts.pixels.tolist() == [[1, 0, 0]]
    assert not counts.mean[0, 1:].any()
    assert not counts.variance[0, 1:].any()
    (counts.mean.sum() + counts.variance.sum()).backward()
    assert p.grad is not None
    assert p.grad.isfinite().all()


def test_boxes_are_counted_in_single_precision_under_autocast() -> None:
    p = torch.full((1, 2, 100, 100), 1 / 3)
    boxes = torch.tensor([[[0.0, 0.0, 100.0, 100.0]]])
    with torch.autocast('cpu', torch.bfloat16):
        counts = box_counts(p, boxes)
    assert counts.mean.dtype == torch.float32
    assert counts.pixels.item() == 10_000
    torch.testing.assert_close(counts.mean, torch.full((1, 1, 2), 1 / 3))
