# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""What standardises the bands of imagery as it is read."""

from collections.abc import Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn

from ...arguments import check_numbers, plain
from ...errors import InputError

# Middle and half of the range of the values that a type stores.
_RANGE = {'uint8': 127.5}


def normalisation(
    bands: int,
    image_dtype: str | None,
    mean: Sequence[float] | float | None,
    std: Sequence[float] | float | None,
) -> nn.Module:
    """Make what standardises images as they are read.

    Args:
        bands: Bands of the imagery.
        image_dtype: Data type of the imagery's files.
        mean: Mean of each band, or one for all, in units of the files.
        std: Standard deviation likewise.

    Raises:
        InputError: If they do not fit.
    """
    if (mean is None) != (std is None):
        raise InputError('Give mean and std together, or neither')
    if mean is None or std is None:
        half = _RANGE.get(str(image_dtype))
        if half is None:
            return _Observed(bands)
        mean = std = half
    values = []
    for name, numbers in (('mean', mean), ('std', std)):
        one = plain(numbers)
        check_numbers(name, one if isinstance(one, list | tuple) else [one])
        value = torch.as_tensor(numbers, dtype=torch.float32).reshape(-1)
        if len(value) not in (1, bands):
            raise InputError(f'{name} has {len(value)} values for {bands} bands')
        values.append(value.expand(bands).clone())
    if (values[1] <= 0).any():
        raise InputError('std must be positive')
    return _Affine(*values)


class _Affine(nn.Module):
    """Standardise bands by given numbers."""

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Tensor, std: Tensor) -> None:
        super().__init__()
        self.register_buffer('mean', mean[:, None, None])
        self.register_buffer('std', std[:, None, None])

    def forward(self, image: Tensor) -> Tensor:
        return (image - self.mean) / self.std


class _Observed(nn.Module):
    """Standardise bands by mean and variance of all pixels of the training batches.

    Batches count alike. PyTorch's batch normalisation would do so by each batch alone,
    and keep the mean of the variances within batches: of batches of one chip that is
    without what sets chips apart, which training never sees then. Its names stay, so
    that checkpoints that have one are read.
    """

    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor

    def __init__(self, bands: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.register_buffer('running_mean', torch.zeros(bands))
        self.register_buffer('running_var', torch.ones(bands))
        self.register_buffer('num_batches_tracked', torch.tensor(0))

    def forward(self, image: Tensor) -> Tensor:
        values = image if image.dtype == torch.float64 else image.float()
        if self.training:
            self.observe(values.detach())
        scale = (self.running_var + self.eps).rsqrt()
        shift = values - self.running_mean[:, None, None]
        return (shift * scale[:, None, None]).to(image)

    def observe(self, values: Tensor) -> None:
        """Take in a batch, (B, C, H, W), as Chan et al. 1983 combine variances."""
        self.num_batches_tracked += 1
        share = 1 / self.num_batches_tracked
        var, mean = torch.var_mean(values, (0, 2, 3), correction=0)
        difference = mean - self.running_mean
        self.running_mean += share * difference
        between = share * (1 - share) * difference**2
        self.running_var += share * (var - self.running_var) + between

    def _apply(self, fn: Any, recurse: bool = True) -> Self:
        # Single precision, whatever the trainer makes of the rest: the variance of
        # reflectances is above what float16 holds, and averages stand still in bfloat16.
        kept = {name: getattr(self, name) for name in ('running_mean', 'running_var')}
        super()._apply(fn, recurse)
        for name, value in kept.items():
            setattr(self, name, value.to(getattr(self, name).device))
        return self
