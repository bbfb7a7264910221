# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""Several backbones as one."""

from collections.abc import Iterable, Sequence
from typing import Any

from torch import Tensor, nn

from ..tokens.tokens import Tokens
from .backbone import Backbone


class Concat(Backbone):
    """Concatenated features of several backbones: all their levels, in order.

    Args:
        members: The backbones, for the same imagery.
    """

    def __init__(self, members: Sequence[Backbone]) -> None:
        super().__init__(
            bands=next((m.bands for m in members if m.bands is not None), None),
            channels=tuple(channel for m in members for channel in m.channels),
            strides=tuple(stride for m in members for stride in m.strides),
            halo=max(member.halo for member in members),
        )
        self.spec = '+'.join(member.spec for member in members)
        self.members = nn.ModuleList(members)
        self.eval().requires_grad_(False)

    def forward(self, image: Tensor) -> Tokens:
        """Features of a batch; see :meth:`Backbone.forward`."""
        return Tokens.concat([member(image) for member in self.members])

    def compile(self, *args: Any, **kwargs: Any) -> None:
        """Compile every member; see :meth:`Backbone.compile`."""
        for member in self._members():
            member.compile(*args, **kwargs)

    @property
    def needs_calibration(self) -> bool:
        """Whether any member must be calibrated."""
        return any(member.needs_calibration for member in self._members())

    def calibrate(self, chips: Iterable[tuple[Tensor, Tensor]]) -> None:
        """Calibrate every member on the same chips; see :meth:`Backbone.calibrate`."""
        chips = list(chips)  # more than one pass over what may be a generator
        for member in self._members():
            member.calibrate(chips)

    def calibration(self) -> dict[str, Tensor]:
        """What the members have learned, each under its position."""
        return {
            f'{i}.{name}': tensor
            for i, member in enumerate(self._members())
            for name, tensor in member.calibration().items()
        }

    def load_calibration(self, calibration: dict[str, Tensor]) -> None:
        """Give every member its own; see :meth:`Backbone.load_calibration`."""
        for i, member in enumerate(self._members()):
            start = f'{i}.'
            member_state = {
                name.removeprefix(start): tensor
                for name, tensor in calibration.items()
                if name.startswith(start)
            }
            member.load_calibration(member_state)

    def _members(self) -> list[Backbone]:
        """The members, typed."""
        return [member for member in self.members if isinstance(member, Backbone)]
