# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""Two processes find what one finds with both their batches."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.multiprocessing import start_processes

from torchgeo_mapsr.losses import (
    ClassBalancedCrossEntropy,
    ClassCentreContrast,
    ClassPrior,
)

from ..forked import METHOD

# Images of each process: they need not have as many.
SIZES = (2, 1)


def data() -> tuple[Tensor, Tensor]:
    """Images and labels; a class is in the last image only."""
    g = torch.Generator().manual_seed(0)
    label = torch.randint(-1, 3, (sum(SIZES), 6, 6), generator=g)
    label[:2][label[:2] == 2] = -1
    return torch.randn(sum(SIZES), 4, 6, 6, generator=g), label


def train(images: Tensor, labels: Tensor) -> dict[str, Any]:
    """Losses of these images, and the gradient of their features' weights."""
    weight = torch.linspace(-1, 1, 28).view(7, 4, 1, 1).requires_grad_()
    out = torch.nn.functional.conv2d(images, weight)
    p = out[:, 4:].softmax(1)
    prior = ClassPrior(3, 0.4)
    prior.start(labels)
    contrast = ClassCentreContrast(0.3)(out[:, :4], p, labels)
    # of equal weight in both, as the mean of a batch of one pixel is not: the prior only
    known = prior(p)
    balanced = known.log() @ torch.tensor([1.0, 2.0, 3.0])
    (contrast + balanced).backward()
    one = ClassBalancedCrossEntropy()(out[:, 4:], labels, known)
    return {
        'contrast': contrast.detach(),
        'share': prior.share,
        'gradient': weight.grad,
        'finite': one.isfinite(),
    }


def work(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        'gloo', f'file://{folder}/meet', rank=rank, world_size=len(SIZES)
    )
    images, labels = (part.split(SIZES)[rank] for part in data())
    torch.save(train(images, labels), f'{folder}/{rank}.pt')
    torch.distributed.destroy_process_group()


def test_two_processes_are_one_batch(tmp_path: Path) -> None:
    start_processes(work, (str(tmp_path),), len(SIZES), start_method=METHOD)
    parts = [torch.load(tmp_path / f'{rank}.pt') for rank in range(len(SIZES))]
    whole = train(*data())
    for part in parts:
        torch.testing.assert_close(part['share'], whole['share'])
        assert part['finite']
    mean = {k: sum(part[k] for part in parts) / len(parts) for k in whole}
    torch.testing.assert_close(mean['contrast'], whole['contrast'])
    torch.testing.assert_close(mean['gradient'], whole['gradient'])
    # what each process has is not the whole
    assert parts[0]['contrast'] != parts[1]['contrast']
