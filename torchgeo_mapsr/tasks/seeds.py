# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""Random numbers of a training step, which it draws again when it is taken again."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any, TypeVar

import numpy as np
import torch
from lightning.pytorch import LightningModule

Step = TypeVar('Step', bound=Callable[..., Any])


@contextmanager
def seeded(task: LightningModule, *place: int) -> Iterator[None]:
    """Draw from PyTorch's generators as a place in the training says, and leave them.

    They are seeded by the seed that the process has (``seed_everything``), its rank and
    the place. Processes that have the same seed, which is what distributed samplers
    want, draw other numbers here, and what is drawn here moves no sampler.

    Args:
        task: What is trained.
        place: Numbers of the epoch and of the batch.
    """
    words = torch.initial_seed(), task.global_rank, *place
    (seed,) = np.random.SeedSequence(words).generate_state(1, np.uint64).tolist()
    on_gpu = task.device.type == 'cuda'
    with torch.random.fork_rng([task.device] if on_gpu else []):
        torch.default_generator.manual_seed(seed)
        if on_gpu:
            with torch.cuda.device(task.device):
                torch.cuda.manual_seed(seed)
        yield


def repeatable(step: Step) -> Step:
    """Let a training step be the same one in a training that goes on.

    What a task and its network draw (masks, mixtures, exemplars, dropout) follows from
    the seed, the process, the epoch and the batch, and not from how many numbers were
    drawn before: a training that goes on from the checkpoint of an epoch draws what it
    would have drawn.

    Args:
        step: ``training_step`` of a task.
    """

    @wraps(step)
    def seeded_step(
        task: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> Any:
        with seeded(task, task.current_epoch, batch_idx):
            return step(task, batch, batch_idx, dataloader_idx)

    return seeded_step  # type: ignore[return-value]
