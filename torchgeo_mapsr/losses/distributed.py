# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""Sums over the processes of a distributed run, through which gradients flow."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function


def processes() -> tuple[int, int]:
    """Number of this process and number of processes; 0 and 1 in an ordinary run."""
    group = torch.distributed
    if not (group.is_available() and group.is_initialized()):
        return 0, 1
    return group.get_rank(), group.get_world_size()


def sum_over_processes(tensor: Tensor) -> Tensor:
    """Add up a tensor that every process has, of one shape, in all of them.

    Args:
        tensor: What this process has.

    Returns:
        The sum, the same in every process. What flows back into it is added up too, so
        that each process gets the gradient of the sum of all processes' losses: divided
        by their number, as ``DistributedDataParallel`` does, that of their mean.
    """
    if processes()[1] == 1:
        return tensor
    summed: Tensor = _Sum.apply(tensor)
    return summed


class _Sum(Function):
    """All-reduce, forwards and backwards.

    PyTorch has no public one: ``torch.distributed.nn`` is marked as a prototype.
    """

    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        total = tensor.detach().clone(memory_format=torch.contiguous_format)
        torch.distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        total = gradients[0].clone(memory_format=torch.contiguous_format)
        torch.distributed.all_reduce(total)
        return total
