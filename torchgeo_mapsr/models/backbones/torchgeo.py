# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""Weights of torchgeo as backbones."""

from pathlib import Path
from typing import Any, cast
from urllib.parse import urlparse

import torch
from torch import Tensor, nn
from torchgeo.models import DOFA, get_model, get_model_weights, get_weight
from torchgeo.models import list_models as list_torchgeo_models
from torchvision.models import SwinTransformer
from torchvision.models._api import WeightsEnum
from torchvision.transforms.v2 import Normalize

from ...errors import InputError
from .frozen import FrozenNetwork, choose_bands, per_band
from .grids import DofaGrids, Grids, SwinGrids, TimmGrids
from .spec import suggest
from .weights import (
    announce_download,
    load_weights,
    no_weights,
    read_weights,
    strip_prefix,
)

#: Models with a grid of tokens, by the beginning of their name in torchgeo.
FAMILIES = ('resnet', 'vit', 'swin', 'scalemae', 'dofa')


def torchgeo_backbone(
    name: str,
    available: int,
    *,
    weights: str | None = None,
    layers: tuple[int, ...] | None = None,
    bands: tuple[int, ...] | None = None,
    scale: float = 1.0,
    mean: tuple[float, ...] | None = None,
    std: tuple[float, ...] | None = None,
    wavelengths: tuple[float, ...] | None = None,
    res: float | None = None,
    seed: int = 0,
) -> FrozenNetwork:
    """Make a backbone of a weights entry of torchgeo.

    ResNets and Swin transformers give one level a stage; ViTs, Scale-MAE and DOFA
    their last block behind the final norm.

    Mean and deviation are taken from the ``Normalize`` steps of the weights'
    transforms (which are not run: they crop, resize and overwrite their input); they
    are in the units of the imagery that the weights were trained on, 0..255 for
    aerial imagery. Weights without them (DOFA) are given bands standardised by the
    imagery's own statistics.

    Args:
        name: Name of the entry, e.g. ``Swin_V2_B_Weights.NAIP_RGB_MI_SATLAS``.
        available: Bands of the imagery.
        weights: Local weight file, or ``random`` for none.
        layers: Indices of stages or blocks, counted from 0 or, negative, from the
            last; by default those up to stride 16, or the last of one stride.
        bands: Bands of the imagery that the model takes, in its order, counted from
            1.
        scale: What the imagery's values are divided by to be in the units of the
            weights' imagery.
        mean: Mean of each band after that, instead of the weights' own.
        std: Standard deviation likewise.
        wavelengths: DOFA: centre of each band taken, in micrometres.
        res: Scale-MAE: resolution of the imagery in metres, by default 1.
        seed: Seed of random weights.

    Returns:
        The backbone.

    Raises:
        InputError: If the entry, its weights, an option or the bands do not work
            out.
    """
    label = f'torchgeo:{name}'
    entry = _entry(name)
    model_name = _model_name(entry)
    if (wavelengths is not None) != model_name.startswith('dofa'):
        raise InputError(
            f'Backbone {label}: wavelengths=… is an option of DOFA, which needs it '
            '(micrometres, one a band; 0.66,0.56,0.48,0.83 for red, green, blue, near '
            'infrared)'
        )
    if res is not None and not model_name.startswith('scalemae'):
        raise InputError(f'Backbone {label}: res=… is an option of Scale-MAE only')
    names = ', '.join(entry.meta.get('bands') or ())
    select = choose_bands(
        available,
        len(wavelengths) if wavelengths else entry.meta['in_chans'],
        bands,
        label,
        f' ({names})' if names else '',
    )
    state = _state(entry, weights, label)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = _model(model_name, entry, 1.0 if res is None else res)
    grids = _grids(model, layers, wavelengths, label)
    if state is not None:
        state = strip_prefix(state, grids.model.state_dict())
        # A norm that is not in the file is a plain one, as torchgeo has it too.
        optional = ('norm.', 'fc_norm.')
        load_weights(grids.model, state, weights or name, label, optional)
    own_mean, own_std = _statistics(entry)
    count = len(select)
    if mean or own_mean:
        mean = tuple(m * scale for m in per_band(mean, count, own_mean or (0.0,)))
    if std or own_std:
        std = tuple(s * scale for s in per_band(std, count, own_std or (1.0,)))
    return FrozenNetwork(grids, available, select, mean, std, label)


def _entry(name: str) -> WeightsEnum:
    """Look up an entry by its full name."""
    try:
        return get_weight(name)
    except ValueError:
        entries = [str(entry) for model in _weighted_models() for entry in model[1]]
        raise InputError(
            f'torchgeo has no weights {name!r}{suggest(name, entries)} '
            '(the name is that of a class and its entry, e.g. '
            'Swin_V2_B_Weights.NAIP_RGB_MI_SATLAS)'
        ) from None


def _weighted_models() -> list[tuple[str, type[WeightsEnum]]]:
    """Models of torchgeo that have weights, and these."""
    models = []
    for model in list_torchgeo_models():
        try:
            models.append((model, get_model_weights(model)))
        except KeyError:
            continue
    return models


def _model_name(entry: WeightsEnum) -> str:
    """The model that an entry belongs to."""
    name = next(m for m, entries in _weighted_models() if isinstance(entry, entries))
    if not name.startswith(FAMILIES):
        raise InputError(
            f'Weights {entry} are of {name}, which gives no grid of tokens here '
            f'(models that do: {", ".join(FAMILIES)})'
        )
    return name


def _state(
    entry: WeightsEnum, weights: str | None, label: str
) -> dict[str, Tensor] | None:
    """Weights from a local file, torch hub's cache or the net; None for random."""
    if weights == 'random':
        return None
    if weights is not None:
        return read_weights(weights)
    cached = Path(
        torch.hub.get_dir(), 'checkpoints', Path(urlparse(entry.url).path).name
    )
    if not cached.is_file():
        announce_download(label, entry.url)
    try:
        state: dict[str, Tensor] = entry.get_state_dict(
            progress=False, check_hash=True, weights_only=True
        )
    except (OSError, RuntimeError) as error:
        raise no_weights(label, str(error).partition('\n')[0]) from error
    return state


def _model(name: str, entry: WeightsEnum, res: float) -> nn.Module:
    """The untrained model, made for the bands of the entry."""
    if name.startswith('dofa'):
        return get_model(name)
    if name.startswith('scalemae'):
        return get_model(name, res=res, num_classes=0)
    bands = entry.meta['in_chans']
    if name.startswith('swin'):
        model: Any = get_model(name)
        first = model.features[0][0]
        if bands != first.in_channels:
            model.features[0][0] = nn.Conv2d(
                bands, first.out_channels, first.kernel_size, first.stride
            )
        return cast(nn.Module, model)
    options = {'in_chans': bands, 'num_classes': 0}
    if name.startswith('vit'):
        options['dynamic_img_size'] = True
    if 'img_size' in entry.meta:
        options['img_size'] = entry.meta['img_size']
    return get_model(name, **options)


def _grids(
    model: nn.Module,
    layers: tuple[int, ...] | None,
    wavelengths: tuple[float, ...] | None,
    label: str,
) -> Grids:
    """The model as a module from images to grids."""
    if isinstance(model, SwinTransformer):
        return SwinGrids(model, layers, label)
    if isinstance(model, DOFA):
        return DofaGrids(model, layers, wavelengths or (), label)
    return TimmGrids(model, layers, None, label)


def _statistics(
    entry: WeightsEnum,
) -> tuple[tuple[float, ...] | None, tuple[float, ...] | None]:
    """Mean and deviation of all ``Normalize`` steps of the transforms together.

    (x - m) / s followed by (x - m') / s' is (x - (m + s m')) / (s s').
    """
    transforms = entry.transforms
    steps = transforms.modules() if isinstance(transforms, nn.Module) else [transforms]
    mean, std, normalises = torch.zeros(1), torch.ones(1), False
    for step in steps:
        if isinstance(step, Normalize):
            mean = mean + std * torch.tensor(step.mean)
            std = std * torch.tensor(step.std)
            normalises = True
    if not normalises:
        return None, None
    count = max(len(mean), len(std))
    return tuple(mean.expand(count).tolist()), tuple(std.expand(count).tolist())
