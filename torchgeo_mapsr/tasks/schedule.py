# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""How learning rates fall."""

from math import cos, isinf, pi
from typing import Any

from lightning.pytorch import Trainer
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from ..errors import InputError


class CosineDecay(LambdaLR):
    """A learning rate that falls to zero along a cosine.

    Loshchilov and Hutter 2017 (SGDR), eq. 5, without restarts.

    The end is no part of its state, unlike that of torch's: a training that goes on from
    a checkpoint ends where its own trainer says.

    Args:
        optimizer: The optimiser.
        steps: Steps of the whole training.
        rise: Steps in which it rises along a line, before it falls.
    """

    def __init__(self, optimizer: Optimizer, steps: int, rise: int = 0) -> None:
        def factor(step: int) -> float:
            if step < rise:
                return (step + 1) / rise
            return (1 + cos(pi * min((step - rise) / max(steps - rise, 1), 1))) / 2

        super().__init__(optimizer, factor)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a step, whose rate the optimiser has from another training.

        Args:
            state_dict: What was kept.
        """
        super().load_state_dict(state_dict)
        groups = self.optimizer.param_groups
        for group, rate, factor in zip(
            groups, self.base_lrs, self.lr_lambdas, strict=True
        ):
            group['lr'] = rate * factor(self.last_epoch)


def training_steps(trainer: Trainer) -> int:
    """Optimiser steps of a whole training, which a schedule needs to know.

    Args:
        trainer: The trainer.

    Raises:
        InputError: If it has no end.
    """
    steps = trainer.estimated_stepping_batches
    if isinf(steps):
        raise InputError(
            'a learning rate that falls along a cosine needs the end of the training: '
            'give the trainer max_epochs or max_steps, beside max_time'
        )
    return max(int(steps), 1)
