# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""Random numbers of a place in a training, which are drawn again when it is taken again."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any, TypeVar

import numpy as np
import torch

Step = TypeVar('Step', bound=Callable[..., Any])


def seed_at(what: str, *place: int) -> int:
    """A seed that follows from that of the process and from a place in a training.

    The seed that the process has is that of ``seed_everything``; how many numbers it has
    drawn since does not count.

    Args:
        what: What is drawn; two kinds have different numbers at one place.
        place: Numbers such as those of the process, the epoch and the batch.
    """
    words = torch.initial_seed(), *what.encode(), *place
    (seed,) = np.random.SeedSequence(words).generate_state(1, np.uint64).tolist()
    return int(seed)


@contextmanager
def seeded(seed: int, device: torch.device | None = None) -> Iterator[None]:
    """Draw from PyTorch's generators as a seed says, and leave them as they were.

    What is drawn here moves no sampler.

    Args:
        seed: As :func:`seed_at` gives it.
        device: Whose generator is meant beside that of the CPU, if it is a GPU.
    """
    on_gpu = device is not None and device.type == 'cuda'
    with torch.random.fork_rng([device] if on_gpu else []):
        torch.default_generator.manual_seed(seed)
        if on_gpu:
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        yield


def repeatable(step: Step) -> Step:
    """Let a training step be the same one in a training that goes on.

    What a task and its network draw (masks, mixtures, exemplars, dropout) follows from
    the seed, the process, the epoch and the batch, and not from how many numbers were
    drawn before: a training that goes on from the checkpoint of an epoch draws what it
    would have drawn. Processes that have the same seed, which is what distributed
    samplers want, draw other numbers.

    Args:
        step: ``training_step`` of a task.
    """

    @wraps(step)
    def seeded_step(
        task: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> Any:
        place = task.global_rank, task.current_epoch, batch_idx
        with seeded(seed_at('step', *place), task.device):
            return step(task, batch, batch_idx, dataloader_idx)

    return seeded_step  # type: ignore[return-value]
