# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""A pretrained network between imagery as it is read and tokens."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

from ...errors import InputError
from ..tokens.tokens import Tokens
from .backbone import Backbone
from .grids import Grids


class FrozenNetwork(Backbone):
    """Bands are chosen, scaled and padded as a network expects, and it is run.

    The image is padded at its right and bottom, where no token begins, to a multiple
    of the largest stride, by mirroring: unlike zeros or a stretched last row it
    continues the texture, and unlike one ``reflect`` it works for any size. The
    grids are longer than the image then; :class:`Tokens` crops. Where the network does
    not take that size, or gives a grid that is not its size by the stride, multiples of
    its own largest reduction and of its windows are tried, and then the size that it was
    made for.

    Args:
        network: The network, from images to grids.
        bands: Bands of the imagery.
        select: Indices of the bands that the network takes, in its order.
        mean: Mean of each of these (or one for all), in units of the imagery.
        std: Standard deviation likewise. Without the two, :meth:`calibrate` finds
            the imagery's own.
        label: Name of the network in error messages.
        advise: Says what helps where no size of an image of a height and width is taken;
            empty if nothing is known to.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        network: Grids,
        bands: int,
        select: tuple[int, ...],
        mean: tuple[float, ...] | None,
        std: tuple[float, ...] | None,
        label: str,
        advise: Callable[[int, int], str] | None = None,
    ) -> None:
        # Measured for MobileNetV2 on an aerial scene: two tokens from the border, the
        # error from missing context has fallen to a quarter at stride 16.
        channels, strides = network.channels, network.strides
        super().__init__(bands, channels, strides, halo=2 * max(strides))
        # Convolutions take a fifth less time on a CPU in this layout.
        self.network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.select = select
        self.label = label
        self.square = network.square
        self.advise = advise
        #: the size that an image of a size is padded to
        self._padded: dict[tuple[int, int], tuple[int, int]] = {}
        self._needs_calibration = mean is None or std is None
        self._calibrated = False
        count = len(select)
        self.register_buffer('mean', torch.tensor(mean or 0.0).expand(count).clone())
        self.register_buffer('std', torch.tensor(std or 1.0).expand(count).clone())
        self.eval().requires_grad_(False)

    @torch.no_grad()  # not inference mode: tokens may take part in autograd later
    def forward(self, image: Tensor) -> Tokens:
        """Features of a batch; see :meth:`Backbone.forward`."""
        if image.shape[1] != self.bands:
            raise InputError(
                f'Backbone {self.label} was made for {self.bands} bands, '
                f'the image has {image.shape[1]}'
            )
        if self._needs_calibration and not self._calibrated:
            raise RuntimeError(f'{self.label} must be calibrated before it is used')
        size = image.shape[-2], image.shape[-1]
        # Not by a list as an index: a GPU would have to wait for it.
        image = torch.stack([image[:, band] for band in self.select], dim=1)
        image = (image - self.mean[:, None, None]) / self.std[:, None, None]
        # Values that are not finite become the mean, which does least harm.
        image = image.nan_to_num(nan=0, posinf=0, neginf=0)
        return Tokens(tuple(self._run(image)), self.strides, size)

    def _run(self, image: Tensor) -> list[Tensor]:
        """Grids of an image that was scaled, at the first size that the network takes."""
        size = image.shape[-2], image.shape[-1]
        first: tuple[Exception, tuple[int, int]] | None = None
        sizes = [self._padded[size]] if size in self._padded else self._sizes(*size)
        for padded in sizes:
            try:
                pixels = mirror(image, *padded)
                pixels = pixels.contiguous(memory_format=torch.channels_last)
                grids = list(self.network(pixels))
                check_grids(grids, self.strides, padded)
            except (AssertionError, IndexError, RuntimeError, ValueError) as error:
                if isinstance(error, torch.OutOfMemoryError):
                    raise
                first = first or (error, padded)
                continue
            self._padded[size] = padded
            return grids
        assert first is not None
        cause, (height, width) = first
        reason = next(iter(str(cause).splitlines()), type(cause).__name__)
        advice = self.advise(*size) if self.advise is not None else ''
        raise InputError(
            f'Backbone {self.label} cannot take images of {height} x {width} pixels '
            f'({reason}): choose another{advice}'
        ) from cause

    def _sizes(self, height: int, width: int) -> Iterator[tuple[int, int]]:
        """Sizes to pad an image to, in the order in which they are tried."""
        if self.square:
            height = width = max(height, width)
        steps = list(self.network.steps)
        steps += sorted({n * s for n in self.network.windows for s in steps})
        for step in dict.fromkeys(steps):
            yield -(-height // step) * step, -(-width // step) * step
        fixed = self.network.fixed
        if fixed is not None and fixed[0] >= height and fixed[1] >= width:
            yield fixed

    def compile(self, *args: Any, **kwargs: Any) -> None:
        """Compile the network; see :meth:`Backbone.compile`."""
        self.network.compile(*args, **kwargs)

    @property
    def needs_calibration(self) -> bool:
        """Whether the weights came without statistics of the bands."""
        return self._needs_calibration

    def calibrate(self, chips: Iterable[tuple[Tensor, Tensor]]) -> None:
        """Find mean and deviation of the bands; see :meth:`Backbone.calibrate`."""
        if not self._needs_calibration:
            return
        count = torch.zeros((), dtype=torch.float64)
        total = torch.zeros(len(self.select), dtype=torch.float64)
        square = total.clone()
        for image, valid in chips:
            values = image[list(self.select)][:, valid.bool()].cpu().double()
            values = values[:, values.isfinite().all(0)]
            count += values.shape[1]
            total += values.sum(1)
            square += values.square().sum(1)
        mean = total / count.clamp(min=1)
        std = (square / count.clamp(min=1) - mean.square()).clamp(min=0).sqrt()
        # A constant band says nothing: it is centred, and keeps its scale.
        std = torch.where(std > 0, std, torch.ones_like(std))
        self.load_calibration({'mean': mean.float(), 'std': std.float()})

    def calibration(self) -> dict[str, Tensor]:
        """Mean and deviation of the bands, where they had to be found."""
        if not self._needs_calibration:
            return {}
        return {'mean': self.mean.clone(), 'std': self.std.clone()}

    def load_calibration(self, calibration: dict[str, Tensor]) -> None:
        """Take over mean and deviation; see :meth:`Backbone.load_calibration`."""
        if self._needs_calibration:
            self.mean.copy_(calibration['mean'])
            self.std.copy_(calibration['std'])
            self._calibrated = True


def check_grids(
    grids: Iterable[Tensor], strides: Iterable[int], size: tuple[int, int]
) -> None:
    """Check that each grid is the image's size by its stride.

    A network that resizes its image inside gives other grids; read by the stride, their
    tokens would lie beside their places.

    Args:
        grids: (B, D_l, h_l, w_l).
        strides: Pixels a token of each.
        size: Height and width of the image in pixels.

    Raises:
        ValueError: One is not.
    """
    for grid, stride in zip(grids, strides, strict=True):
        expected = size[0] // stride, size[1] // stride
        if tuple(grid.shape[-2:]) != expected or expected[0] * stride != size[0]:
            height, width = grid.shape[-2:]
            raise ValueError(
                f'it gives a {height} x {width} grid of stride {stride} for '
                f'{size[0]} x {size[1]} pixels'
            )


def choose_bands(
    available: int,
    expected: int,
    bands: tuple[int, ...] | None,
    label: str,
    names: str = '',
) -> tuple[int, ...]:
    """Decide which bands of the imagery a network takes.

    Without a choice of the user's, bands are taken in order where their numbers
    agree; from more than three, a network for RGB takes the first three (aerial
    imagery has near infrared fourth); a single band stands for all three of RGB.

    Args:
        available: Bands of the imagery.
        expected: Bands that the network takes.
        bands: The user's choice, counted from 1.
        label: Name of the network in error messages.
        names: What the network's bands are, for the same.

    Returns:
        Indices of the bands, counted from 0.

    Raises:
        InputError: If the choice cannot be made or does not exist.
    """
    if bands is not None:
        if len(bands) != expected or not set(bands) <= set(range(1, available + 1)):
            raise InputError(
                f'Backbone {label} takes {expected} bands{names} of 1 to {available}, '
                f'got bands={",".join(map(str, bands))}'
            )
        return tuple(band - 1 for band in bands)
    if available == expected or (available > 3 and expected == 3):
        return tuple(range(expected))
    if available == 1 and expected == 3:
        return (0, 0, 0)
    raise InputError(
        f'Backbone {label} takes {expected} bands{names}, the imagery has {available}: '
        f'name the {expected} with the option bands, counted from 1 (e.g. bands=3,2,1)'
    )


def per_band(
    statistics: tuple[float, ...] | None, count: int, default: tuple[float, ...]
) -> tuple[float, ...]:
    """One value for each band that a network takes.

    Args:
        statistics: The user's values, one for each band or one for all.
        count: Bands that the network takes.
        default: The weights' values, where the user gave none. Those of other bands are
            averaged.

    Returns:
        The values.

    Raises:
        InputError: If the user gave another number of values.
    """
    if statistics is not None and len(statistics) not in (1, count):
        raise InputError(
            f'Expected 1 or {count} values for mean and std, got {len(statistics)}'
        )
    values = statistics if statistics is not None else default
    if len(values) == count:
        return tuple(values)
    return (sum(values) / len(values),) * count


def mirror(image: Tensor, height: int, width: int) -> Tensor:
    """Continue an image to the right and below by its mirror image, repeatedly.

    Args:
        image: (B, C, H, W).
        height: Height to reach, in pixels.
        width: Width to reach, in pixels.

    Returns:
        (B, C, height, width).
    """
    for axis, target in ((-2, height), (-1, width)):
        size = image.shape[axis]
        if target > size:
            period = max(2 * (size - 1), 1)
            index = torch.arange(target, device=image.device) % period
            index = torch.where(index < size, index, period - index)
            image = image.index_select(axis, index)
    return image
