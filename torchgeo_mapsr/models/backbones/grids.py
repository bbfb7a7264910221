# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""Networks as modules from an image to token grids."""

from collections.abc import Sequence
from math import lcm
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchgeo.models import DOFA, ScaleMAE
from torchvision.models import SwinTransformer

from ...errors import InputError

# Coarsest stride that is taken by default. With MobileNetV2's stride 32 as well, maps of
# the OpenEarthMap scenes lost 0.02 of mIoU: most of what such a token sees lies outside
# of the LR cells that it stands for.
COARSEST = 16


class Grids(nn.Module):
    """Maps images (B, C, H, W) to one grid (B, D_l, H / s_l, W / s_l) a layer.

    Args:
        model: The network, of which what lies behind the last layer is dropped.
        channels: D_l of each layer.
        strides: s_l of each layer; H and W must be multiples of the largest.
        square: Whether images must be square.
        reductions: Pixels a token of all layers that the network has, those that are
            dropped included: some of them need H and W to be multiples of these.
        fixed: Height and width that the network was made for, if it may take no other.
    """

    def __init__(
        self,
        model: Any,
        channels: tuple[int, ...],
        strides: tuple[int, ...],
        square: bool = False,
        reductions: tuple[int, ...] = (),
        fixed: tuple[int, int] | None = None,
    ) -> None:
        super().__init__()
        self.model = model
        self.channels = channels
        self.strides = strides
        self.square = square
        self.reductions = reductions
        self.fixed = fixed
        #: pixels that H and W may have to be multiples of, in the order to try
        self.steps = tuple(dict.fromkeys((lcm(*strides), lcm(*strides, *reductions))))
        #: tokens along a side of the windows that the network attends in
        self.windows = _windows(model)


class TimmGrids(Grids):
    """Layers of any model of timm.

    Class and register tokens are dropped.

    Args:
        model: The model.
        layers: Stages or blocks, None for the default: stages up to stride COARSEST,
            or the last of many blocks of one stride.
        norm: Whether the final norm is applied to every layer; None where all have
            one stride.
        label: Name of the model in error messages.
    """

    def __init__(
        self, model: Any, layers: tuple[int, ...] | None, norm: bool | None, label: str
    ) -> None:
        info = list(getattr(model.feature_info, 'info', model.feature_info))
        plain = len({layer['reduction'] for layer in info}) == 1
        self.norm = plain if norm is None else norm
        index = _take(layers, [layer['reduction'] for layer in info], label)
        chosen = [info[i] for i in index]
        width = 'num_chs_norm' if self.norm else 'num_chs'  # SAM's norm is a projection
        super().__init__(
            model,
            tuple(layer.get(width, layer['num_chs']) for layer in chosen),
            tuple(layer['reduction'] for layer in chosen),
            square=isinstance(model, ScaleMAE),
            reductions=tuple(layer['reduction'] for layer in info),
            fixed=_made_for(model),
        )
        self.layers = model.prune_intermediate_layers(
            list(index), prune_norm=not self.norm
        )

    def forward(self, image: Tensor) -> list[Tensor]:
        """Grids of an image; see :class:`Grids`."""
        size = image.shape[-2], image.shape[-1]
        if self.square and self.model.patch_embed.img_size != size:
            # Scale-MAE computes its position embedding for the size that the patch
            # embedding has been told, not for the image at hand.
            self.model.patch_embed.set_input_size(img_size=size)
        grids: list[Tensor] = self.model.forward_intermediates(
            image,
            indices=self.layers,
            norm=self.norm,
            output_fmt='NCHW',
            intermediates_only=True,
        )
        return grids


class SwinGrids(Grids):
    """Stages of a torchvision Swin transformer.

    Args:
        model: The transformer.
        layers: Stages, None for those up to stride COARSEST.
        label: Name of the model in error messages.
    """

    def __init__(
        self, model: SwinTransformer, layers: tuple[int, ...] | None, label: str
    ) -> None:
        # features = patch embedding, stage, merging, stage, merging, stage…
        first: Any = model.features[0]
        stride = first[0].stride[0]
        strides = [stride * 2**i for i in range(len(model.features) // 2)]
        chosen = _take(layers, strides, label)
        self.stages = tuple(2 * layer + 1 for layer in chosen)
        model.features = model.features[: max(self.stages) + 1]
        model.norm, model.head = nn.Identity(), nn.Identity()
        super().__init__(
            model,
            channels=tuple(first[0].out_channels * 2**layer for layer in chosen),
            strides=tuple(strides[layer] for layer in chosen),
        )

    def forward(self, image: Tensor) -> list[Tensor]:
        """Grids of an image; see :class:`Grids`."""
        grids, x = [], image
        for i, step in enumerate(self.model.features):
            x = step(x)
            if i in self.stages:
                grids.append(x.permute(0, 3, 1, 2))
        return grids


class DofaGrids(Grids):
    """Blocks of DOFA; torchgeo's module pools them over the image.

    The position embedding is interpolated to the image's grid, as for any ViT.

    Args:
        model: The network.
        layers: Blocks, None for the last.
        wavelengths: Centre of each band in micrometres.
        label: Name of the model in error messages.
    """

    wavelengths: Tensor

    def __init__(
        self,
        model: DOFA,
        layers: tuple[int, ...] | None,
        wavelengths: tuple[float, ...],
        label: str,
    ) -> None:
        self.layers = _take(layers, [1] * len(model.blocks), label)
        model.blocks = model.blocks[: max(self.layers) + 1]
        model.head = nn.Identity()
        count = len(self.layers)
        super().__init__(model, (model.embed_dim,) * count, (model.patch_size,) * count)
        self.register_buffer('wavelengths', torch.tensor(wavelengths))

    def forward(self, image: Tensor) -> list[Tensor]:
        """Grids of an image; see :class:`Grids`."""
        model = self.model
        x, _ = model.patch_embed(image, self.wavelengths)
        shape = [size // model.patch_size for size in image.shape[-2:]]
        side = round(model.num_patches**0.5)
        position = model.pos_embed[:, 1:].transpose(1, 2).unflatten(2, (side, side))
        if shape != [side, side]:
            position = F.interpolate(position, shape, mode='bicubic')
        x = x + position.flatten(2).transpose(1, 2)
        first = (model.cls_token + model.pos_embed[:, :1]).expand(len(x), -1, -1)
        x = torch.cat([first, x], dim=1)
        norm = model.fc_norm if model.global_pool else model.norm
        grids = []
        for i, block in enumerate(model.blocks):
            x = block(x)
            if i in self.layers:
                grids.append(norm(x[:, 1:]).transpose(1, 2).unflatten(2, shape))
        return grids


def _windows(model: Any) -> tuple[int, ...]:
    """Sizes of the windows of a network's blocks, as timm's families call them."""
    sizes: set[int] = set()
    for module in model.modules():
        for name in ('window_size', 'partition_size'):
            size = getattr(module, name, None)
            for side in size if isinstance(size, tuple | list) else (size,):
                if type(side) is int and side > 1:
                    sizes.add(side)
    return tuple(sorted(sizes))


def _made_for(model: Any) -> tuple[int, int] | None:
    """Height and width that a model was made for, as it says itself."""
    size = getattr(getattr(model, 'patch_embed', None), 'img_size', None)
    size = size or getattr(model, 'img_size', None)
    if isinstance(size, int):
        return size, size
    if isinstance(size, tuple | list) and len(size) == 2:
        return int(size[0]), int(size[1])
    cfg = getattr(model, 'pretrained_cfg', None) or {}
    return tuple(cfg['input_size'][-2:]) if cfg.get('input_size') else None


def _take(
    layers: tuple[int, ...] | None, strides: Sequence[int], label: str
) -> tuple[int, ...]:
    """Indices of the layers that are taken, counted from 0 and ascending."""
    count = len(strides)
    if layers is None:
        plain = len(set(strides)) == 1
        fine = tuple(i for i, stride in enumerate(strides) if stride <= COARSEST)
        layers = (-1,) if plain or not fine else fine
    if not all(-count <= layer < count for layer in layers):
        raise InputError(
            f'Backbone {label} has layers 0 to {count - 1}, '
            f'got layers={",".join(map(str, layers))}'
        )
    return tuple(sorted({layer % count for layer in layers}))
