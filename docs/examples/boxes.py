# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""From boxes to pixels: the pedestrians of Malkin et al. 2019, appendix F.

Nothing here is land cover either. People have been marked with boxes, and the only thing
known of a box is that about half to nine tenths of it is a person, and of what lies
outside all boxes, that next to nothing is. Or an image has been divided into coarse
blocks, and somebody has called each background, boundary or foreground. The images are
made: people are smooth ellipses in any colour before a rough background of any other.

    python docs/examples/boxes.py

prints the IoU of the people found on other images, in seconds.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from rich.console import Console
from scipy.ndimage import gaussian_filter
from torch import Tensor, nn
from torchmetrics.functional.classification import binary_jaccard_index

from torchgeo_mapsr.datasets.legends.statistics import described_shares
from torchgeo_mapsr.losses import (
    StatisticsMatchingLoss,
    block_regions,
    box_counts,
    label_counts,
)

SIDE, PEOPLE, BLOCKS = 64, 2, 8

# What is said of a set of pixels, as bounds on the share of foreground (class 1): of what
# lies outside all boxes, of a box; of blocks called background, boundary, foreground.
OUTSIDE, BOX, BLOCK = 0, 1, 2
BOUNDS = ((0.0, 0.05), (0.5, 0.9), (0.0, 1 / 3), (1 / 3, 2 / 3), (2 / 3, 1.0))

# Bounds are to be read softly, as the paper says: with the narrow spread that "next to
# nothing" has as a uniform share, the first steps turn everything into background.
STD = 0.1


class Street(NamedTuple):
    """Made images.

    Args:
        image: Red, green and blue, (N, 3, SIDE, SIDE).
        truth: 1 = a person, (N, SIDE, SIDE).
        boxes: Left, top, right and bottom edge of each person, (N, PEOPLE, 4); they may
            overlap.
    """

    image: Tensor
    truth: Tensor
    boxes: Tensor


def make_street(number: int, seed: int) -> Street:
    """Draw people: a head above a body, both ellipses."""
    rng = np.random.default_rng(seed)
    y, x = np.indices((SIDE, SIDE)) + 0.5
    image = np.empty((number, 3, SIDE, SIDE), np.float32)
    truth = np.zeros((number, SIDE, SIDE), np.int64)
    boxes = np.empty((number, PEOPLE, 4), np.float32)
    for i in range(number):
        rough = gaussian_filter(rng.normal(size=(3, SIDE, SIDE)), (0, 0.7, 0.7))
        image[i] = rng.normal(0, 0.7, (3, 1, 1)) + 1.5 * rough
        for k in range(PEOPLE):
            half, height = rng.uniform(6, 10), rng.uniform(28, 44)
            col = rng.uniform(half + 1, SIDE - half - 1)
            top = rng.uniform(1, SIDE - height - 1)
            head, body = 0.22 * height, 0.78 * height
            person = ((x - col) / (0.6 * half)) ** 2 + (
                (y - top) / head - 0.6
            ) ** 2 < 0.4
            middle = top + head + body / 2
            person |= ((x - col) / half) ** 2 + ((y - middle) / (body / 2)) ** 2 < 1
            image[i][:, person] = rng.normal(0, 0.7, (3, 1))
            truth[i][person] = 1
            rows, cols = np.flatnonzero(person.any(1)), np.flatnonzero(person.any(0))
            boxes[i, k] = cols[0], rows[0], cols[-1] + 1, rows[-1] + 1
    image += rng.normal(0, 0.1, image.shape)
    return Street(*(torch.from_numpy(a) for a in (image, truth, boxes)))


def train(
    street: Street, loss: Callable[[Tensor, Tensor], Tensor], steps: int, seed: int
) -> nn.Sequential:
    """Train a few convolutions with a loss of scores and numbers of images."""
    torch.manual_seed(seed)
    layers: list[nn.Module] = []
    for inner, reach in ((3, 1), (16, 2), (16, 4)):
        layers += [
            nn.Conv2d(inner, 16, 3, padding=reach, dilation=reach),
            nn.BatchNorm2d(16),
            nn.ReLU(),
        ]
    model = nn.Sequential(*layers, nn.Conv2d(16, 2, 1))
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-2)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    for _ in range(steps):
        batch = torch.randint(len(street.image), (8,))
        optimiser.zero_grad()
        loss(model(street.image[batch]), batch).backward()
        optimiser.step()
        scheduler.step()
    return model.eval()


def filled(boxes: Tensor) -> Tensor:
    """1 where a pixel lies in a box, (N, SIDE, SIDE)."""
    at = torch.arange(SIDE) + 0.5
    left, top, right, bottom = boxes[..., None].unbind(2)
    rows, cols = (at >= top) & (at < bottom), (at >= left) & (at < right)
    return (rows[..., None] & cols[..., None, :]).any(1).long()


def compare(
    steps: int = 200,
    seed: int = 0,
    ways: tuple[str, ...] = ('naive', 'boxes', 'blocks'),
) -> dict[str, float]:
    """Train in several ways.

    Args:
        steps: Batches.
        seed: Of the networks' initialisation.
        ways: *naive* takes all of a box for a person.

    Returns:
        IoU of people on other images, by way.
    """
    street, held_out = make_street(100, seed=1), make_street(30, seed=2)
    # rows of bounds for people, the rest for what is no person
    table = np.array([described_shares({1: bounds}, 2) for bounds in BOUNDS])
    mean, std = torch.from_numpy(table).float().unbind(1)
    matching = StatisticsMatchingLoss(mean, std, least_std=STD)
    grid = block_regions(SIDE, SIDE, BLOCKS, BLOCKS)
    inside = filled(street.boxes)
    hot = F.one_hot(street.truth, 2).movedim(-1, 1).float()
    # what somebody would call each block
    share = label_counts(hot, grid.expand(len(hot), -1, -1), BLOCKS**2).mean[..., 1]
    called = BLOCK + (3 * share).long().clamp(max=2)

    def naive(logits: Tensor, batch: Tensor) -> Tensor:
        return F.cross_entropy(logits, inside[batch])

    def boxes(logits: Tensor, batch: Tensor) -> Tensor:
        p = logits.softmax(1)
        of_box = torch.full((len(batch), PEOPLE), BOX)
        found = matching(box_counts(p, street.boxes[batch]), of_box)
        rest = label_counts(p, 1 - inside[batch], 1)
        return found + matching(rest, torch.full((len(batch), 1), OUTSIDE))

    def blocks(logits: Tensor, batch: Tensor) -> Tensor:
        regions = grid.expand(len(batch), -1, -1)
        counts = label_counts(logits.softmax(1), regions, BLOCKS**2)
        return matching(counts, called[batch])

    losses = {'naive': naive, 'boxes': boxes, 'blocks': blocks}
    found = {}
    for name in ways:
        model = train(street, losses[name], steps, seed)
        with torch.no_grad():
            score = model(held_out.image).softmax(1)[:, 1]
        found[name] = float(binary_jaccard_index(score, held_out.truth))
    return found


if __name__ == '__main__':
    console = Console()
    for way, iou in compare().items():
        console.print(f'{way:10} IoU {iou:.3f}')
