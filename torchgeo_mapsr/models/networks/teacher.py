# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""A teacher that follows its student: the moving average of its weights."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from ...arguments import check_range


class EMATeacher(AveragedModel):
    """Exponential moving average of a network's weights and running statistics.

    Liu et al. 2025, equation 4: ``θ̂_{t+1} = α θ̂_t + (1 − α) θ_t``, with the student's
    weights θ. With α = 0.999 the teacher would be made of the random start for the first
    thousand steps, so with *warmup* α begins low, ``min(α, 1 − 1/(t + 1))``, as in the
    work that the paper follows (Tranheden et al. 2021; Tarvainen and Valpola 2017);
    without it the equation holds from the first step.

    It is PyTorch's :class:`~torch.optim.swa_utils.AveragedModel`: call
    :meth:`update_parameters` after each step of the optimiser. Weights and the number of
    updates are in its state, so they are in checkpoints. Counters are copied. It stays
    in evaluation mode and takes no gradient.

    Args:
        network: The student, which is copied.
        decay: α, 0 to 1.
        warmup: Begin with a low α.

    Raises:
        InputError: *decay* is out of its range.
    """

    def __init__(
        self, network: nn.Module, decay: float = 0.999, warmup: bool = True
    ) -> None:
        check_range('decay', decay, 0, 1)
        super().__init__(network, avg_fn=_Average(decay, warmup), use_buffers=True)
        self.requires_grad_(False)
        self.eval()
        if not warmup:
            # the first update of AveragedModel would be a copy
            self.n_averaged.fill_(1)

    def train(self, mode: bool = True) -> 'EMATeacher':
        """Stay in evaluation mode, whatever the task around it is told."""
        super().train(False)
        return self


@dataclass(frozen=True)
class _Average:
    """What AveragedModel calls for each tensor; a class, so that it can be pickled."""

    decay: float
    warmup: bool

    def __call__(self, old: Tensor, new: Tensor, updates: Tensor | int) -> Tensor:
        if not new.is_floating_point():
            return new
        if not self.warmup:
            return old.lerp(new, 1 - self.decay)
        steps = torch.as_tensor(updates, dtype=new.dtype, device=new.device)
        return old.lerp(new, (1 / (steps + 1)).clamp(min=1 - self.decay))
