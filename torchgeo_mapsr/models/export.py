# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""A fitted model as a module that torch.export and ONNX take."""

from collections.abc import Callable
from copy import deepcopy
from typing import Self

from torch import Tensor, nn

from ..errors import InputError
from .devices import device_of_module
from .model import LandCoverModel


class ExportableModel(nn.Module):
    """Class probabilities of images of one size, from the imagery alone.

    What a chip's LR labels add, and propagation, look at more than an image and are
    left to :meth:`LandCoverModel.probabilities`.

    Args:
        model: A fitted model.

    Raises:
        InputError: If the model propagates, or its upsampler is guided.

    Examples:
        >>> from tempfile import TemporaryDirectory
        >>> import torch
        >>> from torchgeo_mapsr import ExportableModel, fit, make_scene
        >>> folder = TemporaryDirectory()
        >>> scene = make_scene(folder.name, seed=0, size=(192, 192))
        >>> model = fit(scene.imagery, scene.labels, 'nlcd', backbone='identity')
        >>> program = torch.export.export(
        ...     ExportableModel(model), (torch.zeros(1, 4, 64, 64),)
        ... )
        >>> program.module()(torch.zeros(1, 4, 64, 64)).shape
        torch.Size([1, 4, 64, 64])
    """

    def __init__(self, model: LandCoverModel) -> None:
        super().__init__()
        if model.propagate != 'none' or model.upsampler != 'bilinear':
            raise InputError(
                'A model with propagation or a guided upsampler cannot be exported; '
                "use it with upsampler='bilinear' and propagate='none' (with_options)."
            )
        # Modules are moved in place, and the model stays where it is.
        self.backbone = deepcopy(model.backbone)
        self.head = model.head
        # Made here, once: torch.compile cannot follow the lock of a cached_property.
        _ = self.head.projection
        self.eval()

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Move the head with the backbone."""
        super()._apply(fn, recurse)
        device = device_of_module(self.backbone)
        if self.head.device != device:
            self.head = self.head.to(device)
            _ = self.head.projection
        return self

    def forward(self, image: Tensor) -> Tensor:
        """Score every pixel.

        Args:
            image: (B, bands, H, W), the values as read from the file.

        Returns:
            Probabilities, (B, classes, H, W) float32.
        """
        return self.head.probabilities(self.backbone(image.float()))
