# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""From quantised probabilities of regions to cells: the lymphocytes of Malkin et al. 2019.

Nothing here is land cover. A classifier has given every region of a pathology slide a
probability that it is infiltrated by lymphocytes; which pixels are lymphocytes is to be
learned from that (section 3.2). The slides are made: dark round nuclei are lymphocytes,
larger and paler ones are not, and the classifier is a noisy function of how many there
are.

    python docs/examples/lymphocytes.py

prints how well three ways to learn tell the two kinds of nuclei apart (area under the
receiver operating characteristic) and find their pixels, in seconds. As no region is
mostly lymphocytes, the naive ways never call a pixel one: what soft naive knows is only
in the order of its probabilities.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from rich.console import Console
from torch import Tensor, nn
from torchmetrics.functional.classification import binary_auroc, binary_jaccard_index

from torchgeo_mapsr import JointStatistics, Legend
from torchgeo_mapsr.datasets.legends.statistics import class_counts
from torchgeo_mapsr.losses import StatisticsMatchingLoss, block_regions, label_counts

# A patch has 2 x 2 regions of 32 x 32 pixels.
SIDE, BLOCKS = 64, 2

# Regions of each LR class that are looked at to learn what it means, as in the paper.
SEEN = 5

# Five regions say little about the spread. With the narrow one that they show, training
# first gets every count right and only then becomes sure of pixels; with a much wider one,
# it may become sure of one class everywhere.
STD = 0.1

# Share of pixels that are known to be background by their colour alone, as in the paper.
PALE = 0.2

PROBABILITY = Legend.load(
    {
        'name': 'infiltration',
        'classes': [
            {'code': i, 'name': f'{i / 10} to {(i + 1) / 10}'} for i in range(10)
        ],
    }
)
CELLS = Legend.load(
    {
        'name': 'cells',
        'classes': [{'code': 0, 'name': 'other'}, {'code': 1, 'name': 'lymphocyte'}],
    }
)

WAYS = 'hard naive', 'soft naive', 'super-resolution'


class Slides(NamedTuple):
    """Made patches.

    Args:
        image: Red, green and blue in 0..1, (N, 3, SIDE, SIDE).
        truth: 1 = lymphocyte, (N, SIDE, SIDE).
        centres: 1 at the middle of a lymphocyte, 0 at that of another nucleus,
            -1 elsewhere, (N, SIDE, SIDE).
        label: Quantised probability of each region, (N, BLOCKS²).
    """

    image: Tensor
    truth: Tensor
    centres: Tensor
    label: Tensor


def make_slides(number: int, seed: int) -> Slides:
    """Draw nuclei on tissue, and let a noisy classifier look at the regions."""
    rng = np.random.default_rng(seed)
    y, x = np.indices((SIDE, SIDE))
    image = np.empty((number, 3, SIDE, SIDE), np.float32)
    truth = np.zeros((number, SIDE, SIDE), np.int64)
    centres = np.full((number, SIDE, SIDE), -1)
    for i in range(number):
        tint = np.array([0.9, 0.7, 0.8]) + rng.normal(0, 0.03, 3)
        image[i] = tint[:, None, None]
        # crowded regions have up to 30 lymphocytes
        crowd = rng.uniform(0, 30, (BLOCKS, BLOCKS)) * (
            rng.random((BLOCKS, BLOCKS)) < 0.7
        )
        for small in (False, True):
            for row, col in rng.uniform(0, SIDE, (8 if not small else 120, 2)):
                block = int(row * BLOCKS / SIDE), int(col * BLOCKS / SIDE)
                if small and rng.random() > crowd[block] / 30:
                    continue
                radius = rng.normal(2.5, 0.2) if small else rng.normal(4.5, 0.7)
                inside = (y - row) ** 2 + (x - col) ** 2 < radius**2
                dark = np.array([0.35, 0.2, 0.5] if small else [0.5, 0.35, 0.6])
                dark = dark + rng.normal(0, 0.05, 3)
                image[i][:, inside] = dark[:, None]
                truth[i][inside] = small
                # what is drawn over is no longer a middle
                centres[i][inside] = -1
                centres[i][int(row), int(col)] = small
    image += rng.normal(0, 0.05, image.shape)
    side = SIDE // BLOCKS
    share = truth.reshape(number, BLOCKS, side, BLOCKS, side).mean((2, 4))
    probability = 1 / (
        1 + np.exp(-(share - 0.15) * 20 + rng.normal(0, 0.5, share.shape))
    )
    label = np.minimum(probability * 10, 9).astype(np.int64).reshape(number, -1)
    return Slides(*(torch.from_numpy(a) for a in (image, truth, centres, label)))


def look(slides: Slides) -> JointStatistics:
    """What the classes of probability mean: shares in a few regions of each."""
    regions = block_regions(SIDE, SIDE, BLOCKS, BLOCKS).numpy()
    counts = np.concatenate(
        [class_counts(regions, t, BLOCKS**2, len(CELLS)) for t in slides.truth.numpy()]
    )
    label = slides.label.flatten().numpy()
    chosen = np.concatenate([np.flatnonzero(label == k)[:SEEN] for k in range(10)])
    return JointStatistics.estimate(PROBABILITY, CELLS, label[chosen], counts[chosen])


def network() -> nn.Sequential:
    """A few convolutions: it sees 13 x 13 pixels around each."""
    layers: list[nn.Module] = []
    for inner, reach in ((3, 1), (16, 2), (16, 3)):
        layers += [
            nn.Conv2d(inner, 16, 3, padding=reach, dilation=reach),
            nn.BatchNorm2d(16),
            nn.ReLU(),
        ]
    return nn.Sequential(*layers, nn.Conv2d(16, len(CELLS), 1))


def train(
    slides: Slides, loss: Callable[[Tensor, Tensor], Tensor], steps: int, seed: int
) -> nn.Sequential:
    """Train a network with a loss of its scores and the labels of the regions."""
    torch.manual_seed(seed)
    model = network()
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-2)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    for _ in range(steps):
        batch = torch.randint(len(slides.image), (8,))
        image, label = slides.image[batch], slides.label[batch]
        logits = model(image)
        # tissue that is brighter than most is no nucleus
        brightness = image.mean(1)
        pale = brightness > brightness.flatten(1).quantile(1 - PALE, 1)[:, None, None]
        background = F.cross_entropy(logits, torch.where(pale, 0, -1), ignore_index=-1)
        optimiser.zero_grad()
        (loss(logits, label) + background).backward()
        optimiser.step()
        scheduler.step()
    return model.eval()


def compare(
    steps: int = 200, seed: int = 0, ways: tuple[str, ...] = WAYS
) -> dict[str, tuple[float, float]]:
    """Train in three ways.

    Args:
        steps: Batches.
        seed: Of the networks' initialisation.
        ways: Which ways to train.

    Returns:
        Area under the curve at the middles of nuclei, and IoU of lymphocytes' pixels,
        by way.
    """
    slides, held_out = make_slides(100, seed=1), make_slides(30, seed=2)
    statistics = look(slides)
    mean = torch.from_numpy(statistics.mean).float()
    matching = StatisticsMatchingLoss(mean, torch.full_like(mean, STD))
    regions = block_regions(SIDE, SIDE, BLOCKS, BLOCKS)
    shares = torch.from_numpy(statistics.proportions(range(10))).float()

    def super_resolution(logits: Tensor, label: Tensor) -> Tensor:
        region = regions.expand(len(logits), -1, -1)
        counts = label_counts(logits.softmax(1), region, BLOCKS**2)
        return matching(counts, label)

    def soft_naive(logits: Tensor, label: Tensor) -> Tensor:
        return F.cross_entropy(logits, shares[label][:, regions - 1].movedim(-1, 1))

    def hard_naive(logits: Tensor, label: Tensor) -> Tensor:
        return F.cross_entropy(logits, shares.argmax(1)[label][:, regions - 1])

    losses = dict(zip(WAYS, (hard_naive, soft_naive, super_resolution), strict=True))
    found = {}
    for name in ways:
        model = train(slides, losses[name], steps, seed)
        with torch.no_grad():
            score = model(held_out.image).softmax(1)[:, 1]
        middle = held_out.centres >= 0
        area = binary_auroc(score[middle], held_out.centres[middle])
        found[name] = float(area), float(binary_jaccard_index(score, held_out.truth))
    return found


if __name__ == '__main__':
    console = Console()
    for way, (auc, iou) in compare().items():
        console.print(f'{way:20} AUC {auc:.3f}  IoU {iou:.3f}')
