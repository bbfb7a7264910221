# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""The same features through the published way and through this package."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from torchgeo_mapsr.datasets.imagery import Imagery
from torchgeo_mapsr.models.backbones.create import create_backbone
from torchgeo_mapsr.models.head.prompts import CosinePrompts
from torchgeo_mapsr.models.propagation.propagation import Propagation
from torchgeo_mapsr.models.tokens.tokens import Tokens

from .measure import Peak, alone, ratio
from .ours import Maps, Ours
from .published import Published, matched, published_map, upsampled
from .regions import Region, find_regions
from .scenes import MOBILENET
from .speed_scenes import VIT, made

CLASSES = 4
SETS = ('openearthmap', 'chesapeake_wv')


def measure(folder: Path, chip: int = 448, window: int = 112) -> dict[str, Any]:
    """Time and memory of what follows the backbone, on one chip, each alone.

    Args:
        folder: Where scenes and tokens are put.
        chip: Side of the chip.
        window: Side of the published windows.
    """
    scene = made(folder, 1024)
    image, _ = Imagery([str(scene.imagery)]).read(
        Imagery([str(scene.imagery)]).geobox[:chip, :chip]
    )
    backbone = create_backbone(VIT, len(image), dtype='uint8')
    batch = torch.from_numpy(image)[None]
    with torch.inference_mode():
        grid = backbone(batch).levels[0]
    pixels = torch.from_numpy(np.random.default_rng(0).integers(0, chip, (CLASSES, 2)))
    tokens = Tokens((grid,), backbone.strides, (chip, chip))
    prompts = tokens.gather(torch.zeros(CLASSES).long(), *pixels.T)
    path = folder / 'chip.safetensors'
    save_file({'grid': grid, 'prompts': prompts, 'image': batch}, path)
    published = alone('speed_published.published', str(path), window)
    ours = alone('speed_published.ours', str(path))
    found = {'published': published, 'ours': ours}
    dense, short = (np.load(folder / f'{name}.npy') for name in found)
    matching = ('upsampled and matched', 'matched')
    whole = published['all']
    return {
        'backbone': VIT,
        'chip': chip,
        **found,
        'matching_difference': float(np.abs(dense - short).max()),
        'faster': {
            'matching': ratio(*_seconds(published[matching[0]], ours[matching[1]])),
            **{
                name: ratio(*_seconds(whole, ours[name]))
                for name in ('matched', 'tokens', 'superpixels')
            },
        },
        'smaller': {
            name: ratio(whole['added_mib'], max(ours[name]['added_mib'], 0.1))
            for name in ('matched', 'tokens', 'superpixels')
        },
    }


def _seconds(*parts: dict[str, float]) -> Iterator[float]:
    return (part['seconds'] for part in parts)


def published(path: str, window: int) -> dict[str, Any]:
    """Dense features and cosines, then propagation in windows; called alone."""
    tokens, prompts, _ = _load(path)
    with Peak() as every:
        with Peak() as matching:
            features = upsampled(tokens)
            scores = matched(features, prompts)
        with Peak() as spreading:
            Published(window=window).propagate(features, scores).argmax(2)
    every.peak = max(matching.peak, spreading.peak)
    np.save(Path(path).with_name('published.npy'), scores.permute(2, 0, 1).numpy())
    parts = {'upsampled and matched': matching, 'propagated': spreading, 'all': every}
    return {name: part.to_dict() for name, part in parts.items()}


def ours(path: str) -> dict[str, Any]:
    """Cosines in token space, and propagation on either kind of nodes; called alone."""
    tokens, prompts, image = _load(path)
    matcher = CosinePrompts(prompts[:, None], torch.zeros(prompts.shape[1]))
    found: dict[str, Any] = {}
    matcher.match_tokens(tokens)  # what is loaded at the first call counts for neither
    blank = torch.zeros(1, CLASSES, *tokens.size)
    Propagation(nodes='superpixels')(blank, tokens, image)
    for name in ('matched', 'tokens', 'superpixels'):
        with Peak() as part:
            scores = matcher.match_tokens(tokens)
            if name != 'matched':
                likely = (scores / 0.1).softmax(1)
                Propagation(nodes=name)(likely, tokens, image).argmax(1)
        found[name] = part.to_dict()
    np.save(Path(path).with_name('ours.npy'), scores[0].numpy())
    return found


def _load(path: str) -> tuple[Tokens, Tensor, Tensor]:
    held = load_file(path)
    grid, image = held['grid'], held['image']
    size = image.shape[-2], image.shape[-1]
    return Tokens((grid,), (size[0] // grid.shape[2],), size), held['prompts'], image


def accuracy(data: Path, weights: Path) -> dict[str, Any]:
    """Mean IoU of both whole ways on real scenes, from the same features and prompts.

    The published way sees each scene as one chip.

    Args:
        data: Folder of the sets.
        weights: Of the pretrained MobileNetV2.
    """
    found: dict[str, Any] = {}
    spec = f'{MOBILENET}&weights={weights}'
    for region in find_regions(data, SETS):
        if region.labels != 'clean':
            continue
        fit = Ours(region, spec)
        classifier = replace(fit.classifier, score='cosine', prior_weight=0.0)
        rows = {
            'published, matching only': _published(region, fit, None),
            'published': _published(region, fit, Published()),
            'ours, the same matching': fit.maps(classifier),
            'ours, the same matching + tokens': fit.maps(
                classifier, Propagation(nodes='tokens')
            ),
            'ours, default': fit.default(),
        }
        for row, maps in rows.items():
            parts = list(region.score(maps).values())
            total = sum(parts[1:], parts[0])
            found.setdefault(region.set, {}).setdefault(row, []).append(total.miou)
    return {
        name: {row: round(float(np.mean(v)), 4) for row, v in rows.items()}
        for name, rows in found.items()
    }


def _published(region: Region, fit: Ours, how: Published | None) -> Maps:
    prompts = fit.classifier.cosine.prompts[:, 0]
    maps = []
    for image in region.images:
        values, _ = image.read(image.geobox)
        tokens = fit.extractor(values)
        maps.append(published_map(tokens, prompts, how))
    return maps
