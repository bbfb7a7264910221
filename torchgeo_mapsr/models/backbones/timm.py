# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""Models of timm as backbones."""

import inspect
import sys
from functools import partial
from typing import Any

import huggingface_hub
import timm
import torch
from huggingface_hub import constants
from timm.models import adapt_input_conv, get_pretrained_cfg
from torch import Tensor

from ...errors import InputError
from .frozen import FrozenNetwork, check_grids, choose_bands, per_band
from .grids import TimmGrids
from .spec import suggest
from .weights import (
    announce_download,
    load_weights,
    no_weights,
    read_weights,
    strip_prefix,
)

#: What the values of a file are divided by, to be about 0..1. Reflectances are
#: usually stored times 10000.
SCALES = {'uint8': 255.0, 'uint16': 10000.0, 'int16': 10000.0}


def timm_backbone(
    name: str,
    available: int,
    dtype: str | None = None,
    *,
    weights: str | None = None,
    layers: tuple[int, ...] | None = None,
    norm: bool | None = None,
    bands: tuple[int, ...] | None = None,
    scale: float | None = None,
    mean: tuple[float, ...] | None = None,
    std: tuple[float, ...] | None = None,
    seed: int = 0,
    **options: Any,
) -> FrozenNetwork:
    """Make a backbone of a model of timm, with the features of its inner layers.

    A hierarchical model (ResNet, ConvNeXt, Swin…) gives one level for each of its
    stages, as timm's ``features_only`` does. One of a single stride (ViT, DINOv2,
    DINOv3…) gives its last block, behind its final norm; class and register tokens
    are dropped.

    Pretrained weights for RGB take the first three bands of imagery that has more.
    Weights of a name without ``weights`` come from the Hugging Face Hub, or from
    its cache on this machine.

    Args:
        name: Name of the model, with the tag of its weights if there are several.
        available: Bands of the imagery.
        dtype: Data type of the imagery's file; the default of `scale` goes by it.
        weights: Local weight file, or ``random`` for none.
        layers: Indices of stages or blocks, counted from 0 or, negative, from the
            last; by default those up to stride 16, or the last of one stride.
        norm: Whether the final norm is applied to all layers taken; by default where
            all have the same stride.
        bands: Bands of the imagery that the model takes, in its order, counted from
            1. Other than three bands adapt the weights of its first layer.
        scale: What the imagery's values are divided by: 255 for uint8, 10000 for
            16-bit integers, otherwise 1.
        mean: Mean of each band after that, by default the weights' own.
        std: Standard deviation likewise.
        seed: Seed of random weights.
        **options: Arguments of ``timm.create_model``, e.g. ``pad_type='same'``.

    Returns:
        The backbone.

    Raises:
        InputError: If the model, its weights, an option or the bands do not work out.
    """
    label = f'timm:{name}'
    _check_name(name)
    cfg = get_pretrained_cfg(name) if ':' not in name else None
    state: dict[str, Tensor] | None = None
    if weights is None:
        weights = _cached_file(cfg)
        if weights is None:
            announce_download(label, constants.ENDPOINT, cached=cfg is None)
    if weights == 'random':
        expected = available
    elif weights is not None:
        state = read_weights(weights)
        expected = _input_bands(state, cfg)
    else:
        expected = cfg.input_size[0] if cfg is not None else 3
    expected = len(bands) if bands is not None else expected
    select = choose_bands(available, expected, bands, label)

    model = _create(
        name, label, seed, pretrained=weights is None, in_chans=expected, **options
    )
    if state is not None:
        state = _adapt(state, model, expected, label, str(weights))
    grids = TimmGrids(model, layers, norm, label)
    if state is not None:
        load_weights(grids.model, state, str(weights), label)

    scale = SCALES.get(str(dtype), 1.0) if scale is None else scale
    mean = per_band(mean, expected, model.pretrained_cfg['mean'])
    std = per_band(std, expected, model.pretrained_cfg['std'])
    return FrozenNetwork(
        grids,
        available,
        select,
        tuple(value * scale for value in mean),
        tuple(value * scale for value in std),
        label,
        partial(_advise, name, layers, expected, grids.steps, grids.fixed, options),
    )


def _advise(
    name: str,
    layers: tuple[int, ...] | None,
    bands: int,
    steps: tuple[int, ...],
    fixed: tuple[int, int] | None,
    options: dict[str, Any],
    height: int,
    width: int,
) -> str:
    """What to do where a model takes no image of a size; only what helps is named.

    Whether ``img_size`` does is tried with a model without memory (torch's meta device).
    """
    advice = ''
    if fixed is not None and fixed[0] == fixed[1] and fixed[0] < max(height, width):
        advice = f', or the chip size that it was made for (--chip-size {fixed[0]})'
    if not _takes_size(name):
        return advice
    options = {key: value for key, value in options.items() if key != 'img_size'}
    for step in steps:
        side = -(-max(height, width) // step) * step
        try:
            with torch.device('meta'), torch.no_grad():
                model = timm.create_model(
                    name, in_chans=bands, num_classes=0, img_size=side, **options
                )
                grids = TimmGrids(model.eval(), layers, None, name)
                image = torch.zeros(1, bands, side, side)
                check_grids(grids(image), grids.strides, (side, side))
        except _REFUSALS:
            continue
        return f'{advice}, or give it that size (option img_size={side})'
    return advice


# What families raise for a size that they do not take.
_REFUSALS = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    RuntimeError,
    TypeError,
    ValueError,
)


def _takes_size(name: str) -> bool:
    """Whether a model's family has an argument img_size."""
    architecture = name.partition('.')[0]
    if ':' in name or not timm.is_model(architecture):
        return False
    module = sys.modules[timm.model_entrypoint(architecture).__module__]
    return 'img_size' in inspect.getsource(module)


def _check_name(name: str) -> None:
    """Say what may have been meant by a name that timm does not have."""
    if ':' in name:  # hf-hub:… and local-dir:… name what only timm can look up
        return
    architecture, _, tag = name.partition('.')
    if not timm.is_model(architecture):
        raise InputError(
            f'timm has no model {architecture!r}'
            f'{suggest(architecture, timm.list_models())}'
        )
    tags = timm.list_pretrained(f'{architecture}.*')
    if tag and name not in tags:
        raise InputError(
            f'timm has no weights {name!r} (there are: {", ".join(tags) or "none"})'
        )


def _cached_file(cfg: Any) -> str | None:
    """Weights that the Hub's client has downloaded before."""
    if cfg is None or not cfg.hf_hub_id:
        return None
    files = [cfg.hf_hub_filename or 'model.safetensors', 'pytorch_model.bin']
    for file in files:
        path = huggingface_hub.try_to_load_from_cache(cfg.hf_hub_id, file)
        if isinstance(path, str):
            return path
    return None


def _input_bands(state: dict[str, Tensor], cfg: Any) -> int:
    """Bands that weights were trained on, from the shape of the first layer."""
    first = cfg.first_conv if cfg is not None else None
    for name, tensor in state.items():
        if isinstance(first, str) and f'.{name}'.endswith(f'.{first}.weight'):
            return tensor.shape[1] if tensor.ndim == 4 else 3
    return 3


def _create(name: str, label: str, seed: int, pretrained: bool, **options: Any) -> Any:
    """Make the whole model, for any input size where the model allows it."""
    # Which of the two a family has goes by its age; some swallow the other in silence.
    dynamic, lenient = {'dynamic_img_size': True}, {'strict_img_size': False}
    any_size: tuple[dict[str, Any], ...]
    any_size = {**dynamic, **lenient}, dynamic, lenient, {}
    for free in any_size:
        try:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                return timm.create_model(
                    name, pretrained=pretrained, num_classes=0, **free, **options
                )
        except TypeError as error:
            # Models that have no such argument say so before anything is built.
            if not any(argument in str(error) for argument in free):
                raise InputError(f'Backbone {label}: {error}') from error
        except Exception as error:
            if pretrained:
                raise no_weights(label, str(error).partition('\n')[0]) from error
            raise InputError(f'Backbone {label}: {error}') from error
    raise AssertionError('unreachable')


def _adapt(
    state: dict[str, Tensor], model: Any, bands: int, label: str, source: str
) -> dict[str, Tensor]:
    """Bring weights into the form of timm's model: names, position grid, bands."""
    state = strip_prefix(state, model.state_dict())
    convert = getattr(sys.modules[type(model).__module__], 'checkpoint_filter_fn', None)
    if convert is not None:
        try:
            state = convert(state, model)
        except (KeyError, IndexError, AttributeError, RuntimeError) as error:
            raise InputError(f'{source} does not fit {label}: {error}') from error
    first = model.pretrained_cfg.get('first_conv')
    key = f'{first}.weight'
    original = model.state_dict().get(key)
    if key in state and original is not None and original.shape != state[key].shape:
        shapes = original.shape[0] == state[key].shape[0], state[key].shape[1] == 3
        if all(shapes):
            state = {**state, key: adapt_input_conv(bands, state[key])}
    return state
